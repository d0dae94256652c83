"""The whole chain at toy size: every step runs, a second run has nothing left to train, every table is written."""

import shlex
import shutil
from pathlib import Path

import pytest

from arn_purify.training import cli, deadline
from arn_purify.training.commands import train
from arn_purify.training.reproduce import run as reproduce

ROOT = Path(__file__).parents[3]


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


def pages(checkout):
    """The pages of results that a toy run wrote, one after the other."""
    written = sorted((checkout / "runs/smoke/project/docs").glob("results-*.md"))
    return "\n".join(path.read_text() for path in written)


def test_the_plan_of_every_scale_names_what_it_measures(capsys, checkout):
    for flags in ([], ["--smoke"], ["--device", "cuda"]):
        assert reproduce.main(["mnist", "--list", *flags]) == 0
        listed = capsys.readouterr().out.splitlines()
        assert listed[-1].startswith("arn-train tables")
        for word in ("--arch ape-g", "--arch hgd", "at-pgd", "doa-7x7", "AA_N", "gray_box", "bpda", "att=0,", "detect"):
            assert any(word in line for line in listed), word
    assert "--every 10" not in " ".join(listed), "on a GPU every image is taken"


@pytest.mark.parametrize("scale", ["", "--smoke", "--device cuda", "--retrain"])
@pytest.mark.parametrize("name", ["mnist", "mnist-hardened", "cifar10", "lisa"])
def test_training_refuses_no_flag_of_a_plan(name, scale, checkout, capsys):
    assert reproduce.main([name, "--list", *scale.split()]) == 0
    listed = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    trained = [words for words in listed if words[:2] == ["arn-train", "train"]]
    assert trained or scale == ""
    for words in trained:
        flags = cli._parser().parse_args(words[1:])
        train.check(flags, flags.arch or "compact")


def test_what_is_kept_is_trained_again_only_where_that_is_asked_for(checkout, capsys):
    """And a run that is newer than what is kept of it is exported."""

    def left(*flags):
        plan = reproduce._plan(reproduce._parser().parse_args(["mnist", *flags]))
        return [step.arguments[0] for step in plan if "mnist-hgd-pp" in " ".join(step.arguments) and not step.done]

    assert (checkout / "results/checkpoints/mnist-hgd-pp.safetensors").is_file()
    assert set(left()) == {"evaluate"}
    assert left("--retrain")[0] == left("--device", "cuda")[0] == "train"
    run = checkout / "runs/mnist-hgd-pp/purifier.safetensors"
    run.parent.mkdir(parents=True)
    run.touch()
    assert left()[0] == "export"
    assert left("--retrain")[0] == left("--device", "cuda")[0] == "train"
    again = checkout / "runs/again/mnist-hgd-pp/purifier.safetensors"
    again.parent.mkdir(parents=True)
    again.touch()
    assert left("--retrain")[0] == "export"


def test_what_is_trained_anew_is_exported_anew(checkout, monkeypatch):
    ran = []

    def run(arguments):
        ran.append(arguments[0])
        if arguments[0] == "train":
            (checkout / "runs/again/mnist-hgd-pp").mkdir(parents=True)
            (checkout / "runs/again/mnist-hgd-pp/purifier.safetensors").touch()
        return 0

    monkeypatch.setattr(reproduce.cli, "main", run)
    assert reproduce.main(["mnist", "--retrain", "--only", "mnist-hgd-pp"]) == 0
    assert ran[:3] == ["train", "export", "evaluate"]


def test_the_smoke_run_goes_from_data_to_tables(checkout, capsys):
    assert reproduce.main(["mnist", "--smoke"]) == 0
    page = pages(checkout)
    for row in (
        "AT_PGD",
        "DOA_7x7",
        "APE-G_PP",
        "HGD_DP",
        "ARN_DP",
        "ARN_PS",
        "without L_att",
        "BPDA",
        "Detection by LID",
    ):
        assert row in page, row
    assert (checkout / "runs/smoke/project/docs/figures/ablation-digits.png").is_file()
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
    page = pages(checkout)
    for part in (
        "The hardened profile",
        "In front of other classifiers",
        "| mlp |",
        "Image quality",
        "What each choice",
        "-3f",
    ):
        assert part in page, part


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("cifar10", ("--arch resnet20", "--arch resnet32", "--arch skips", "hgd", "bpda", "att=0,", "detect",
                     "--arch airbench", "--recipe cifar10-hardened --arch colour --init")),
        ("cifar10 --device cuda", ("--arch resnet110", "--arch wrn28-20", "--arch vgg19", "cifar10-wide", "at-pgd",
                                   "--recipe cifar10-hardened --arch colour --init")),
        ("lisa", ("--dataset lisa-track", "doa-9x5", "doa-7x7", "AP_4", "paper-colour", "white_box")),
        ("lisa --device cuda --smoke", ("--dataset digits-colour", "--arch lisa-cnn")),
    ],
)  # fmt: skip
def test_the_colour_plans_name_what_they_measure(arguments, words, capsys, checkout):
    assert reproduce.main([*arguments.split(), "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[-1].startswith("arn-train tables")
    for word in words:
        assert any(word in line for line in listed), word
    trained = [line for line in listed if line.startswith("arn-train train")]
    assert len({line.partition("--out ")[2].split()[0] for line in trained}) == len(trained), "a run folder each"


def test_a_deadline_ends_the_plan_with_a_status_of_its_own(checkout, capsys):
    assert reproduce.main(["lisa", "--smoke", "--seconds", "0"]) == reproduce.OUT_OF_TIME
    assert "commands left; the same command resumes" in capsys.readouterr().out
    assert not deadline.is_near(), "the deadline is that run's alone"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("cifar10", ("AT_PGD", "DOA_7x7", "APE-G_PP", "HGD_DP", "ARN_DP", "ARN_wide", "cifar10-skips", "paper-colour",
                     "Table 5", "In front of `resnet20`", "without L_att", "BPDA", "The hardened profile",
                     "Detection by LID")),
        ("lisa", ("AT_PGD", "DOA_7x7", "DOA_9x5", "APE-G_AP", "ARN_AP", "AP_4", "paper-colour")),
    ],
)  # fmt: skip
def test_the_colour_smoke_runs_go_from_data_to_tables(name, rows, checkout, capsys):
    """A toy network learns a toy set, a piece at a time: every run is cut short until nothing is left."""
    assert reproduce.main([name, "--smoke", "--seconds", "30"]) == reproduce.OUT_OF_TIME
    assert reproduce.main([name, "--smoke"]) == 0
    page = pages(checkout)
    for row in rows:
        assert row in page, row
    capsys.readouterr()
    assert reproduce.main([name, "--smoke", "--only", "train --dataset"]) == 0
    assert capsys.readouterr().out.startswith("0 of ")
