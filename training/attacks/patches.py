"""Attacks on a part of the image: ROA, the rectangle that DOA trains against, and RP2's stickers.

Sources: Wu, Tong & Vorobeychik, "Defending against physically realizable attacks on image classification", ICLR 2020
(section 4); Eykholt et al., "Robust physical-world attacks on deep learning visual classification", CVPR 2018 (Eq. 3).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import shift_images

GREY = 0.5


def rectangle_masks(
    classifier: nn.Module, images: Tensor, labels: Tensor, size: tuple[int, int], stride: int = 1, candidates: int = 20
) -> Tensor:
    """Where a grey rectangle hurts most: ``(N, 1, H, W)`` of 0 and 1, one rectangle of ``size`` (height, width) each.

    Their gradient search: windows ranked by the summed squared gradient of the cross-entropy, then the best
    ``candidates`` tried with grey in them, the one of largest cross-entropy taken.
    """
    n, _, height, width = images.shape
    rows, columns = size
    if rows > height or columns > width:
        raise ValueError(f"a rectangle of {rows}x{columns} does not fit into {height}x{width}")
    x = images.detach().clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(classifier(x), labels, reduction="sum"), x)
    window = torch.ones(1, 1, rows, columns, device=images.device)
    score = F.conv2d(gradient.square().sum(1, keepdim=True), window, stride=stride).flatten(1)
    tried = score.topk(min(candidates, score.shape[1]), 1).indices
    per_row = (width - columns) // stride + 1
    best = torch.full((n,), -torch.inf, device=images.device)
    masks = torch.zeros(n, 1, height, width, device=images.device)
    row, column = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    with torch.no_grad():
        for index in tried.T:
            top, left = (index // per_row * stride)[:, None], (index % per_row * stride)[:, None]
            inside_rows = (row >= top) & (row < top + rows)
            inside_columns = (column >= left) & (column < left + columns)
            mask = (inside_rows[:, None, :, None] & inside_columns[:, None, None, :]).to(images.dtype)
            loss = F.cross_entropy(classifier(images * (1 - mask) + GREY * mask), labels, reduction="none")
            better = loss > best
            best = torch.where(better, loss, best)
            masks = torch.where(better.reshape(-1, 1, 1, 1), mask, masks)
    return masks


def rectangular_occlusion(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    size: tuple[int, int] = (7, 7),
    iterations: int = 30,
    step: float = 0.05,
    stride: int = 1,
    candidates: int = 20,
) -> Tensor:
    """ROA: the worst place for a rectangle, then sign gradient ascent from grey on the pixels inside, in [0, 1]."""
    mask = rectangle_masks(classifier, images, labels, size, stride, candidates)
    adversarial = images * (1 - mask) + GREY * mask
    for _ in range(iterations):
        x = adversarial.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(classifier(x), labels, reduction="sum"), x)
        adversarial = (adversarial + step * gradient.sign() * mask).clamp(0, 1)
    return adversarial.detach()


def sticker_mask(name: int, height: int, width: int) -> Tensor:
    """The ``name``-th (1 to 4) of four sticker masks, ``(1, 1, height, width)`` of 0 and 1, on a 32nd grid.

    Two black-and-white stickers each, 2.9 to 4.7 % of the pixels, as large as those that the DOA authors use on LISA.
    """
    stickers = {
        1: ((9, 8, 2, 8), (21, 16, 2, 8)),  # (top, left, height, width) at 32x32
        2: ((8, 10, 2, 12), (22, 10, 2, 12)),
        3: ((10, 7, 6, 3), (16, 22, 6, 3)),
        4: ((7, 14, 3, 5), (22, 12, 3, 5)),
    }
    if name not in stickers:
        raise ValueError(f"no sticker mask {name}: 1 to {len(stickers)}")
    mask = torch.zeros(1, 1, height, width)
    for top, left, tall, wide in stickers[name]:
        rows = slice(round(top * height / 32), round((top + tall) * height / 32))
        columns = slice(round(left * width / 32), round((left + wide) * width / 32))
        mask[..., rows, columns] = 1
    return mask


def non_printability(images: Tensor, mask: Tensor, printable: Tensor) -> Tensor:
    """NPS (Sharif et al., CCS 2016): the product over ``printable`` colours ``(P, C)`` of a pixel's distance to each.

    Summed over the pixels that ``mask`` ``(1 or N, 1, H, W)`` covers, averaged over ``images`` ``(N, C, H, W)``.
    """
    distance = (images[:, None] - printable[None, :, :, None, None]).abs().mean(2)  # (N, P, H, W)
    return (distance.prod(1) * mask[:, 0]).flatten(1).sum(1).mean()


def robust_physical_perturbation(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    mask: Tensor,
    iterations: int = 100,
    rate: float = 0.1,
    weight: float = 0.0,
    nps_weight: float = 0.0,
    transformations: int = 1,
    printable: Tensor | None = None,
) -> Tensor:
    """RP2, untargeted, one perturbation an image: images in [0, 1] that differ from ``images`` inside ``mask`` alone.

    Minimises weight * ||M d||_1 + nps_weight * NPS - E[J(f(T(x + M d)), y)] by Adam, the expectation over
    ``transformations`` draws of brightness (.8 to 1.2) and of a shift by up to one pixel, which moves image and
    sticker together.
    """
    mask = mask.to(images)
    colours = images.new_tensor([[0.0], [1.0]]).expand(-1, images.shape[1]) if printable is None else printable
    delta = torch.zeros_like(images, requires_grad=True)
    optimiser = torch.optim.Adam([delta], rate)
    for _ in range(iterations):
        adversarial = (images + mask * delta).clamp(0, 1)
        loss = weight * (mask * delta).abs().flatten(1).sum(1).sum()
        if nps_weight:
            loss = loss + nps_weight * len(images) * non_printability(adversarial, mask, colours)
        for _ in range(transformations):
            brightness = 0.8 + 0.4 * torch.rand(len(images), 1, 1, 1, device=images.device)
            shift = torch.randint(0, 3, (len(images), 2))
            seen = shift_images((adversarial * brightness).clamp(0, 1), shift, 1)
            loss = loss - F.cross_entropy(classifier(seen), labels, reduction="sum") / transformations
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (images + mask * delta).clamp(0, 1).detach()
