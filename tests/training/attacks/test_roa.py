"""ROA: hand-computed places, and nothing changed outside one rectangle."""

import pytest
import torch

from arn_purify.training.attacks import roa

from .conftest import Spot


def test_the_rectangle_goes_where_it_hurts_most():
    images = torch.full((3, 1, 10, 12), 0.9)
    masks = roa.rectangle_masks(Spot(), images, torch.zeros(3, dtype=torch.long), (2, 2))
    expected = torch.zeros(10, 12)
    expected[3:5, 5:7] = 1
    assert torch.equal(masks, expected.expand(3, 1, 10, 12))


def test_a_rectangle_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        roa.rectangle_masks(Spot(), torch.rand(1, 1, 8, 8), torch.zeros(1, dtype=torch.long), (9, 2))


def test_occlusion_fools_and_stays_inside_one_rectangle():
    images = torch.full((2, 1, 10, 12), 0.9)
    labels = torch.zeros(2, dtype=torch.long)
    adversarial = roa.rectangular_occlusion(Spot(), images, labels, (2, 2), iterations=5, step=0.1)
    assert (Spot()(adversarial).argmax(1) == 1).all()
    assert ((adversarial != images).flatten(1).sum(1) <= 4).all()
    assert adversarial[0, 0, 3, 5] < 1e-6  # from grey, five steps of .1 down to black
