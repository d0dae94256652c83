"""Inference in bfloat16: which devices gain by it, and the copy of a network that computes in it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from arn_purify.models.folding import folded
from arn_purify.models.precision import multiplies_bf16

Precision = Literal["fp32", "bf16"]
PrecisionSetting = Literal["auto", "fp32", "bf16"]


def resolve(precision: PrecisionSetting, device: str) -> Precision:
    """``auto`` is bf16 where the device multiplies it natively, and so faster than float32."""
    if precision != "auto":
        return precision
    return "bf16" if multiplies_bf16(device) else "fp32"


def tolerance(precision: Precision, device: str) -> tuple[float, int]:
    """Least share of a purified uint8 image within one grey level of the reference, and how far the rest may be.

    Where bf16 is emulated a value may go one level further.
    """
    if precision == "fp32":
        return 1.0, 1
    return 0.99, 4 if multiplies_bf16(device) else 5


def to_bf16(network: nn.Module) -> nn.Module:
    """A folded copy that takes and gives float32 and computes in bfloat16 between its first and last convolution.

    These two touch the pixels: in float32 they halve the deviation and cost next to nothing. What was folded before is
    rounded once.
    """
    out = folded(network)
    convolutions = {n: m for n, m in out.named_modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)}
    if len(convolutions) > 2:
        first, *inner, last = convolutions
        for name in inner:
            convolutions[name].to(torch.bfloat16)
        out.set_submodule(first, _Cast(convolutions[first], torch.bfloat16))
        out.set_submodule(last, _Cast(convolutions[last], torch.float32))
    return out


class _Cast(nn.Module):
    """A layer that takes any floating type, computes in float32 and answers in ``dtype``."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.dtype = layer, dtype

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        out: Tensor = self.layer(x.float()).to(self.dtype)
        return out
