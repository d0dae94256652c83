"""How a run departs from its recipe, as fields; its name is made from them and is never read back.

A card and a record carry the fields (``run``) beside the name (``recipe``). Those written before they did have the
name alone: :func:`parse_legacy` is for these.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

Numbers = tuple[tuple[str, float], ...]
"""Names and numbers, in the order in which they were given."""


@dataclasses.dataclass(frozen=True)
class RunName:
    """A recipe, and whatever was changed of it.

    ``arch``: a network that the recipe is not meant for. ``weights``: of loss terms. ``fields``: other numbers of the
    recipe. ``shape``: of the network. ``static``: attacks crafted once. ``steps``: where they are not the recipe's own.
    ``seen``: attacks instead of the recipe's. ``classifiers``: how many it learned in front of. ``start``: the
    checkpoint that it was fine-tuned from, where that is not the one the recipe is meant for; ``nothing`` where there
    was none. ``surrogate``: a second classifier that was attacked. ``before``: a classifier that is not the target.
    """

    recipe: str
    arch: str = ""
    weights: Numbers = ()
    fields: Numbers = ()
    shape: Numbers = ()
    static: bool = False
    steps: int = 0
    seen: tuple[str, ...] = ()
    classifiers: int = 1
    start: str = ""
    surrogate: str = ""
    seed: int = 0
    before: str = ""

    @property
    def has_other_weights(self) -> bool:
        """Whether it is a row of an ablation: other loss weights, but not those of a run that is fine-tuned by all."""
        return bool(self.weights) and (not self.start or any(not weight for _, weight in self.weights))

    @property
    def is_hardened_variant(self) -> bool:
        """Whether it is a row of the table of choices: ``joint``, or ``hardened`` with something changed."""
        return self.recipe == "joint" or (self.recipe == "hardened" and self != RunName("hardened"))

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults, with lists for tuples."""
        fields = dataclasses.asdict(self)
        defaults = dataclasses.asdict(RunName(""))
        changed = {key: value for key, value in fields.items() if value != defaults[key]}
        return {key: _lists(value) for key, value in changed.items()}


def from_json(fields: Mapping[str, Any]) -> RunName:
    """The run of a card's or a record's ``run``."""
    return RunName(**{key: _tuples(value) for key, value in fields.items()})


def describe(run: RunName) -> str:
    """The name of a run: its recipe, then each change."""
    parts = [run.recipe, run.arch]
    parts += [f"{name}{_decimal(number)}" for name, number in (*run.weights, *run.fields)]
    parts += [f"{name.replace('_', '')}{_decimal(number)}" for name, number in run.shape]
    parts += ["static" if run.static else "", str(run.steps or ""), "+".join(run.seen)]
    parts.append(f"{run.classifiers}f" if run.classifiers > 1 else "")
    parts += [f"from-{run.start}" if run.start else "", f"and-{run.surrogate}" if run.surrogate else ""]
    parts += [f"seed{run.seed}" if run.seed else "", f"before-{run.before}" if run.before else ""]
    return "-".join(part for part in parts if part)


def _decimal(number: float) -> str:
    """Without an exponent, whose sign would look like a dash of the name."""
    return f"{number:.12f}".rstrip("0").rstrip(".")


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


# What names were made of while they were the only place where a run's changes were written down.
_RECIPES = (
    "transparent", "augmented", "hardened", "joint", "speckled", "paper", "released", "ape-g", "hgd",
    "cifar10", "cifar10-wide", "cifar10-ape-g", "cifar10-hgd", "cifar10-hardened",
    "lisa", "lisa-moved", "lisa-ape-g", "lisa-hgd", "paper-colour",
)  # fmt: skip
_TERMS = ("mse", "att", "nor", "adv", "l1", "feature", "logit", "guide", "ce", "clean", "kl", "margin")
_FIELDS = (
    "epochs", "batch_size", "learning_rate", "refresh_epochs", "shift", "corrupted", "moved", "gradient_penalty",
    "inner_steps", "inner_step", "eps_from", "eps_to", "ramp", "ema", "joint",
)  # fmt: skip
_SHAPE = {"width": "width", "codechannels": "code_channels", "blocks": "blocks"}


def _one_of(names: tuple[str, ...]) -> str:
    return "|".join(sorted(names, key=len, reverse=True))


def _numbers(group: str, names: tuple[str, ...]) -> str:
    return rf"(?P<{group}>(?:-(?:{_one_of(names)})[0-9.]+)*)"


_LEGACY = re.compile(
    rf"(?P<recipe>{_one_of(_RECIPES)})(?:-(?P<arch>compact|colour|skips|released|ape-g|hgd))?"
    + _numbers("weights", _TERMS)
    + _numbers("fields", _FIELDS)
    + _numbers("shape", tuple(_SHAPE))
    + r"(?P<static>-static)?(?:-(?P<steps>[0-9]+))?(?:-(?P<seen>[A-Z][A-Za-z0-9_+@.]*))?(?:-(?P<classifiers>[0-9]+)f)?"
    r"(?:-from-(?P<start>.+?))?(?:-and-(?P<surrogate>.+?))?(?:-seed(?P<seed>[0-9]+))?(?:-before-(?P<before>.+))?"
)


def parse_legacy(name: str) -> RunName:
    """The run of a name in a card or a record that has no ``run``; a name of another form is a recipe by itself."""
    found = _LEGACY.fullmatch(name)
    if found is None:
        return RunName(name)

    def pairs(group: str, names: tuple[str, ...]) -> Numbers:
        each = re.findall(rf"-({_one_of(names)})([0-9.]+)", found[group])
        return tuple((_SHAPE.get(name, name), float(number)) for name, number in each)

    return RunName(
        recipe=found["recipe"],
        arch=found["arch"] or "",
        weights=pairs("weights", _TERMS),
        fields=pairs("fields", _FIELDS),
        shape=pairs("shape", tuple(_SHAPE)),
        static=bool(found["static"]),
        steps=int(found["steps"] or 0),
        seen=tuple(found["seen"].split("+")) if found["seen"] else (),
        classifiers=int(found["classifiers"] or 1),
        start=found["start"] or "",
        surrogate=found["surrogate"] or "",
        seed=int(found["seed"] or 0),
        before=found["before"] or "",
    )
