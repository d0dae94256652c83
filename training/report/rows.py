"""How one record reads in a table: its row, its cell, its attack and its threat model in words."""

from __future__ import annotations

from arn_purify import models

from ..measuring.records import Record

ATTACK_TITLES = {"none": "natural"}
THREAT_TITLES = {"oblivious": "oblivious", "gray_box": "gray box", "white_box": "white box", "bpda": "BPDA"}
# The order of the paper's rows.
_METHODS = ("none", "AT", "DOA", "APE-G", "HGD", "ARN")
# So many images are the whole test split of MNIST, or nearly that of CIFAR-10: a cell then states no number.
WHOLE_SPLIT = 9_980

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
    """An attack as a column names it: as the command line does, but for natural images."""
    return ATTACK_TITLES.get(attack, attack)


def threat_title(record: Record) -> str:
    """A record's threat model in words, with the surrogate and the gradient that the attacker uses."""
    title = THREAT_TITLES[record.threat_model]
    if "surrogate" in record.settings:
        title += f", through {record.settings.get('surrogate_name') or record.settings['surrogate']}"
    return title + (", g's gradient" if record.settings.get("backward") == "g" else "")


def cell_text(record: Record | None, attack: str = "", note: str = "") -> str:
    """The rate, whether it is flagged, and below it ``note`` and n where not all images were taken.

    ``attack`` is that of the column, where the record may be of another budget, which the cell then states.
    """
    if record is None:
        return ""
    notes = [note] if note else []
    if record.n < WHOLE_SPLIT:
        notes.append(f"n {record.n:,}")
    if attack and record.attack != attack:
        notes.append(f"ε {record.eps:.2g}")
    size = f" <sub>{', '.join(notes)}</sub>" if notes else ""
    return rate_text(record) + size


def rate_text(record: Record | None) -> str:
    """The rate, and whether it is flagged."""
    return "" if record is None else f"{record.error_rate:.2f}{' ⚑' if record.flags else ''}"


def interval_text(record: Record | None) -> str:
    """The 95 % interval of the rate, and n where not all images were taken."""
    if record is None:
        return ""
    low, high = record.ci95
    return f"{low:.2f} to {high:.2f}" + (f", n {record.n:,}" if record.n < WHOLE_SPLIT else "")
