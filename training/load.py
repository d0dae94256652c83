"""Models by released name, by path, or as ``module:function`` of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from arn_purify import models
from arn_purify.models import Card
from arn_purify.models.checkpoint import Kind

from . import own
from .data import spec_of
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
