"""Every section of one data set's page of results, from the records and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.datasets import STICKERS, spec_of
from ..measuring.records import Record
from . import figures
from .hardened import hardened_sections
from .markdown import markdown_table
from .paper import paper_rates, published_tables
from .selection import ablation, is_variant, missing_target, of_target, sweep, target_of
from .tables import adaptive, comparison, detection, over_budgets, over_seeds

_WHITE_BOX = (
    "PGD_N", "PGD_T", "PGD_Nx100", "PGD_Nx100r10", "PGDM_Nx100r10", "CW_N", "DDN_N", "AA_N", "SQUARE_N", "STA_N",
    "ROA_N", *STICKERS,
)  # fmt: skip
_TRANSFER = ("none", "PGD_N", "PGD_T", "CW_N", "DDN_N", "AA_N", "STA_N", "STA_T", "FWA_N")
_THREATS = {
    "oblivious": (
        "Oblivious: the attack sees the classifier alone",
        "AT_PGD and DOA, which are classifiers, are attacked here through the ordinary one too. The paper's rows of\n"
        "these two look like attacks on the robust classifier itself: compare them with the white-box rows.",
    ),
    "white_box": (
        "White box: the attack sees everything that answers",
        "A purifier that learned to undo what was crafted against the classifier alone falls when the gradient goes\n"
        "through it: it must not be relied on against an attacker who can hold or query it.",
    ),
}
_ROBUST = ("AT_PGD", "DOA_7x7", "DOA_9x5")
_ABLATION = (
    "`paper-` is the paper's recipe, `transparent-` and `cifar10-` ours, behind it the steps taken.\n"
    "PGD_N and PGD_T seen, every attack oblivious: the mean over training seeds, and from the\n"
    "lowest to the highest of them."
)
_TRANSFERRED = "The purifiers learned in front of the target alone; the attack sees the classifier that stands here."
_DETECTION = (
    "A detector fitted on the validation split, of adversarial against natural and noisy images; what it calls\n"
    "adversarial among others of the test split. Restored images stand beside natural ones: where as few of them are\n"
    "called adversarial, they no longer carry what this detector looks for. An image's own source is excluded from\n"
    "its neighbours; otherwise restored images would look more natural than natural ones. And an attacker who knows\n"
    "the detector passes it without any purifier (Athalye, Carlini & Wagner, ICML 2018)."
)
_RECIPES = (
    "A recipe's name is that of `train --recipe` (`training/recipes.py`), then what was changed of it, and the steps\n"
    "taken where they were not the recipe's own. A checkpoint's card (`models/zoo`, `results/checkpoints`) tells its\n"
    "data, seed and command."
)


def sections(everything: Sequence[Record], dataset: str, results: Path) -> str:
    """Every table of one data set, from all of its records."""
    records, target = of_target(everything), target_of(everything, dataset)
    same_target = not missing_target(everything, dataset)
    published = published_tables(results)
    parts = [
        *_main(records, dataset, results, same_target),
        *_adaptive(records, dataset, published, same_target),
        *_transfer(everything, target, published["table5"]),
        *_sweep(records, dataset),
        *_ablation(records, dataset),
        *hardened_sections(everything, target),
        *_detection(results, dataset),
        *_recipes(everything),
    ]
    return "\n\n".join(parts)


def _main(records: Sequence[Record], dataset: str, results: Path, same_target: bool) -> list[str]:
    """The paper's Tables 1 and 2, and their white-box counterpart."""
    parts = []
    for threat_model, (title, remark) in _THREATS.items():
        chosen = [r for r in records if r.threat_model == threat_model and not is_variant(r)]
        oblivious = threat_model == "oblivious"
        # The paper's numbers are oblivious ones; beside a white box they would say nothing.
        paper = paper_rates(results, dataset) if oblivious else {}
        groups = spec_of(dataset).columns if oblivious else (_WHITE_BOX,)
        tables = [
            comparison(chosen, columns, paper, same_target)
            for columns in groups
            if any(record.attack in columns for record in chosen)
        ]
        if tables:
            whose = " (the paper's Tables 1 and 2)" if paper else ""
            note = remark if not oblivious or any(r.defence in _ROBUST for r in chosen) else ""
            parts.append("\n\n".join(part for part in (f"## {title}{whose}", note, *tables) if part))
    return parts


def _adaptive(records: Sequence[Record], dataset: str, published: Any, same_target: bool) -> list[str]:
    """The paper's Tables 3 and 4; BPDA too on data sets that the latter has not."""
    parts = []
    for key, title in (
        ("table3", "Adaptive attacks: gray box and white box (the paper's Table 3)"),
        ("table4", "BPDA, identity backward (the paper's Table 4)"),
    ):
        cells = [cell for cell in published[key] if cell["dataset"] == dataset]
        if cells:
            parts.append(f"## {title}\n\n{adaptive(records, cells, same_target)}")
    bpda = [r for r in records if r.threat_model == "bpda" and r.settings.get("backward") != "g"]
    if bpda and not any(cell["dataset"] == dataset for cell in published["table4"]):
        parts.append(f"## BPDA, identity backward\n\n{comparison(bpda, _WHITE_BOX, {})}")
    return parts


def _transfer(records: Sequence[Record], target: str, published: Sequence[dict[str, Any]]) -> list[str]:
    """Table 5: a table for each other classifier, the paper's rows below ours."""
    tables = []
    for classifier in sorted({record.classifier for record in records} - {target}):
        chosen = [
            r for r in records
            if r.classifier == classifier and r.threat_model == "oblivious" and not r.run_name.is_hardened_variant
        ]  # fmt: skip
        paper = {(c["defence"], c["attack"]): c["error_rate"] for c in published if c["classifier"] == classifier}
        if chosen:
            tables.append(f"In front of `{classifier}`:\n\n{comparison(chosen, _TRANSFER, paper)}")
    title = "## In front of other classifiers (the paper's Table 5)"
    return ["\n\n".join((title, _TRANSFERRED, *tables))] if tables else []


def _sweep(records: Sequence[Record], dataset: str) -> list[str]:
    if not sweep(records):
        return []
    picture = f"![White-box error over the budget](figures/{figures.plot_name('sweep', dataset)})"
    return [f"## White-box PGD_N over the budget\n\n{over_budgets(records)}\n\n{picture}"]


def _ablation(records: Sequence[Record], dataset: str) -> list[str]:
    if not ablation(records):
        return []
    attacks = [attack for columns in spec_of(dataset).columns for attack in columns]
    picture = f"![Error without each loss term](figures/{figures.plot_name('ablation', dataset)})"
    title = "## Without L_adv, L_nor, L_att (the paper's Figure 4)"
    return ["\n\n".join((title, _ABLATION, over_seeds(records, attacks), picture))]


def _detection(results: Path, dataset: str) -> list[str]:
    table = detection(results, dataset)
    return [f"## Detection by LID (section 4.3 of the paper)\n\n{_DETECTION}\n\n{table}"] if table else []


def _recipes(records: Sequence[Record]) -> list[str]:
    """The checkpoints and the runs that trained them, but for those of the ablation."""
    runs = sorted(
        {
            (r.checkpoint, r.recipe)
            for r in records
            if r.recipe and (r.run_name.is_hardened_variant or not r.run_name.has_other_weights)
        }
    )
    table = markdown_table(["checkpoint", "recipe"], [[f"`{a}`", f"`{b}`"] for a, b in runs], left=2)
    return [f"## How each was trained\n\n{_RECIPES}\n\n{table}"] if runs else []
