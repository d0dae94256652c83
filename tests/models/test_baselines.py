"""The purifiers that ARN is compared with: shapes, ranges, gradients, sizes, checkpoints."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from arn_purify import models
from arn_purify.models import ApeG, ApeGConfig, ApeGDiscriminator, Card, Hgd, HgdConfig, checkpoint


@pytest.fixture(params=[(ApeG, ApeGConfig), (Hgd, HgdConfig)], ids=["ape-g", "hgd"])
def purifier(request):
    module, config = request.param
    torch.manual_seed(0)
    return module(config()).eval()


def test_a_baseline_purifies_within_range_and_passes_the_gradient_on(purifier):
    x = torch.rand(3, 1, 28, 28, requires_grad=True)
    out = purifier(x)
    assert out.shape == x.shape
    assert 0 <= out.min() <= out.max() <= 1
    out.square().sum().backward()
    assert (x.grad.flatten(1).abs().amax(1) > 0).all()


def test_a_baseline_is_about_the_size_of_the_compact_arn(purifier):
    assert sum(p.numel() for p in purifier.parameters()) < 0.3e6
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        purifier(torch.rand(1, 1, 28, 28))
    assert 15e6 < counter.get_total_flops() < 30e6


@pytest.mark.parametrize("purifier", [ApeG(ApeGConfig.preset(3, 32)), Hgd(HgdConfig.preset(3, 32))])
def test_a_baseline_for_colour_is_about_the_size_of_the_colour_arn(purifier):
    assert sum(p.numel() for p in purifier.parameters()) <= 4e6
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        purifier.eval()(torch.rand(1, 3, 32, 32))
    assert 120e6 < counter.get_total_flops() <= 150e6


def test_a_baseline_comes_back_from_its_checkpoint(purifier, tmp_path):
    architecture, config, kind = checkpoint.architecture_of(purifier)
    card = Card("x", kind, architecture, config, "mnist", (1, 28, 28))
    checkpoint.save(purifier, card, tmp_path / "x.safetensors")
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(models.load(tmp_path / "x.safetensors")(x), purifier(x))


def test_colour_and_other_sizes():
    assert Hgd(HgdConfig(3, 32)).eval()(torch.rand(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    assert ApeGDiscriminator(ApeGConfig(3, 32))(torch.rand(2, 3, 32, 32)).shape == (2,)
    for config in (ApeGConfig, HgdConfig):
        with pytest.raises(ValueError, match="multiple of 4"):
            config(1, 30)
