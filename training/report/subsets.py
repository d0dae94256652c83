"""Which images a number of images stands for: records of a part of the test split are of every k-th image."""

from __future__ import annotations

from collections.abc import Sequence

from ..measuring.records import Record
from .listing import flags_of


def subsets(records: Sequence[Record]) -> str:
    """A remark that names the images behind each n of one data set; empty where all records are of the same."""
    strides = {r.n: _stride(r) for r in records}
    parts = [f"n {n:,} is every {_ordinal(k)}" for n, k in sorted(strides.items(), reverse=True) if k > 1]
    if not parts or len(strides) == 1:
        return ""
    return (
        f"Some attacks use only every k-th image of the test split:\n{', '.join(parts)}.\n"
        "Numbers with different *n* come from different images, so a stronger attack may show less error than a\n"
        "weaker one. Compare numbers of the same *n*, or their intervals."
    )


def _stride(record: Record) -> int:
    """``--every`` of the command that wrote the record."""
    return int(flags_of(record).get("--every", 1))


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
