import pytest
import torch
from torch import nn

from arn_purify.models import Arn, ArnConfig, AttackDiscriminator
from arn_purify.models import arn as arn_module

REACH = ArnConfig.preset("photo", 3, 64).parts.reach


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    arn = Arn(ArnConfig.preset("photo", 3, 64)).eval()
    for parameter in arn.parameters():  # as if it had learned something, so that every layer matters
        nn.init.normal_(parameter, 0, 0.05)
    return arn


def test_it_is_the_identity_until_it_has_learned_something():
    x = torch.rand(2, 3, 64, 48)
    assert torch.equal(Arn(ArnConfig.preset("photo", 3, 64)).eval()(x), x)


@pytest.mark.parametrize("size", [(32, 32), (33, 41), (224, 160)])
@torch.no_grad()
def test_any_size_is_taken(network, size):
    x = torch.rand(1, 3, *size)
    purified = network(x)
    assert purified.shape == x.shape
    assert purified.min() >= 0
    assert purified.max() <= 1
    assert not torch.equal(purified, x)


@torch.no_grad()
def test_a_pixel_depends_on_none_further_away_than_the_reach(network):
    x = torch.rand(1, 3, 8, 4 * REACH)
    changed = x.clone()
    changed[..., : 2 * REACH] = torch.rand(1, 3, 8, 2 * REACH)
    near, far = (network(x) != network(changed)).any(1).split(3 * REACH, 2)
    assert near[..., 2 * REACH :].any()
    assert not far.any()


@pytest.mark.parametrize("size", [(300, 217), (128, 256), (129, 450)])
@torch.no_grad()
def test_tiles_give_the_bits_of_one_piece(network, size, monkeypatch):
    x = torch.rand(2, 3, *size)
    whole = network(x)
    monkeypatch.setattr(arn_module, "TILE", 128)
    assert torch.equal(network(x), whole)


def test_the_discriminator_takes_the_codes_of_any_crop(network):
    logits = AttackDiscriminator(network.config, 5)(network.encode(torch.rand(2, 3, 96, 32)))
    assert logits.shape == (2, 5)


def test_gradients_reach_the_image_through_the_whole_network(network):
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x).sum(), x)
    assert gradient.isfinite().all()
    assert (gradient != 1).any()
