"""Records as Markdown tables: rows of defences, columns of attacks, the paper's numbers beside ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arn_purify import models

from ..attacks import ATTACKS, AttackName
from ..data.datasets import STICKERS
from ..measuring import lid
from ..measuring.records import Record, ThreatName
from .checkpoints import names_by_hash
from .markdown import ERROR, WIDTH, groups, markdown_table
from .paper import Rates, adaptive_attack, is_of_cell, published_tables
from .rows import (
    THREAT_TITLES,
    UNDEFENDED,
    WHOLE_SPLIT,
    Row,
    attack_title,
    cell_text,
    interval_text,
    rate_text,
    row_label,
    row_of,
    row_order,
    threat_title,
)
from .selection import ablation, sweep

Column = tuple[str, ThreatName]
"""An attack and a threat model."""

_BOTH: tuple[ThreatName, ThreatName] = ("oblivious", "white_box")
# How far, in points, the undefended rows may lie from each other where an attack shall count as the paper's.
_APART, _STICKERS_APART = 1.0, 5.0


def comparison(records: Sequence[Record], attacks: Sequence[str], paper: Rates) -> str:
    """A row for each defence, a column for each attack, the paper's row under ours where it has one.

    More attacks than fit beside each other make several tables.
    """
    cells = {(row_of(r), r.attack): r for r in records}
    columns = [attack for attack in attacks if any(attack == key[1] for key in cells)]
    tables = [_compared(cells, group, paper) for group in groups(columns, WIDTH - 1)]
    gaps = not_comparable(columns, cells, paper)
    if gaps:
        named = (f"{attack_title(a)} ({'stronger' if gap > 0 else 'weaker'}, {gap:+.1f})" for a, gap in gaps.items())
        tables.append(
            f"Not comparable with the paper's rows: {', '.join(named)}. These attacks are stronger or weaker\n"
            "than the paper's. The number says by how many points the error of the classifier alone differs."
        )
    return "\n\n".join(tables)


def _compared(cells: Mapping[tuple[Row, str], Record], columns: Sequence[str], paper: Rates) -> str:
    rows = sorted({row for row, attack in cells if attack in columns}, key=row_order)
    # Where every cell is of as many images the head says so, once.
    sizes = {record.n for (_, attack), record in cells.items() if attack in columns}
    size = f", n {next(iter(sizes)):,}" if len(sizes) == 1 and max(sizes) < WHOLE_SPLIT else ""
    texts = []
    for index, row in enumerate(rows):
        found = (cells.get((row, attack)) for attack in columns)
        texts.append([row_label(row), *(rate_text(record) if size else cell_text(record) for record in found)])
        last_of_defence = index + 1 == len(rows) or rows[index + 1][0] != row[0]
        published = [paper.get((row[0], a)) for a in columns]
        if last_of_defence and any(value is not None for value in published):
            texts.append([f"*the paper's {row[0]}*", *("" if v is None else f"{v:.2f}" for v in published)])
    return markdown_table([ERROR + size, *map(attack_title, columns)], texts)


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


def adaptive(records: Sequence[Record], published: Sequence[dict[str, Any]]) -> str:
    """Tables 3 and 4: for each row of the paper ours that saw the same attacks, under it our other released models.

    The latter have no number of the paper's beside them: it did not train on what they saw.
    """
    rows = []
    for cell in published:
        found = [r for r in records if is_of_cell(r, cell) and not r.run_name.is_hardened_variant]
        same = sorted((r for r in found if r.defence.endswith("_PP")), key=lambda r: row_order(row_of(r)))[:1]
        shown = [*same, *(r for r in found if r not in same and r.checkpoint in models.available())]
        through = cell["attacked"].partition("+")[0]
        for record in shown or (None,):
            label = row_label(row_of(record)) if record else cell["defence"]
            threat = THREAT_TITLES[cell["threat_model"]]
            threat += f", through {through}" if cell["threat_model"] == "gray_box" else ""
            papers = f"{cell['error_rate']:.2f}" if record is None or record in same else ""
            ours = rate_text(record), interval_text(record), papers
            rows.append([label, adaptive_attack(cell), threat, *ours])
    return markdown_table([ERROR, "attack", "threat model", "ours", "95 % interval", "the paper's"], rows, left=3)


def against(records: Sequence[Record], undefended: Sequence[Record], checkpoint: str) -> str:
    """One purifier: a row for each attack, without it, and with it against an attacker who ignores it or sees it."""
    bare = {r.attack: r for r in undefended if r.threat_model == "oblivious"}
    cells = {(r.attack, r.threat_model): r for r in records if r.checkpoint == checkpoint and r.in_process}
    rows = []
    for attack in sorted({name for name, _ in cells if _is_usual(name)}, key=_in_order):
        oblivious, white = (cells.get((attack, threat)) for threat in _BOTH)
        if oblivious or white:
            ours = (rate_text(oblivious), interval_text(oblivious), rate_text(white), interval_text(white))
            rows.append([attack_title(attack), rate_text(bare.get(attack)), *ours])
    heads = [ERROR, "without", "oblivious", "95 % interval", "white box", "95 % interval"]
    return markdown_table(heads, rows)


def _is_usual(attack: str) -> bool:
    """Whether an attack has its usual number of iterations; other numbers are stress tests."""
    name = AttackName.parse(attack)
    return name is None or name == AttackName(name.name, name.eps)


def _in_order(attack: str) -> tuple[object, ...]:
    """A key for the order of the table of attacks, other budgets of one behind it."""
    order = ("none", *ATTACKS)
    name = AttackName.parse(attack)
    base = name.name if name else attack
    return order.index(base) if base in order else len(order), _by_number(attack)


def stress_tests(records: Sequence[Record], checkpoint: str, beside: str) -> str:
    """Every attack that sees the purifier: a row each, with the mean cross-entropy, and another purifier beside it."""
    threats = ("white_box", "bpda", "gray_box")
    cells: dict[tuple[int, str, str], dict[str, Record]] = {}
    for r in records:
        if r.threat_model in threats and r.in_process and r.checkpoint in (checkpoint, beside):
            cells.setdefault((threats.index(r.threat_model), threat_title(r), r.attack), {})[r.checkpoint] = r
    rows = []
    for (_, threat, attack), found in sorted(cells.items(), key=lambda item: (item[0][:2], _by_number(item[0][2]))):
        record = found.get(checkpoint)
        loss = record.measures.get("loss") if record else None
        ours = (rate_text(record), interval_text(record), f"{loss:.3g}" if loss is not None else "")
        rows.append([attack_title(attack), threat, cell_text(found.get(beside)), *ours])
    heads = [ERROR, "threat model", f"`{beside}`", f"`{checkpoint}`", "95 % interval", "loss"]
    return markdown_table(heads, rows, left=2)


def _by_number(text: str) -> list[tuple[int, float, str]]:
    """A key by which ``PGD_Nx40`` comes before ``PGD_Nx100``."""
    parts = re.split(r"([0-9]+(?:[.][0-9]+)?)", text)
    return [(0, float(part), "") if index % 2 else (1, 0.0, part) for index, part in enumerate(parts)]


def by_row(
    records: Sequence[Record],
    columns: Sequence[Column],
    key_of: Callable[[Record], tuple[str, ...]],
    heads: Sequence[str],
    cell_of: Callable[[Record], str] = cell_text,
) -> str:
    """A row for each ``key_of``, whose parts ``heads`` name, a column for each of ``columns`` that was measured."""
    cells = {(key_of(r), (r.attack, r.threat_model)): cell_of(r) for r in records}
    kept = [column for column in columns if any(column == key[1] for key in cells)]
    tables = []
    for group in groups(kept, WIDTH - len(heads)):
        rows = sorted({row for row, column in cells if column in group})
        titles = [
            f"{attack_title(attack)}, {THREAT_TITLES[threat]}".replace("natural, oblivious", "natural")
            for attack, threat in group
        ]
        texts = [[*row, *(cells.get((row, column), "") for column in group)] for row in rows]
        tables.append(markdown_table([*heads, *titles], texts, left=len(heads)))
    return "\n\n".join(tables)


def over_budgets(records: Sequence[Record]) -> str:
    """White-box PGD_N, a column for each budget."""
    chosen = sweep(records)
    budgets = sorted({r.eps for r in chosen if r.eps is not None})
    cells = {(row_of(r), r.eps): r for r in chosen}
    rows = sorted({row for row, _ in cells}, key=row_order)
    return "\n\n".join(
        markdown_table(
            [ERROR, *(f"ε {eps:g}" for eps in group)],
            [[row_label(row), *(cell_text(cells.get((row, eps))) for eps in group)] for row in rows],
        )
        for group in groups(budgets, WIDTH - 1)
    )


def over_seeds(records: Sequence[Record], attacks: Sequence[str]) -> str:
    """Figure 4: a row for each variant of a recipe, the mean over its training seeds; the plot has the spread."""
    variants: dict[tuple[str, str], list[Record]] = {}
    seeds: dict[tuple[str, str], set[int]] = {}
    for row, found in ablation(records).items():
        variants.setdefault(row[:2], []).extend(found)
        seeds.setdefault(row[:2], set()).add(row.seed)
    columns = [a for a in attacks if any(r.attack == a for found in variants.values() for r in found)]
    tables = []
    for group in groups(columns, WIDTH - 2):
        rows = [
            [
                f"{recipe}, {variant}",
                str(len(seeds[recipe, variant])),
                *(_mean(variants[recipe, variant], a) for a in group),
            ]
            for recipe, variant in sorted(variants, key=lambda k: (k[0], "without" in k[1], k[1]))
        ]
        tables.append(markdown_table([ERROR, "seeds", *map(attack_title, group)], rows))
    return "\n\n".join(tables)


def _mean(records: Sequence[Record], attack: str) -> str:
    """The mean of the rates at an attack, n where not all images were taken."""
    found = [r for r in records if r.attack == attack]
    if not found:
        return ""
    size = f" <sub>n {found[0].n:,}</sub>" if found[0].n < WHOLE_SPLIT else ""
    return f"{sum(r.error_rate for r in found) / len(found):.2f}{size}"


def detection(results: Path, dataset: str) -> str:
    """Detection by LID, a row for each defence; empty where nothing was measured."""
    found = [lid.read(path) for path in sorted((results / dataset).rglob("lid-*.json"))]
    if not found:
        return ""
    names, rows = names_by_hash(results), []
    for fields in found:
        name = names.get(fields["sha256"]["checkpoint"], fields["checkpoint"])
        label, shares = row_label((fields["defence"], name, "in-process")), fields["detection"]
        shown = [f"{shares[key]:.2f}" for key in ("adversarial", "restored", "natural", "noisy")]
        rows.append([f"{label}, {fields['attack']}, n {fields['n']:,}", *shown, f"{shares['area']:.3f}"])
    heads = ["[called adversarial, %](glossary.md)", "attacked", "purified", "natural", "noisy", "area under ROC"]
    published = published_tables(results)["lid_recall"].get(dataset)
    papers = "" if published is None else f"\n\nThe paper's number for purified images is {published:.2f} %."
    return markdown_table(heads, rows) + papers
