"""The hardened profile on MNIST, from its training to its stress tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from .plan import Plan, Step

# What the runs of the published tables started from.
_START = ("--init", "results/checkpoints/mnist-augmented.safetensors")


@dataclasses.dataclass(frozen=True)
class HardenedScale:
    """The size of the hardened plan.

    Flags: of the profile's ``own`` run, of the two ``wide`` ones that follow it, of ``more``, another run fine-tuned
    from it, of the same run ``again`` with another seed or f tuned too, of each ``choice`` and of the classifiers.
    Strides over the test split: ``quick`` for oblivious attacks, ``slow`` for AutoAttack and 40 steps, ``slower`` for
    restarts, Square alone and AutoAttack through other classifiers. ``choices`` names the choices to run; empty runs
    all.
    """

    own: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()
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
    *2 * (("--every", "20", "--epochs", "1", "--batch-size", "32", "--with", "inner_steps=2"),),
    ("--every", "20", "--epochs", "1", "--batch-size", "32"),
    ("--every", "20", "--epochs", "1", "--batch-size", "32", "--with", "inner_steps=2"),
    ("--every", "20", "--epochs", "1", "--batch-size", "32"),
    ("--every", "8", "--epochs", "1", "--batch-size", "32"),
    30, 100, 100, ("base", "three-classifiers"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class HardenedPlan(Plan):
    """The hardened profile: its own run, stress tests, classifiers that it never saw, and what each choice changes."""

    hardened: HardenedScale = CPU

    def steps(self) -> Iterator[Step]:
        """See :meth:`Plan.steps`."""
        hardened, init = self.hardened, _START
        yield from self.trained("hardened-old", "purifier", 5400, "--recipe", "hardened", *init, *hardened.own)
        released = dataclasses.replace(self, zoo=Path("models/zoo")) if self.dataset == "mnist" else self
        ours, old = released.kept("hardened"), self.kept("hardened-old")
        yield from self._released(released, old)
        for purifier in (ours, old):
            yield self.measure(purifier, "none,PGD_N,PGD_T", hardened.quick, 300)
            yield from self._stress_tests(purifier)
        unseen = (("lenet5-b", "lenet5", ("--seed", "1")), ("mlp", "mlp", ()), ("resnet8", "resnet8", ()))
        for name, arch, more in unseen:
            yield from self.trained(name, "classifier", 300, "--arch", arch, *more, *hardened.classifier)
            for purifier in (ours, old, "mnist-transparent", "identity"):
                yield from self._in_front_of(self.kept(name), purifier)
        at_pgd = (
            "--arch",
            "lenet5",
            "--recipe",
            "at-pgd",
            *(hardened.classifier or ("--every", str(self.scale.robust))),
        )
        yield from self.trained("at-pgd", "classifier", 900, *at_pgd)
        for purifier in ("identity", "mnist-transparent", ours, old):
            yield from self._in_front_of(self.kept("at-pgd"), purifier)
        yield from self._reach(old)
        # What was measured before fidelity was a part of the records, once more.
        yield self.measure("mnist-transparent", "none,PGD_N", hardened.quick, 60)
        white = ("--threat-models", "white_box")
        yield self.measure("mnist-transparent", "PGD_N", hardened.quick, 600, *white)
        yield self.measure("mnist-transparent", "PGDM_N,PGD_Nx100r10", hardened.slower, 60, *white)
        # Another run of the same recipe is the surrogate nearest to the purifier itself; on a CPU it is a shorter one,
        # and its steps stand in its name.
        yield from self.trained(
            "hardened-b", "purifier", 1800, "--recipe", "hardened", "--seed", "1", *init, *hardened.again
        )
        gray = ("--threat-models", "gray_box", "--surrogate", self.kept("hardened-b"))
        yield self.measure(old, "PGD_N,PGD_Nx100,PGDM_N", hardened.slow, 60, *gray)
        pair = self.run("joint", "purifier")
        tuned = ("--recipe", "joint", *init, *hardened.again)
        f = self.run("joint", "classifier")  # the last that a run leaves
        yield Step(("train", *self.common, "--out", str(pair.parent), *tuned), 1200, f)
        yield from self._in_front_of(str(f), str(pair))
        yield from self._choices()

    def _released(self, released: Plan, old: str) -> Iterator[Step]:
        """The released run: from ``old`` to many budgets, through three classifiers, in two stages."""
        kept, classifier = Path(released.kept("hardened")), self.hardened.classifier
        yield from self.trained("mlp-b", "classifier", 300, "--arch", "mlp", "--seed", "1", *classifier)

        def left(name: str, file: str, seconds: int, *arguments: str) -> tuple[str, Step]:
            found = self.run(name, file)
            train = ("train", *self.common, "--out", str(found.parent), *arguments)
            return str(found), Step(train, seconds, found, kept=kept)

        lenet = ("--arch", "lenet5", "--seed", "2", "--epochs", "3", *classifier)
        second, step = left("lenet5-c", "classifier", 300, *lenet)
        yield step
        wide = ("--recipe", "hardened-wide", "--classifier", f"mnist-lenet5,{second},{self.kept('mlp-b')}")
        first, step = left("hardened-first", "purifier", 4800, *wide, "--init", old, *self.hardened.wide)
        yield step
        changed = ("--weights", "clean=1.5", "--with", "corrupted=0.9,learning_rate=0.001,inner_steps=5")
        last = (*wide, "--init", first, "--epochs", "3", *changed, *self.hardened.wide)
        yield from released.trained("hardened", "purifier", 1200, *last)

    def _stress_tests(self, ours: str) -> Iterator[Step]:
        """The white box from every side, in front of the classifier that it was trained with."""
        hardened, white = self.hardened, ("--threat-models", "white_box")
        yield self.measure(ours, "PGD_N,PGD_T,PGDM_N,PGDM_T,MATCH_N", hardened.slow, 400, *white)
        yield self.measure(ours, "AA_N", hardened.slow, 4200, *white)
        yield self.measure(ours, "SQUARE_N", hardened.slower, 600, *white)
        restarts = "PGD_Nx100r10,PGD_Tx100r10,PGDM_Nx100r10,PGDM_Tx100r10,MATCH_Nr10"
        yield self.measure(ours, restarts, hardened.slower, 2400, *white)
        yield self.measure(ours, ",".join(f"PGD_Nx{n}" for n in (1, 5, 10, 20, 100, 200)), hardened.slower, 300, *white)
        sweep = "PGD_N@0.1,PGD_N@0.2,PGD_N@0.35,PGD_N@0.4,PGD_N@0.5,PGD_N@0.7,PGD_T@0.5"
        yield self.measure(ours, sweep, hardened.slow, 500, *white)
        yield self.measure(ours, "DDN_N,STA_N,FWA_N,FWA_Nx200,ROA_N", hardened.slower, 1200, *white)
        yield self.measure(ours, "FWA_N", hardened.slower, 120, "--threat-models", "bpda")
        for approximate in ("bpda", "bpda_through"):
            yield self.measure(ours, "PGD_N,PGD_Nx100,PGDM_N", hardened.slow, 300, "--threat-models", approximate)
        yield self.measure(ours, "DDN_N,AA_N,PGD_N_eps2,AA_N_eps2,FWA_N,FWA_N_eps2", hardened.quick, 3600)
        yield self.measure(ours, "CW_N", self.scale.slow, 500)
        yield self.measure(ours, "JSMA_T,STA_N,STA_T", self.scale.slower, 2400)

    def _in_front_of(self, classifier: str, purifier: str, thorough: bool = True) -> Iterator[Step]:
        """A pair by itself: natural, oblivious, and attacked as that pair; ``thorough`` by AutoAttack too."""
        hardened, f, white = self.hardened, ("--classifier", classifier), ("--threat-models", "white_box")
        yield self.measure(purifier, "none,PGD_N", hardened.quick, 200, *f)
        if purifier != "identity" or "at-pgd" in classifier:
            yield self.measure(purifier, "PGD_N", hardened.slow, 60, *f, *white)
            if thorough:
                yield self.measure(purifier, "AA_N", hardened.slower, 1200, *f, *white)

    def _reach(self, ours: str) -> Iterator[Step]:
        """A run fine-tuned from ``ours`` through an MLP as well, measured with another MLP that stays unseen."""
        hardened, reach, white = self.hardened, self.kept("hardened-reach"), ("--threat-models", "white_box")
        seen = ("--classifier", f"mnist-lenet5,{self.kept('mlp-b')}", "--with", "learning_rate=0.001,ramp=0")
        yield from self.trained(
            "hardened-reach", "purifier", 1800, "--recipe", "hardened", "--init", ours, *hardened.more, *seen
        )
        yield self.measure(reach, "none,PGD_N", hardened.quick, 60)
        yield self.measure(reach, "PGD_N", hardened.slow, 60, *white)
        yield self.measure(reach, "AA_N", hardened.slower, 1200, *white)
        for name in ("mlp", "lenet5-b", "resnet8"):
            yield from self._in_front_of(self.kept(name), reach, thorough=name == "mlp")

    def _choices(self) -> Iterator[Step]:
        """Short runs that differ from ``base`` by one thing each, ``wide`` from ``from-nothing``."""
        hardened, seen = self.hardened, [self.kept(name) for name in ("mlp", "resnet8")]
        base = ("--recipe", "hardened", *hardened.choice)
        init = _START
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
            if hardened.choices and name not in hardened.choices:
                continue
            trained = self.run(f"hardened-{name}", "purifier")
            yield Step(("train", *self.common, "--out", str(trained.parent), *base, *flags), 300, trained)
            yield self.measure(str(trained), "none,PGD_N", hardened.quick, 60)
            yield self.measure(str(trained), "PGD_N", hardened.slow, 50, "--threat-models", "white_box")
            yield self.measure(str(trained), "PGDM_Nx100", hardened.slower, 40, "--threat-models", "white_box")
            # To the three, the MLP and the ResNet-8 are not unseen.
            unseen = {"base": ("lenet5-b", "mlp"), "three-classifiers": ("lenet5-b",)}.get(name, ("mlp",))
            for classifier in unseen:
                yield from self._in_front_of(self.kept(classifier), str(trained), thorough=False)
