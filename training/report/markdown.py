"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

# A page of the documentation holds no more columns beside each other.
WIDTH = 6
ERROR = "[error, %](glossary.md)"

Item = TypeVar("Item")


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table of texts, the first ``left`` columns aligned to the left and the others, numbers, to the right."""
    rule = ["---"] * left + ["---:"] * (len(heads) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))


def headless_table(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and texts, without heads."""
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in rows)])


def groups(columns: Sequence[Item], most: int) -> Iterator[Sequence[Item]]:
    """The columns in groups of at most ``most``, as even as can be; a table is made of each."""
    count = -(-len(columns) // most)
    for index in range(count):
        yield columns[index * len(columns) // count : (index + 1) * len(columns) // count]
