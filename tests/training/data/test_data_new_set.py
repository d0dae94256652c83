"""A data set is a row and a loader: one is added here, trained on, evaluated and tabled."""

import shutil
from pathlib import Path

import pytest
import torch

from arn_purify import models
from arn_purify.training import cli, data
from arn_purify.training.data import DATASETS, AttackSettings, Dataset, DatasetSpec, Split
from arn_purify.training.measuring.records import read_all
from arn_purify.training.run_name import RunName, from_json

ROOT = Path(__file__).parents[3]


def load_bars(root, size):
    """Eight pixels square, one bright row on noise: the row is the class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 8
    images = torch.randint(0, 60, (96, 1, 8, 8), generator=generator, dtype=torch.uint8)
    images[torch.arange(96), 0, labels] = 230
    whole = Split(images, labels)
    return Dataset("bars", whole[:64], whole[64:80], whole[80:], tuple(f"row {row}" for row in range(8)))


@pytest.fixture
def bars(monkeypatch):
    spec = DatasetSpec(
        "bars", load_bars, "Bars", 1, 8, AttackSettings(linf_eps=(0.2, 0.3), step=0.05), columns=(("none", "PGD_N"),),
        targets=("mlp",),
    )  # fmt: skip
    monkeypatch.setitem(DATASETS, "bars", spec)
    return spec


@pytest.fixture
def project(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "results" / "paper", tmp_path / "results" / "paper")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copy(ROOT / "docs" / "choosing.md", tmp_path / "docs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_data_set_goes_from_its_row_to_its_table(bars, project):
    assert data.load("bars").shape == (bars.channels, bars.size, bars.size)
    on = ["--dataset", "bars"]
    assert (
        cli.main(["train", *on, "--arch", "mlp", "--epochs", "3", "--batch-size", "16", "--out", "runs/bars-mlp"]) == 0
    )
    f = "runs/bars-mlp/classifier.safetensors"
    train = ["train", *on, "--classifier", f, "--weights", "feature=0", "--seen", "PGD_N", "--width", "8"]
    assert cli.main([*train, "--epochs", "1", "--batch-size", "16", "--out", "runs/bars-g"]) == 0
    g = "runs/bars-g/purifier.safetensors"
    card = models.card_of(models.load(g))
    run = from_json(card.run)
    assert run == RunName("transparent", weights=(("feature", 0.0),), shape=(("width", 8),), steps=4)
    assert card.recipe == "transparent-feature0-width8-4"
    assert card.seen_attacks[0]["eps"] == 0.2, "the row's budget"

    for purifier in ("identity", g):
        evaluate = ["evaluate", *on, "--classifier", f, "--purifier", purifier, "--attacks", "none,PGD_N"]
        assert cli.main(evaluate) == 0
    records = list(read_all(project / "results"))
    assert {(r.dataset, r.classifier, r.n) for r in records} == {("bars", "mlp", 16)}
    assert {r.eps for r in records} == {None, 0.2}

    assert cli.main(["tables"]) == 0
    page = (project / "docs" / "results-bars.md").read_text()
    assert page.startswith("# Results: Bars\n")
    assert "PGD_N" in page


def test_without_a_released_model_the_flag_is_asked_for(bars, project, capsys):
    assert cli.main(["evaluate", "--dataset", "bars"]) == 2
    assert "no classifier is released for bars: name one by --classifier" in capsys.readouterr().err
