"""Every table and figure of a data set from the data, in one command that goes on where it was stopped.

A plan is a list of ``arn-train`` commands. Each resumes by itself, so that running the plan again costs what is left.
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


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much of everything: what two cores allow, what a GPU allows, or a toy run that shows that it works.

    Strides over the training split: ``every`` for the purifiers of the comparison, ``robust`` for the classifiers,
    ``static`` for what learns from STA, ``ablation`` for Figure 4. Strides over the test split: ``quick`` for most
    attacks, ``slow`` for those of minutes, ``slower`` for those of an hour, ``thorough`` for AutoAttack through the
    other defences.
    """

    every: int = 1
    robust: int = 1
    static: int = 1
    ablation: int = 1
    epochs: int = 15
    ablation_epochs: int = 15
    seeds: int = 3
    quick: int = 1
    slow: int = 1
    slower: int = 1
    thorough: int = 1
    batch: tuple[str, ...] = ()


CPU = Scale(every=3, robust=2, static=11, ablation=4, ablation_epochs=8, slow=10, slower=20, thorough=33)
GPU = Scale()
SMOKE = Scale(8, 8, 8, 8, 1, 1, 1, 30, 60, 100, 100, ("--batch-size", "32"))


@dataclasses.dataclass(frozen=True)
class HardenedScale:
    """How much of the hardened profile: flags of its ``own`` run, of each ``choice`` and of the classifiers.

    Strides over the test split: ``quick`` for what is oblivious, ``slow`` for AutoAttack and 40 steps, ``slower`` for
    restarts, Square alone and AutoAttack through other classifiers. ``choices`` names some where not all are run.
    """

    own: tuple[str, ...] = ()
    choice: tuple[str, ...] = ("--every", "3", "--epochs", "8")
    classifier: tuple[str, ...] = ()
    quick: int = 1
    slow: int = 1
    slower: int = 10
    choices: tuple[str, ...] = ()


