"""The plans of the paper's colour half: CIFAR-10, and LISA by image and by track."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from arn_purify import models

from ..data.datasets import STICKERS, STICKERS_BY_PGD
from .plan import Plan, Scale, Step

# What two cores allow: a stand-in for the target, a fifth of the training images, every k-th test image.
CIFAR10_CPU = Scale(
    every=5, robust=10, ablation=10, epochs=3, ablation_epochs=3, seeds=1, quick=10, slow=50, slower=200, thorough=100,
    classifier_epochs=15, purifier=("--batch-size", "64", "--with", "refresh_epochs=3"),
    first=("--epochs", "4", "--with", "refresh_epochs=3,learning_rate=0.001", "--weights", "l1=10,logit=1"),
    compared=("--epochs", "7"), continued=("--epochs", "6"),
    skips=("--every", "4", "--epochs", "12", "--with", "refresh_epochs=4", "--weights", "l1=20,logit=1"),
    released=("--every", "1", "--epochs", "10", "--with", "refresh_epochs=5,learning_rate=0.0015"),
)  # fmt: skip
# The released pair: all training images, and as many test images as take less than half an hour.
CIFAR10_RELEASED_CPU = Scale(
    quick=1, slow=10, slower=33, thorough=33, classifier_epochs=40, epochs=4, purifier=("--batch-size", "64"),
    released=("--with", "refresh_epochs=5,learning_rate=0.0015"),
    hardened=(
        "--epochs", "4", "--batch-size", "64", "--with", "inner_steps=1,learning_rate=0.0006,ramp=0.5,eps_to=0.75",
        "--watched", "200",
    ),
    joint_long=(
        "--epochs", "3", "--batch-size", "64", "--weights", "clean=0.1",
        "--with", "inner_steps=2,learning_rate=0.001,eps_to=1,eps_from=1,ramp=0,joint=1", "--watched", "200",
    ),
)  # fmt: skip
CIFAR10_GPU = Scale(
    epochs=0, ablation=3, ablation_epochs=0, quick=1, slow=10, slower=40, thorough=10,
    continued=("--epochs", "15"), skips=("--epochs", "15", "--weights", "l1=20,logit=1"), released=("--epochs", "15"),
)  # fmt: skip
CIFAR10_RELEASED_GPU = dataclasses.replace(CIFAR10_GPU, classifier_epochs=40)
LISA_CPU = Scale(
    epochs=12,
    quick=1,
    slow=10,
    slower=10,
    thorough=20,
    purifier=("--batch-size", "64", "--with", "refresh_epochs=4"),
    released=("--epochs", "24"),
)
LISA_GPU = Scale(epochs=0, quick=1, slow=1, slower=10, thorough=4)
SMOKE = Scale(
    8, 8, 8, 8, 1, 1, 1, 60, 100, 100, 150, ("--batch-size", "32"), classifier_epochs=1, detected=5,
    hardened=("--every", "8", "--epochs", "1", "--batch-size", "32", "--watched", "20"),
    joint_long=("--every", "8", "--epochs", "1", "--batch-size", "32", "--watched", "20", "--with", "joint=1"),
)  # fmt: skip

Places = tuple[Path, Path, Path, str]
"""Runs, rounded checkpoints, results and the device."""


def plans(name: str, smoke: bool, on_gpu: bool, places: Places) -> list[Plan]:
    """The plans of a data set: at full size on a GPU, reduced on a CPU, or on scikit-learn's digits in colour."""
    if name == "cifar10":
        return _cifar10(smoke, on_gpu, places)
    scale = SMOKE if smoke else LISA_GPU if on_gpu else LISA_CPU
    datasets = ("digits-colour",) if smoke else ("lisa", "lisa-track")
    return [LisaPlan(dataset, scale, *places, arch="lisa-cnn") for dataset in datasets]


