"""From a run to a released checkpoint: rounded to fp16, measured as rounded, with a model card beside it."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from arn_purify import models
from arn_purify.models import Card, any_size, checkpoint, for_photographs, imagenet
from arn_purify.models.checkpoint import SMALLEST_PHOTOGRAPH
from arn_purify.models.files import write_atomically

from .attacks import get
from .data import DATASETS, Dataset
from .learning.classifier import error_rate
from .load import load_model
from .measuring.evaluate import Subject, evaluate
from .measuring.threats import Oblivious, ThreatModel, WhiteBox
from .report import figures
from .report.markdown import headless_table, markdown_table


def export(
    source: Path, name: str, target: Path, dataset: Dataset, classifier: str, crafted: Path, device: str
) -> Card:
    """Round ``source`` to fp16 as ``target/name.safetensors`` and measure that file on ``dataset``'s validation split.

    A split without images is not measured: the card then keeps what the run saw. A purifier is measured in front of
    ``classifier``: natural images and every seen attack at its test settings, through what it saw it through. Error
    rates are percent, of so many ``images``.

    Raises:
        ValueError: it learned from another data set.
    """
    model = models.load(source)
    own = models.card_of(model)
    if own.dataset != dataset.name:
        raise ValueError(f"{source.name} learned from {own.dataset}: --dataset {own.dataset}, not {dataset.name}")
    # A checkpoint that was exported before lies beside no log, and has its curve already.
    card = dataclasses.replace(own, name=name, curve=_curve(source.parent / "metrics.jsonl") or own.curve)
    with tempfile.TemporaryDirectory() as folder:
        rounded_path = Path(folder) / "rounded.safetensors"
        checkpoint.save(model, card, rounded_path, torch.float16)
        rounded = checkpoint.load(rounded_path, device)
    if len(dataset.validation):
        metrics = {"images": len(dataset.validation), **_measure(rounded, dataset, classifier, crafted, device)}
    else:  # pictures without labels: what the run saw on its own
        metrics = {name: value for name, value in card.metrics.items() if name.startswith("error/")}
    card = dataclasses.replace(card, metrics=metrics)
    path = target / f"{name}.safetensors"
    sha256 = checkpoint.save(model, card, path, torch.float16)
    card = dataclasses.replace(card, sha256=sha256)
    write_atomically(target / f"{name}.md", model_card(card, model).encode())
    if figures.has_sheet(card):
        f, _ = load_model(classifier, "classifier", dataset.name, "cpu")
        figures.draw_sheet(f, checkpoint.load(path), target)
    return card


def _measure(model: nn.Module, dataset: Dataset, classifier: str, crafted: Path, device: str) -> dict[str, float]:
    """Error rates in percent on the validation split, by the name of the attack."""
    card = models.card_of(model)
    if card.kind == "classifier":
        return {"error/none": error_rate(model, dataset.validation, device)}
    f, f_card = load_model(classifier, "classifier", dataset.name, device, dataset.shape)
    subject, metrics = Subject(f, f_card, model, card), {}
    natural: list[tuple[str, ThreatModel]] = [("none", Oblivious())]
    seen = [(str(s["attack"]), WhiteBox() if "through" in s else Oblivious()) for s in card.seen_attacks]
    for attack, threat_model in (*natural, *seen):
        chosen = None if attack == "none" else get(attack, dataset.name)
        record = evaluate(
            subject, dataset.validation, chosen, threat_model, dataset=dataset.name, crafted=crafted, device=device
        )
        beside = "" if threat_model.name == "oblivious" else f" {threat_model.name}"
        metrics[f"error/{attack}{beside}"] = record.error_rate
    return metrics


def _curve(log: Path) -> tuple[dict[str, float], ...]:
    """Epoch, step and error rates of a run's log, if there is one; the last row of an epoch that was repeated."""
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    rows = [row for row in rows if any(name.startswith("error/") for name in row)]
    kept = ("epoch", "step", "error/")
    return tuple(
        {row.get("epoch", row["step"]): {k: v for k, v in row.items() if k.startswith(kept)} for row in rows}.values()
    )


_USES = {
    "transparent": (
        "In front of a classifier of such images, where attackers know the classifier and not the purifier",
        "An attacker who can query it or has a copy defeats it.",
    ),
    "hardened": (
        "In front of a classifier of such images, also where attackers know the purifier",
        "It fails against budgets well above the tables' ε and against other kinds of attack.",
    ),
    "joint": (
        "Together with the classifier that was trained with it, also where attackers know both",
        "It fails against budgets well above the tables' ε and against other kinds of attack.",
    ),
}
_CLASSIFIER_USE = (
    "The target that purifiers of such images are trained and measured with, and a demonstration",
    "It is small. It has no defence of its own: attacks fool it on nearly every image.",
)
_ROBUST_USE = (
    "A robust classifier, to compare purifiers with",
    "It resists attacks up to the budget that it was trained with, and has more error on natural images.",
)