HARDENED_CPU = HardenedScale(slow=10, slower=33)
HARDENED_GPU = HardenedScale(choice=("--every", "1"))
HARDENED_SMOKE = HardenedScale(
    ("--every", "20", "--epochs", "1", "--batch-size", "32", "--with", "inner_steps=2"),
    ("--every", "20", "--epochs", "1", "--batch-size", "32"),
    ("--every", "8", "--epochs", "1", "--batch-size", "32"),
    30, 100, 100, ("base", "three-classifiers"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Step:
    """One ``arn-train`` command, the seconds it took on two CPU cores at ``CPU`` scale, and the file that it leaves."""

    arguments: tuple[str, ...]
    seconds: int
    leaves: Path | None = None

    @property
    def done(self) -> bool:
        """Whether what it leaves is there; evaluations find out by themselves."""
        return self.leaves is not None and self.leaves.exists()


@dataclasses.dataclass(frozen=True)
class Plan:
    """The commands for one data set at one scale, and where they put what they make."""

    dataset: str
    scale: Scale
    runs: Path
    zoo: Path
    results: Path
    device: str

    def steps(self) -> Iterator[Step]:
        """In order of worth: a plan that is cut short leaves the most that it could."""
        yield from self._oblivious("identity")  # crafts what all others share
        yield from self._oblivious("mnist-transparent")
        yield from self._oblivious("results/checkpoints/mnist-transparent-plain.safetensors")
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
        yield from self._ablation("transparent", {"att": "0.1", "nor": "0.0001", "adv": "0.1"})
        # On the number of seen attacks (section 4.3): one, two of different kinds, three, and one that is added later.
        yield from self._purifier("arn-p", "PGD_N")
        yield from self._purifier("arn-ps", "PGD_N,STA_N")
        yield from self._purifier("arn-pps", f"{pp},STA_N")
        yield from self._purifier("arn-pp-then-s", f"{pp},STA_N", "--init", self._shipped("arn-pp"))
        yield from self._ablation("paper", {"att": "0.1", "nor": "0.01", "adv": "0.1"})
        detect = ("detect", *self._common, "--every", str(min(2, self.scale.slow)), "--out", str(self.results))
        yield Step((*detect, "--purifier", "mnist-transparent"), 60)
        yield Step(("tables", "--results", str(self.results)), 5)

    @property
    def _common(self) -> tuple[str, ...]:
        device = () if self.device == "cpu" else ("--device", self.device)
        return ("--dataset", self.dataset, *device)

    def _shipped(self, name: str) -> str:
        return str(self.zoo / f"{self.dataset}-{name}.safetensors")

    def _trained(self, name: str, file: str, seconds: int, *arguments: str) -> Iterator[Step]:
        """Train, and round to fp16 what is kept."""
        out = self.runs / f"{self.dataset}-{name}"
        found = out / f"{file}.safetensors"
        yield Step(("train", *self._common, "--out", str(out), *arguments), seconds, found)
        export = ("export", str(found), *self._common, "--name", f"{self.dataset}-{name}", "--out", str(self.zoo))
        yield Step((*export, "--every", str(self.scale.slower)), 30, Path(self._shipped(name)))

    def _purifier(self, name: str, seen: str, *arguments: str) -> Iterator[Step]:
        scale = self.scale
        budget = ["--every", str(scale.every), "--pools", str(self.runs / "pools")]
        if "STA" in seen:
            budget = ["--every", str(scale.static), "--static"]
        budget += ["--epochs", str(scale.epochs), *scale.batch]
        yield from self._trained(name, "purifier", 600, "--seen", seen, *budget, *arguments)
        yield from self._oblivious(self._shipped(name))
        yield from self._white_box("--purifier", self._shipped(name))

    def _robust(self, name: str, *arguments: str) -> Iterator[Step]:
        budget = ("--arch", "lenet5", "--every", str(self.scale.robust))
        yield from self._trained(name, "classifier", 900, *budget, *arguments, *self.scale.batch)
        yield from self._oblivious(self._shipped(name), "--robust-classifier")
        yield from self._white_box("--robust-classifier", self._shipped(name))

    def _measure(
        self, purifier: str, attacks: str, every: int, seconds: int, *more: str, kind: str = "--purifier"
    ) -> Step:
        where = ("--every", str(every), "--out", str(self.results))
        return Step(("evaluate", *self._common, kind, purifier, "--attacks", attacks, *where, *more), seconds)

    def _oblivious(self, spec: str, kind: str = "--purifier") -> Iterator[Step]:
        scale, first = self.scale, spec == "identity"
        quick = "none,PGD_N,PGD_T,DDN_N,AA_N,PGD_N_eps2,AA_N_eps2,FWA_N,FWA_N_eps2"
        yield self._measure(spec, quick, scale.quick, 3600 if first else 60, kind=kind)
        yield self._measure(spec, "CW_N", scale.slow, 500 if first else 10, kind=kind)
        yield self._measure(spec, "JSMA_T,STA_N,STA_T", scale.slower, 2400 if first else 10, kind=kind)

    def _white_box(self, kind: str, spec: str) -> Iterator[Step]:
        white = ("--threat-models", "white_box")
        yield self._measure(spec, "PGD_N,PGD_T", self.scale.slow, 60, *white, kind=kind)
        yield self._measure(spec, "AA_N", self.scale.thorough, 200, *white, kind=kind)

    def _white_box_of_ours(self) -> Iterator[Step]:
        scale, white = self.scale, ("--threat-models", "white_box")
        sweep = "PGD_N@0.1,PGD_N@0.2,PGD_N@0.4,PGD_N@0.5,PGD_T@0.5,DDN_N"
        yield self._measure("mnist-transparent", "PGD_N,PGD_T", scale.quick, 600, *white)
        yield self._measure("mnist-transparent", sweep, scale.slow, 500, *white)
        yield self._measure("mnist-transparent", "AA_N", scale.slow, 120, *white)
        yield self._measure("mnist-transparent", "SQUARE_N", scale.slower, 300, *white)
        for approximate in ("bpda", "bpda_through"):
            yield self._measure("mnist-transparent", "PGD_N,PGD_Nx100", scale.slow, 120, "--threat-models", approximate)

    def _adaptive(self) -> Iterator[Step]:
        """Tables 3 and 4: APE-G and HGD attacked, and what they are as surrogates against ours."""
        scale = self.scale
        for name, attacks, every in (
            ("ape-g-pp", "PGD_T,PGD_T@0.5", scale.slow),
            ("hgd-pp", "PGD_T,PGD_T@0.5,DDN_T,DDN_N", scale.slow),
            ("ape-g-pp", "CW_T,CW_N", scale.slower),
        ):
            spec = self._shipped(name)
            seconds = 900 if "CW" in attacks else 100
            yield self._measure(spec, attacks, every, seconds, "--threat-models", "white_box")
            gray = ("--threat-models", "gray_box", "--surrogate", spec)
            yield self._measure("mnist-transparent", attacks, every, 20, *gray)
        bpda = ("--threat-models", "bpda")
        yield self._measure(self._shipped("ape-g-pp"), "PGD_N,PGD_Nx100", scale.slow, 120, *bpda)

    def _ablation(self, recipe: str, terms: dict[str, str]) -> Iterator[Step]:
        """Figure 4, every seed with all terms and without each."""
        scale = self.scale
        budget = ("--every", str(scale.ablation), "--epochs", str(scale.ablation_epochs), *scale.batch)
        for seed in range(scale.seeds):
            for left_out in ("", *terms):
                weights = ",".join(f"{term}={0 if term == left_out else weight}" for term, weight in terms.items())
                out = self.runs / f"{self.dataset}-ablation-{recipe}-{left_out or 'all'}-{seed}"
                what = ("--recipe", recipe, "--weights", weights, "--seed", str(seed))
                trained = out / "purifier.safetensors"
                pools = ("--pools", str(self.runs / "pools"))
                yield Step(("train", *self._common, "--out", str(out), *what, *budget, *pools), 240, trained)
                attacks = "none,PGD_N,PGD_T,DDN_N,AA_N,PGD_N_eps2,FWA_N"
                yield self._measure(str(trained), attacks, scale.quick, 45)
                yield self._measure(str(trained), "STA_N", scale.slower, 10)


@dataclasses.dataclass(frozen=True)
class HardenedPlan(Plan):
    """The hardened profile: classifiers that it never sees, its own run, what a sceptic asks, and what choices buy."""

    much: HardenedScale = HARDENED_CPU

    def steps(self) -> Iterator[Step]:
        """In order of worth, as in :class:`Plan`."""
        much, ours, init = self.much, self._shipped("hardened"), ("--init", "models/zoo/mnist-transparent.safetensors")
        yield from self._trained("hardened", "purifier", 5400, "--recipe", "hardened", *init, *much.own)
        yield self._measure(ours, "none,PGD_N,PGD_T", much.quick, 300)
        yield from self._asked(ours)
        unseen = (("lenet5-b", "lenet5", ("--seed", "1")), ("mlp", "mlp", ()), ("resnet8", "resnet8", ()))
        for name, arch, more in unseen:
            yield from self._trained(name, "classifier", 300, "--arch", arch, *more, *much.classifier)
            for purifier in (ours, "mnist-transparent", "identity"):
                yield from self._in_front_of(self._shipped(name), purifier)
        at_pgd = ("--arch", "lenet5", "--recipe", "at-pgd", *(much.classifier or ("--every", str(self.scale.robust))))
        yield from self._trained("at-pgd", "classifier", 900, *at_pgd)
        for purifier in ("identity", "mnist-transparent", ours):
            yield from self._in_front_of(self._shipped("at-pgd"), purifier)
        # What was measured before fidelity was a part of the records, once more.
        yield self._measure("mnist-transparent", "none,PGD_N", much.quick, 60, "--force")
        white = ("--threat-models", "white_box")
        yield self._measure("mnist-transparent", "PGD_N", much.quick, 600, *white, "--force")
        yield self._measure("mnist-transparent", "PGDM_N,PGD_Nx100r10", much.slower, 60, *white)
        # Another run of the same recipe is the surrogate nearest to the purifier itself.
        yield from self._trained(
            "hardened-b", "purifier", 1800, "--recipe", "hardened", "--seed", "1", *init, *(much.own or much.choice)
        )
        gray = ("--threat-models", "gray_box", "--surrogate", self._shipped("hardened-b"))
        yield self._measure(ours, "PGD_N,PGD_Nx100,PGDM_N", much.slow, 60, *gray)
        pair = self.runs / f"{self.dataset}-joint"
        tuned = ("--recipe", "joint", *init, *(much.own or much.choice))
        yield Step(("train", *self._common, "--out", str(pair), *tuned), 1200, pair / "purifier.safetensors")
        yield from self._in_front_of(str(pair / "classifier.safetensors"), str(pair / "purifier.safetensors"))
        yield from self._choices()
        yield Step(("tables", "--results", str(self.results)), 5)

    def _asked(self, ours: str) -> Iterator[Step]:
        """The white box from every side, in front of the classifier that it was trained with."""
        much, white = self.much, ("--threat-models", "white_box")
        yield self._measure(ours, "PGD_N,PGD_T,PGDM_N,PGDM_T,MATCH_N", much.slow, 400, *white)
        yield self._measure(ours, "AA_N", much.slow, 4200, *white)
        yield self._measure(ours, "SQUARE_N", much.slower, 600, *white)
        restarts = "PGD_Nx100r10,PGD_Tx100r10,PGDM_Nx100r10,PGDM_Tx100r10,MATCH_Nr10"
        yield self._measure(ours, restarts, much.slower, 2400, *white)
        yield self._measure(ours, ",".join(f"PGD_Nx{n}" for n in (1, 5, 10, 20, 100, 200)), much.slower, 300, *white)
        sweep = "PGD_N@0.1,PGD_N@0.2,PGD_N@0.35,PGD_N@0.4,PGD_N@0.5,PGD_N@0.7,PGD_T@0.5"
        yield self._measure(ours, sweep, much.slow, 500, *white)
        yield self._measure(ours, "DDN_N,STA_N,FWA_N,ROA_N", much.slower, 900, *white)
        for approximate in ("bpda", "bpda_through"):
            yield self._measure(ours, "PGD_N,PGD_Nx100,PGDM_N", much.slow, 300, "--threat-models", approximate)
        yield self._measure(ours, "DDN_N,AA_N,PGD_N_eps2,AA_N_eps2,FWA_N,FWA_N_eps2", much.quick, 3600)
        yield self._measure(ours, "CW_N,JSMA_T,STA_N,STA_T", much.slower, 2400)

    def _in_front_of(self, classifier: str, purifier: str, thorough: bool = True) -> Iterator[Step]:
        """A pair by itself: natural, oblivious, and attacked as that pair; ``thorough`` by AutoAttack too."""
        much, f, white = self.much, ("--classifier", classifier), ("--threat-models", "white_box")
        yield self._measure(purifier, "none,PGD_N", much.quick, 200, *f)
        if purifier != "identity" or "at-pgd" in classifier:
            yield self._measure(purifier, "PGD_N", much.slow, 60, *f, *white)
            if thorough:
                yield self._measure(purifier, "AA_N", much.slower, 1200, *f, *white)

    def _choices(self) -> Iterator[Step]:
        """Short runs that differ from the recipe by one thing each, ``base`` by its length alone."""
        much, seen = self.much, [self._shipped(name) for name in ("mlp", "resnet8")]
        base = ("--recipe", "hardened", *much.choice)
        init = ("--init", "models/zoo/mnist-transparent.safetensors")
        choices: dict[str, tuple[str, ...]] = {
            "base": init,
            "from-nothing": (),
            "trades": (*init, "--weights", "ce=0,clean=1,kl=3"),
            "margin": (*init, "--weights", "margin=1"),
            "no-picture": (*init, "--weights", "l1=0"),
            "picture": (*init, "--weights", "l1=10"),
            "features": (*init, "--weights", "feature=1,logit=1"),
            "invariance": (*init, "--weights", "att=0.1,nor=0.0001"),
            "one-step": (*init, "--with", "inner_steps=1,inner_step=1.25"),
            "steps-5": (*init, "--with", "inner_steps=5"),
            "steps-20": (*init, "--with", "inner_steps=20"),
            "no-ramp": (*init, "--with", "ramp=0"),
            "no-average": (*init, "--with", "ema=0"),
            "margin-attack": (*init, "--seen", "PGDM_N"),
            "damaged": (*init, "--with", "corrupted=0.5"),
            "wide": ("--width", "64", "--code-channels", "64"),
            "three-classifiers": (*init, "--classifier", ",".join(("mnist-lenet5", *seen))),
        }
        for name, flags in choices.items():
            if much.choices and name not in much.choices:
                continue
            out = self.runs / f"{self.dataset}-hardened-{name}"
            trained = out / "purifier.safetensors"
            yield Step(("train", *self._common, "--out", str(out), *base, *flags), 700, trained)
            yield self._measure(str(trained), "none,PGD_N", much.quick, 60)
            yield self._measure(str(trained), "PGD_N,PGDM_Nx100r10", much.slower, 400, "--threat-models", "white_box")
            for classifier in ("lenet5-b", *(() if name == "three-classifiers" else ("mlp",))):
                yield from self._in_front_of(self._shipped(classifier), str(trained), thorough=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """``scripts/reproduce``: print the plan's length, then run what is left of it."""
    parser = argparse.ArgumentParser("scripts/reproduce", description=__doc__)
    parser.add_argument("dataset", choices=["mnist", "mnist-hardened"])
    parser.add_argument("--smoke", action="store_true", help="the whole chain on scikit-learn's digits, in minutes")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; on cuda everything is at full size")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the commands that contain this")
    flags = parser.parse_args(arguments)
    runs, zoo, results = Path("runs"), Path("results/checkpoints"), Path("results")
    dataset, gpu = "mnist", flags.device.startswith("cuda")
    scale, much = (GPU, HARDENED_GPU) if gpu else (CPU, HARDENED_CPU)
    if flags.smoke:
        dataset, scale, much = "digits", SMOKE, HARDENED_SMOKE
        runs = Path("runs/smoke")
        zoo, results = runs / "checkpoints", _toy_project(runs) / "results"
    what = (dataset, scale, runs, zoo, results, flags.device)
    plan = Plan(*what) if flags.dataset == "mnist" else HardenedPlan(*what, much)
    steps = [step for step in plan.steps() if flags.only in " ".join(step.arguments)]
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
    shutil.copy("docs/choosing.md", root / "docs")
    return root


if __name__ == "__main__":
    sys.exit(main())
