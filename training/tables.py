"""Every table of the documents, written from the records and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from models.checkpoint import write_atomically

from .records import Record, read_all

# The columns of the paper's Table 1 and Table 2.
_COLUMNS = (
    ("none", "PGD_N", "PGD_T", "CW_N", "DDN_N", "AA_N", "JSMA_T", "PGD_N_eps2", "AA_N_eps2"),
    ("STA_N", "STA_T", "FWA_N", "FWA_N_eps2"),
)
_NAMES = {"none": "natural", "PGD_N_eps2": "PGD_N ε'", "AA_N_eps2": "AA_N ε'", "FWA_N_eps2": "FWA_N ε'"}
_TITLES = {
    "oblivious": "Oblivious: the attack sees the classifier alone",
    "white_box": "White box: the attack sees the classifier after the purifier",
}
_BEGIN, _END = "<!-- results: written by `arn-train tables` -->", "<!-- /results -->"

Row = tuple[str, str, str]
"""Defence, recipe and transport."""


def _paper(results: Path, dataset: str) -> dict[tuple[str, str], float]:
    """The paper's oblivious error rates of a data set's first classifier, by defence and attack."""
    tables = json.loads((results / "paper" / "tables.json").read_text())
    first = {"mnist": "lenet5"}.get(dataset)
    return {
        (cell["defence"], cell["attack"]): cell["error_rate"]
        for cell in (*tables["table1"], *tables["table2"])
        if cell["dataset"] == dataset and cell["classifier"] == first
    }


def _cell(record: Record | None) -> str:
    if record is None:
        return ""
    low, high = record.ci95
    size = "" if record.n == 10_000 else f", n {record.n:,}"
    flags = " ⚑" if record.flags else ""
    return f"**{record.error_rate:.2f}** <sub>{low:.2f} to {high:.2f}{size}</sub>{flags}"


def _label(row: Row) -> str:
    defence, recipe, transport = row
    notes = [recipe] if recipe else []
    if transport != "in-process":
        notes.append(f"over {transport.replace('http+', 'HTTP, ')}")
    return f"{defence} ({', '.join(notes)})" if notes else defence


def _tables(records: Sequence[Record], paper: dict[tuple[str, str], float]) -> str:
    """One threat model, a table for each of the paper's two sets of attacks that has a record."""
    groups = [[record for record in records if record.attack in columns] for columns in _COLUMNS]
    return "\n\n".join(_table(group, columns, paper) for group, columns in zip(groups, _COLUMNS, strict=True) if group)


def _table(records: Sequence[Record], attacks: Sequence[str], paper: dict[tuple[str, str], float]) -> str:
    """A row a defence, a column an attack, the paper's row under ours where it has one."""
    cells = {((r.defence, r.recipe, r.settings["transport"]), r.attack): r for r in records}
    columns = [attack for attack in attacks if any(attack == key[1] for key in cells)]
    rows = sorted({key[0] for key in cells}, key=lambda row: (row[0] != "none", row[0], row[1] != "transparent", row))
    lines = [
        "| error rate, % | " + " | ".join(_NAMES.get(a, a) for a in columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for index, row in enumerate(rows):
        lines.append(f"| {_label(row)} | " + " | ".join(_cell(cells.get((row, a))) for a in columns) + " |")
        last_of_defence = index + 1 == len(rows) or rows[index + 1][0] != row[0]
        if last_of_defence and any((row[0], a) in paper for a in columns):
            published = " | ".join(f"{paper[row[0], a]:.2f}" if (row[0], a) in paper else "" for a in columns)
            lines.append(f"| *the paper's {row[0]}* | {published} |")
    return "\n".join(lines)


def _sections(records: Sequence[Record], results: Path, heading: str) -> str:
    """The tables of one data set, a heading a threat model."""
    paper = _paper(results, records[0].dataset)
    parts = []
    for threat_model, title in _TITLES.items():
        chosen = [record for record in records if record.threat_model == threat_model]
        if chosen:
            # The paper's numbers are oblivious ones; beside a white box they would say nothing.
            parts.append(f"{heading} {title}\n\n{_tables(chosen, paper if threat_model == 'oblivious' else {})}")
    return "\n\n".join(parts)


def _flags(records: Sequence[Record]) -> str:
    raised = [f"- {r.defence} ({r.recipe}), {r.attack}, {r.threat_model}: {flag}" for r in records for flag in r.flags]
    return "\n## Red flags ⚑\n\n" + "\n".join(raised) + "\n" if raised else ""


def _results_page(records: Sequence[Record], results: Path) -> str:
    text = (
        "# Results\n\n"
        "Error rates in percent on the test split, lower is better, with 95 % Wilson intervals; all 10,000 images\n"
        "unless a cell says otherwise. Every cell is a record under `results/` that holds the command, the settings,\n"
        "the hashes of classifier and checkpoint, the seed and the versions. This page is written by\n"
        "`arn-train tables`; the paper's numbers are in `results/paper/tables.json`.\n"
    )
    for dataset in sorted({record.dataset for record in records}):
        chosen = [record for record in records if record.dataset == dataset]
        text += f"\n## {dataset.upper()}\n\n{_sections(chosen, results, '###')}\n"
    commands = sorted({record.command for record in records if record.command})
    listing = "\n".join(commands)
    return text + _flags(records) + f"\n## Commands\n\n```sh\n{listing}\n```\n"


def update(results: Path, check: bool = False) -> list[Path]:
    """Write the tables into ``docs/results.md`` and the README; returns the files that were not up to date.

    With ``check`` nothing is written.

    Raises:
        ValueError: a record whose rate does not follow from its counts.
    """
    root = results.parent
    records = list(read_all(results))
    readme_path, page_path = root / "README.md", root / "docs" / "results.md"
    readme = readme_path.read_text()
    head, _, rest = readme.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    if not tail:
        raise ValueError(f"{readme_path} has no place for the results: {_BEGIN} ... {_END}")
    mnist = [r for r in records if r.dataset == "mnist" and r.recipe in ("", "transparent")]
    wanted = {
        page_path: _results_page(records, results),
        readme_path: f"{head}{_BEGIN}\n\n{_sections(mnist, results, '####')}\n\n{_END}{tail}",
    }
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    if not check:
        for path in stale:
            write_atomically(path, wanted[path].encode())
    return stale
