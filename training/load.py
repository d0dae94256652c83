"""Models by released name, by path, or as ``module:function`` of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from arn_purify import models
from arn_purify.models import Card
from arn_purify.models.checkpoint import Kind

from . import own
from .data import Dataset, spec_of
from .learning.state import weights_sha256


def load_model(spec: str, kind: Kind, dataset: str, device: str, shape: Sequence[int] = ()) -> tuple[nn.Module, Card]:
    """A frozen eval-mode model and its card, for images of ``shape`` (C, H, W) where that is given.

    ``module:function`` imports the module (from the working folder too) and calls the function without arguments; it
    must return an ``nn.Module`` on [0, 1] images.

    Raises:
        ValueError: a purifier where a classifier is needed or the other way round, one that does not take images of
            ``shape``, one that learned from the same images split otherwise, or nothing that can be loaded.
    """
    if ":" in spec and not Path(spec).exists():
        model, card = _of_function(spec, kind, dataset, device)
    else:
        model = models.load(spec, device)
        card = models.card_of(model)
    if card.kind != kind:
        raise ValueError(f"{spec} is a {card.kind}, not a {kind}")
    if card.dataset in spec_of(dataset).same_images_as:
        raise ValueError(f"{spec} learned from {card.dataset}: many of {dataset}'s test images are among its own")
    takes, given = tuple(card.input_shape), tuple(shape)
    if given and any(takes) and takes != given and not (takes[0] == given[0] and models.any_size(card)):
        raise ValueError(
            f"{spec} takes images of {'x'.join(map(str, takes))}, {dataset} has {'x'.join(map(str, given))}"
        )
    model = model.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, card


def try_out(models_: Mapping[str, tuple[nn.Module, Card]], dataset: Dataset, device: str) -> None:
    """Ask purifiers and classifiers for two images of ``dataset``, so that one that does not fit is named.

    Raises:
        ValueError: one cannot take the images, a purifier's answer has another shape, a classifier has too few classes,
            or it knows them by other names.
    """
    whole = next((s for s in (dataset.test, dataset.validation, dataset.train) if len(s)), dataset.train)
    images, classes = whole.images_of(slice(0, 2), device), dataset.class_names
    for what, (model, card) in models_.items():
        try:
            with torch.no_grad():
                answer = model(images)
        except RuntimeError as error:
            raise ValueError(f"{what} {card.name} cannot take {dataset.name}'s images: {_first_line(error)}") from None
        if card.kind == "purifier":
            if answer.shape != images.shape:
                raise ValueError(f"{what} {card.name} answers {tuple(answer.shape)} for images {tuple(images.shape)}")
        elif answer.dim() != 2 or answer.shape[1] < max(2, len(classes)):
            raise ValueError(
                f"{what} {card.name} answers {tuple(answer.shape)}, {dataset.name} has {len(classes)} classes"
            )
        elif card.class_names and card.class_names[: len(classes)] != classes:
            raise ValueError(f"{what} {card.name} knows {_some(card.class_names)}, {dataset.name} has {_some(classes)}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _of_function(spec: str, kind: Kind, dataset: str, device: str) -> tuple[nn.Module, Card]:
    """What ``module:function`` returns, with a card that identifies it."""
    model = own.call(spec)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec} gives a {type(model).__name__}, not an nn.Module")
    # With its source code: two models without weights differ in that alone.
    sha256 = own.sha256(spec, model, weights_sha256(model).encode())
    card = Card(own.short_name(spec), kind, spec, {}, dataset, (0, 0, 0), sha256=sha256)
    model = model.eval().to(device)
    model.card = card  # type: ignore[assignment]  # as a loaded one has it
    return model, card
