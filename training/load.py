"""Models by shipped name, by path, or as ``module:function`` of the user's own."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from arn_purify import models
from arn_purify.models import Card

from .learning.state import weights_sha256


def _sources(*names: str) -> list[bytes]:
    """The source of imported modules that have one."""
    files = [getattr(sys.modules[name], "__file__", None) for name in dict.fromkeys(names)]
    return [Path(file).read_bytes() for file in files if file]


def load_model(spec: str, kind: str, dataset: str, device: str, shape: Sequence[int] = ()) -> tuple[nn.Module, Card]:
    """A frozen eval-mode model and its card, for images of ``shape`` (C, H, W) where that is given.

    ``module:function`` imports the module (from the working folder too) and calls the function without arguments; what
    it gives back must be an ``nn.Module`` on [0, 1] images.

    Raises:
        ValueError: a purifier where a classifier is needed or the other way round, one that does not take images of
            ``shape``, one that learned from LISA cut the other way, or nothing that can be loaded.
    """
    if ":" in spec and not Path(spec).exists():
        module_name, _, function = spec.partition(":")
        sys.path.insert(0, str(Path.cwd()))
        try:
            model = getattr(importlib.import_module(module_name), function)()
        except (ImportError, AttributeError, TypeError) as error:
            raise ValueError(f"{spec}: {error}") from error
        finally:
            sys.path.pop(0)
        if not isinstance(model, nn.Module):
            raise ValueError(f"{spec} gives a {type(model).__name__}, not an nn.Module")
        # Its code too: one that has no weights is told from others by that alone.
        told = [spec.encode(), weights_sha256(model).encode(), *_sources(module_name, type(model).__module__)]
        name, sha256 = spec.replace(":", "."), hashlib.sha256(b"\n".join(told)).hexdigest()
        card = Card(name, kind, spec, {}, dataset, (0, 0, 0), sha256=sha256)  # type: ignore[arg-type]
        model = model.eval().to(device)
        model.card = card  # type: ignore[assignment]  # as a loaded one has it
    else:
        model = models.load(spec, device)
        card = models.card_of(model)
    if card.kind != kind:
        raise ValueError(f"{spec} is a {card.kind}, not a {kind}")
    if {card.dataset, dataset} == {"lisa", "lisa-track"}:
        raise ValueError(f"{spec} learned from {card.dataset}: many of {dataset}'s test images are among its own")
    takes, given = tuple(card.input_shape), tuple(shape)
    if given and any(takes) and takes != given and not (takes[0] == given[0] and models.any_size(card)):
        raise ValueError(
            f"{spec} takes images of {'x'.join(map(str, takes))}, {dataset} has {'x'.join(map(str, given))}"
        )
    model = model.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, card
