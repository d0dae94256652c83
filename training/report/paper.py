"""The paper's numbers, and which records of ours stand beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.datasets import spec_of
from ..measuring.records import Record

Rates = Mapping[tuple[str, str], float]
"""Error rates in percent, by defence and attack."""

# Where it learned from stickers the paper names the method alone.
_LEARNED_FROM_STICKERS = {"APE-G": "APE-G_AP", "ARN": "ARN_AP"}


def published_tables(results: Path) -> dict[str, Any]:
    """The paper's tables as ``results/paper/tables.json`` has them."""
    tables: dict[str, Any] = json.loads((results / "paper" / "tables.json").read_text())
    return tables


def paper_rates(results: Path, dataset: str) -> Rates:
    """The paper's oblivious error rates in front of its target of a data set."""
    tables, target = published_tables(results), spec_of(dataset).paper_target
    return {
        (_LEARNED_FROM_STICKERS.get(cell["defence"], cell["defence"]), cell["attack"]): cell["error_rate"]
        for cell in (*tables["table1"], *tables["table2"], *tables["table2_extra"])
        if cell["dataset"] == dataset and cell["classifier"] == target
    }


def adaptive_attack(cell: Mapping[str, Any]) -> str:
    """Our name of the attack of a cell of the paper's Tables 3 and 4."""
    attack = str(cell["attack"]).partition("+")[0]
    if "_" not in attack:
        attack += "_T" if cell["goal"] == "targeted" else "_N"
    if cell.get("eps") not in (None, 0.3):
        attack += f"@{cell['eps']}"
    return attack + (f"x{cell['iterations']}" if cell["iterations"] not in (None, 40) else "")


def is_of_cell(record: Record, cell: Mapping[str, Any]) -> bool:
    """Whether a record has the method, attack and threat model of a cell of the paper's Tables 3 and 4."""
    method = record.defence.partition("_")[0]
    surrogate = str(record.settings.get("surrogate", "")).partition("_")[0]
    return (
        (method, record.threat_model, record.attack) == (cell["defence"], cell["threat_model"], adaptive_attack(cell))
        and (surrogate or method) == cell["attacked"].partition("+")[0]
        and record.settings.get("backward", "identity") == "identity"
    )
