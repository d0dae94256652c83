"""The released file: rounded, measured, with a card and a contact sheet that say the same as the file."""

import dataclasses
import json
import re

import pytest
import torch

from arn_purify import models
from arn_purify.models import checkpoint
from arn_purify.models.checkpoint import card_of
from arn_purify.training.cli import main
from arn_purify.training.export import model_card
from arn_purify.training.report import figures


@pytest.mark.parametrize("name", models.available())
def test_the_model_card_says_what_the_checkpoint_says(name):
    model = models.load(name)
    page, card = (models.ZOO / f"{name}.md").read_text(), card_of(model)
    if "images" not in card.metrics:  # a file from before they were kept: the page alone has them
        for measured in re.findall(r"^\| validation error.*, n ([\d,]+) \|$", page, re.MULTILINE):
            card = dataclasses.replace(card, metrics={**card.metrics, "images": int(measured.replace(",", ""))})
    assert page == model_card(card, model)


def test_every_shipped_purifier_of_digits_has_its_contact_sheet():
    cards = [card_of(models.load(name)) for name in models.available()]
    classifier = next(card for card in cards if card.name == "mnist-lenet5")
    wanted = figures.sheets(classifier, cards)
    assert "mnist-transparent.png" in wanted
    assert figures.stale(models.ZOO, wanted) == []


def test_the_card_of_a_run_shows_how_it_learned(tmp_path):
    run = tmp_path / "run"
    command = ["--dataset", "digits", "--every", "20", "--crafted", str(tmp_path / "crafted")]
    assert main(["train", *command, "--epochs", "2", "--batch-size", "32", "--seen", "PGD_N", "--out", str(run)]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    with (run / "metrics.jsonl").open("a") as log:  # a run that was killed and repeated its last epoch
        log.write(json.dumps({**rows[-1], "error/PGD_N": 12.5}) + "\n")
    out = ["--name", "short", "--out", str(tmp_path)]
    assert main(["export", str(run / "purifier.safetensors"), *command, *out]) == 0
    curve = card_of(models.load(tmp_path / "short.safetensors")).curve
    assert [row["epoch"] for row in curve] == [1, 2]
    assert curve[0] == {key: rows[0][key] for key in ("epoch", "step", "error/none", "error/PGD_N")}
    (tmp_path / "release").mkdir()
    again = ["--name", "again", "--out", str(tmp_path / "release")]
    assert main(["export", str(tmp_path / "short.safetensors"), *command, *again]) == 0  # far from the run's log
    assert card_of(models.load(tmp_path / "release" / "again.safetensors")).curve == curve
    first, last = ([f"{row[key]:.1f}" for key in ("error/none", "error/PGD_N")] for row in curve)
    page = (tmp_path / "short.md").read_text()
    assert last[1] == "12.5"
    assert f"| 1 | {rows[0]['step']} | {first[0]} | {first[1]} |\n| 2 | {rows[1]['step']} | {last[0]} | 12.5 |" in page


def test_an_exported_purifier_is_the_rounded_one_with_card_and_sheet(tmp_path):
    of_digits = models.load("mnist-transparent")
    card = dataclasses.replace(card_of(of_digits), dataset="digits")
    checkpoint.save(of_digits, card, tmp_path / "run.safetensors")
    command = ["export", str(tmp_path / "run.safetensors"), "--name", "again"]
    assert main([*command, "--every", "20", "--out", str(tmp_path)]) == 2, "MNIST is not what it learned from"
    command += ["--dataset", "digits"]
    assert main([*command, "--every", "20", "--out", str(tmp_path), "--crafted", str(tmp_path / "crafted")]) == 0
    again, released = models.load(tmp_path / "again.safetensors"), models.load("mnist-transparent")
    x = torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(again(x), released(x))  # which was rounded before
    card = card_of(again)
    assert set(card.metrics) == {"images", "error/none", "error/PGD_N", "error/PGD_T"}
    page = (tmp_path / "again.md").read_text()
    assert card.sha256 in page
    assert "(again.png)" in page
    assert figures.stale(tmp_path, figures.sheets(card_of(models.load("mnist-lenet5")), [card])) == []
