"""Which records a table or a plot shows."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from arn_purify import models

from ..attacks import AttackName
from ..data.datasets import DATASETS, spec_of
from ..measuring.records import Record
from ..run_name import describe


class AblationRow(NamedTuple):
    """The recipe with its steps, what was taken out of its loss and what was left, and the training seed."""

    recipe: str
    variant: str
    seed: int


def in_page_order(datasets: Iterable[str]) -> list[str]:
    """Data sets in the order of their table."""
    known = list(DATASETS)
    return sorted(datasets, key=lambda name: (known.index(name) if name in known else len(known), name))


def by_count(names: Iterable[str]) -> list[str]:
    """Each name once, the most frequent first."""
    return [name for name, _ in Counter(names).most_common()]


def target_of(records: Sequence[Record], dataset: str) -> str:
    """The classifier that the tables of a data set are about: the paper's, a stand-in, or the most measured one."""
    measured = by_count(record.classifier for record in records)
    return next((name for name in spec_of(dataset).targets if name in measured), next(iter(measured), ""))


def released_classifier(records: Sequence[Record], dataset: str) -> str:
    """The classifier that a data set's released purifiers stand in front of; where it was not measured, the target."""
    released = spec_of(dataset).classifier
    names = {released, released.removeprefix(f"{dataset}-")}
    return next((r.classifier for r in records if r.classifier in names), target_of(records, dataset))


def of_target(records: Sequence[Record]) -> list[Record]:
    """The records in front of each data set's target."""
    return _in_front_of(target_of, records)


def of_released(records: Sequence[Record]) -> list[Record]:
    """The records in front of each data set's released classifier."""
    return _in_front_of(released_classifier, records)


def _in_front_of(choose: Callable[[Sequence[Record], str], str], records: Sequence[Record]) -> list[Record]:
    by_dataset = {d: [r for r in records if r.dataset == d] for d in {r.dataset for r in records}}
    chosen = {dataset: choose(measured, dataset) for dataset, measured in by_dataset.items()}
    return [r for r in records if r.classifier == chosen[r.dataset]]


def missing_target(records: Sequence[Record], dataset: str) -> str:
    """The paper's target where another classifier stands in for it; otherwise empty."""
    papers = next(iter(spec_of(dataset).targets), "")
    return "" if target_of(records, dataset) == papers else papers


def released_names(dataset: str) -> list[str]:
    """The purifiers that a data set's first page is about."""
    hardened = [name for name in models.available() if name == f"{dataset}-hardened"]
    return [f"{dataset}-transparent", *hardened, *spec_of(dataset).previews]


def is_variant(record: Record) -> bool:
    """Whether it is of a row of the ablation or of the hardened recipe's choices, not of the main tables."""
    return record.run_name.has_other_weights or record.run_name.is_hardened_variant


def ablation(records: Iterable[Record]) -> dict[AblationRow, list[Record]]:
    """The oblivious records of recipes with other loss weights."""
    groups: dict[AblationRow, list[Record]] = {}
    for record in records:
        run = record.run_name
        if record.threat_model != "oblivious" or not run.has_other_weights or run.is_hardened_variant:
            continue
        if not record.in_process:
            continue
        without = ", ".join(f"without L_{term}" for term, weight in run.weights if not weight)
        left = ", ".join(f"{term} {weight:g}" for term, weight in run.weights if weight)
        base = describe(dataclasses.replace(run, weights=(), seed=0))
        recipe = base if record.defence == "ARN_PP" else f"{record.defence} {base}"
        row = AblationRow(recipe, (without or "all terms") + (f" ({left})" if left else ""), run.seed)
        groups.setdefault(row, []).append(record)
    return groups


def sweep(records: Iterable[Record]) -> list[Record]:
    """White-box PGD_N of 40 steps at every budget, of the defences that were measured at more than the usual ones."""
    named = [(r, AttackName.parse(r.attack)) for r in records if r.threat_model == "white_box" and r.iterations == 40]
    chosen = [(r, name) for r, name in named if name and name == AttackName("PGD_N", name.eps)]
    swept = {(r.defence, r.recipe) for r, name in chosen if name.eps is not None}
    found = [r for r, _ in chosen if (r.defence, r.recipe) in swept]
    return found if len({r.eps for r in found}) > 1 else []
