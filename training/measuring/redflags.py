"""Red flags: signs that a robustness number may be wrong (arXiv 1902.06705, 2202.13711), written into its record."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..attacks import AttackName
from .records import Record, read_all
from .threats import Defended

_BETWEEN = "beside the other records: "
# Half of the range: every pixel can be made grey, so nothing of the image need remain.
_LARGE_EPS = 0.5
# Points by which AutoAttack, the stronger attack, may beat the strongest gradient attack beyond the intervals.
_AUTOATTACK_MARGIN = 5


def of_model(defended: Defended, images: Tensor) -> tuple[str, ...]:
    """Flags of a defence alone: a random answer, or a zero gradient at some of ``images`` ``(N, C, H, W)``."""
    flags = []
    with torch.no_grad():
        if not torch.equal(defended.purifier(images), defended.purifier(images)):
            flags.append("random: two purifications of the same images differ")
    x = images.clone().requires_grad_(True)
    moved = defended.deployed(defended.purifier(x)).logsumexp(1).sum()
    # Not the cross-entropy: in float32 it is 0 where a classifier is sure. There is no gradient where g detaches.
    slopes = torch.autograd.grad(moved, x, allow_unused=True)[0] if moved.requires_grad else None
    if slopes is None or bool((slopes.flatten(1).abs().amax(1) == 0).any()):
        flags.append("zero gradient: the logits do not move with some of the inputs")
    return tuple(flags)


def between(records: Sequence[Record]) -> Mapping[int, tuple[str, ...]]:
    """Flags of each record, by its index, in comparison with the others of its defence.

    Flagged are: an attack on f alone, through another purifier or with an approximate gradient that does better than
    the same attack with the full gradient; a black-box attack that does better than every gradient attack, or
    AutoAttack that does by far; an error that falls as the budget or the iterations grow; a white-box error below
    100 % at a budget that can erase the image. Overlapping intervals raise no flag.
    """
    flags: dict[int, list[str]] = {index: [] for index in range(len(records))}
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, record in enumerate(records):
        key = (record.dataset, record.classifier, record.defence, record.recipe, str(record.settings["transport"]))
        groups.setdefault(key, []).append(index)
    for members in groups.values():
        for index in members:
            record = records[index]
            if record.threat_model != "white_box" or record.defence == "none" or _is_black_box(record):
                continue
            rivals = [records[i] for i in members if _is_rival(records[i], record)]
            strongest = max(rivals, key=lambda rival: rival.error_rate, default=None) == record
            for other in (records[i] for i in members):
                same_attack = (
                    other.threat_model != "white_box"
                    and (AttackName.base_of(other.attack), other.eps) == (AttackName.base_of(record.attack), record.eps)
                    and (other.iterations or 0) <= (record.iterations or 0)
                )
                beyond = strongest and other.threat_model == "white_box" and other.eps == record.eps
                score_based = beyond and _is_black_box(other)
                autoattack = beyond and other.attack.startswith("AA_N")
                comparable = (same_attack or score_based or autoattack) and _aim(record) == _aim(other)
                if comparable and other.ci95[0] > record.ci95[1] + (_AUTOATTACK_MARGIN if autoattack else 0):
                    flags[index].append(
                        f"{other.attack} {other.threat_model} does better: {other.error_rate:.2f} % against "
                        f"{record.error_rate:.2f} %"
                    )
            if record.eps is not None and record.norm == "linf" and record.eps >= _LARGE_EPS and record.ci95[1] < 99:
                flags[index].append(f"{record.error_rate:.2f} %, not 100 %, at a budget of {record.eps}")
        for first, second in itertools.permutations(members, 2):
            a, b = records[first], records[second]
            grows = a.eps is not None and b.eps is not None and a.eps < b.eps
            if grows and (_sweep(a), a.iterations) == (_sweep(b), b.iterations) and b.ci95[1] < a.ci95[0]:
                flags[second].append(f"falls with the budget: {a.error_rate:.2f} % at {a.eps}")
            longer = a.iterations is not None and b.iterations is not None and a.iterations < b.iterations
            if longer and (_sweep(a), a.eps) == (_sweep(b), b.eps) and b.ci95[1] < a.ci95[0]:
                flags[second].append(f"falls with the iterations: {a.error_rate:.2f} % after {a.iterations}")
    return {index: tuple(_BETWEEN + flag for flag in sorted(found)) for index, found in flags.items()}


def _is_black_box(record: Record) -> bool:
    return record.attack.startswith("SQUARE") and record.threat_model == "white_box"


def _is_rival(record: Record, other: Record) -> bool:
    """Whether both are gradient attacks at one budget; AutoAttack does not count, since it has a black-box part."""
    alike = (record.threat_model, record.norm, record.goal, record.eps) == ("white_box", *_budget(other))
    return alike and not record.attack.startswith(("AA_", "SQUARE"))


def _budget(record: Record) -> tuple[object, ...]:
    return (*_aim(record), record.eps)


def _aim(record: Record) -> tuple[object, ...]:
    return (record.norm, record.goal)


def _sweep(record: Record) -> tuple[object, ...]:
    """A key that two records share if only their budget and iterations differ."""
    base = AttackName.base_of(record.attack)
    beside = tuple(record.settings.get(key) for key in ("surrogate", "backward", "restarts"))
    return (base, record.threat_model, record.norm, *beside)


def annotate(root: Path) -> list[Record]:
    """Every record below ``root`` with up-to-date flags, written back where these changed."""
    annotated = []
    records = list(read_all(root))
    for record, changed in zip(records, with_flags(records), strict=True):
        if changed != record:
            changed.write(root)
        annotated.append(changed)
    return annotated


def with_flags(records: Sequence[Record]) -> list[Record]:
    """The same records, each with its own flags and those of :func:`between`."""
    found = between(records)
    return [
        dataclasses.replace(
            record, flags=(*(flag for flag in record.flags if not flag.startswith(_BETWEEN)), *found[index])
        )
        for index, record in enumerate(records)
    ]
