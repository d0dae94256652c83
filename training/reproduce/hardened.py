"""The hardened profile on MNIST, from its training to what a sceptic asks of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from .plan import Plan, Step


@dataclasses.dataclass(frozen=True)
class HardenedScale:
    """How much of the hardened profile: flags of its ``own`` run, of what goes on from it, of the same ``again`` with
    another seed or f tuned too, of each ``choice`` and of the classifiers.

    Strides over the test split: ``quick`` for what is oblivious, ``slow`` for AutoAttack and 40 steps, ``slower`` for
    restarts, Square alone and AutoAttack through other classifiers. ``choices`` names some where not all are run.
    """

    own: tuple[str, ...] = ()
    more: tuple[str, ...] = ("--epochs", "3")
    again: tuple[str, ...] = ()
    choice: tuple[str, ...] = ("--every", "3", "--epochs", "8")
    classifier: tuple[str, ...] = ()
    quick: int = 1
    slow: int = 1
    slower: int = 10
    choices: tuple[str, ...] = ()


_SHORT = ("--every", "10", "--epochs", "5", "--batch-size", "64")
CPU = HardenedScale(
    more=("--every", "4", "--epochs", "6"), again=_SHORT, choice=_SHORT,
    slow=10, slower=33,
    choices=("base", "from-nothing", "no-picture", "trades", "three-classifiers", "one-step", "no-ramp", "steps-5",
             "no-average", "margin"),
)  # fmt: skip
GPU = HardenedScale(choice=("--epochs", "10"))
SMOKE = HardenedScale(
    ("--every", "20", "--epochs", "1", "--batch-size", "32", "--with", "inner_steps=2"),
    ("--every", "20", "--epochs", "1", "--batch-size", "32"),
    ("--every", "20", "--epochs", "1", "--batch-size", "32", "--with", "inner_steps=2"),
    ("--every", "20", "--epochs", "1", "--batch-size", "32"),
    ("--every", "8", "--epochs", "1", "--batch-size", "32"),
    30, 100, 100, ("base", "three-classifiers"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class HardenedPlan(Plan):
    """The hardened profile: classifiers that it never sees, its own run, what a sceptic asks, and what choices buy."""

    much: HardenedScale = CPU

    def steps(self) -> Iterator[Step]:
        """In order of worth, a plan that is cut short leaves the most that it could."""
        much, init = self.much, ("--init", "models/zoo/mnist-transparent.safetensors")
        shipped = dataclasses.replace(self, zoo=Path("models/zoo")) if self.dataset == "mnist" else self
        yield from shipped.trained("hardened", "purifier", 5400, "--recipe", "hardened", *init, *much.own)
        ours = shipped.kept("hardened")
        yield self.measure(ours, "none,PGD_N,PGD_T", much.quick, 300)
        yield from self._asked(ours)
        unseen = (("lenet5-b", "lenet5", ("--seed", "1")), ("mlp", "mlp", ()), ("resnet8", "resnet8", ()))
        for name, arch, more in unseen:
            yield from self.trained(name, "classifier", 300, "--arch", arch, *more, *much.classifier)
            for purifier in (ours, "mnist-transparent", "identity"):
                yield from self._in_front_of(self.kept(name), purifier)
        at_pgd = ("--arch", "lenet5", "--recipe", "at-pgd", *(much.classifier or ("--every", str(self.scale.robust))))
        yield from self.trained("at-pgd", "classifier", 900, *at_pgd)
        for purifier in ("identity", "mnist-transparent", ours):
            yield from self._in_front_of(self.kept("at-pgd"), purifier)
        yield from self._reach(ours)
        # What was measured before fidelity was a part of the records, once more.
        yield self.measure("mnist-transparent", "none,PGD_N", much.quick, 60)
        white = ("--threat-models", "white_box")
        yield self.measure("mnist-transparent", "PGD_N", much.quick, 600, *white)
        yield self.measure("mnist-transparent", "PGDM_N,PGD_Nx100r10", much.slower, 60, *white)
        # Another run of the same recipe is the surrogate nearest to the purifier itself; on a CPU it is a shorter one,
        # and its steps stand in its name.
        yield from self.trained(
            "hardened-b", "purifier", 1800, "--recipe", "hardened", "--seed", "1", *init, *much.again
        )
        gray = ("--threat-models", "gray_box", "--surrogate", self.kept("hardened-b"))
        yield self.measure(ours, "PGD_N,PGD_Nx100,PGDM_N", much.slow, 60, *gray)
        pair = self.run("joint", "purifier")
        tuned = ("--recipe", "joint", *init, *much.again)
        f = self.run("joint", "classifier")  # the last that a run leaves
        yield Step(("train", *self.common, "--out", str(pair.parent), *tuned), 1200, f)
        yield from self._in_front_of(str(f), str(pair))
        yield from self._choices()

    def _asked(self, ours: str) -> Iterator[Step]:
        """The white box from every side, in front of the classifier that it was trained with."""
        much, white = self.much, ("--threat-models", "white_box")
        yield self.measure(ours, "PGD_N,PGD_T,PGDM_N,PGDM_T,MATCH_N", much.slow, 400, *white)
        yield self.measure(ours, "AA_N", much.slow, 4200, *white)
        yield self.measure(ours, "SQUARE_N", much.slower, 600, *white)
        restarts = "PGD_Nx100r10,PGD_Tx100r10,PGDM_Nx100r10,PGDM_Tx100r10,MATCH_Nr10"
        yield self.measure(ours, restarts, much.slower, 2400, *white)
        yield self.measure(ours, ",".join(f"PGD_Nx{n}" for n in (1, 5, 10, 20, 100, 200)), much.slower, 300, *white)
        sweep = "PGD_N@0.1,PGD_N@0.2,PGD_N@0.35,PGD_N@0.4,PGD_N@0.5,PGD_N@0.7,PGD_T@0.5"
        yield self.measure(ours, sweep, much.slow, 500, *white)
        yield self.measure(ours, "DDN_N,STA_N,FWA_N,FWA_Nx200,ROA_N", much.slower, 1200, *white)
        yield self.measure(ours, "FWA_N", much.slower, 120, "--threat-models", "bpda")
        for approximate in ("bpda", "bpda_through"):
            yield self.measure(ours, "PGD_N,PGD_Nx100,PGDM_N", much.slow, 300, "--threat-models", approximate)
        yield self.measure(ours, "DDN_N,AA_N,PGD_N_eps2,AA_N_eps2,FWA_N,FWA_N_eps2", much.quick, 3600)
        yield self.measure(ours, "CW_N", self.scale.slow, 500)
        yield self.measure(ours, "JSMA_T,STA_N,STA_T", self.scale.slower, 2400)

    def _in_front_of(self, classifier: str, purifier: str, thorough: bool = True) -> Iterator[Step]:
        """A pair by itself: natural, oblivious, and attacked as that pair; ``thorough`` by AutoAttack too."""
        much, f, white = self.much, ("--classifier", classifier), ("--threat-models", "white_box")
        yield self.measure(purifier, "none,PGD_N", much.quick, 200, *f)
        if purifier != "identity" or "at-pgd" in classifier:
            yield self.measure(purifier, "PGD_N", much.slow, 60, *f, *white)
            if thorough:
                yield self.measure(purifier, "AA_N", much.slower, 1200, *f, *white)

    def _reach(self, ours: str) -> Iterator[Step]:
        """A run that goes on from ``ours`` through an MLP as well: what that gives with the MLP that stays unseen."""
        much, reach, white = self.much, self.kept("hardened-reach"), ("--threat-models", "white_box")
        yield from self.trained("mlp-b", "classifier", 300, "--arch", "mlp", "--seed", "1", *much.classifier)
        seen = ("--classifier", f"mnist-lenet5,{self.kept('mlp-b')}", "--with", "learning_rate=0.001,ramp=0")
        yield from self.trained(
            "hardened-reach", "purifier", 1800, "--recipe", "hardened", "--init", ours, *much.more, *seen
        )
        yield self.measure(reach, "none,PGD_N", much.quick, 60)
        yield self.measure(reach, "PGD_N", much.slow, 60, *white)
        yield self.measure(reach, "AA_N", much.slower, 1200, *white)
        for name in ("mlp", "lenet5-b", "resnet8"):
            yield from self._in_front_of(self.kept(name), reach, thorough=name == "mlp")

    def _choices(self) -> Iterator[Step]:
        """Short runs that differ from ``base`` by one thing each, ``wide`` from ``from-nothing``."""
        much, seen = self.much, [self.kept(name) for name in ("mlp", "resnet8")]
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
            trained = self.run(f"hardened-{name}", "purifier")
            yield Step(("train", *self.common, "--out", str(trained.parent), *base, *flags), 300, trained)
            yield self.measure(str(trained), "none,PGD_N", much.quick, 60)
            yield self.measure(str(trained), "PGD_N", much.slow, 50, "--threat-models", "white_box")
            yield self.measure(str(trained), "PGDM_Nx100", much.slower, 40, "--threat-models", "white_box")
            # To the three, the MLP and the ResNet-8 are not unseen.
            unseen = {"base": ("lenet5-b", "mlp"), "three-classifiers": ("lenet5-b",)}.get(name, ("mlp",))
            for classifier in unseen:
                yield from self._in_front_of(self.kept(classifier), str(trained), thorough=False)
