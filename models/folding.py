"""A network without its batch normalisation: the same function in eval mode, for less."""

from __future__ import annotations

import copy
import itertools

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
