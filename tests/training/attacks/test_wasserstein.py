"""The Wasserstein attack against hand-computed cases and the properties of its paper."""

import pytest
import torch
from torch import nn

from arn_purify.training.attacks import wasserstein


def test_rows_are_projected_on_their_simplex():
    values = torch.tensor([[0.5, 0.1, 0.0], [2.0, 0.0, 0.0], [0.2, 0.2, 0.2]])
    rows = wasserstein.project_rows(values, torch.tensor([1.0, 1.0, 0.3]))
    by_hand = torch.tensor([[19 / 30, 7 / 30, 4 / 30], [1.0, 0.0, 0.0], [0.1, 0.1, 0.1]])
    assert torch.allclose(rows, by_hand)


def test_costs_are_the_distances_in_a_window():
    assert torch.allclose(wasserstein.window_cost(3).reshape(3, 3)[0], torch.tensor([2**0.5, 1.0, 2**0.5]))


@pytest.mark.parametrize("budget", [0.0, 0.1, 0.5, 10.0])
def test_the_projection_is_feasible_and_nearest(budget):
    generator = torch.Generator().manual_seed(0)
    cost = wasserstein.window_cost(3)
    mass = torch.rand(6, generator=generator) + 0.1
    values = torch.rand(6, 9, generator=generator)
    owner, limits = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([budget, 2 * budget])
    rows = wasserstein.project(values, mass, cost, owner, limits)
    assert (rows >= 0).all()
    assert torch.allclose(rows.sum(1), mass, atol=1e-5)
    spent = torch.zeros(2).index_add_(0, owner, rows @ cost)
    assert (spent <= limits + 1e-4).all()
    distance = (rows - values).square().sum()
    for seed in range(50):  # no feasible point is nearer
        other = wasserstein.project(torch.rand(6, 9, generator=generator.manual_seed(seed)), mass, cost, owner, limits)
        assert (other - values).square().sum() >= distance - 1e-4


class Left(nn.Module):
    """Two classes: the brightness of the left and of the right half."""

    def forward(self, x):
        middle = x.shape[3] // 2
        return torch.stack([x[..., :middle].sum((1, 2, 3)), x[..., middle:].sum((1, 2, 3))], 1)


@pytest.mark.parametrize("frank_wolfe", [False, True])
def test_mass_is_moved_not_made_and_only_as_far_as_the_budget(frank_wolfe):
    images = torch.zeros(1, 1, 7, 8)
    images[0, 0, 3, 3] = 0.5  # one unit left of the middle
    labels = torch.tensor([0])
    for eps in (0.0, 0.3, 1.0):
        moved = wasserstein.attack(Left(), images, labels, eps, 40, 0.1, window=5, frank_wolfe=frank_wolfe)
        assert float(moved.sum()) == pytest.approx(0.5, abs=1e-4)
        crossed = float(moved[..., 4:].sum())
        assert crossed == pytest.approx(0.5 * eps, abs=0.02)  # each unit that crosses costs its distance of one pixel
