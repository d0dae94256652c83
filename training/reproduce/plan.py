"""The parts of a plan: its scale, one command, and the commands that every data set shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Scale:
    """The size of a plan: for two cores, for a GPU, or a toy run that shows that it works.

    Strides over the training split: ``every`` for the purifiers of the comparison, ``robust`` for the classifiers,
    ``static`` for purifiers that see STA, ``ablation`` for Figure 4. Strides over the test split: ``quick`` for most
    attacks, ``slow`` for those of minutes, ``slower`` for those of an hour, ``thorough`` for AutoAttack through the
    other defences, ``detected`` for the detector of colour images. ``epochs``, of purifiers, and ``classifier_epochs``,
    of the classifiers of colour images: 0 keeps the recipe's own.

    Flags: ``batch`` of all training, ``ablation_batch`` of Figure 4's as well, ``purifier`` of the purifiers'. On
    colour: ``compared`` of purifiers that see the paper's budget alone, ``continued`` of the strict network's second
    run, ``released`` of the released purifier, ``first`` and ``skips`` of the first and the last run with skips,
    ``hardened`` of the hardened profile, ``joint_long`` of the classifier's second run with it, if there is one.
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
    ablation_batch: tuple[str, ...] = ()
    classifier_epochs: int = 0
    detected: int = 10
    purifier: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    skips: tuple[str, ...] = ()
    released: tuple[str, ...] = ()
    hardened: tuple[str, ...] = ()
    joint_long: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()
    continued: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Step:
    """One ``arn-train`` command, the seconds that it took on two CPU cores if that is known, and the file it leaves.

    ``made_from``: that file must not be older than this one. ``kept``: another file that makes the command superfluous.
    """

    arguments: tuple[str, ...]
    seconds: int | None = None
    leaves: Path | None = None
    made_from: Path | None = None
    kept: Path | None = None

    @property
    def done(self) -> bool:
        """Whether what it leaves is there; evaluations find out by themselves."""
        if self.kept is not None and self.kept.exists():
            return True
        if self.leaves is None or not self.leaves.exists():
            return False
        source = self.made_from
        return source is None or not source.exists() or source.stat().st_mtime <= self.leaves.stat().st_mtime


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
        """The commands, the most important first, so that a plan that is cut short leaves the most useful results."""
        raise NotImplementedError

    @property
    def everywhere(self) -> tuple[str, ...]:
        """The flags of every command."""
        device = () if self.device == "cpu" else ("--device", self.device)
        return ("--dataset", self.dataset, *device)

    @property
    def common(self) -> tuple[str, ...]:
        """The flags of every command but the training of a classifier."""
        return self.everywhere

    def kept(self, name: str) -> str:
        """Where the rounded checkpoint of a run is."""
        return str(self.zoo / f"{self.dataset}-{name}.safetensors")

    def run(self, name: str, file: str) -> Path:
        """Where a run leaves its own checkpoint."""
        return self.runs / f"{self.dataset}-{name}" / f"{file}.safetensors"

    def trained(self, name: str, file: str, seconds: int | None, *arguments: str) -> Iterator[Step]:
        """Train, and round the checkpoint to fp16."""
        found, kept = self.run(name, file), Path(self.kept(name))
        common = self.everywhere if file == "classifier" else self.common
        yield Step(("train", *common, "--out", str(found.parent), *arguments), seconds, found, kept=kept)
        every = 1 if file == "classifier" else self.scale.slow
        yield self.exported(found, kept, None if seconds is None else 30, "--every", str(every))

    def exported(self, found: Path, kept: Path, seconds: int | None, *more: str) -> Step:
        """Round a run's checkpoint to fp16."""
        export = ("export", str(found), *self.common, "--name", kept.stem, "--out", str(kept.parent))
        return Step((*export, *more), seconds, kept, made_from=found)

    def epochs(self, epochs: int) -> tuple[str, ...]:
        """So many instead of the recipe's own, and the batch size of the scale."""
        return (*(("--epochs", str(epochs)) if epochs else ()), *self.scale.batch)

    def measure(
        self, purifier: str, attacks: str, every: int, seconds: int | None, *more: str, kind: str = "--purifier"
    ) -> Step:
        """Error rates at a stride over the test split."""
        where = ("--every", str(every), "--out", str(self.results))
        return Step(("evaluate", *self.common, kind, purifier, "--attacks", attacks, *where, *more), seconds)

    def white_box(self, kind: str, spec: str, seconds: tuple[int | None, int | None] = (None, None)) -> Iterator[Step]:
        """PGD and AutoAttack through a defence."""
        white = ("--threat-models", "white_box")
        yield self.measure(spec, "PGD_N,PGD_T", self.scale.slow, seconds[0], *white, kind=kind)
        yield self.measure(spec, "AA_N", self.scale.thorough, seconds[1], *white, kind=kind)

    def ablation(self, recipe: str, terms: dict[str, str], *more: str, seconds: int | None = None) -> Iterator[Step]:
        """Figure 4, every seed with all terms and without each."""
        scale, known = self.scale, seconds is not None
        budget = ("--every", str(scale.ablation), *self.epochs(scale.ablation_epochs), *scale.ablation_batch)
        for seed in range(scale.seeds):
            for left_out in ("", *terms):
                weights = ",".join(f"{term}={0 if term == left_out else weight}" for term, weight in terms.items())
                trained = self.run(f"ablation-{recipe}-{left_out or 'all'}-{seed}", "purifier")
                what = ("--recipe", recipe, "--weights", weights, "--seed", str(seed), *more)
                pools, out = ("--pools", str(self.runs / "pools")), ("--out", str(trained.parent))
                yield Step(("train", *self.common, *out, *what, *budget, *pools), seconds, trained)
                quick, slow = "none,PGD_N,PGD_T,PGD_N_eps2", "DDN_N,AA_N,FWA_N"
                for attacks, every in ((quick, scale.quick), (slow, scale.slow), ("STA_N", scale.slower)):
                    yield self.measure(str(trained), attacks, every, 15 if known else None)
