"""Measuring: error rates, loss and fidelity, and the command line of it."""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from arn_purify import models
from arn_purify.models import Card
from arn_purify.training import attacks
from arn_purify.training.cli import main
from arn_purify.training.data.datasets import DATASETS
from arn_purify.training.measuring import records

from ..subjects import measure, subject


def test_an_undefended_classifier_falls_and_nothing_is_flagged(split, tmp_path):
    chosen = subject(models.Identity(), Card("identity", "purifier", "x", {}, "", (0, 0, 0)))
    natural = measure(chosen, split, tmp_path)
    attacked = measure(chosen, split, tmp_path, attacks.get("PGD_N"))
    assert (natural.defence, natural.attack, natural.goal) == ("none", "none", "none")
    assert natural.error_rate < 60  # digits are not MNIST
    assert attacked.error_rate == 100
    assert attacked.flags == ()
    assert attacked.iterations == 40
    assert attacked.attacked == "f"


def test_a_record_measures_loss_and_fidelity(split, tmp_path):
    class Dim(nn.Module):
        def forward(self, x):
            return x * 0.9

    nothing = measure(subject(models.Identity()), split, tmp_path)
    assert nothing.measures["ssim"] == 1
    assert "psnr" not in nothing.measures, "equal images have none"
    dimmed = measure(subject(Dim()), split, tmp_path)
    natural = split.batch(slice(None))[0]
    assert dimmed.measures["psnr"] == pytest.approx(-10 * math.log10(float((0.1 * natural).square().mean())), abs=1e-3)
    assert 0.9 < dimmed.measures["ssim"] < 1
    attacked = measure(subject(Dim()), split, tmp_path, attacks.get("PGD_N"))
    assert attacked.measures["psnr"] < dimmed.measures["psnr"], "beside the natural image, not the attacked one"
    assert attacked.measures["ssim"] < dimmed.measures["ssim"]
    logits = models.load("mnist-lenet5")(natural * 0.9)
    assert dimmed.measures["loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(logits, split.labels).item(), rel=1e-3
    )


@pytest.mark.parametrize(
    ("seen", "defence"),
    [(("PGD_N", "PGD_T"), "ARN_PP"), (("PGD_N", "DDN_N"), "ARN_DP"), (("PGD_N",), "ARN_PGD_N")],
)
def test_rows_are_named_by_what_was_seen(seen, defence):
    card = Card("x", "purifier", "arn", {}, "", (1, 28, 28), seen_attacks=tuple({"attack": name} for name in seen))
    assert subject(models.Identity(), card).name == defence


def test_evaluating_the_users_own_classifier(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text("import arn_purify\n\ndef load():\n    return arn_purify.load('mnist-lenet5')\n")
    monkeypatch.chdir(tmp_path)
    arguments = "evaluate --dataset digits --classifier mine:load --purifier identity --attacks none,PGD_N --every 30"
    assert main(arguments.split()) == 0
    assert "PGD_N" in capsys.readouterr().out
    (path,) = (tmp_path / "results").rglob("PGD_N-oblivious.json")
    assert json.loads(path.read_text())["classifier"] == "mine.load"
    assert main(arguments.split()) == 0
    assert "measured already" in capsys.readouterr().out
    assert main([*arguments.replace("--every 30", "--every 60").split(), "--seed", "1"]) == 0
    assert "PGD_N oblivious: measured already, n 10, with seed 0" in capsys.readouterr().out
    older = next(r for r in records.read_all(tmp_path / "results") if r.attack == "PGD_N")
    dataclasses.replace(older, measures={}).write(tmp_path / "results")
    assert main(arguments.replace("--every 30", "--every 60").split()) == 0
    assert "PGD_N oblivious: measured already, n 10" in capsys.readouterr().out
    assert main(arguments.split()) == 0
    assert "PGD_N oblivious: measured already" not in capsys.readouterr().out
    digits = DATASETS["digits"]
    changed = dataclasses.replace(digits, attacks=dataclasses.replace(digits.attacks, step=0.02))
    monkeypatch.setitem(DATASETS, "digits", changed)
    assert main(arguments.split()) == 0
    assert "PGD_N oblivious: measured already" not in capsys.readouterr().out
