"""Mistakes on the command line are reported in one line; models are refused where they do not fit."""

import pytest
import torch

from arn_purify import models
from arn_purify.training.cli import main
from arn_purify.training.load import load_model


def test_code_without_weights_is_distinguished_from_other_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = "from torch import nn\n\nclass Mine(nn.Module):\n    def forward(self, x):\n        return x * 0.9\n"
    (tmp_path / "first.py").write_text(module)
    (tmp_path / "second.py").write_text(module.replace("0.9", "0.8"))
    first, second = (load_model(f"{name}:Mine", "purifier", "digits", "cpu")[1] for name in ("first", "second"))
    assert first.sha256 != second.sha256


@pytest.mark.parametrize(
    "arguments",
    [
        "evaluate --purifier mnist-lenet5 --dataset digits",
        "evaluate --classifier nowhere:load --dataset digits",
        "train --seen CW_X --dataset digits --out run",
        "train --init missing.safetensors --dataset digits --out run",
        "export missing.safetensors --name x --dataset digits",
        "craft --dataset digits --attacks PGD_N@8x1",
        "evaluate --dataset digits --robust-classifier mnist-lenet5 --threat-models bpda",
        "evaluate --dataset digits --attacks none --every 100 --via http://127.0.0.1:9",
        "evaluate --dataset digits --attacks PGD_Nx0",
        "evaluate --dataset digits --attacks none --threat-models white_box",
        "evaluate --dataset digits --surrogate mnist-transparent",
        "evaluate --dataset digits --transport png",
        "evaluate --dataset digits --size 28",
        "evaluate --dataset folder --size 4",
        "evaluate --dataset photos --split validation --classifier mnist-lenet5",
        "train --dataset digits --arch lenet5 --classifier mnist-lenet5 --out run",
        "evaluate --dataset digits --attacks PGD_N@0.1.2",
        "train --dataset digits --arch lenet5 --epochs -1 --out run",
        "train --dataset digits --arch hgd --width 8 --out run",
        "train --dataset digits --arch released --blocks 2 --out run",
        "train --dataset digits-colour --arch lenet5 --epochs 1 --out run",
        "train --dataset digits --arch mlp --init models/zoo/mnist-lenet5.safetensors --out run",
        "train --dataset digits --photo-recipe steps=3 --out run",
        "train --dataset digits --compile --out run",
        "train --dataset photos --epochs 3 --out run",
        "train --dataset photos --every 2 --out run",
        "train --dataset photos --with ema=0 --out run",
        "train --dataset photos --arch colour --out run",
        pytest.param(
            "craft --dataset digits --device cuda",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA"),
        ),
    ],
)
def test_mistakes_get_one_line_and_status_2(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments.replace("models/zoo", str(models.ZOO)).split()) == 2
    message = capsys.readouterr().err.rpartition("\r")[2]  # behind a progress bar, where there was one
    assert message.startswith("arn-train: ")
    assert message.count("\n") == 1


def test_numbers_from_one_on():
    for flag in ("--every", "--watched", "--size"):
        with pytest.raises(SystemExit):
            main(["train", "--dataset", "digits", flag, "0", "--out", "run"])


def test_a_number_that_one_flag_names_twice_is_refused(capsys):
    for flag, text in (("--weights", "l1=1,l1=2"), ("--with", "ema=0,ema=.9"), ("--photo-recipe", "ema=0,ema=1")):
        with pytest.raises(SystemExit):
            main(["train", "--dataset", "digits", flag, text, "--out", "run"])
        assert f"{text} names a number twice" in capsys.readouterr().err


def test_numbers_of_a_recipe_that_are_given_apart_all_count_and_the_last_of_a_name(tmp_path):
    apart = ["--weights", "l1=10,att=0", "--with", "ema=0", "--weights", "l1=20", "--with", "shift=0"]
    common = ["--dataset", "digits", "--every", "60", "--epochs", "1", "--batch-size", "8", "--watched", "20"]
    assert main(["train", *common, *apart, "--crafted", str(tmp_path / "sets"), "--out", str(tmp_path / "run")]) == 0
    card = models.card_of(models.load(tmp_path / "run" / "purifier.safetensors"))
    assert (card.loss_weights["l1"], card.loss_weights["att"]) == (20, 0)
    assert card.recipe.startswith("transparent-l120-att0-ema0-shift0-")


def test_signs_are_not_tested_on_by_what_learned_from_them():
    """Most of the test images by track are training images by image."""
    for kind, name in (("classifier", "lisa-cnn"), ("purifier", "lisa-transparent")):
        assert load_model(name, kind, "lisa", "cpu")
        with pytest.raises(ValueError, match="learned from lisa: many of lisa-track's test images"):
            load_model(name, kind, "lisa-track", "cpu")


def test_a_model_for_other_images_is_refused_in_a_sentence(tmp_path, capsys):
    for command in (["evaluate", "--attacks", "none"], ["detect"], ["craft"], ["train", "--arch", "skips"]):
        out = ["--out", str(tmp_path)] if command[0] != "craft" else []
        assert main([*command, "--dataset", "digits-colour", "--classifier", "mnist-lenet5", *out]) == 2
        assert "mnist-lenet5 takes images of 1x28x28, digits-colour has 3x32x32" in capsys.readouterr().err