def _use(card: Card, model: nn.Module) -> str:
    """Intended use, training data, limits and cost, a paragraph each."""
    if card.kind == "classifier":
        robust = card.recipe.startswith(("at-", "doa-"))
        use, limits = _ROBUST_USE if robust else _CLASSIFIER_USE
    else:
        use, limits = _USES.get(card.profile, _USES["transparent"])
        limits += " It changes natural images a little. Other kinds of images were not measured."
    spec = DATASETS.get(card.dataset)
    title, shape = spec.title if spec and spec.title else card.dataset, "x".join(map(str, card.input_shape))
    pictures = "[Pictures without labels](../../docs/photos.md#train)"
    images = pictures if spec and spec.from_disk else f"The training split of {title}"
    seen = " and ".join(dict.fromkeys(str(attack["attack"]) for attack in card.seen_attacks))
    page = f" [Results](../../docs/results-{card.dataset}.md)." if spec and spec.kept_records and spec.title else ""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, *card.input_shape))
    paragraphs = {
        "Intended use": f"{use}: {title}, {shape}.",
        "Training data": images + (f", natural and attacked by {seen}." if seen else "."),
        "Limits": f"{limits}{page}".strip(),
        "Cost": f"{counter.get_total_flops() / 1e6:,.0f} MFLOP for an image of {shape}.",
    }
    return "\n\n".join(f"**{name}.** {text}" for name, text in paragraphs.items() if text)


def model_card(card: Card, model: nn.Module) -> str:
    """The card as Markdown."""
    parameters = sum(p.numel() for p in model.parameters())
    sizes = "by `ARN_SIZES=any`, padded and cropped back; not evaluated" if any_size(card) else ""
    error = "validation error" + (", oblivious" if card.profile == "transparent" else "")
    if for_photographs(card):
        sizes = f"as they are, from {SMALLEST_PHOTOGRAPH} pixels on; smaller ones by `ARN_SIZES=any`"
        error = "error on pictures that it did not learn from, against the classifier's own answer"
    rows = {
        "kind": f"{card.kind}, profile {card.profile}" if card.profile else card.kind,
        "architecture": f"{card.architecture} {dict(card.config)}, {parameters:,} parameters, weights rounded to fp16",
        "input": "x".join(map(str, card.input_shape)) + " (C, H, W), float32 in [0, 1]",
        "other sizes": sizes,
        "data set": f"{card.dataset}, training split",
        "recipe": ", ".join(
            part for part in (card.recipe, f"{card.step:,} steps" if card.step else "", f"seed {card.seed}") if part
        ),
        "loss weights": ", ".join(f"{k} {v:g}" for k, v in card.loss_weights.items() if v),
        "seen attacks": ", ".join(" ".join([str(a["attack"]), *_budget(a)]) for a in card.seen_attacks),
        "trained in front of": ", ".join(_classifier_of(f) for f in re.split(r"[+]|, ", card.classifier_sha256) if f),
        error: ", ".join(
            f"{name.removeprefix('error/')} {rate:.2f} %" if name != "images" else f"n {rate:,}"
            for name, rate in sorted(card.metrics.items(), key=lambda item: (*_after(item[0]), item[0]))
        ),
        "command": f"`{card.command}`" if card.command else "",
        "versions": ", ".join(f"{k} {v}" for k, v in card.versions.items()),
        "sha256": card.sha256,
    }
    table = headless_table((name, text) for name, text in rows.items() if text)
    sheet = ""
    if figures.has_sheet(card):
        sheet = f"\n![Digits, attacked and purified]({card.name}.png)\n\n*scikit-learn's digits.*\n"
    return f"# {card.name}\n\n{_use(card, model)}\n\n{table}\n{_learned(card)}{sheet}"


@functools.cache
def _released() -> dict[str, str]:
    """The names of released models by their hashes."""
    cards = [models.card_of(models.load(name)) for name in (*models.available(), imagenet.NAME)]
    return {card.sha256: card.name for card in cards}


def _classifier_of(sha256: str) -> str:
    """A classifier's name beside the hash, where it is a released one."""
    name = _released().get(sha256)
    return f"`{name}` ({sha256})" if name else sha256


def _after(name: str) -> tuple[bool, bool]:
    """Natural images first, the number of images last."""
    return name == "images", name != "error/none"


def _budget(seen: Mapping[str, Any]) -> list[str]:
    """At what strength an attack was seen, and through what."""
    parts = [] if seen.get("eps") is None else [f"eps {seen['eps']:.4g}"]
    if "budgets" in seen:
        parts = ["eps {:.4g} to {:.4g}".format(*seen["budgets"])]
    if "moved" in seen:
        parts.append(f"({seen['moved']:.0%} moved)")
    return parts + ([f"through {seen['through']}"] if "through" in seen else [])


def _learned(card: Card) -> str:
    """The card's curve as a table, a row an epoch."""
    if not card.curve:
        return ""
    names = [name for name in card.curve[0] if name.startswith("error/")]
    names.sort(key=lambda name: (name != "error/none", name))  # a file keeps them in another order
    when = [name for name in ("epoch", "step") if name in card.curve[0]]  # a run on photographs has no epochs
    rows = [[*(f"{row[name]:,}" for name in when), *(f"{row[name]:.1f}" for name in names)] for row in card.curve]
    heads = [*("steps" if name == "step" else name for name in when), *(name.removeprefix("error/") for name in names)]
    table = markdown_table(heads, rows, left=0)
    said = ["Error in percent of some validation images as it learned."]
    if "error/none" in names:
        said.append("*none* are natural images.")
    if any(name.endswith("white_box") for name in names):
        said.append("White-box attacks have the largest budget of the training here.")
    if any(name.startswith("error/PGD_N ") and name[-1].isdigit() for name in names):
        said.append("*PGD_N 4* is the attack at 4/255.")
    return f"\n{' '.join(said)}\n\n{table}\n"