def _cifar10(smoke: bool, on_gpu: bool, places: Places) -> list[Plan]:
    """The comparison in front of the paper's target or a stand-in, and then the released pair."""
    dataset, scale, last, target, others = "cifar10", CIFAR10_CPU, CIFAR10_RELEASED_CPU, "resnet20", ["resnet32"]
    if smoke:
        dataset, scale, last, target, others = "digits-colour", SMOKE, SMOKE, "lisa-cnn", ["resnet20"]
    elif on_gpu:
        scale, last, target, others = CIFAR10_GPU, CIFAR10_RELEASED_GPU, "resnet110", ["vgg19", "wrn28-20"]
    return [
        Cifar10Plan(dataset, scale, *places, arch=target, others=tuple(others)),
        Cifar10ReleasedPlan(dataset, last, *places, arch="airbench", others=(target,)),
    ]


@dataclasses.dataclass(frozen=True)
class ColourPlan(Plan):
    """Purifiers in front of a classifier that the plan trains first; the strict network, and the one with skips."""

    arch: str
    others: tuple[str, ...] = ()
    patches: ClassVar[str] = ",".join((*STICKERS, *STICKERS_BY_PGD))

    @property
    def target(self) -> str:
        """The target's name within the data set."""
        return self.arch

    def kept(self, name: str) -> str:
        """In the zoo where it is released."""
        released = f"{self.dataset}-{name}" in models.available()
        return f"models/zoo/{self.dataset}-{name}.safetensors" if released else super().kept(name)

    @property
    def common(self) -> tuple[str, ...]:
        """The target too."""
        return (*self.everywhere, "--classifier", self.kept(self.target))

    def classifier(self, name: str, arch: str, *more: str, every: int = 1) -> Iterator[Step]:
        """Train one of the classifiers."""
        less = self.epochs(self.scale.classifier_epochs)
        yield from self.trained(name, "classifier", None, "--arch", arch, "--every", str(every), *more, *less)

    def purifier(self, name: str, seen: str, arch: str, *more: str) -> Iterator[Step]:
        """Train a purifier, and measure it obliviously and in the attacker's hands."""
        yield from self.trained(name, "purifier", None, *self.learning(seen, arch), *more)
        yield from self.oblivious(self.kept(name))
        yield from self.white_box("--purifier", self.kept(name))

    def learning(self, seen: str, arch: str) -> tuple[str, ...]:
        """How every purifier learns."""
        scale = self.scale
        what = ("--arch", arch, "--seen", seen, "--pools", str(self.runs / "pools"), "--every", str(scale.every))
        return (*what, *self.epochs(scale.epochs), *scale.purifier)

    def robust(self, recipe: str) -> Iterator[Step]:
        """Train a classifier that defends itself, DOA from the ordinary one, and measure it."""
        start = ("--init", self.kept(self.target)) if recipe.startswith("doa") else ()
        yield from self.classifier(recipe, self.arch, "--recipe", recipe, *start, every=self.scale.robust)
        yield from self.oblivious(self.kept(recipe), "--robust-classifier")
        yield from self.white_box("--robust-classifier", self.kept(recipe))

    def oblivious(self, spec: str, kind: str = "--purifier") -> Iterator[Step]:
        """The columns of the paper's Tables 1 and 2."""
        raise NotImplementedError


