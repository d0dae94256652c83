"""Every table and figure of a data set from the data, in one command that goes on where it was stopped.

A plan is a list of ``arn-train`` commands. Each of them resumes by itself, so running the plan again costs what is left.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import cli

_PP, _DP, _PS = "PGD_N,PGD_T", "PGD_N,DDN_N", "PGD_N,STA_N"


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much of everything: what two cores allow, what a GPU allows, or a toy run that shows that it works.

    ``every`` strides over the training split for the purifiers of the comparison, ``ablation`` for Figure 4, ``static``
    for what learns from STA. ``slow``, ``slower`` and ``thorough`` stride over the test split: attacks of minutes, of
    an hour, and AutoAttack against the other defences.
    """

    every: int
    ablation: int
    static: int
    robust: int
    slow: int
    slower: int
    thorough: int
    seeds: int
    epochs: int
    ablation_epochs: int


CPU = Scale(3, 4, 11, 2, 10, 20, 33, 3, 15, 8)
GPU = Scale(1, 1, 1, 1, 1, 1, 1, 3, 15, 15)
SMOKE = Scale(8, 8, 8, 8, 30, 60, 60, 1, 1, 1)


@dataclasses.dataclass(frozen=True)
class Step:
    """One ``arn-train`` command, what it is for, and the seconds it took on two CPU cores at ``CPU`` scale."""

    arguments: tuple[str, ...]
    seconds: int
    leaves: Path | None = None

    @property
    def done(self) -> bool:
        """Whether what it leaves is there; evaluations find out by themselves."""
        return self.leaves is not None and self.leaves.exists()


def plan(dataset: str, scale: Scale, runs: Path, zoo: Path, results: Path, device: str) -> Iterator[Step]:
    """The commands, in order: training, export, evaluation, detection, pictures, tables."""
    common = ("--dataset", dataset, "--device", device)
    comparison = ("--every", str(scale.every), "--epochs", str(scale.epochs), "--pools", str(runs / "pools"))
    static = ("--static", "--every", str(scale.static), "--epochs", str(scale.epochs))

    def trained(name: str, seconds: int, *arguments: str, leaves: str = "purifier") -> Iterator[Step]:
        out = runs / f"{dataset}-{name}"
        found = out / f"{leaves}.safetensors"
        yield Step(("train", *common, "--out", str(out), *arguments), seconds, found)
        shipped = zoo / f"{dataset}-{name}.safetensors"
        yield Step(("export", str(found), *common, "--name", f"{dataset}-{name}", "--out", str(zoo)), 30, shipped)

    yield from trained("ape-g-pp", 480, "--arch", "ape-g", "--seen", _PP, *comparison)
    yield from trained("hgd-pp", 480, "--arch", "hgd", "--seen", _PP, *comparison)
    yield from trained("arn-pp", 480, "--seen", _PP, *comparison)
    yield from trained("arn-dp", 480, "--seen", _DP, *comparison)
    robust = ("--arch", "lenet5", "--every", str(scale.robust))
    yield from trained("at-pgd", 600, *robust, "--recipe", "at-pgd", "--epochs", str(min(10, 10 * scale.epochs)),
                       leaves="classifier")  # fmt: skip
    yield from trained("doa-7x7", 600, *robust, "--recipe", "doa-7x7", "--init", "models/zoo/mnist-lenet5.safetensors",
                       "--epochs", "3" if scale.epochs > 1 else "1", leaves="classifier")  # fmt: skip
    yield from trained("ape-g-dp", 480, "--arch", "ape-g", "--seen", _DP, *comparison)
    yield from trained("hgd-dp", 480, "--arch", "hgd", "--seen", _DP, *comparison)
    # On the number of seen attacks (section 4.3): one, two of a kind, two of different kinds, three, and one added later.
    yield from trained("arn-p", 480, "--seen", "PGD_N", *comparison)
    yield from trained("arn-ps", 1200, "--seen", _PS, *static)
    yield from trained("arn-pps", 300, "--seen", "PGD_N,PGD_T,STA_N", *static)
    yield from trained(
        "arn-pp-then-s", 300, "--seen", "PGD_N,PGD_T,STA_N", *static, "--init", str(zoo / f"{dataset}-arn-pp.safetensors")
    )  # fmt: skip

    def measured(purifier: str, attacks: str, every: int, seconds: int, *more: str) -> Step:
        which = () if purifier == "" else ("--purifier", purifier)
        return Step(
            ("evaluate", *common, *which, "--attacks", attacks, "--every", str(every), "--out", str(results), *more),
            seconds,
        )  # fmt: skip

    def shipped(name: str) -> str:
        return str(zoo / f"{dataset}-{name}.safetensors")

    def robust_classifier(name: str) -> tuple[str, str]:
        return ("--robust-classifier", shipped(name))

    everything = scale is GPU
    oblivious = "none,PGD_N,PGD_T,DDN_N,AA_N,PGD_N_eps2,AA_N_eps2,FWA_N,FWA_N_eps2"
    purifiers = ["ape-g-pp", "hgd-pp", "arn-pp", "arn-dp", "ape-g-dp", "hgd-dp", "arn-p", "arn-ps", "arn-pps",
                 "arn-pp-then-s"]  # fmt: skip
    rows: list[tuple[str, tuple[str, ...]]] = [("identity", ()), ("mnist-transparent", ())]
    rows += [(shipped(name), ()) for name in purifiers]
    rows += [("", robust_classifier(name)) for name in ("at-pgd", "doa-7x7")]
    quick = 1 if scale is not SMOKE else scale.slow
    for index, (purifier, more) in enumerate(rows):
        first = index == 0  # it crafts the sets that all others share
        yield measured(purifier, oblivious, quick, 1800 if first else 60, *more)
        yield measured(purifier, "CW_N", scale.slow, 500 if first else 10, *more)
        yield measured(purifier, "JSMA_T,STA_N,STA_T", scale.slower, 1800 if first else 10, *more)

    white = ("--threat-models", "white_box")
    yield measured("mnist-transparent", "PGD_N,PGD_T", quick, 600, *white)
    yield measured(
        "mnist-transparent", "PGD_N@0.1,PGD_N@0.2,PGD_N@0.4,PGD_N@0.5,PGD_T@0.5,DDN_N", scale.slow, 500, *white
    )
    yield measured("mnist-transparent", "AA_N", scale.slow, 120, *white)
    yield measured("mnist-transparent", "SQUARE_N", scale.slower, 300, *white)
    for purifier, more in rows[2:]:
        yield measured(purifier, "PGD_N,PGD_T", scale.slow, 60, *white, *more)
        yield measured(purifier, "AA_N", scale.thorough, 200, *white, *more)
    yield measured(shipped("ape-g-pp"), "PGD_T@0.5", scale.slow, 60, *white)
    yield measured(shipped("ape-g-pp"), "CW_T,CW_N", scale.slower, 900, *white)
    yield measured(shipped("hgd-pp"), "PGD_T@0.5,DDN_T,DDN_N", scale.slow, 200, *white)
    for surrogate, attacks, every in (
        ("ape-g-pp", "PGD_T,PGD_T@0.5", scale.slow),
        ("ape-g-pp", "CW_T,CW_N", scale.slower),
        ("hgd-pp", "PGD_T,PGD_T@0.5,DDN_T,DDN_N", scale.slow),
    ):
        gray = ("--threat-models", "gray_box", "--surrogate", shipped(surrogate))
        yield measured("mnist-transparent", attacks, every, 60, *gray)
    for purifier in ("mnist-transparent", shipped("ape-g-pp")):
        yield measured(purifier, "PGD_N,PGD_Nx100", scale.slow, 120, "--threat-models", "bpda")
    yield measured("mnist-transparent", "PGD_N,PGD_Nx100", scale.slow, 120, "--threat-models", "bpda_through")

    for recipe, terms in (("transparent", "att=0.1,nor=0.0001,adv=0.1"), ("paper", "att=0.1,nor=0.01,adv=0.1")):
        full = dict(part.split("=") for part in terms.split(","))
        for seed in range(scale.seeds):
            for left_out in ("", "adv", "nor", "att"):
                weights = ",".join(f"{k}={0 if k == left_out else v}" for k, v in full.items())
                name = f"{dataset}-ablation-{recipe}-{left_out or 'all'}-{seed}"
                yield Step(
                    ("train", *common, "--recipe", recipe, "--weights", weights, "--every", str(scale.ablation),
                     "--epochs", str(scale.ablation_epochs), "--seed", str(seed), "--pools", str(runs / "pools"),
                     "--out", str(runs / name)),
                    240, runs / name / "purifier.safetensors",
                )  # fmt: skip
                purifier = str(runs / name / "purifier.safetensors")
                yield measured(purifier, "none,PGD_N,PGD_T,DDN_N,AA_N,PGD_N_eps2,FWA_N", quick, 45)
                yield measured(purifier, "STA_N", scale.slower, 10)

    detect = ("detect", *common, "--every", "1" if everything else "2", "--out", str(results))
    yield Step((*detect, "--purifier", "mnist-transparent"), 60)
    if dataset == "mnist":
        yield Step(("figures",), 30)
    yield Step(("tables", "--results", str(results)), 5)


