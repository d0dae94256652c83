"""Measuring: error rates, loss and fidelity, and the command line of it."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from arn_purify import models
from arn_purify.models import Card
from arn_purify.training import attacks
from arn_purify.training.attacks import base
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


def test_a_purifier_that_works_in_place_spoils_nothing_for_the_others(split, tmp_path):
    class Dark(nn.Module):
        def forward(self, x):
            return x.mul_(0)

    attack = attacks.get("PGD_N@0.1x2")
    before = measure(subject(models.Identity()), split, tmp_path, attack)
    dark = [measure(subject(Dark()), split, tmp_path, attack) for _ in range(2)]
    after = measure(subject(models.Identity()), split, tmp_path, attack)
    assert dark[0].measures == dark[1].measures
    assert (after.errors, after.measures) == (before.errors, before.measures)
    (file,) = (tmp_path / "crafted").rglob("images.npy")
    assert np.load(file).max() > 0.5


def test_answers_that_are_no_numbers_are_not_measured(split, tmp_path):
    class Lost(nn.Module):
        def forward(self, x):
            return x / 0 * 0

    with pytest.raises(ValueError, match="not finite"):
        measure(subject(Lost()), split, tmp_path)


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


ARGUMENTS = "evaluate --dataset digits --classifier mine:load --purifier identity --attacks none,PGD_N --every 30"


@pytest.fixture
def own_classifier(tmp_path, monkeypatch):
    """A working folder with a classifier of the user's own."""
    (tmp_path / "mine.py").write_text("import arn_purify\n\ndef load():\n    return arn_purify.load('mnist-lenet5')\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("own_classifier")
def test_evaluating_the_users_own_classifier(tmp_path, capsys):
    assert main(ARGUMENTS.split()) == 0
    said = capsys.readouterr().out
    assert "none     PGD_N        oblivious  100.00 % [72.25, 100.00]  n 10\n" in said
    (path,) = (tmp_path / "results").rglob("PGD_N-oblivious.json")
    assert said.endswith(f"records: {path.parent}\n"), "the default depends on the folder, so all of it is shown"
    assert json.loads(path.read_text())["classifier"] == "mine.load"
    assert main([*ARGUMENTS.split(), "--out", "elsewhere"]) == 0
    assert capsys.readouterr().out.endswith("records: elsewhere/digits/mine.load/none\n")


@pytest.mark.usefixtures("own_classifier")
def test_images_and_numbers_of_other_code_are_made_again(capsys, monkeypatch):
    for sha256, again in (("a" * 64, True), ("a" * 64, False), ("b" * 64, True), ("b" * 64, False)):
        monkeypatch.setattr(base, "sha256_of_code", lambda _module, found=sha256: found)
        assert main(ARGUMENTS.split()) == 0
        assert ("records:" in capsys.readouterr().out) is again
    assert len(list(Path("data/crafted").glob("PGD_N-*"))) == 2


@pytest.mark.usefixtures("own_classifier")
@pytest.mark.parametrize(
    ("more", "seed"), [("", ""), (" --seed 1", "  seed 0"), (" --every 60", ""), (" --every 60 --seed 1", "  seed 0")]
)
def test_a_record_of_as_many_images_is_printed_and_kept(more, seed, tmp_path, capsys):
    assert main(ARGUMENTS.split()) == 0
    record = next(r for r in records.read_all(tmp_path / "results") if r.attack == "PGD_N")
    path = dataclasses.replace(record, measures={}).write(tmp_path / "results")  # as the oldest records are
    before = path.read_bytes()
    capsys.readouterr()
    assert main([*ARGUMENTS.split(), *more.split()]) == 0
    said = capsys.readouterr().out
    assert f"oblivious  100.00 % [72.25, 100.00]  n 10{seed}\n  measured already: " in said
    assert f"{path.relative_to(tmp_path)}; use --force or --out to measure again" in said
    assert "records:" not in said
    assert path.read_bytes() == before


@pytest.mark.usefixtures("own_classifier")
@pytest.mark.parametrize("change", ["--force", "more images", "other settings"])
def test_a_record_is_replaced_by_force_by_more_images_or_by_another_attack(change, tmp_path, capsys, monkeypatch):
    assert main([*ARGUMENTS.split(), "--every", "60"]) == 0
    assert "replaces" not in capsys.readouterr().out
    digits = DATASETS["digits"]
    if change == "other settings":
        changed = dataclasses.replace(digits, attacks=dataclasses.replace(digits.attacks, step=0.02))
        monkeypatch.setitem(DATASETS, "digits", changed)
    more = {"--force": ["--every", "60", "--force"], "other settings": ["--every", "60"]}.get(change, [])
    assert main([*ARGUMENTS.split(), *more]) == 0
    said = capsys.readouterr().out
    assert "PGD_N        oblivious  100.00 %" in said
    assert "  replaces 100.00 %, n 5\n" in said


@pytest.mark.usefixtures("own_classifier")
def test_no_progress_bar_stands_in_the_line_of_a_result(capfd):
    assert main(ARGUMENTS.split()) == 0
    said, beside = capfd.readouterr()
    assert "\r" not in said
    assert "purify" not in beside, "a short pass shows no bar"
    for line in beside.splitlines():
        assert "oblivious" not in line


def test_a_record_names_the_version_of_the_attacks_toolbox(split, tmp_path):
    chosen = subject(models.Identity(), Card("identity", "purifier", "x", {}, "", (0, 0, 0)))
    attack = dataclasses.replace(attacks.get("PGD_N"), packages=("pytest",))
    assert measure(chosen, split, tmp_path, attack).versions["pytest"] == pytest.__version__
    assert "pytest" not in measure(chosen, split, tmp_path).versions