class Cifar10Plan(ColourPlan):
    """Tables 1, 2, 4 and 5, Figure 4 and the detection, in front of ResNet-110 or what stands in for it."""

    wide: ClassVar = ("--recipe", "cifar10-wide")
    weights: ClassVar = ("--weights", "logit=2,nor=1e-5")

    def steps(self) -> Iterator[Step]:
        """See :meth:`Plan.steps`."""
        pp, dp, beside = "PGD_N,PGD_T", "PGD_N,DDN_N", self.scale.compared
        yield from self.classifier(self.target, self.arch)
        yield from self.oblivious("identity")  # crafts the sets that all others share
        yield from self._ours(pp)
        yield from self._skips(pp)
        yield from self.purifier("ape-g-pp", pp, "ape-g", *beside)
        yield from self.purifier("hgd-pp", pp, "hgd", *beside)
        yield from self._bpda()
        yield from self._transfer()
        yield from self.purifier("arn-dp", dp, "colour", *beside)
        yield from self.purifier("arn-dp-skips", dp, "skips", *beside)
        yield from self.robust("doa-7x7")
        yield from self.robust("at-pgd")
        yield from self.purifier("ape-g-dp", dp, "ape-g", *beside)
        yield from self.purifier("hgd-dp", dp, "hgd", *beside)
        yield from self.purifier("arn-pp-paper", pp, "colour", "--recipe", "paper-colour", *beside)
        terms = {"att": "0.01", "nor": "0.0001", "adv": "0.1"}
        yield from self.ablation("cifar10", terms, "--arch", "colour")
        detect = ("detect", *self.common, "--every", str(self.scale.detected), "--out", str(self.results))
        yield Step((*detect, "--purifier", self.kept(self.ours)))

    def oblivious(self, spec: str, kind: str = "--purifier") -> Iterator[Step]:
        """Everything that the paper measures on CIFAR-10."""
        scale = self.scale
        yield self.measure(spec, "none,PGD_N,PGD_T,DDN_N,PGD_N_eps2", scale.quick, None, kind=kind)
        yield self.measure(spec, "AA_N,AA_N_eps2,CW_N", scale.slow, None, kind=kind)
        yield self.measure(spec, "FWA_N,FWA_N_eps2", scale.thorough, None, kind=kind)
        yield self.measure(spec, "JSMA_T,STA_N,STA_T", scale.slower, None, kind=kind)

    @property
    def ours(self) -> str:
        """The name of our best purifier in front of the target."""
        return f"{self.target}-transparent"

    def _ours(self, seen: str) -> Iterator[Step]:
        """The strict network: at the paper's budget, at many, and with more weight on the logits."""
        yield from self.purifier("arn-pp", seen, "colour", *self.scale.compared)
        wide = (*self.wide, *self.scale.continued, "--init", self.kept("arn-pp"))
        yield from self.purifier("strict", seen, "colour", *wide)
        more = (*self.wide, *self.weights, *self.scale.released, "--init", self.kept("strict"))
        yield from self.purifier(self.ours, seen, "colour", *more)

    def _skips(self, seen: str) -> Iterator[Step]:
        """With skips: at the paper's budget, where epochs are few after a run with the flags ``first``; at many."""
        start, first = self.run("start", "purifier"), self.scale.first
        if first:
            train = ("train", *self.common, "--out", str(start.parent), *self.learning(seen, "skips"), *first)
            yield Step(train, None, start, kept=Path(self.kept("plain")))
        yield from self.purifier("plain", seen, "skips", *(("--init", str(start)) if first else ()))
        wide = (*self.wide, *self.scale.skips, "--init", self.kept("plain"))
        yield from self.purifier("wide", seen, "skips", *wide)

    def _bpda(self) -> Iterator[Step]:
        for name in (self.ours, "plain", "arn-pp", "ape-g-pp"):
            yield self._through_identity(name)

    def _through_identity(self, name: str) -> Step:
        bpda = ("--threat-models", "bpda")
        return self.measure(self.kept(name), "PGD_N,PGD_Nx100", self.scale.slow, None, *bpda)

    def _transfer(self) -> Iterator[Step]:
        """Table 5: purifiers that never saw these classifiers, which are large and stay where they were trained."""
        attacks = "none,PGD_N,PGD_T,CW_N,DDN_N,AA_N,STA_N,STA_T,FWA_N"
        for arch in self.others:
            train, _ = self.classifier(arch, arch)
            yield train
            for spec in ("identity", self.kept(self.ours), self.kept("plain"), self.kept("arn-pp")):
                step = self.measure(spec, attacks, self.scale.slower, None)
                yield dataclasses.replace(
                    step, arguments=(*step.arguments, "--classifier", str(self.run(arch, "classifier")))
                )


