"""Random damage for training inputs: a purifier that restores it does better on attacks that it has not seen.

Every function takes images ``(N, C, H, W)`` in [0, 1] and a generator, and draws a strength for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_CHANGED = 1 / 255  # crafted images are stored as float16


def specks(x: Tensor, generator: torch.Generator) -> Tensor:
    """Up to an eighth of the pixels go white (three in four) or black."""
    n, _, height, width = x.shape
    share = torch.rand(n, 1, 1, 1, generator=generator) / 8
    hit = torch.rand(n, 1, height, width, generator=generator) < share
    value = (torch.rand(n, 1, height, width, generator=generator) < 0.75).float()
    return torch.where(hit.to(x.device), value.to(x), x)


def crowds(x: Tensor, generator: torch.Generator) -> Tensor:
    """Up to a quarter of the pixels go white, more of them in some places than in others."""
    n, _, height, width = x.shape
    share = torch.rand(n, 1, 1, 1, generator=generator) / 4
    coarse = torch.rand(n, 1, 5, 5, generator=generator)
    crowding = 2 * F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    hit = torch.rand(n, 1, height, width, generator=generator) < share * crowding
    return torch.where(hit.to(x.device), torch.ones((), device=x.device), x)


def scatter(x: Tensor, generator: torch.Generator) -> Tensor:
    """Up to all pixels take the value of one at most two rows or columns away, each for itself."""
    n, channels, height, width = x.shape
    share = torch.rand(n, 1, 1, generator=generator)
    moved = torch.rand(n, height, width, generator=generator) < share
    offsets = torch.randint(-2, 3, (2, n, height, width), generator=generator) * moved
    rows = (torch.arange(height)[:, None] + offsets[0]).clamp(0, height - 1)
    columns = (torch.arange(width) + offsets[1]).clamp(0, width - 1)
    index = (rows * width + columns).reshape(n, 1, -1).expand(-1, channels, -1).to(x.device)
    return x.flatten(2).gather(2, index).reshape(x.shape)


def grain(x: Tensor, generator: torch.Generator) -> Tensor:
    """Every pixel up or down by one amount of at most .3, clipped."""
    size = 0.3 * torch.rand(len(x), 1, 1, 1, generator=generator)
    sign = torch.randint(0, 2, x.shape, generator=generator) * 2 - 1
    return (x + (size * sign).to(x)).clamp(0, 1)


def moved(natural: Tensor, attacked: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """``attacked`` with what differs from ``natural`` at another place in a ``share`` of the images.

    It is turned by quarters (by halves where images are not square), stretched to up to twice its height and width,
    and shifted round the edges.
    """
    n, _, height, width = natural.shape
    chosen = (torch.rand(n, generator=generator) < share).nonzero().flatten().tolist()
    turns = torch.randint(0, 4, (n,), generator=generator) * (1 if height == width else 2)
    stretch = 1 + torch.rand(n, 2, generator=generator)
    down, right = (torch.randint(0, 2 * side, (n,), generator=generator) for side in (height, width))
    out = attacked.clone()
    for i in chosen:
        changed = ((attacked[i] - natural[i]).abs() > _CHANGED).any(0, keepdim=True)
        both = torch.cat([attacked[i], changed.to(attacked)]).rot90(int(turns[i]), (1, 2))
        larger = F.interpolate(both[None], scale_factor=stretch[i].tolist(), recompute_scale_factor=False)[0]
        both = larger.roll((int(down[i]), int(right[i])), (1, 2))[:, :height, :width]
        out[i] = torch.where(both[-1:] > 0, both[:-1], natural[i])
    return out


KINDS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "specks": specks, "crowds": crowds, "scatter": scatter, "grain": grain,
}  # fmt: skip


def corrupt(x: Tensor, share: float, kinds: Sequence[str], generator: torch.Generator) -> Tensor:
    """A ``share`` of the images damaged, each in one of the ``kinds`` of :data:`KINDS`."""
    kind = torch.randint(1, 1 + len(kinds), (len(x),), generator=generator)
    kind[torch.rand(len(x), generator=generator) >= share] = 0
    out = x.clone()
    for number, name in enumerate(kinds, 1):
        chosen = (kind == number).nonzero().squeeze(1)
        if len(chosen):
            out[chosen] = KINDS[name](x[chosen], generator)
    return out
