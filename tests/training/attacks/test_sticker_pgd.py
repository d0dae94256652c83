"""APM: stickers change nothing outside their mask, and fool where RP2's updates have no gradient any more."""

import pytest
import torch
from torch import nn

from arn_purify.training import attacks
from arn_purify.training.attacks.rp2 import sticker_mask


class Between(nn.Module):
    """Class 1 while the mean of the pixels under the stickers of ``number`` lies from .55 to .75, class 0 otherwise."""

    def __init__(self, number):
        super().__init__()
        self.mask = sticker_mask(number, 32, 32)

    def forward(self, x):
        mean = (x * self.mask).flatten(1).sum(1) / self.mask.sum()
        margin = 0.1 - (mean - 0.65).abs()
        return torch.stack([-margin, margin], 1)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_stickers_of_the_same_places_change_nothing_else_and_fool(number):
    images, labels = torch.full((4, 1, 32, 32), 0.5), torch.zeros(4, dtype=torch.long)
    found = attacks.get(f"APM_{number}", "lisa")(Between(number), images, labels, seed=0)
    outside = sticker_mask(number, 32, 32) == 0
    assert torch.equal(found.images[..., outside[0, 0]], images[..., outside[0, 0]])
    assert found.succeeded.all()


def test_it_starts_at_random_takes_restarts_and_is_shorter_in_training():
    attack = attacks.get("APM_3r5", "lisa")
    assert attack.settings == {"iterations": 100, "step": 0.05, "restarts": 5}
    assert attacks.for_training(attack).settings["iterations"] == 30
    with pytest.raises(attacks.AttackError, match="no budget to set"):
        attacks.get("APM_3@0.1", "lisa")
