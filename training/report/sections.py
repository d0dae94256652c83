"""Every section of one data set's page of results, written from the records alone."""

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
        "AT_PGD and DOA are classifiers; here they too are attacked through the ordinary one. The paper's rows of\n"
        "these two look like attacks on the robust classifier itself: compare them with the white-box rows.",
    ),
    "white_box": (
        "White box: the attack sees everything that answers",
        "A purifier trained on attacks against the classifier alone fails when the attacker differentiates through\n"
        "it. Do not rely on it against an attacker who has it or can query it.",
    ),
}
_ROBUST = ("AT_PGD", "DOA_7x7", "DOA_9x5")
_ABLATION = (
    "`paper-` is the paper's recipe, `transparent-` and `cifar10-` are ours; the number is that of training steps.\n"
    "Trained on PGD_N and PGD_T, every attack oblivious. A cell is the mean over training seeds, with the lowest and\n"
    "the highest."
)
_TRANSFERRED = "The purifiers were trained with the target alone. The attack sees the classifier named here."
_DETECTION = (
    "The detector is fitted on the validation split to tell adversarial images from natural and noisy ones, and\n"
    "measured on the test split. Where it calls as few restored images adversarial as natural ones, the restored no\n"
    "longer have what it looks for. An image's own source is excluded from its neighbours; otherwise restored images\n"
    "would look more natural than natural ones. An attacker who knows the detector passes it without any purifier\n"
    "(Athalye, Carlini & Wagner, ICML 2018)."
)
_RECIPES = (
    "The name of a run begins with its `train --recipe` (`training/learning/recipes.py`), followed by each change and\n"
    "by the training steps where they are not the recipe's own. The hash is that of the checkpoint's file. A card\n"
    "(`models/zoo`, `results/checkpoints`) states data, seed and command."
)


def sections(everything: Sequence[Record], dataset: str, results: Path) -> str:
    """Every table of one data set, from all of its records."""
    records, target = of_target(everything), target_of(everything, dataset)
    same_target = not missing_target(everything, dataset)
    published = published_tables(results)
    parts = [
        *_main(records, dataset, results, same_target),
        *_adaptive(records, dataset, published),
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
        # The paper's numbers are oblivious: they do not compare with white-box ones.
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


def _adaptive(records: Sequence[Record], dataset: str, published: Any) -> list[str]:
    """The paper's Tables 3 and 4; BPDA too on data sets that the latter has not."""
    parts = []
    for key, title in (
        ("table3", "Adaptive attacks: gray box and white box (the paper's Table 3)"),
        ("table4", "BPDA, identity backward (the paper's Table 4)"),
    ):
        cells = [cell for cell in published[key] if cell["dataset"] == dataset]
        if cells:
            parts.append(f"## {title}\n\n{adaptive(records, cells, dataset)}")
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
    """The checkpoints, the runs that trained them and their short hashes, without those of the ablation."""
    runs = sorted(
        {
            (r.checkpoint, r.recipe, r.sha256.get("checkpoint", "")[:8])
            for r in records
            if r.recipe and (r.run_name.is_hardened_variant or not r.run_name.has_other_weights)
        }
    )
    table = markdown_table(
        ["checkpoint", "run", "sha256"], [[f"`{cell}`" if cell else "" for cell in row] for row in runs], left=3
    )
    return [f"## How each was trained\n\n{_RECIPES}\n\n{table}"] if runs else []
