"""ROA: a rectangle at the place where it hurts most, the attack that DOA trains against.

Source: Wu, Tong & Vorobeychik, "Defending against physically realizable attacks on image classification", ICLR 2020
(section 4).
"""

from __future__ import annotations

import itertools
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.datasets import spec_of
from .base import Attack
from .gradient import gradient_of, sign_ascent

GREY = 0.5


class RectangularOcclusion(Attack):
    """ROA_N, by the authors' gradient search."""

    @classmethod
    def preset(cls, name: str, dataset: str) -> Self:
        """7x7 pixels; on LISA the data set has the authors' 50 steps of 1/64."""
        known = spec_of(dataset).attacks
        iterations, step = known.rectangle_iterations, known.rectangle_step
        settings = {"rows": 7, "columns": 7, "iterations": iterations, "step": step, "candidates": 20}
        source = "Wu, Tong & Vorobeychik, ICLR 2020, gradient search"
        return cls(name, "untargeted", "patch", None, settings, source)

    def perturb(self, classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """See :func:`rectangular_occlusion`."""
        rows, columns, iterations, candidates = (
            int(self.settings[key]) for key in ("rows", "columns", "iterations", "candidates")
        )
        return rectangular_occlusion(
            classifier, images, labels, (rows, columns), iterations, self.settings["step"], candidates=candidates
        )


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
    gradient = gradient_of(lambda x: F.cross_entropy(classifier(x), labels, reduction="sum"))
    zero, one = images.new_zeros(()), images.new_ones(())
    start = (images * (1 - mask) + GREY * mask).detach()
    return sign_ascent(lambda x: gradient(x) * mask, start, zero, one, itertools.repeat(step, iterations))
