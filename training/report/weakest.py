"""The weakest numbers of each released purifier: the largest error of each kind of attack."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..data.datasets import spec_of
from ..measuring.records import Record
from .markdown import markdown_table
from .rows import THREAT_TITLES, attack_title, cell_text
from .selection import of_released, released_names

WEAKEST = (
    "The largest error of each released model, with the attack that caused it. *Larger budgets* are those above ε.\n"
    "*Other attacks that see the purifier* have no l∞ budget (DDN_N, ROA_N, ...), or are gray box or BPDA.\n"
    "An empty cell means that no such attack was tried."
)
_HEADS = (
    "[largest error, %](glossary.md)", "oblivious, up to ε", "oblivious, larger budgets", "white box, l∞ up to ε",
    "other attacks that see the purifier",
)  # fmt: skip


def weakest(records: Sequence[Record], datasets: Sequence[str]) -> str:
    """A row for each released purifier of ``datasets``; empty where none was measured."""
    chosen = [r for r in of_released(records) if r.in_process and r.attack != "none"]
    kinds: tuple[Callable[[Record], bool], ...] = (
        lambda r: r.threat_model == "oblivious" and not _is_large(r),
        lambda r: r.threat_model == "oblivious" and _is_large(r),
        lambda r: _is_white_linf(r) and not _is_large(r),
        lambda r: r.threat_model != "oblivious" and not _is_white_linf(r) and not _is_large(r),
    )
    rows = []
    for dataset in datasets:
        for name in released_names(dataset):
            own = [r for r in chosen if (r.dataset, r.checkpoint) == (dataset, name)]
            if own:
                rows.append([f"`{name}`", *(_cell([r for r in own if is_kind(r)]) for is_kind in kinds)])
    return markdown_table(_HEADS, rows) if rows else ""


def _is_white_linf(record: Record) -> bool:
    return (record.threat_model, record.norm) == ("white_box", "linf")


def _is_large(record: Record) -> bool:
    """Whether the budget is above the data set's ε."""
    settings = spec_of(record.dataset).attacks
    usual = {"linf": settings.linf_eps[0], "wasserstein": settings.wasserstein_eps[0]}.get(record.norm or "")
    return usual is not None and record.eps is not None and record.eps > usual + 1e-6


def _cell(records: Sequence[Record]) -> str:
    """The largest error, the attack, n, and the threat model where the column has several."""
    if not records:
        return ""
    worst = max(records, key=lambda r: (r.error_rate, r.n, r.attack))
    seen = "" if worst.threat_model in ("oblivious", "white_box") else THREAT_TITLES[worst.threat_model]
    rate, below, notes = cell_text(worst, note=seen).partition(" <sub>")
    return f"{rate} {attack_title(worst.attack)}{below}{notes}"
