"""RP2: stickers change nothing outside their mask, and fool where they hurt."""

import pytest
import torch

from arn_purify.training.attacks import rp2

from .conftest import Spot


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_stickers_change_nothing_outside_their_mask(number):
    mask = rp2.sticker_mask(number, 32, 32)
    assert 0.028 <= float(mask.mean()) <= 0.048
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    adversarial = rp2.robust_physical_perturbation(
        Spot(), images, torch.zeros(2, dtype=torch.long), mask, iterations=3, nps_weight=0.1
    )
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert torch.equal(adversarial * (1 - mask), images * (1 - mask))
    with pytest.raises(ValueError, match="no sticker mask 5"):
        rp2.sticker_mask(5, 32, 32)


def test_a_sticker_where_it_hurts_fools():
    images, mask = torch.full((2, 1, 10, 12), 0.9), torch.zeros(1, 1, 10, 12)
    mask[..., 3:5, 5:7] = 1
    labels = torch.zeros(2, dtype=torch.long)
    adversarial = rp2.robust_physical_perturbation(Spot(), images, labels, mask, iterations=20)
    assert (Spot()(images).argmax(1) == 0).all()
    assert (Spot()(adversarial).argmax(1) == 1).all()


def test_non_printability_by_hand():
    image = torch.tensor([[[[0.0, 0.25], [0.5, 1.0]]]])
    mask = torch.tensor([[[[1.0, 1.0], [0.0, 1.0]]]])
    black_and_white = torch.tensor([[0.0], [1.0]])
    # 0 * 1 + .25 * .75 + (outside) + 1 * 0
    assert float(rp2.non_printability(image, mask, black_and_white)) == pytest.approx(0.1875)
