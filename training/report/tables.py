"""Records as Markdown tables: rows of defences, columns of attacks, the paper's numbers beside ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arn_purify import models

from ..data.datasets import STICKERS, spec_of
from ..measuring import lid
from ..measuring.records import Record, ThreatName
from .markdown import markdown_table
from .paper import Rates, adaptive_attack, is_of_cell, published_tables
from .rows import (
    THREAT_TITLES,
    UNDEFENDED,
    Row,
    attack_title,
    cell_text,
    row_label,
    row_of,
    row_order,
    threat_title,
)
from .selection import ablation, missing_target, sweep, target_of

Column = tuple[str, ThreatName]
"""An attack and a threat model."""

# How far, in points, the undefended rows may lie from each other where an attack shall count as the paper's.
_APART, _STICKERS_APART = 1.0, 5.0


def comparison(records: Sequence[Record], attacks: Sequence[str], paper: Rates, same_target: bool = True) -> str:
    """A row for each defence, a column for each attack, the paper's row under ours where it has one.

    Under that the difference, where the classifier is the paper's (``same_target``) and so is the attack.
    """
    cells = {(row_of(r), r.attack): r for r in records}
    columns = [attack for attack in attacks if any(attack == key[1] for key in cells)]
    rows = sorted({row for row, attack in cells if attack in columns}, key=row_order)
    gaps = not_comparable(columns, cells, paper)
    texts = []
    for index, row in enumerate(rows):
        texts.append([row_label(row), *(cell_text(cells.get((row, a))) for a in columns)])
        if index + 1 == len(rows) or rows[index + 1][0] != row[0]:  # the last of its defence
            first = next(r for r in rows if r[0] == row[0])
            texts += _paper_rows(first, columns, cells, paper, gaps, same_target)
    text = markdown_table(["error rate, %", *map(attack_title, columns)], texts)
    if not gaps:
        return text
    named = (
        f"{attack_title(attack)} (undefended {gap:+.1f} points: a {'stronger' if gap > 0 else 'weaker'} attack)"
        for attack, gap in gaps.items()
    )
    return f"{text}\n\nNot to be compared with the paper's rows: {', '.join(named)}."


def _paper_rows(
    first: Row, columns: Sequence[str], cells: Mapping[tuple[Row, str], Record], paper: Rates,
    gaps: Mapping[str, float], same_target: bool,
) -> list[list[str]]:  # fmt: skip
    """The paper's row of a defence, and how far our ``first`` row of it is from that."""
    published = [paper.get((first[0], a)) for a in columns]
    if all(value is None for value in published):
        return []
    rows = [[f"*the paper's {first[0]}*", *("" if value is None else f"{value:.2f}" for value in published)]]
    if first[0].startswith("ARN") and same_target:
        differences = (
            "" if a in gaps else _difference(cells.get((first, a)), value)
            for a, value in zip(columns, published, strict=True)
        )
        rows.append([f"*{row_label(first)}, difference to the paper's*", *differences])
    return rows


def not_comparable(attacks: Iterable[str], cells: Mapping[tuple[Row, str], Record], paper: Rates) -> dict[str, float]:
    """Attacks that do not count as the paper's: the undefended error is too far from the paper's, by so many points."""
    gaps = {
        attack: cells[UNDEFENDED, attack].error_rate - paper["none", attack]
        for attack in attacks
        if attack != "none" and (UNDEFENDED, attack) in cells and ("none", attack) in paper
    }
    return {
        attack: gap for attack, gap in gaps.items() if abs(gap) > (_STICKERS_APART if attack in STICKERS else _APART)
    }


def _difference(record: Record | None, published: float | None) -> str:
    return "" if record is None or published is None else f"{record.error_rate - published:+.2f}"


def adaptive(records: Sequence[Record], published: Sequence[dict[str, Any]], dataset: str) -> str:
    """Tables 3 and 4: for each row of the paper ours that saw the same attacks, under it our other released models.

    The difference only where the classifier is the paper's.
    """
    spec, missing = spec_of(dataset), missing_target(records, dataset)
    target = spec.title_of_target(target_of(records, dataset))
    if missing:
        target = f"{target} (the paper's: {spec.title_of_target(missing)})"
    rows = []
    for cell in published:
        found = [r for r in records if is_of_cell(r, cell) and not r.run_name.is_hardened_variant]
        same = sorted((r for r in found if r.defence.endswith("_PP")), key=lambda r: row_order(row_of(r)))[:1]
        shown = [*same, *(r for r in found if r not in same and r.checkpoint in models.available())]
        attacked = f"{cell['attacked'].partition('+')[0]} + {target}"
        for record in shown or (None,):
            label = row_label(row_of(record)) if record else cell["defence"]
            theirs = f"{cell['error_rate']:.2f}", "" if missing else _difference(record, cell["error_rate"])
            threat = THREAT_TITLES[cell["threat_model"]]
            rows.append([attacked, adaptive_attack(cell), label, threat, cell_text(record), *theirs])
    heads = ["attacked", "attack", "defence", "threat model", "ours", "the paper's", "difference"]
    return markdown_table(heads, rows, left=4)


