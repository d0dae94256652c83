"""Networks for inference: batch normalisation folded away, and which devices gain by bfloat16."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def folded(network: nn.Module) -> nn.Module:
    """A copy in eval mode, each BatchNorm folded into the convolution before it, in float32."""
    out = copy.deepcopy(network).eval()
    for module in out.modules():
        children = list(module.named_children()) if isinstance(module, nn.Sequential) else []
        for (name, layer), (next_name, norm) in itertools.pairwise(children):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                transposed = isinstance(layer, nn.ConvTranspose2d)
                setattr(module, name, fuse_conv_bn_eval(layer, norm, transpose=transposed))
                setattr(module, next_name, nn.Identity())
    return out


def multiplies_bf16(device: str) -> bool:
    """Whether ``device`` (``cpu``, ``cuda``, ``cuda:N``) has instructions for bfloat16; elsewhere float32 is faster."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
