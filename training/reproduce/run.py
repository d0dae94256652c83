"""Every table and figure of a data set from the data, in one command that goes on where it was stopped.

A plan is a list of ``arn-train`` commands. Each resumes by itself, so that running the plan again costs what is left.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .. import cli, deadline
from . import colour as reproduce_colour
from . import hardened as reproduce_hardened
from .plan import Plan, Scale, Step

logger = logging.getLogger(__name__)

OUT_OF_TIME = 75  # sysexits' "temporary failure, try again"

CPU = Scale(
    every=3, robust=2, static=11, ablation=8, ablation_epochs=6, slow=10, slower=20, thorough=33,
    ablation_batch=("--batch-size", "128"),
)  # fmt: skip
GPU = Scale()
SMOKE = Scale(8, 16, 32, 16, 1, 1, 1, 30, 60, 100, 100, ("--batch-size", "32", "--watched", "20"))


class MnistPlan(Plan):
    """The paper's MNIST half, in front of the LeNet-5 that ships."""

    def steps(self) -> Iterator[Step]:
        """In order of worth: a plan that is cut short leaves the most that it could."""
        yield from self._oblivious("identity")  # crafts what all others share
        yield from self._oblivious("mnist-transparent")
        for stage in ("transparent-plain", "speckled"):  # before and beside what ships
            spec = f"results/checkpoints/mnist-{stage}.safetensors"
            yield from self._oblivious(spec)
            yield from self.white_box("--purifier", spec, (60, 200))
        yield from self._white_box_of_ours()
        pp, dp = "PGD_N,PGD_T", "PGD_N,DDN_N"
        for name, seen, arch in (("ape-g-pp", pp, "ape-g"), ("hgd-pp", pp, "hgd")):
            yield from self._purifier(name, seen, "--arch", arch)
        yield from self._adaptive()
        doa = ("--recipe", "doa-7x7", "--init", "models/zoo/mnist-lenet5.safetensors", "--epochs", "3")
        yield from self._robust("doa-7x7", *doa)
        yield from self._robust("at-pgd", "--recipe", "at-pgd")
        yield from self._purifier("arn-dp", dp)
        yield from self._purifier("arn-pp", pp)
        yield from self._purifier("hgd-dp", dp, "--arch", "hgd")
        yield from self._purifier("ape-g-dp", dp, "--arch", "ape-g")
        yield from self.ablation("transparent", {"att": "0.1", "nor": "0.0001", "adv": "0.1"}, seconds=240)
        # On the number of seen attacks (section 4.3): one, two of different kinds, three, and one that is added later.
        yield from self._purifier("arn-p", "PGD_N")
        yield from self._purifier("arn-ps", "PGD_N,STA_N")
        yield from self._purifier("arn-pps", f"{pp},STA_N")
        yield from self._purifier("arn-pp-then-s", f"{pp},STA_N", "--init", self.kept("arn-pp"))
        yield from self._purifier("arn-pp-paper", pp, "--recipe", "paper")
        yield from self.ablation("paper", {"att": "0.1", "nor": "0.01", "adv": "0.1"}, seconds=240)
        detect = ("detect", *self.common, "--every", str(min(2, self.scale.slow)), "--out", str(self.results))
        yield Step((*detect, "--purifier", "mnist-transparent"), 60)

    def _purifier(self, name: str, seen: str, *arguments: str) -> Iterator[Step]:
        scale = self.scale
        budget = ["--every", str(scale.every), "--pools", str(self.runs / "pools")]
        if "STA" in seen:
            budget = ["--every", str(scale.static), "--static"]
        budget += self.epochs(scale.epochs)
        yield from self.trained(name, "purifier", 600, "--seen", seen, *budget, *arguments)
        yield from self._oblivious(self.kept(name))
        yield from self.white_box("--purifier", self.kept(name), (60, 200))

    def _robust(self, name: str, *arguments: str) -> Iterator[Step]:
        budget = ("--arch", "lenet5", "--every", str(self.scale.robust))
        yield from self.trained(name, "classifier", 900, *budget, *arguments, *self.scale.batch)
        yield from self._oblivious(self.kept(name), "--robust-classifier")
        yield from self.white_box("--robust-classifier", self.kept(name), (60, 200))

    def _oblivious(self, spec: str, kind: str = "--purifier") -> Iterator[Step]:
        scale, first = self.scale, spec == "identity"
        quick = "none,PGD_N,PGD_T,DDN_N,AA_N,PGD_N_eps2,AA_N_eps2,FWA_N,FWA_N_eps2"
        yield self.measure(spec, quick, scale.quick, 3600 if first else 60, kind=kind)
        yield self.measure(spec, "CW_N", scale.slow, 500 if first else 10, kind=kind)
        yield self.measure(spec, "JSMA_T,STA_N,STA_T", scale.slower, 2400 if first else 10, kind=kind)

    def _white_box_of_ours(self) -> Iterator[Step]:
        scale, white = self.scale, ("--threat-models", "white_box")
        sweep = "PGD_N@0.1,PGD_N@0.2,PGD_N@0.4,PGD_N@0.5,PGD_T@0.5,DDN_N"
        yield self.measure("mnist-transparent", "PGD_N,PGD_T", scale.quick, 600, *white)
        yield self.measure("mnist-transparent", sweep, scale.slow, 500, *white)
        yield self.measure("mnist-transparent", "AA_N", scale.slow, 120, *white)
        yield self.measure("mnist-transparent", "SQUARE_N", scale.slower, 300, *white)
        for approximate in ("bpda", "bpda_through"):
            yield self.measure("mnist-transparent", "PGD_N,PGD_Nx100", scale.slow, 120, "--threat-models", approximate)

    def _adaptive(self) -> Iterator[Step]:
        """Tables 3 and 4: APE-G and HGD attacked, and what they are as surrogates against ours."""
        scale = self.scale
        for name, attacks, every in (
            ("ape-g-pp", "PGD_T,PGD_T@0.5", scale.slow),
            ("hgd-pp", "PGD_T,PGD_T@0.5,DDN_T,DDN_N", scale.slow),
            ("ape-g-pp", "CW_T,CW_N", scale.slower),
        ):
            spec = self.kept(name)
            seconds = 900 if "CW" in attacks else 100
            yield self.measure(spec, attacks, every, seconds, "--threat-models", "white_box")
            gray = ("--threat-models", "gray_box", "--surrogate", spec)
            yield self.measure("mnist-transparent", attacks, every, 20, *gray)
        bpda = ("--threat-models", "bpda")
        yield self.measure(self.kept("ape-g-pp"), "PGD_N,PGD_Nx100", scale.slow, 120, *bpda)


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
        print(f"stopped: {stopped}; the same command goes on from there", flush=True)  # noqa: T201
        return OUT_OF_TIME
    finally:
        deadline.set_deadline(None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("scripts/reproduce", description=__doc__)
    parser.add_argument("dataset", choices=["mnist", "mnist-hardened", "cifar10", "lisa"])
    parser.add_argument("--smoke", action="store_true", help="the whole chain on scikit-learn's digits, in minutes")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; on cuda everything is at full size")
    parser.add_argument(
        "--retrain", action="store_true", help="train again what is kept under results/checkpoints; on a GPU always"
    )
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the commands that contain this")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="stop after about so long, with status 75 where something is left"
    )
    return parser


def _plan(flags: argparse.Namespace) -> list[Step]:
    on_gpu = flags.device.startswith("cuda")
    # What a CPU has trained at its scale, or was trained before, does not stand for what this is to train.
    runs = Path("runs", *(["cuda"] if on_gpu else []), *(["again"] if flags.retrain else []))
    zoo, results = Path("results/checkpoints"), Path("results")
    if flags.smoke:
        runs = Path("runs/smoke")
        zoo, results = runs / "checkpoints", _toy_project(runs) / "results"
    places: reproduce_colour.Places = (runs, zoo, results, flags.device)
    dataset, scale = ("digits", SMOKE) if flags.smoke else ("mnist", GPU if on_gpu else CPU)
    plans: Sequence[Plan]
    if flags.dataset == "mnist":
        plans = [MnistPlan(dataset, scale, *places)]
    elif flags.dataset == "mnist-hardened":
        much = reproduce_hardened.SMOKE if flags.smoke else reproduce_hardened.GPU if on_gpu else reproduce_hardened.CPU
        plans = [reproduce_hardened.HardenedPlan(dataset, scale, *places, much)]
    else:
        plans = reproduce_colour.plans(flags.dataset, flags.smoke, on_gpu, places)
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
