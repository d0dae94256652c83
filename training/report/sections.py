"""The sections of a data set's pages of results, written from the records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.datasets import STICKERS_BY_PGD, spec_of
from ..measuring.records import Record
from ..measuring.redflags import BETWEEN
from . import plots
from .markdown import markdown_table
from .paper import paper_rates, published_tables
from .rows import row_label, row_of
from .selection import ablation, is_variant, of_released, of_target, released_names, sweep, target_of
from .tables import adaptive, against, comparison, detection, over_budgets, over_seeds

_WHITE_BOX = (
    "PGD_N", "PGD_T", "PGD_Nx100", "PGD_Nx100r10", "PGDM_Nx100r10", "CW_N", "DDN_N", "AA_N", "SQUARE_N", "STA_N",
    "ROA_N", *STICKERS_BY_PGD,
)  # fmt: skip
_TRANSFER = ("none", "PGD_N", "PGD_T", "CW_N", "DDN_N", "AA_N", "STA_N", "STA_T", "FWA_N")
_THREATS = {
    "oblivious": (
        "Oblivious: the attack sees the classifier alone",
        "AT_PGD and DOA are robust classifiers, not purifiers. In this table the attacks on them were made on the\n"
        "ordinary classifier. The paper seems to have attacked the robust classifiers themselves, so compare its\n"
        "numbers for these two with our white-box numbers.",
    ),
    "white_box": (
        "White box: the attack sees purifier and classifier",
        "A purifier that was trained on attacks against the classifier alone fails when the attacker differentiates\n"
        "through it. Do not rely on it against an attacker who has it or can query it.",
    ),
}
_ROBUST = ("AT_PGD", "DOA_7x7", "DOA_9x5")
# What the rows of one defence differ in.
_CHECKPOINTS = {
    "mnist-arn-pp-paper": (
        "**the paper's recipe** without any term of ours, on our smaller network, for 2,745 of the recipe's 8,800\n"
        "  steps. Compare this row with the paper's ARN_PP"
    ),
    "mnist-arn-pp": "our recipe for 1,065 steps over every third training image, the same length as most rows here",
    "mnist-transparent-plain": "our recipe for 3,210 steps over all training images",
    "mnist-transparent": (
        "the released model. It is `mnist-transparent-plain`, fine-tuned with half of its inputs damaged at random\n"
        "  (white specks that crowd, scattered pixels, grain). Unlike the paper's ARN_PP it has seen damaged images.\n"
        "  The kind of damage was chosen by the errors under JSMA_T, STA and FWA_N on the validation split"
    ),
    "mnist-augmented": ("the same with specks apart from one another. It was `mnist-transparent` in version 0.2"),
    "cifar10-arn-pp": (
        "a strict network, 980 steps of 64 images over every fifth training image, like APE-G and HGD here"
    ),
    "cifar10-plain": "a network with skips, trained for the same number of steps",
}
_WHICH = "The checkpoints that are called ARN_PP all learned from PGD_N and PGD_T at ε. They differ in the rest:"
_ABLATION = (
    "All runs are trained on PGD_N and PGD_T, and every attack is oblivious. A row's name begins with the recipe:\n"
    "`paper` is the paper's, `transparent` and `cifar10` are ours. After it comes the number of training steps.\n"
    "A cell is the mean over the training seeds. The bars of the plot show the best and the worst seed."
)
_TRANSFERRED = (
    "Here a classifier other than {} is attacked, and the purifier stands in front of it. The attack sees that\n"
    "classifier alone. A purifier's card says which classifier it was trained in front of; it may be the one here."
)
_ADAPTIVE = (
    "The paper has numbers only for purifiers trained on PGD_N and PGD_T. In the rows of our other purifiers its\n"
    "column is empty. [Fidelity](fidelity.md#where-our-numbers-differ-from-the-papers) discusses the differences."
)
_DETECTION = (
    "The detector learns on the validation split to distinguish adversarial images from natural and noisy ones. It is\n"
    "measured on the test split. If it reports no more purified images than natural ones, purification has\n"
    "removed what it looks for. The detector compares an image with its nearest neighbours. The natural image from\n"
    "which it was made is left out of these, because purified images would otherwise look too natural. An attacker\n"
    "who knows the detector evades it without any purifier (Athalye, Carlini & Wagner, ICML 2018)."
)
_RECIPES = (
    "The name of a run begins with its recipe (`train --recipe`, `training/learning/recipes.py`). After it come the\n"
    "number of training steps and other settings, if they differ from the recipe's. The hash is that of the\n"
    "checkpoint's file. The card beside the checkpoint (`models/zoo`, `results/checkpoints`) states data, seed and\n"
    "command."
)


def released_sections(everything: Sequence[Record], dataset: str) -> list[str]:
    """A table for each released purifier of a data set; where none is released, for each that was measured."""
    records = of_released(everything)
    purified = sorted((r for r in records if r.defence != "none"), key=lambda r: (is_variant(r), r.checkpoint))
    measured = dict.fromkeys(r.checkpoint for r in purified if not is_variant(r) or is_variant(purified[0]))
    chosen = [name for name in released_names(dataset) if name in measured]
    undefended = [r for r in records if r.defence == "none"]
    parts = [f"## {name}\n\n{against(records, undefended, name)}" for name in chosen or measured]
    about_released = not chosen or any(r.checkpoint in chosen for r in sweep(records))
    return parts + (_sweep(records, dataset) if about_released else [])


def comparison_sections(everything: Sequence[Record], dataset: str, results: Path) -> list[str]:
    """Every defence beside the others and beside the paper's."""
    records, target = of_target(everything), target_of(everything, dataset)
    published = published_tables(results)
    return [
        *_main(records, dataset, results),
        *_adaptive(records, dataset, published),
        *_transfer(everything, target, dataset, published["table5"]),
        *_detection(results, dataset),
        *_recipes(everything),
        *_flags(everything),
    ]


