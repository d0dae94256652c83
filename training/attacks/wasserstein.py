"""FWA: adversarial images inside a Wasserstein ball, by projected gradient or by Frank-Wolfe, both through a dual.

Source: Wu, Wang & Yu, "Stronger and Faster Wasserstein Adversarial Attacks", ICML 2020 (sections 3 and 4). A coupling
pi moves the mass of each pixel within a window around it, at the Euclidean distance in pixels for a unit of mass; the
image is what arrives. The ball: rows of pi sum to the natural pixels, the cost is at most eps times the image's mass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.datasets import spec_of
from .base import Attack, budget_of

_BISECTIONS = 20  # of the dual variable: 2^-20 of its bracket
_LARGEST_DUAL = 2.0**20
_GAMMA = 1e-3  # of the Frank-Wolfe variant, as its authors set it
_BATCH = 100  # the coupling has a window's worth of entries for each pixel


class Wasserstein(Attack):
    """FWA_N, by projected gradient with dual projection."""

    @classmethod
    def preset(cls, name: str, dataset: str) -> Self:
        """40 steps within a window of 5x5 pixels."""
        settings = {"iterations": 40, "step": 0.1, "window": 5}
        source = "Wu, Wang & Yu, ICML 2020, projected gradient with dual projection"
        eps = budget_of(name, spec_of(dataset).attacks.wasserstein_eps)
        return cls(name, "untargeted", "wasserstein", eps, settings, source)

    def perturb(self, classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """See :func:`attack`; a few images at a time."""
        parts = zip(images.split(_BATCH), labels.split(_BATCH), strict=True)
        iterations, step, window = (self.settings[key] for key in ("iterations", "step", "window"))
        return torch.cat([attack(classifier, x, y, self.budget, int(iterations), step, int(window)) for x, y in parts])


def window_cost(window: int) -> Tensor:
    """Euclidean distance from a window's centre to each of its places, ``(window * window,)``, in pixels."""
    reach = torch.arange(window, dtype=torch.float32) - window // 2
    return torch.sqrt(reach[:, None] ** 2 + reach[None] ** 2).flatten()


def project_rows(values: Tensor, mass: Tensor) -> Tensor:
    """Euclidean projection of each row of ``(R, K)`` on {p >= 0, sum p = mass}; ``mass`` ``(R,)`` > 0.

    Duchi et al., ICML 2008, figure 1.
    """
    ordered = values.sort(1, descending=True).values
    excess = (ordered.cumsum(1) - mass[:, None]) / torch.arange(1, values.shape[1] + 1, device=values.device)
    last = (ordered > excess).sum(1, keepdim=True) - 1
    return (values - excess.gather(1, last)).clamp(min=0)


def project(values: Tensor, mass: Tensor, cost: Tensor, owner: Tensor, budget: Tensor) -> Tensor:
    """Projection on the ball: rows as in :func:`project_rows`, and <cost, rows of an image> <= its budget.

    The dual has one variable an image, found by bisection (their proposition 3): a row is projected after ``lambda *
    cost`` was taken off it, and the image's cost falls as lambda grows.

    Args:
        values: ``(R, K)``, the rows of all images; places outside an image are -inf.
        mass: ``(R,)`` > 0.
        cost: ``(K,)``.
        owner: ``(R,)``, the image of each row.
        budget: ``(N,)``, the largest cost of each image.
    """
    return _within(lambda dual: project_rows(values - dual * cost, mass), cost, owner, budget)


def linear_maximum(gradient: Tensor, mass: Tensor, cost: Tensor, owner: Tensor, budget: Tensor, gamma: float) -> Tensor:
    """The point of the ball that maximises <gradient, p>, smoothed by an entropy of weight ``gamma`` (section 4.2).

    A row is its mass times softmax((gradient - lambda * cost) / gamma); the other arguments are :func:`project`'s.
    """

    def rows(dual: Tensor) -> Tensor:
        return mass[:, None] * ((gradient - dual * cost) / gamma).softmax(1)

    return _within(rows, cost, owner, budget)


def _within(rows: Callable[[Tensor], Tensor], cost: Tensor, owner: Tensor, budget: Tensor) -> Tensor:
    """``rows(lambda)`` at the smallest lambda >= 0 of each image that keeps its cost within its budget."""

    def fits(dual: Tensor) -> Tensor:
        spent = torch.zeros_like(budget).index_add_(0, owner, rows(dual[owner, None]) @ cost)
        return spent <= budget + 1e-7

    low, high = torch.zeros_like(budget), torch.ones_like(budget)
    free = fits(low)
    if bool(free.all()):
        return rows(low[owner, None])
    while high[0] < _LARGEST_DUAL and not bool((free | fits(high)).all()):
        high *= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        inside = fits(middle)
        low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
    return rows(torch.where(free, torch.zeros_like(high), high)[owner, None])


def attack(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    iterations: int,
    step: float,
    window: int,
    frank_wolfe: bool = False,
) -> Tensor:
    """Images ``(N, C, H, W)`` in [0, 1] that maximise the cross-entropy inside the ball.

    Where more mass arrives than a pixel can show it is clipped at 1, as its authors clip. With ``frank_wolfe`` the
    step is 2 / (t + 2) towards :func:`linear_maximum`, and ``step`` is not used.
    """
    n, channels, height, width = images.shape
    cost = window_cost(window).to(images)
    places, middle = window * window, window * window // 2
    inside = F.unfold(torch.ones_like(images[:1, :1]), window, padding=window // 2)[0].T > 0  # (H * W, K)
    owner, channel, pixel = images.reshape(n, channels, -1).nonzero(as_tuple=True)  # dark pixels have nothing to move
    mass = images.reshape(n, channels, -1)[owner, channel, pixel]
    budget = eps * images.flatten(1).sum(1)
    outside = ~inside[pixel]
    rows = torch.zeros(len(mass), places, device=images.device)
    rows[:, middle] = mass

    def arrived(moved: Tensor) -> Tensor:
        columns = torch.zeros(n, channels, height * width, places, device=images.device)
        columns = columns.index_put((owner, channel, pixel), moved)
        columns = columns.permute(0, 1, 3, 2).reshape(n, channels * places, height * width)
        return F.fold(columns, (height, width), window, padding=window // 2)

    for iteration in range(iterations):
        rows.requires_grad_(True)
        loss = F.cross_entropy(classifier(arrived(rows).clamp(0, 1)), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, rows)
        with torch.no_grad():
            gradient = gradient.masked_fill(outside, 0)
            largest = torch.zeros(n, device=images.device).scatter_reduce_(0, owner, gradient.abs().amax(1), "amax")
            direction = gradient / largest.clamp(min=1e-20)[owner, None]
            if frank_wolfe:
                best = linear_maximum(direction.masked_fill(outside, -torch.inf), mass, cost, owner, budget, _GAMMA)
                rows = rows + 2 / (iteration + 2) * (best - rows)
            else:
                moved = (rows + step * direction).masked_fill(outside, -torch.inf)
                rows = project(moved, mass, cost, owner, budget)
    return arrived(rows.detach()).clamp(0, 1)
