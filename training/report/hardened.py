"""The sections about the hardened profile: stress tests, other classifiers, image quality, what each choice buys."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from arn_purify import models

from ..measuring.records import Record
from .rows import row_label, row_of
from .selection import by_count
from .tables import Column, by_attack, by_row

_HARDENED = (
    "Trained against white-box attacks on f after g, where f is the ordinary classifier, frozen. The transparent\n"
    "profile stands beside it. `PGDM` climbs the margin in place of cross-entropy, `MATCH` pulls E's features to\n"
    "those of another class, `x100r10` is 100 steps from 10 random starts. *Loss* is the mean\n"
    "cross-entropy of the logits."
)
_REACH = (
    "A purifier may learn to write the class into the image for the one classifier that it was trained with. These\n"
    "classifiers are others, trained independently. A white-box attack goes through each of them."
)
_FIDELITY = (
    "Purified images beside the natural ones: PSNR of the mean squared error over all images, and mean SSIM\n"
    "(Gaussian window of 11 pixels)."
)
_CHOICES = (
    "Each row is a short run that changes one thing of the recipe (under *How each was trained*). `-base` changes\n"
    "nothing, `-from-nothing` has no `--init`, `-trades` takes TRADES' divergence in place of cross-entropy,\n"
    "`-one-step` one inner step in place of ten, `-no-picture` no L1, `-no-ramp` the whole budget from the first\n"
    "step. `joint` trains the classifier too, and `-reach` fine-tunes the released model through an MLP as well. The\n"
    "recipe was fixed before any of these was measured."
)
_COLUMNS: tuple[Column, ...] = (
    ("none", "oblivious"), ("PGD_N", "oblivious"), ("PGD_N", "white_box"), ("PGDM_Nx100", "white_box"),
    ("PGDM_Nx100r10", "white_box"), ("AA_N", "white_box"), ("SQUARE_N", "white_box"),
)  # fmt: skip


def hardened_sections(records: Sequence[Record], target: str) -> list[str]:
    """The sections of one data set, from all of its records; ``target`` is the classifier it was trained with."""
    records = [r for r in records if r.in_process]
    recipes = by_count(r.recipe for r in records if r.defence == "ARN_W")
    if not recipes:
        return []
    own = "hardened" if "hardened" in recipes else recipes[0]  # a toy run has its length in its name
    transparent = by_count(r.recipe for r in records if r.defence == "ARN_PP")
    beside = _released_recipes().get(records[0].dataset) or next(iter(transparent), "")
    rows = {"none": "", "ARN_PP": beside, "ARN_wide": beside, "ARN_W": own}
    shown = [r for r in records if r.recipe == rows.get(r.defence)]
    before_target = [r for r in shown if r.classifier == target]
    sections = [_stress_tests(before_target)]
    if {r.classifier for r in shown if r.defence == "ARN_W"} != {target}:
        reach = by_row(shown, _COLUMNS, lambda r: (r.classifier, row_label(row_of(r))))
        sections.append(f"## The hardened profile in front of other classifiers\n\n{_REACH}\n\n{reach}")
    sections.append(_image_quality(before_target))
    choices = [r for r in records if r.defence == "ARN_W" and (r.recipe != own or r.classifier == target)]
    if any(r.recipe != own for r in choices):
        table = by_row(choices, _COLUMNS, lambda r: (r.checkpoint, r.classifier))
        sections.append(f"## What each choice of the hardened recipe buys\n\n{_CHOICES}\n\n{table}")
    return sections


def _stress_tests(records: Sequence[Record]) -> str:
    table = by_attack([r for r in records if r.defence != "none"])
    return f"## The hardened profile\n\n{_HARDENED}\n\n{table}"


def _image_quality(records: Sequence[Record]) -> str:
    table = by_row(
        [r for r in records if r.measures],
        (("none", "oblivious"), ("PGD_N", "oblivious"), ("PGD_N", "white_box")),
        lambda r: (row_label(row_of(r)),),
        lambda r: f"{r.measures['psnr']:.1f} dB, {r.measures['ssim']:.3f}" if "psnr" in r.measures else "equal",
    )
    return f"## Image quality\n\n{_FIDELITY}\n\n{table}"


@functools.cache
def _released_recipes() -> dict[str, str]:
    """The recipe of each data set's released transparent purifier."""
    cards = (models.card_of(models.load(name)) for name in models.available())
    return {card.dataset: card.recipe for card in cards if card.profile == "transparent"}
