"""The networks: shapes, ranges, gradients, sizes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from models import Arn, ArnConfig, AttackDiscriminator, ImageDiscriminator
from models.folding import folded


@pytest.fixture(params=["compact", "released"])
def config(request):
    return ArnConfig(request.param)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_purify_is_decode_after_encode_within_range(config):
    model = Arn(config).eval()
    x = torch.rand(2, 1, 28, 28)
    z = model.encode(x)
    assert z.shape == (2, *config.code_shape)
    assert torch.equal(model(x), model.decode(z))
    assert model(x).shape == x.shape
    assert 0 <= model(x).min() <= model(x).max() <= 1
    assert torch.equal(model.purify(x), model(x)), "deterministic in eval mode"
    mean, log_variance = model.encode_distribution(x)
    assert torch.equal(mean, z)
    assert log_variance.shape == z.shape


def test_the_input_gradient_is_not_zero(config):
    x = torch.rand(3, 1, 28, 28, requires_grad=True)
    Arn(config).eval()(x).square().sum().backward()
    assert (x.grad.flatten(1).abs().amax(1) > 0).all()


def test_the_compact_network_is_small():
    model = Arn(ArnConfig()).eval()
    assert parameters(model) <= 1e6
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.rand(1, 1, 28, 28))
    assert counter.get_total_flops() <= 25e6


def test_the_released_network_is_the_authors():
    with torch.device("meta"):
        model = Arn(ArnConfig("released"))
    assert parameters(model) == 121_921_027
    assert parameters(model) - parameters(model.encoder.log_variance) == pytest.approx(88.4e6, rel=1e-3)


def test_any_multiple_of_four_fits_the_compact_network():
    model = Arn(ArnConfig(channels=3, size=32)).eval()
    assert model(torch.rand(1, 3, 40, 24)).shape == (1, 3, 40, 24)


def test_the_discriminators_answer_one_logit_a_domain_and_one_an_image(config):
    assert AttackDiscriminator(config, 3)(torch.rand(4, *config.code_shape)).shape == (4, 3)
    assert ImageDiscriminator(config)(torch.rand(4, 1, 28, 28)).shape == (4,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "huge"}, "unknown architecture"),
        ({"architecture": "released", "size": 32}, "28x28"),
        ({"size": 30}, "multiple of 4"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ArnConfig(**arguments)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"expected \(N, 1, H, W\)"):
        Arn(ArnConfig())(torch.rand(1, 3, 28, 28))


def test_one_line_purifies():
    assert models.purify(torch.rand(4, 1, 28, 28)).shape == (4, 1, 28, 28)
    assert {"mnist-lenet5", "mnist-transparent"} <= set(models.available())


def test_folding_batch_normalisation_changes_nothing(config):
    torch.manual_seed(0)
    model = Arn(config).train()
    model(torch.rand(8, 1, 28, 28))
    model.eval()
    without = folded(model)
    assert not [m for m in without.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    x = torch.rand(4, 1, 28, 28)
    assert torch.allclose(without(x), model(x), atol=1e-5)
