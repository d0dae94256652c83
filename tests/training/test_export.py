"""What ships: rounded, measured, with a card and a contact sheet that say the same as the file."""

import pytest
import torch

import models
from models.checkpoint import card_of
from training import figures
from training.cli import main
from training.export import model_card


@pytest.mark.parametrize("name", models.available())
def test_the_model_card_says_what_the_checkpoint_says(name):
    model = models.load(name)
    page = (models.ZOO / f"{name}.md").read_text()
    assert page == model_card(card_of(model), sum(p.numel() for p in model.parameters()))


def test_every_shipped_purifier_of_digits_has_its_contact_sheet():
    cards = [card_of(models.load(name)) for name in models.available()]
    classifier = next(card for card in cards if card.name == "mnist-lenet5")
    wanted = figures.sheets(classifier, cards)
    assert "mnist-transparent.png" in wanted
    assert figures.stale(models.ZOO, wanted) == []


def test_an_exported_purifier_is_the_rounded_one_with_card_and_sheet(tmp_path):
    command = ["export", str(models.ZOO / "mnist-transparent.safetensors"), "--name", "again", "--dataset", "digits"]
    assert main([*command, "--every", "20", "--out", str(tmp_path), "--crafted", str(tmp_path / "crafted")]) == 0
    again, shipped = models.load(tmp_path / "again.safetensors"), models.load("mnist-transparent")
    x = torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(again(x), shipped(x))  # which was rounded before
    card = card_of(again)
    assert set(card.metrics) == {"error/none", "error/PGD_N", "error/PGD_T"}
    page = (tmp_path / "again.md").read_text()
    assert card.sha256 in page
    assert "(again.png)" in page
    assert figures.stale(tmp_path, figures.sheets(card_of(models.load("mnist-lenet5")), [card])) == []
