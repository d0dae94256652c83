"""Red flags: signs that a robustness number may be wrong (arXiv 1902.06705, 2202.13711), written into its record."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..attacks import AttackName
from ..data.datasets import STICKERS, STICKERS_BY_PGD, spec_of
from .records import Record, read_all
from .threats import Defended

BETWEEN = "beside the other records: "
# Half of the range: every pixel can be made grey, so nothing of the image need remain.
_LARGE_EPS = 0.5
# Points by which AutoAttack, the stronger attack, may beat the strongest gradient attack beyond the intervals.
_AUTOATTACK_MARGIN = 5
# RP2's stickers, and those in the same places by a better search.
_SAME_PLACES = frozenset(zip(STICKERS, STICKERS_BY_PGD, strict=True))


def of_model(defended: Defended, images: Tensor, attacked: nn.Module | None = None) -> tuple[str, ...]:
    """Flags of a defence alone: a random answer, or a zero gradient at some of ``images`` ``(N, C, H, W)``.

    The gradient is that of ``attacked``, which an attack goes through; an attack on f alone needs none.
    """
    flags = []
    with torch.no_grad():
        if not torch.equal(defended.purifier(images), defended.purifier(images)):
            flags.append("random: two purifications of the same images differ")
    if attacked is None:
        return tuple(flags)
    x = images.clone().requires_grad_(True)
    logits = attacked(x).float()
    # Not the cross-entropy: in float32 it is 0 where a classifier is sure; nor logsumexp, which does not move behind a
    # log-softmax. There is no gradient where g detaches.
    moved = (logits * torch.linspace(1, 2, logits.shape[1], device=logits.device)).sum()
    slopes = torch.autograd.grad(moved, x, allow_unused=True)[0] if moved.requires_grad else None
    if slopes is None or bool((slopes.flatten(1).abs().amax(1) == 0).any()):
        flags.append("zero gradient: the logits do not move with some of the inputs")
    return tuple(flags)


def between(records: Sequence[Record]) -> Mapping[int, tuple[str, ...]]:
    """Flags of each record, by its index, in comparison with the others of its defence.

    Flagged are: an attack on f alone, through another purifier or with an approximate gradient that finds more errors
    than the same attack with the full gradient; a black-box attack that finds more than every gradient attack, or
    AutoAttack that does by far; stickers by PGD that find more than RP2's in the same places; an error that falls as
    the budget or the iterations grow; a white-box error below 100 % at a budget that can erase the image. Overlapping
    intervals raise no flag.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, record in enumerate(records):
        # The user's own images may be those of several folders.
        images = "" if spec_of(record.dataset).kept_records else str(record.sha256.get("data"))
        transport = str(record.settings["transport"])
        key = (record.dataset, record.classifier, record.defence, record.recipe, transport, images)
        groups.setdefault(key, []).append(index)
    flags: dict[int, tuple[str, ...]] = {}
    for members in groups.values():
        group = [records[index] for index in members]
        for index, record in zip(members, group, strict=True):
            found = [*_beaten(record, group), *_survives_any_budget(record), *_falls(record, group)]
            flags[index] = tuple(BETWEEN + flag for flag in sorted(found))
    return flags


def _beaten(record: Record, group: Sequence[Record]) -> Iterator[str]:
    """Attacks that should be weaker than a white-box gradient attack, and do better."""
    if not _is_judged(record):
        return
    rivals = [other for other in group if _is_rival(other, record)]
    strongest = max(rivals, key=lambda rival: rival.error_rate, default=None) == record
    for other in group:
        same_attack = (
            other.threat_model != "white_box"
            and (AttackName.base_of(other.attack), other.eps) == (AttackName.base_of(record.attack), record.eps)
            and (other.iterations or 0) <= (record.iterations or 0)
        )
        against_strongest = strongest and other.threat_model == "white_box" and other.eps == record.eps
        score_based = against_strongest and _is_black_box(other)
        autoattack = against_strongest and other.attack.startswith("AA_N")
        same_places = other.threat_model == "white_box" and (record.attack, other.attack) in _SAME_PLACES
        comparable = (same_attack or score_based or autoattack or same_places) and _aim(record) == _aim(other)
        if comparable and other.ci95[0] > record.ci95[1] + (_AUTOATTACK_MARGIN if autoattack else 0):
            yield (
                f"{other.attack} {other.threat_model} finds more errors: {other.error_rate:.2f} % against "
                f"{record.error_rate:.2f} %"
            )


def _survives_any_budget(record: Record) -> Iterator[str]:
    """A white-box error below 100 % at a budget that can erase the image."""
    large = record.eps is not None and record.norm == "linf" and record.eps >= _LARGE_EPS
    if _is_judged(record) and large and record.ci95[1] < 99:
        yield f"{record.error_rate:.2f} %, not 100 %, at a budget of {record.eps}"


def _falls(record: Record, group: Sequence[Record]) -> Iterator[str]:
    """Weaker settings of the same attack that do better."""
    for other in group:
        if record.ci95[1] >= other.ci95[0] or _sweep(other) != _sweep(record):
            continue
        if other.iterations == record.iterations and _is_less(other.eps, record.eps):
            yield f"falls with the budget: {other.error_rate:.2f} % at {other.eps}"
        if other.eps == record.eps and _is_less(other.iterations, record.iterations):
            yield f"falls with the iterations: {other.error_rate:.2f} % after {other.iterations}"


def _is_less(first: float | None, second: float | None) -> bool:
    return first is not None and second is not None and first < second


def _is_judged(record: Record) -> bool:
    """Whether it is a white-box gradient attack on a defence."""
    return record.threat_model == "white_box" and record.defence != "none" and not _is_black_box(record)


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
    settings = tuple(record.settings.get(key) for key in ("surrogate", "backward", "restarts"))
    return (base, record.threat_model, record.norm, *settings)


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
            record, flags=(*(flag for flag in record.flags if not flag.startswith(BETWEEN)), *found[index])
        )
        for index, record in enumerate(records)
    ]