class Cifar10ReleasedPlan(Cifar10Plan):
    """The released purifiers: they go on learning in front of a better classifier, which is released with them."""

    @property
    def target(self) -> str:
        """Its name says how long it learned, because its recipe's own length is half of that."""
        return f"{self.arch}-40"

    def steps(self) -> Iterator[Step]:
        """See :meth:`Plan.steps`."""
        yield from self.classifier(self.target, self.arch)
        yield from self.oblivious("identity")
        start = self.kept(f"{self.others[0]}-transparent")
        more = (*self.wide, *self.weights, *self.scale.released, "--init", start)
        yield from self.purifier("transparent", "PGD_N,PGD_T", "colour", *more)
        yield self._through_identity("transparent")
        init = ("--arch", "colour", "--init", self.kept("transparent"))
        hardened = ("--recipe", "cifar10-hardened", *init, *self.scale.hardened)
        yield from self.trained("hardened", "purifier", None, *hardened)
        yield from self.oblivious(self.kept("hardened"))
        yield from self._sceptic(self.kept("hardened"))
        # How much the frozen classifier limits it: the same with f tuned too, at the whole budget.
        yield from self._jointly("joint", *hardened, "--with", "eps_to=1,joint=1")
        if self.scale.joint_long:
            both = ("--init", self.kept("joint"), "--classifier", self.kept(f"{self.arch}-joint"))
            yield from self._jointly("joint-long", *hardened[:4], *both, *self.scale.joint_long)

    def _jointly(self, name: str, *tuned: str) -> Iterator[Step]:
        """Train a purifier and its classifier together, keep both, and measure the pair."""
        pair, f = self.run(name, "purifier"), self.run(name, "classifier")  # the last that a run leaves
        yield Step(("train", *self.common, "--out", str(pair.parent), *tuned), None, f, kept=Path(self.kept(name)))
        yield self.exported(f, Path(self.kept(f"{self.arch}-{name}")), None)
        classifier = ("--classifier", self.kept(f"{self.arch}-{name}"))
        yield self.exported(pair, Path(self.kept(name)), None, "--every", str(self.scale.slow), *classifier)
        natural = self.measure(self.kept(name), "none,PGD_N", self.scale.slow, None)
        for step in (natural, *self._sceptic(self.kept(name))):
            yield dataclasses.replace(step, arguments=(*step.arguments, *classifier))

    def _sceptic(self, spec: str) -> Iterator[Step]:
        """Through a purifier: PGD of many steps, on the margin and again from other starts, without any gradient."""
        white = ("--threat-models", "white_box")
        yield from self.white_box("--purifier", spec)
        attacks = "PGD_Nx5,PGD_Nx20,PGD_Nx100,PGD_Nx100r5,PGDM_N,PGD_N@0.0157,SQUARE_N"
        yield self.measure(spec, attacks, self.scale.thorough, None, *white)


class LisaPlan(ColourPlan):
    """Table 2's stickers in front of LISA-CNN, AP_1 and AP_2 seen."""

    @property
    def target(self) -> str:
        """The target's name within the data set."""
        return "cnn"

    def steps(self) -> Iterator[Step]:
        """See :meth:`Plan.steps`."""
        seen = "AP_1,AP_2"
        yield from self.classifier(self.target, self.arch)
        yield from self.oblivious("identity")
        recipe = ("--recipe", "lisa")
        yield from self.purifier("plain", seen, "skips", *recipe)
        yield from self._moved(seen)
        bpda = ("--threat-models", "bpda")
        yield self.measure(self.kept("transparent"), "PGD_N,AP_1,APM_1", self.scale.slow, None, *bpda)
        yield from self.purifier("arn-ap", seen, "colour", *recipe)
        yield from self.purifier("ape-g-ap", seen, "ape-g", "--recipe", "lisa-ape-g")
        yield from self.robust("doa-9x5")
        yield from self.robust("doa-7x7")
        yield from self.robust("at-pgd")
        yield from self.purifier("arn-ap-paper", seen, "colour", "--recipe", "paper-colour")

    def _moved(self, seen: str) -> Iterator[Step]:
        """Stickers moved; by track, which is released, then with the pixels under them weighted."""
        moved = ("--recipe", "lisa-moved", *self.scale.released, "--init")
        last = self.kept("plain")
        if self.dataset == "lisa-track":
            yield from self.purifier("moved", seen, "skips", *moved, last)
            last = self.kept("moved")
            moved = ("--weights", "sticker=40", *moved)
        yield from self.purifier("transparent", seen, "skips", *moved, last)

    def oblivious(self, spec: str, kind: str = "--purifier") -> Iterator[Step]:
        """Natural signs and the four stickers."""
        yield self.measure(spec, f"none,{self.patches}", self.scale.quick, None, kind=kind)

    def white_box(self, kind: str, spec: str, seconds: tuple[int | None, int | None] = (None, None)) -> Iterator[Step]:
        """The stickers too."""
        yield self.measure(spec, self.patches, self.scale.slow, seconds[0], "--threat-models", "white_box", kind=kind)
        yield from super().white_box(kind, spec, seconds)