def ablation_sections(everything: Sequence[Record], dataset: str) -> list[str]:
    """What each loss term does; empty where nothing was measured."""
    records = of_target(everything)
    if not ablation(records):
        return []
    attacks = [attack for columns in spec_of(dataset).columns for attack in columns]
    picture = f"![Error without each loss term](figures/{plots.plot_name('ablation', dataset)})"
    return ["\n\n".join((_ABLATION, picture, over_seeds(records, attacks)))]


def _main(records: Sequence[Record], dataset: str, results: Path) -> list[str]:
    """The paper's Tables 1 and 2, and their white-box counterpart."""
    parts = []
    for threat_model, (title, remark) in _THREATS.items():
        chosen = [r for r in records if r.threat_model == threat_model and not is_variant(r)]
        oblivious = threat_model == "oblivious"
        # The paper's numbers are oblivious: they do not compare with white-box ones.
        paper = paper_rates(results, dataset) if oblivious else {}
        columns = spec_of(dataset).columns if oblivious else (_white_box(dataset),)
        tables = [
            comparison(chosen, group, paper) for group in columns if any(record.attack in group for record in chosen)
        ]
        if tables:
            whose = " (the paper's Tables 1 and 2)" if paper else ""
            note = remark if not oblivious or any(r.defence in _ROBUST for r in chosen) else ""
            name = plots.plot_name("comparison", dataset)
            picture = f"![Error of each defence, with 95 % intervals](figures/{name})" if oblivious else ""
            which = _which_checkpoint(chosen) if oblivious else ""
            parts.append("\n\n".join(part for part in (f"## {title}{whose}", note, which, picture, *tables) if part))
    return parts


def _white_box(dataset: str) -> tuple[str, ...]:
    """The columns of attacks that see the purifier, with those at a budget of the data set's own."""
    return (*_WHITE_BOX, *(attack for group in spec_of(dataset).columns for attack in group if "@" in attack))


def _which_checkpoint(records: Sequence[Record]) -> str:
    """A line for each of several checkpoints that a table calls ARN_PP."""
    measured = {r.checkpoint for r in records if r.defence == "ARN_PP"}
    lines = [f"- `{name}`: {text}." for name, text in _CHECKPOINTS.items() if name in measured]
    return "\n".join((_WHICH, "", *lines)) if len(lines) > 1 else ""


def _adaptive(records: Sequence[Record], dataset: str, published: Any) -> list[str]:
    """The paper's Tables 3 and 4; BPDA too on data sets that the latter has not."""
    parts = []
    for key, title in (
        ("table3", "Adaptive attacks: gray box and white box (the paper's Table 3)"),
        ("table4", "BPDA, identity backward (the paper's Table 4)"),
    ):
        cells = [cell for cell in published[key] if cell["dataset"] == dataset]
        if cells:
            parts.append(f"## {title}\n\n{_ADAPTIVE}\n\n{adaptive(records, cells)}")
    bpda = [r for r in records if r.threat_model == "bpda" and r.settings.get("backward") != "g"]
    if bpda and not any(cell["dataset"] == dataset for cell in published["table4"]):
        parts.append(f"## BPDA, identity backward\n\n{comparison(bpda, _white_box(dataset), {})}")
    return parts


def _transfer(records: Sequence[Record], target: str, dataset: str, published: Sequence[dict[str, Any]]) -> list[str]:
    """Table 5: tables for each other classifier, the paper's rows below ours."""
    tables = []
    columns = dict.fromkeys((*_TRANSFER, *spec_of(dataset).columns[0]))
    for classifier in sorted({record.classifier for record in records} - {target}):
        chosen = [
            r for r in records
            if r.classifier == classifier and r.threat_model == "oblivious" and not r.run_name.is_hardened_variant
        ]  # fmt: skip
        paper = {(c["defence"], c["attack"]): c["error_rate"] for c in published if c["classifier"] == classifier}
        if chosen:
            tables.append(f"In front of `{classifier}`:\n\n{comparison(chosen, tuple(columns), paper)}")
    title = "## In front of other classifiers (the paper's Table 5)"
    return ["\n\n".join((title, _TRANSFERRED.format(f"`{target}`"), *tables))] if tables else []


def _sweep(records: Sequence[Record], dataset: str) -> list[str]:
    if not sweep(records):
        return []
    picture = f"![White-box error over the budget](figures/{plots.plot_name('sweep', dataset)})"
    return [f"## White-box PGD_N over the budget\n\n{picture}\n\n{over_budgets(records)}"]


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
    heads = ["[checkpoint](glossary.md#models)", "run", "sha256"]
    table = markdown_table(heads, [[f"`{cell}`" if cell else "" for cell in row] for row in runs], left=3)
    return [f"## How each was trained\n\n{_RECIPES}\n\n{table}"] if runs else []


def _flags(records: Sequence[Record]) -> list[str]:
    """A row for each flagged number."""
    rows = sorted(
        (row_label(row_of(r)), r.classifier, f"{r.attack} {r.threat_model}", flag.removeprefix(BETWEEN).split(". ")[0])
        for r in records
        for flag in r.flags
    )
    explained = "[Evaluation](evaluation.md#red-flags) explains each flag."
    table = markdown_table(["defence", "in front of", "number", "flag"], rows, left=4)
    return [f"## Red flags ⚑\n\n{explained}\n\n{table}"] if rows else []
