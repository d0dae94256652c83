"""What the command line sets for the whole process."""

import ctypes

import pytest
import torch

from arn_purify.training import cli
from arn_purify.training.commands import evaluate, train


@pytest.mark.parametrize(
    ("arguments", "may_round"),
    [("evaluate", False), ("train --out run", True), ("train --out run --fp32", False)],
)
def test_only_training_rounds_to_tf32(arguments, may_round, monkeypatch):
    seen = []
    for command in (evaluate, train):
        monkeypatch.setattr(command, "run", lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert cli.main(arguments.split()) == 0
    assert seen == [may_round]


def test_a_system_without_glibc_keeps_its_allocator(monkeypatch):
    def refuse(_):
        raise TypeError("LoadLibrary() argument 1 must be str, not None")  # as on Windows

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    cli.retain_freed_memory()
