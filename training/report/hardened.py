"""The page about the hardened profile: stress tests, other classifiers, image quality, what each choice buys."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from arn_purify import models

from ..measuring.records import Record
from .markdown import ERROR
from .rows import row_label, row_of
from .selection import by_count
from .tables import Column, by_row, stress_tests

_HARDENED = (
    "The hardened profile is trained on attacks that go through the purifier g and the frozen classifier f. The\n"
    "tables show other purifiers too. Oblivious attacks are on [another page]({page})."
)
_REACH = (
    "A purifier could learn to write the class into the image for the one classifier that it was trained with. In\n"
    "this table `lenet5` is that classifier. The others were trained independently of the purifiers; `-reach`\n"
    "learned with an MLP of another seed. A white-box attack goes through each of them."
)
_QUALITY = (
    "How close purified images are to the natural ones. PSNR is computed from the mean squared error of all images\n"
    "together; SSIM (Gaussian window of 11 pixels) is the mean of all images. Higher is better for both."
)
_OTHERS = ("## Other hardened purifiers", "[Notes](notes.md) say how they were trained.")
_CHOICES = (
    "## What each choice of the recipe changes",
    "Each row is a short run that changes one thing of the recipe. The recipe was fixed before these were measured.\n\n"
    "- `-base` changes nothing.\n"
    "- `-from-nothing` starts from random weights, without `--init`.\n"
    "- `-trades` has TRADES' divergence instead of cross-entropy.\n"
    "- `-one-step` takes one inner step instead of ten.\n"
    "- `-no-picture` has no L1 loss.\n"
    "- `-no-ramp` uses the whole budget from the first step.\n"
    "- `-joint` trains the classifier too.\n"
    "- `-reach` fine-tunes `-old`, the full run, through a second classifier, an MLP.",
)
_COLUMNS: tuple[Column, ...] = (
    ("none", "oblivious"), ("PGD_N", "oblivious"), ("PGD_N", "white_box"), ("AA_N", "white_box"),
    ("PGDM_Nx100", "white_box"), ("PGDM_Nx100r10", "white_box"), ("SQUARE_N", "white_box"),
)  # fmt: skip


def hardened_sections(records: Sequence[Record], page: str) -> list[str]:
    """The sections of one data set, from all of its records; ``page`` is the file that compares defences."""
    records = [r for r in records if r.in_process]
    recipes = by_count(r.recipe for r in records if r.defence == "ARN_W")
    if not recipes:
        return []
    released = _released_recipes().get((records[0].dataset, "hardened"))
    full = "hardened" if "hardened" in recipes else recipes[0]  # a toy run has its length in its name
    own = released if released in recipes else full
    transparent = by_count(r.recipe for r in records if r.defence == "ARN_PP")
    beside = _released_recipes().get((records[0].dataset, "transparent")) or next(iter(transparent), "")
    target = by_count(r.classifier for r in records if (r.defence, r.recipe) == ("ARN_W", own))[0]
    rows = {"none": {""}, "ARN_PP": {beside}, "ARN_wide": {beside}, "ARN_W": {own, full}}
    shown = [r for r in records if r.recipe in rows.get(r.defence, ())]
    before_target = [r for r in shown if r.classifier == target]
    sections = [_stress_tests(before_target, own, page)]
    if {r.classifier for r in shown if r.defence == "ARN_W"} != {target}:
        reach = by_row(shown, _COLUMNS, lambda r: (r.classifier, row_label(row_of(r))), [ERROR, "purifier"])
        sections.append(f"## In front of other classifiers\n\n{_REACH}\n\n{reach}")
    sections.append(_image_quality(before_target))
    choices = [r for r in records if r.defence == "ARN_W" and (r.recipe not in (own, full) or r.classifier == target)]
    if any(r.recipe != own for r in choices):
        table = by_row(choices, _COLUMNS, lambda r: (r.checkpoint, r.classifier), [ERROR, "classifier"])
        one_by_one = full == "hardened" or any(r.checkpoint.endswith("-base") for r in choices)
        sections.append("\n\n".join((*(_CHOICES if one_by_one else _OTHERS), table)))
    return sections


def _stress_tests(records: Sequence[Record], own: str, page: str) -> str:
    hardened = next(r.checkpoint for r in records if r.recipe == own)
    transparent = by_count(r.checkpoint for r in records if r.defence in ("ARN_PP", "ARN_wide"))
    others = {r.checkpoint for r in records if r.defence == "ARN_W"} - {hardened}
    tables = [stress_tests(records, hardened, next(iter(transparent), "none"))]
    tables += [stress_tests(records, name, hardened) for name in sorted(others)]
    return "\n\n".join(("## Attacks that see the purifier", _HARDENED.format(page=page), *tables))


def _image_quality(records: Sequence[Record]) -> str:
    table = by_row(
        [r for r in records if r.measures],
        (("none", "oblivious"), ("PGD_N", "oblivious"), ("PGD_N", "white_box")),
        lambda r: (row_label(row_of(r)),),
        ["[PSNR, SSIM](glossary.md)"],
        lambda r: f"{r.measures['psnr']:.1f} dB, {r.measures['ssim']:.3f}" if "psnr" in r.measures else "equal",
    )
    return f"## Image quality\n\n{_QUALITY}\n\n{table}"


@functools.cache
def _released_recipes() -> dict[tuple[str, str], str]:
    """The recipe of each data set's released purifier, by data set and profile."""
    cards = (models.card_of(models.load(name)) for name in models.available())
    return {(card.dataset, card.profile): card.recipe for card in cards if card.profile}
