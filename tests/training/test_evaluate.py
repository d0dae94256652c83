"""Records, red flags and tables: what cannot be true is caught."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import models
from models import Card
from training import attacks, data, evaluate, records, tables
from training.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def split():
    return data.load("digits").test.every(10)


def subject(purifier, card=None):
    classifier = models.load("mnist-lenet5").requires_grad_(False)
    card = card or Card("x", "purifier", "x", {}, "digits", (1, 28, 28), seen_attacks=({"attack": "PGD_N"},))
    return evaluate.Subject(classifier, models.card_of(classifier), purifier, card, purifier)


def measure(chosen, split, tmp_path, attack=None, threat_model="oblivious"):
    return evaluate.evaluate(chosen, split, attack, threat_model, dataset="digits", crafted=tmp_path / "crafted")


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


def test_white_box_attacks_f_after_g(split, tmp_path):
    class Dim(nn.Module):
        def forward(self, x):
            return x * 0.9

    record = measure(subject(Dim()), split, tmp_path, attacks.get("PGD_N"), "white_box")
    assert (record.attacked, record.threat_model) == ("f after g", "white_box")
    assert record.error_rate == 100


def test_a_random_purifier_is_flagged(split):
    class Noisy(nn.Module):
        def forward(self, x):
            return (x + 0.01 * torch.randn_like(x)).clamp(0, 1)

    assert any(flag.startswith("random") for flag in evaluate.red_flags(subject(Noisy()), split.batch(slice(0, 8))[0]))


def test_a_purifier_that_hides_its_gradient_is_flagged(split):
    class Quantiser(nn.Module):
        def forward(self, x):
            return (x * 4).round() / 4

    flags = evaluate.red_flags(subject(Quantiser()), split.batch(slice(0, 8))[0])
    assert any(flag.startswith("zero gradient") for flag in flags)


def test_the_shipped_purifier_raises_no_flag(split):
    chosen = subject(models.load("mnist-transparent"))
    assert evaluate.red_flags(chosen, split.batch(slice(0, 8))[0]) == ()


@pytest.mark.parametrize(("errors", "n", "low", "high"), [(0, 100, 0.0, 3.699), (100, 100, 96.301, 100.0)])
def test_wilson_intervals_at_the_ends(errors, n, low, high):
    assert records.wilson(errors, n) == pytest.approx((low, high), abs=2e-3)


@pytest.mark.parametrize(
    ("seen", "defence"),
    [(("PGD_N", "PGD_T"), "ARN_PP"), (("PGD_N", "DDN_N"), "ARN_DP"), (("PGD_N",), "ARN_PGD_N")],
)
def test_rows_are_named_by_what_was_seen(seen, defence):
    card = Card("x", "purifier", "x", {}, "", (1, 28, 28), seen_attacks=tuple({"attack": name} for name in seen))
    assert subject(models.Identity(), card).defence == defence


@pytest.fixture
def project(tmp_path, split):
    """A copy of what the tables are made of, with one record."""
    shutil.copytree(ROOT / "results" / "paper", tmp_path / "results" / "paper")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "README.md", tmp_path)
    chosen = subject(models.Identity(), Card("identity", "purifier", "x", {}, "", (0, 0, 0)))
    record = dataclasses.replace(measure(chosen, split, tmp_path), dataset="mnist")
    return tmp_path, record.write(tmp_path / "results")


def test_a_table_older_than_its_records_is_caught(project):
    root, path = project
    assert tables.update(root / "results")
    assert tables.update(root / "results", check=True) == []
    record = records.Record(**json.loads(path.read_text()))
    dataclasses.replace(record, attack="PGD_N", ci95=tuple(record.ci95)).write(root / "results")
    assert tables.update(root / "results", check=True)
    assert main(["tables", "--results", str(root / "results"), "--check"]) == 1


def test_a_record_edited_by_hand_is_caught(project):
    root, path = project
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "error_rate": 0.1}))
    with pytest.raises(ValueError, match="does not follow from its counts"):
        tables.update(root / "results")
    path.write_text(json.dumps({**fields, "attack": "PGD_N"}))
    with pytest.raises(ValueError, match="belongs at"):
        tables.update(root / "results")


def test_evaluating_the_users_own_classifier(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text("import models\n\ndef load():\n    return models.load('mnist-lenet5')\n")
    monkeypatch.chdir(tmp_path)
    arguments = "evaluate --dataset digits --classifier mine:load --purifier identity --attacks none,PGD_N --every 30"
    assert main(arguments.split()) == 0
    assert "PGD_N" in capsys.readouterr().out
    (path,) = (tmp_path / "results").rglob("PGD_N-oblivious.json")
    assert json.loads(path.read_text())["classifier"] == "mine.load"
    assert main(arguments.split()) == 0
    assert "measured already" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        "evaluate --purifier mnist-lenet5 --dataset digits",
        "evaluate --classifier nowhere:load --dataset digits",
        "train --seen CW_X --dataset digits --out run",
        "train --init missing.safetensors --dataset digits --out run",
        "export missing.safetensors --name x --dataset digits",
        "craft --every 0 --dataset digits",
    ],
)
def test_mistakes_get_one_line_and_status_2(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    assert capsys.readouterr().err.startswith("arn-train: ")