def main(arguments: Sequence[str] | None = None) -> int:
    """``scripts/reproduce``: print the plan's length, then run what is left of it."""
    parser = argparse.ArgumentParser("scripts/reproduce", description=__doc__)
    parser.add_argument("dataset", choices=["mnist"])
    parser.add_argument("--smoke", action="store_true", help="the whole chain on scikit-learn's digits, in minutes")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; on cuda everything is at full size")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the commands that contain this")
    flags = parser.parse_args(arguments)
    runs, zoo, results = Path("runs"), Path("results/checkpoints"), Path("results")
    dataset, scale = flags.dataset, GPU if flags.device.startswith("cuda") else CPU
    if flags.smoke:
        dataset, scale = "digits", SMOKE
        runs = Path("runs/smoke")
        zoo, results = runs / "checkpoints", _toy_project(runs) / "results"
    steps = [s for s in plan(dataset, scale, runs, zoo, results, flags.device) if flags.only in " ".join(s.arguments)]
    if flags.list:
        print("\n".join(f"arn-train {' '.join(step.arguments)}" for step in steps))  # noqa: T201
        return 0
    left = [step for step in steps if not step.done]
    estimate = sum(step.seconds for step in left)
    size = "minutes in all at toy size" if flags.smoke else f"about {estimate / 3600:.1f} hours on two CPU cores"
    print(f"{len(left)} of {len(steps)} commands to run, {size}", flush=True)  # noqa: T201
    for number, step in enumerate(left, 1):
        started = time.monotonic()
        print(f"[{number}/{len(left)}] arn-train {' '.join(step.arguments)}", flush=True)  # noqa: T201
        status = cli.main(step.arguments)
        if status:
            return status
        logging.getLogger(__name__).info("%.0f s", time.monotonic() - started)
    return 0


def _toy_project(runs: Path) -> Path:
    """A place for the tables of a toy run, so that they do not mix with the project's."""
    import shutil

    root = runs / "project"
    (root / "docs").mkdir(parents=True, exist_ok=True)
    shutil.copytree("results/paper", root / "results" / "paper", dirs_exist_ok=True)
    shutil.copy("README.md", root)
    return root


if __name__ == "__main__":
    sys.exit(main())
