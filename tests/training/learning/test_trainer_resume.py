"""Runs from the command line: killed and resumed, in two processes, named by what was changed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from arn_purify import models
from arn_purify.training.deadline import OutOfTime
from arn_purify.training.learning import trainer as trainer_module
from arn_purify.training.learning.state import ConfigurationError
from arn_purify.training.learning.validation import RunLog

from .toy import config, small
from .toy import trainer as make


def test_a_run_that_stops_closes_its_log_and_its_bar(digits, classifier, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(RunLog, "close", lambda log: closed.append(log.writer.close()))
    monkeypatch.setattr(trainer_module, "is_near", lambda: True)
    with pytest.raises(OutOfTime) as stopped:
        make(config(), small(digits, 64), classifier, tmp_path).fit()
    assert closed == [None]
    assert not [bar for bar in tqdm._instances if bar.desc == "train"]
    del stopped


def command(out, **extra):
    flags = {"dataset": "digits", "epochs": 3, "batch-size": 64, "out": out, "recipe": "paper", **extra}
    return [
        sys.executable,
        "-m",
        "arn_purify.training",
        "train",
        *(part for k, v in flags.items() for part in (f"--{k}", str(v))),
    ]


# Five steps make an epoch: the eighth is in the second one. What it learns from is crafted by then, and not saved yet.
KILLED = """
import os, signal, sys
from arn_purify.training import cli
from arn_purify.training.learning.trainer import Trainer

def until_killed(self, *batch, step=Trainer.train_step):
    if self.step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *batch)

Trainer.train_step = until_killed
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_run_folder_of_another_configuration_is_not_resumed(digits, classifier, tmp_path):
    make(config(epochs=1), small(digits, 64), classifier, tmp_path / "run").fit()
    other = make(config(epochs=2), small(digits, 64), classifier, tmp_path / "run")
    with pytest.raises(ConfigurationError, match="another configuration"):
        other.fit()
    state = tmp_path / "run" / "state.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(1)}, state, metadata)
        with pytest.raises(ConfigurationError, match="another configuration"):
            other.fit()
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(ConfigurationError, match="is damaged"):
        other.fit()


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({"recipe": "paper"}, marks=pytest.mark.slow),
        {"recipe": "transparent"},
        pytest.param({"recipe": "joint", "with": "inner_steps=2"}, marks=pytest.mark.slow),
    ],
    ids=["paper", "transparent", "joint"],
)
def test_a_run_killed_half_way_and_resumed_gives_the_weights_of_an_unbroken_one(extra, tmp_path):
    whole, broken = tmp_path / "whole" / "run", tmp_path / "broken" / "run"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    extra |= {"every": 4, "watched": 50}
    subprocess.run(command(whole, **extra), check=True, **quiet)
    program = tmp_path / "killed.py"
    program.write_text(KILLED)
    arguments = command(broken, **extra, **{"save-seconds": 0})[3:]
    assert subprocess.run([sys.executable, str(program), *arguments], **quiet).returncode == -signal.SIGKILL
    assert len((broken / "metrics.jsonl").read_text().splitlines()) == 1, "it was not killed in its second epoch"
    assert (broken / "state.safetensors").exists()
    assert not (broken / "purifier.safetensors").exists()
    subprocess.run(command(broken, **extra), check=True, **quiet)
    kept = [path.name for path in whole.glob("*r.safetensors")]
    assert len(kept) == (2 if extra["recipe"] == "joint" else 1)
    for file in kept:
        expected, resumed = (models.load(out / file).state_dict() for out in (whole, broken))
        assert all(torch.equal(expected[name], resumed[name]) for name in expected)


TOGETHER = """
import sys, torch
import torch.distributed as dist
from arn_purify.training import cli
from arn_purify.training.learning import trainer as train

def checked(self, fit=train.Trainer.fit):
    fitted = fit(self)
    mine = torch.cat([parameter.detach().flatten() for parameter in self.purifier.parameters()])
    theirs = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(theirs, mine)
    assert torch.equal(*theirs)
    return fitted

train.Trainer.fit = checked
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path):
    program = tmp_path / "together.py"
    program.write_text(TOGETHER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    arguments = command(tmp_path / "run", epochs=1, recipe="paper")[3:]
    subprocess.run([*launch, *arguments], check=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    assert models.load(tmp_path / "run" / "purifier.safetensors")(torch.rand(1, 1, 28, 28)).shape == (1, 1, 28, 28)


def test_the_authors_own_network_runs_from_the_same_command(tmp_path):
    thin = {"width": 8, "code-channels": 8, "batch-size": 32, "every": 20}
    run = command(tmp_path / "run", arch="released", recipe="released", epochs=1, **thin)
    subprocess.run(run, check=True)
    model = models.load(tmp_path / "run" / "purifier.safetensors")
    assert (model.config.architecture, model.config.width, model.config.code_channels) == ("released", 8, 8)
    assert models.card_of(model).recipe.startswith("released-width8-codechannels8")
    assert model(torch.rand(1, 1, 28, 28)).shape == (1, 1, 28, 28)


def test_the_flags_of_a_hardened_run_are_in_its_name(tmp_path):
    out = tmp_path / "run"
    more = {
        "every": 10,
        "width": 8,
        "blocks": 2,
        "watched": 50,
        "with": "inner_steps=2,ema=0",
        "weights": "kl=2",
        "batch-size": 64,
    }
    subprocess.run(command(out, recipe="hardened", epochs=1, **more), check=True, capture_output=True)
    card = models.card_of(models.load(out / "purifier.safetensors"))
    assert card.recipe == "hardened-kl2-inner_steps2-ema0-width8-blocks2-2-from-nothing"
    assert (card.config["width"], card.config["blocks"], card.loss_weights["kl"]) == (8, 2, 2.0)
    assert card.seen_attacks[0]["settings"]["iterations"] == 2
