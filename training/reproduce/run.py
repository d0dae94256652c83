"""Every table and figure of a data set from the data, in one command that can be stopped and resumed.

A plan is a list of ``arn-train`` commands. Each resumes by itself: a plan that runs again does only what is left.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from .. import cli, deadline
from . import colour, hardened, mnist
from .plan import Plan, Step

logger = logging.getLogger(__name__)

OUT_OF_TIME = 75  # sysexits' "temporary failure, try again"


def main(arguments: Sequence[str] | None = None) -> int:
    """``scripts/reproduce``: print the plan's length, then run what is left of it."""
    flags = _parser().parse_args(arguments)
    steps = [step for step in _plan(flags) if flags.only in " ".join(step.arguments)]
    if flags.list:
        print("\n".join(f"arn-train {' '.join(step.arguments)}" for step in steps))  # noqa: T201
        return 0
    left = [step for step in steps if not step.done]
    known = [step.seconds for step in left if step.seconds is not None]
    size = f"about {sum(known) / 3600:.1f} hours on two CPU cores" if len(known) == len(left) else "of unknown length"
    if flags.smoke:
        size = "minutes in all at toy size"
    print(f"{len(left)} of {len(steps)} commands to run, {size}", flush=True)  # noqa: T201
    deadline.set_deadline(flags.seconds)
    try:
        return _run(steps)
    except deadline.OutOfTime as stopped:
        print(f"stopped: {stopped}; the same command resumes from there", flush=True)  # noqa: T201
        return OUT_OF_TIME
    finally:
        deadline.set_deadline(None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("scripts/reproduce", description=__doc__)
    parser.add_argument("dataset", choices=["mnist", "mnist-hardened", "cifar10", "lisa"])
    parser.add_argument("--smoke", action="store_true", help="the whole chain on scikit-learn's digits, in minutes")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; on cuda everything is at full size")
    parser.add_argument(
        "--retrain", action="store_true", help="train the models in results/checkpoints again; on a GPU always"
    )
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the commands that contain this")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="stop after about so long, with status 75 where something is left"
    )
    return parser


def _plan(flags: argparse.Namespace) -> list[Step]:
    on_gpu = flags.device.startswith("cuda")
    # Runs of a CPU's scale, or from before, must not be taken for the runs of this plan.
    runs = Path("runs", *(["cuda"] if on_gpu else []), *(["again"] if flags.retrain else []))
    zoo, results = Path("results/checkpoints"), Path("results")
    if flags.smoke:
        runs = Path("runs/smoke")
        zoo, results = runs / "checkpoints", _toy_project(runs) / "results"
    places: colour.Places = (runs, zoo, results, flags.device)
    dataset, scale = ("digits", mnist.SMOKE) if flags.smoke else ("mnist", mnist.GPU if on_gpu else mnist.CPU)
    plans: Sequence[Plan]
    if flags.dataset == "mnist":
        plans = [mnist.MnistPlan(dataset, scale, *places)]
    elif flags.dataset == "mnist-hardened":
        own = hardened.SMOKE if flags.smoke else hardened.GPU if on_gpu else hardened.CPU
        plans = [hardened.HardenedPlan(dataset, scale, *places, own)]
    else:
        plans = colour.plans(flags.dataset, flags.smoke, on_gpu, places)
    tables = Step(("tables", "--results", str(results)), 5)
    steps = [*(step for plan in plans for step in plan.steps()), tables]
    if flags.retrain or on_gpu:
        steps = [dataclasses.replace(step, kept=None) for step in steps]
    return steps


def _run(steps: Sequence[Step]) -> int:
    for number, step in enumerate(steps, 1):
        if step.done:  # asked here, since a run that was trained anew is to be exported anew
            continue
        if deadline.is_near():
            raise deadline.OutOfTime(f"{len(steps) - number + 1} commands left")
        started = time.monotonic()
        print(f"[{number}/{len(steps)}] arn-train {' '.join(step.arguments)}", flush=True)  # noqa: T201
        status = cli.main(step.arguments)
        if status:
            return status
        logger.info("%.0f s", time.monotonic() - started)
    return 0


def _toy_project(runs: Path) -> Path:
    """A place for the tables of a toy run, so that they do not mix with the project's."""
    import shutil

    root = runs / "project"
    (root / "docs").mkdir(parents=True, exist_ok=True)
    shutil.copytree("results/paper", root / "results" / "paper", dirs_exist_ok=True)
    shutil.copy("README.md", root)
    shutil.copy("docs/choosing.md", root / "docs")
    return root
