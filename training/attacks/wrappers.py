"""Classifiers as attacks need them: under bf16, in float32, or with a contiguous input gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class MixedPrecision(nn.Module):
    """A classifier under bf16 autocast with float32 logits: to craft in training, never to test."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``, float32."""
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.classifier(x.contiguous(memory_format=torch.channels_last))
        return logits.float()


def for_crafting(classifier: nn.Module, mixed_precision: bool) -> nn.Module:
    """The classifier that an attack in training goes through."""
    return MixedPrecision(classifier) if mixed_precision else classifier


def in_fp32(classifier: nn.Module) -> nn.Module:
    """The classifier in float32, which decides whether an attack in bf16 succeeded."""
    return classifier.classifier if isinstance(classifier, MixedPrecision) else classifier


class ContiguousGradient(nn.Module):
    """A classifier whose input gradient lies in memory as NCHW, which advertorch and pyautoattack assume."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``."""
        logits: Tensor = self.classifier(_Contiguous.apply(x))  # type: ignore[no-untyped-call]
        return logits


class _Contiguous(torch.autograd.Function):
    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()


@torch.no_grad()
def number_of_classes(classifier: nn.Module, images: Tensor) -> int:
    """How many logits ``classifier`` gives for one of ``images`` ``(N, C, H, W)``."""
    return int(classifier(images[:1]).shape[1])
