"""How one record reads in a table: its row, its cell, its attack and its threat model in words."""

from __future__ import annotations

from arn_purify import models

from ..measuring.records import Record

ATTACK_TITLES = {"none": "natural", "PGD_N_eps2": "PGD_N ε'", "AA_N_eps2": "AA_N ε'", "FWA_N_eps2": "FWA_N ε'"}
THREAT_TITLES = {"oblivious": "oblivious", "gray_box": "gray box", "white_box": "white box", "bpda": "BPDA"}
# The order of the paper's rows.
_METHODS = ("none", "AT", "DOA", "APE-G", "HGD", "ARN")

Row = tuple[str, str, str]
"""Defence, checkpoint and transport."""

UNDEFENDED: Row = ("none", "", "in-process")


def row_of(record: Record) -> Row:
    """The row that a record's cell stands in."""
    name = "" if record.defence == "none" else record.checkpoint
    return record.defence, name, record.settings["transport"]


def row_label(row: Row) -> str:
    """The text at the head of a row."""
    defence, checkpoint, transport = row
    notes = [checkpoint] if checkpoint not in ("", defence) else []
    if transport != "in-process":
        notes.append(f"over {transport.replace('http+', 'HTTP, ')}")
    return f"{defence} ({', '.join(notes)})" if notes else defence


def row_order(row: Row) -> tuple[object, ...]:
    """A key for the paper's order of rows, released models first among those of a defence."""
    method = row[0].partition("_")[0]
    return (
        _METHODS.index(method) if method in _METHODS else len(_METHODS),
        row[0],
        row[1] not in models.available(),
        row[2] != "in-process",
        row,
    )


def attack_title(attack: str) -> str:
    """An attack as a column names it."""
    return ATTACK_TITLES.get(attack, attack)


def threat_title(record: Record) -> str:
    """A record's threat model in words, with the surrogate and the gradient that the attacker uses."""
    title = THREAT_TITLES[record.threat_model]
    if "surrogate" in record.settings:
        title += f", through {record.settings.get('surrogate_name') or record.settings['surrogate']}"
    return title + (", g's gradient" if record.settings.get("backward") == "g" else "")


def cell_text(record: Record | None) -> str:
    """The rate with its interval, n where not all images were taken, and whether it is flagged."""
    if record is None:
        return ""
    low, high = record.ci95
    size = "" if record.n == 10_000 else f", n {record.n:,}"
    flags = " ⚑" if record.flags else ""
    return f"**{record.error_rate:.2f}** <sub>{low:.2f} to {high:.2f}{size}</sub>{flags}"


def brief_text(record: Record | None) -> str:
    """The rate without its interval."""
    if record is None:
        return ""
    size = "" if record.n >= 9_980 else f" <sub>n {record.n:,}</sub>"
    return f"{record.error_rate:.2f}{size}{' ⚑' if record.flags else ''}"
