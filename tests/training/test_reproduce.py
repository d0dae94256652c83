"""The whole chain at toy size: every step runs, a second run has nothing left to train, every table is written."""

import shutil
from pathlib import Path

import pytest

from training import reproduce

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """What the chain reads of the project, in a folder that it may write to."""
    shutil.copytree(ROOT / "results" / "paper", tmp_path / "results" / "paper")
    shutil.copytree(ROOT / "models" / "zoo", tmp_path / "models" / "zoo")
    shutil.copytree(ROOT / "results" / "checkpoints", tmp_path / "results" / "checkpoints")
    shutil.copy(ROOT / "README.md", tmp_path)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "choosing.md", tmp_path / "docs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_plan_of_every_scale_names_what_it_measures(capsys, checkout):
    for flags in ([], ["--smoke"], ["--device", "cuda"]):
        assert reproduce.main(["mnist", "--list", *flags]) == 0
        listed = capsys.readouterr().out.splitlines()
        assert listed[-1].startswith("arn-train tables")
        for word in ("--arch ape-g", "--arch hgd", "at-pgd", "doa-7x7", "AA_N", "gray_box", "bpda", "att=0,", "detect"):
            assert any(word in line for line in listed), word
    assert "--every 10" not in " ".join(listed), "on a GPU every image is taken"


def test_the_smoke_run_goes_from_data_to_tables(checkout, capsys):
    assert reproduce.main(["mnist", "--smoke"]) == 0
    page = (checkout / "runs/smoke/project/docs/results.md").read_text()
    for row in (
        "AT_PGD",
        "DOA_7x7",
        "APE-G_PP",
        "HGD_DP",
        "ARN_DP",
        "ARN_PS",
        "without L_att",
        "bpda",
        "Detection by LID",
    ):
        assert row in page, row
    assert (checkout / "runs/smoke/project/docs/figures/ablation.png").is_file()
    capsys.readouterr()
    assert reproduce.main(["mnist", "--smoke", "--only", "train"]) == 0
    assert capsys.readouterr().out.startswith("0 of ")


def test_the_hardened_plan_asks_what_a_sceptic_would(capsys, checkout):
    for flags in ([], ["--smoke"], ["--device", "cuda"]):
        assert reproduce.main(["mnist-hardened", "--list", *flags]) == 0
        listed = capsys.readouterr().out.splitlines()
        assert listed[-1].startswith("arn-train tables")
        for word in (
            "--recipe hardened", "joint", "--arch mlp", "--arch resnet8", "--surrogate", "AA_N", "PGDM_Nx100r10",
            "MATCH_N", "SQUARE_N", "bpda_through", "PGD_N@0.7", "PGD_Nx200", "at-pgd", "three-classifiers",
        ):  # fmt: skip
            assert any(word in line for line in listed), word


@pytest.mark.slow
def test_the_hardened_smoke_run_goes_from_training_to_its_tables(checkout):
    assert reproduce.main(["mnist-hardened", "--smoke"]) == 0
    page = (checkout / "runs/smoke/project/docs/results.md").read_text()
    for part in (
        "The hardened profile",
        "The hardened profile in front of other classifiers",
        "| mlp |",
        "Fidelity",
        "What each choice",
        "-3f",
    ):
        assert part in page, part