def by_attack(records: Sequence[Record]) -> str:
    """A row for each attack and threat model, a column for each defence; the loss of f beside the error."""
    defences = sorted({row_of(r) for r in records}, key=row_order)
    threats = ("white_box", "bpda", "gray_box", "oblivious")
    cells: dict[tuple[int, str, str], dict[Row, Record]] = {}
    for r in records:
        cells.setdefault((threats.index(r.threat_model), threat_title(r), r.attack), {})[row_of(r)] = r

    def text(record: Record | None) -> str:
        loss = record.measures.get("loss") if record else None
        return cell_text(record) + (f" <sub>loss {loss:.3g}</sub>" if loss is not None else "")

    rows = [
        [attack_title(attack), threat, *(text(found.get(row)) for row in defences)]
        for (_, threat, attack), found in sorted(cells.items(), key=lambda item: (item[0][:2], _by_number(item[0][2])))
    ]
    return markdown_table(["error rate, %", "threat model", *map(row_label, defences)], rows, left=2)


def _by_number(text: str) -> list[tuple[int, float, str]]:
    """A key by which ``PGD_Nx40`` comes before ``PGD_Nx100``."""
    parts = re.split(r"([0-9]+(?:[.][0-9]+)?)", text)
    return [(0, float(part), "") if index % 2 else (1, 0.0, part) for index, part in enumerate(parts)]


def by_row(
    records: Sequence[Record],
    columns: Sequence[Column],
    key_of: Callable[[Record], tuple[str, ...]],
    cell_of: Callable[[Record], str] = cell_text,
) -> str:
    """A row for each ``key_of``, a column for each of ``columns`` that anything was measured at."""
    cells = {(key_of(r), (r.attack, r.threat_model)): cell_of(r) for r in records}
    kept = [column for column in columns if any(column == key[1] for key in cells)]
    rows = sorted({row for row, column in cells if column in kept})
    width = len(rows[0]) if rows else 1
    heads = [
        f"{attack_title(attack)}, {threat.replace('_', ' ')}".replace("natural, oblivious", "natural")
        for attack, threat in kept
    ]
    texts = [[*row, *(cells.get((row, column), "") for column in kept)] for row in rows]
    return markdown_table([""] * width + heads, texts, left=width)


def over_budgets(records: Sequence[Record]) -> str:
    """White-box PGD_N, a column for each budget."""
    chosen = sweep(records)
    budgets = sorted({r.eps for r in chosen if r.eps is not None})
    cells = {(row_of(r), r.eps): r for r in chosen}
    rows = [
        [row_label(row), *(cell_text(cells.get((row, eps))) for eps in budgets)]
        for row in sorted({row for row, _ in cells}, key=row_order)
    ]
    return markdown_table(["error rate, %", *(f"ε {eps:g}" for eps in budgets)], rows)


def over_seeds(records: Sequence[Record], attacks: Sequence[str]) -> str:
    """Figure 4: a row for each variant of a recipe, the mean over its training seeds, the lowest and the highest."""
    groups = ablation(records)
    columns = [a for a in attacks if any(r.attack == a for rs in groups.values() for r in rs)]
    variants = sorted({row[:2] for row in groups}, key=lambda k: (k[0], "without" in k[1], k[1]))
    rows = []
    for recipe, variant in variants:
        members = [rs for row, rs in groups.items() if row[:2] == (recipe, variant)]
        cells = [_mean([r for rs in members for r in rs if r.attack == a], len(members)) for a in columns]
        rows.append([f"{recipe}, {variant}", str(len(members)), *cells])
    return markdown_table(["error rate, %", "seeds", *map(attack_title, columns)], rows)


def _mean(records: Sequence[Record], seeds: int) -> str:
    """The mean of some seeds' rates, and from which to which; how many seeds where they are not all."""
    if not records:
        return ""
    rates, n = [r.error_rate for r in records], records[0].n
    size = "" if n == 10_000 else f", n {n:,}"
    size += "" if len(records) == seeds else f", {len(records)} seeds"
    return f"**{sum(rates) / len(rates):.2f}** <sub>{min(rates):.2f} to {max(rates):.2f}{size}</sub>"


def detection(results: Path, dataset: str) -> str:
    """Detection by LID, a row for each defence; empty where nothing was measured."""
    found = [lid.read(path) for path in sorted((results / dataset).rglob("lid-*.json"))]
    if not found:
        return ""
    published = published_tables(results)["lid_recall"].get(dataset)
    papers = "" if published is None else f"{published:.2f}"
    rows = []
    for fields in found:
        label, shares = row_label((fields["defence"], fields["checkpoint"], "in-process")), fields["detection"]
        rows.append([
            f"{label}, {fields['attack']}, n {fields['n']:,}",
            *(f"{shares[key]:.2f}" for key in ("adversarial", "restored", "natural", "noisy")),
            f"{shares['area']:.3f}",
            papers,
        ])  # fmt: skip
    heads = ["adversarial", "restored", "natural", "noisy", "area under ROC", "restored, the paper's"]
    return markdown_table(["called adversarial, %", *heads], rows)
