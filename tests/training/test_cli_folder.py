"""What is measured on the user's own images is not written among the project's results."""

import re

import numpy as np
import pytest
from PIL import Image

from arn_purify import models
from arn_purify.training import data
from arn_purify.training.cli import main
from arn_purify.training.commands import options
from arn_purify.training.data import Split
from arn_purify.training.measuring import lid
from arn_purify.training.measuring.records import read_all


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Digits of three classes, 30 to a part, as a user would bring them."""
    digits = data.load("digits").train
    chosen = Split(*(of[digits.labels < 3][:90] for of in (digits.images, digits.labels)))
    for number, (image, label) in enumerate(zip(chosen.images[:, 0], chosen.labels, strict=True)):
        path = tmp_path / "photos" / ("train", "val", "test")[number // 30] / str(int(label)) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(image)).save(path)
    monkeypatch.chdir(tmp_path)
    return ["--dataset", "folder", "--data-dir", "photos", "--size", "28"]


def written(folder):
    return {path.relative_to(folder).parts[:3] for path in folder.rglob("*.json") if "crafted" not in path.parts}


def test_records_go_under_runs(folder, tmp_path):
    assert main(["evaluate", *folder, "--attacks", "none"]) == 0
    assert main(["detect", *folder, "--attack", "PGD_Nx1"]) == 0
    assert written(tmp_path) == {("runs", "results", "folder")}
    assert not (tmp_path / "results").exists()
    (record,) = read_all(tmp_path / "runs" / "results")
    assert (record.n, record.dataset) == (30, "folder")
    (detection,) = (lid.read(path) for path in (tmp_path / "runs").rglob("lid-*.json"))
    assert detection["run"] == models.card_of(models.load("mnist-transparent")).run


def test_a_model_that_does_not_fit_the_images_is_named(folder, tmp_path, capsys):
    (tmp_path / "unfit.py").write_text(
        "from torch import nn\n"
        "def two(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 2))\n"
        "def colour(): return nn.Conv2d(3, 3, 1)\n"
        "def smaller(): return nn.AvgPool2d(2)\n"
        "def other_weights(): nn.Linear(2, 2).load_state_dict({})\n"
    )
    for flags, message in (
        ("--classifier unfit:two", r"classifier unfit.two answers \(2, 2\), folder has 3 classes"),
        ("--classifier unfit:other_weights", "unfit:other_weights: Error"),
        ("--purifier unfit:colour", "purifier unfit.colour cannot take folder's images: "),
        ("--purifier unfit:smaller", r"purifier unfit.smaller answers \(2, 1, 14, 14\)"),
    ):
        for command in ("evaluate", "detect") if "--purifier" in flags else ("evaluate", "detect", "craft"):
            assert main([command, *folder, *flags.split()]) == 2
            assert re.search(message, capsys.readouterr().err)
    for part in ("train", "val", "test"):
        (tmp_path / "photos" / part / "2").rename(tmp_path / "photos" / part / "two")
    assert main(["evaluate", *folder, "--attacks", "none"]) == 2
    assert "classifier mnist-lenet5 knows 0, 1, 2, ..., folder has 0, 1, two" in capsys.readouterr().err


def test_records_go_where_out_says(folder, tmp_path):
    assert main(["evaluate", *folder, "--attacks", "none", "--out", "elsewhere"]) == 0
    assert written(tmp_path) == {("elsewhere", "folder", "mnist-lenet5")}


def test_an_exported_model_stays_in_its_run(folder, tmp_path):
    run = tmp_path / "runs" / "mine"
    assert main(["train", *folder, "--arch", "mlp", "--epochs", "1", "--out", str(run)]) == 0
    assert main(["export", *folder, str(run / "classifier.safetensors"), "--name", "mine"]) == 0
    assert models.card_of(models.load(run / "mine.safetensors")).dataset == "folder"
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(("flags", "corner"), [([], 200), (["--resize", "crop"], 200), (["--resize", "fit"], 0)])
def test_the_flag_says_how_images_are_resized(flags, corner, tmp_path):
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("L", (192, 64), 200).save(tmp_path / part / "a" / "0.png")
    parsed = options.common().parse_args(["--dataset", "folder", "--data-dir", str(tmp_path), *flags])
    assert options.dataset(parsed).train.images[0, 0, 0, 0] == corner
