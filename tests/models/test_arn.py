"""The networks: shapes, ranges, gradients, sizes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from arn_purify.models import Arn, ArnConfig, AttackDiscriminator, ImageDiscriminator
from arn_purify.models.inference import folded

from ..networks import THIN_RELEASED


@pytest.fixture(params=["compact", "released", "colour", "skips"])
def config(request):
    if request.param == "released":
        return THIN_RELEASED
    return ArnConfig.preset(request.param, *((3, 32) if request.param in ("colour", "skips") else (1, 28)))


def images(config, count):
    return torch.rand(count, config.channels, config.size, config.size)


def trained_a_little(model):
    """The network after a step, for ``skips`` starts as the identity."""
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    x = images(model.config, 4)
    (model(x) - x.flip(0)).square().mean().backward()
    optimiser.step()
    return model.eval()


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_purify_is_decode_after_encode_within_range(config):
    model = trained_a_little(Arn(config))
    x = images(config, 2)
    z = model.encode(x)
    assert z.shape == (2, *config.code_shape)
    assert torch.equal(model(x), model.decode(z, x))
    assert model(x).shape == x.shape
    assert 0 <= model(x).min() <= model(x).max() <= 1
    assert torch.equal(model.purify(x), model(x)), "deterministic in eval mode"
    mean, log_variance = model.encode_distribution(x)
    assert torch.equal(mean, z)
    assert log_variance.shape == z.shape


def test_an_empty_batch_and_other_precisions_are_answered(config):
    model = Arn(config).eval()
    assert model(images(config, 0)).shape == (0, config.channels, config.size, config.size)
    with torch.no_grad():
        x = images(config, 2)
        assert torch.allclose(model.double()(x.double()).float(), model.float()(x), atol=1e-5)


def test_the_input_gradient_is_not_zero(config):
    x = images(config, 3).requires_grad_(True)
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
    assert model.config.code_shape == (2048, 1, 1)
    assert parameters(model) - parameters(model.encoder.log_variance) == pytest.approx(88.4e6, rel=1e-3)


@pytest.mark.parametrize("architecture", ["colour", "skips"])
def test_the_colour_networks_are_within_their_budget(architecture):
    model = Arn(ArnConfig.preset(architecture, 3, 32)).eval()
    assert parameters(model) <= 4e6
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.rand(1, 3, 32, 32))
    assert counter.get_total_flops() <= 150e6


@pytest.mark.parametrize("architecture", ["compact", "colour", "skips"])
def test_images_of_any_size_are_padded_and_cropped_back(architecture):
    model = trained_a_little(Arn(ArnConfig.preset(architecture, 3, 32)))
    for height, width in ((32, 32), (41, 26), (1, 3)):
        x = torch.rand(2, 3, height, width)
        purified = model(x)
        assert purified.shape == x.shape
        padded = torch.nn.functional.pad(x, (0, -width % 4, 0, -height % 4), mode="replicate")
        assert torch.equal(purified, model(padded)[..., :height, :width])


def test_what_the_strict_decoder_knows_of_an_image_is_in_the_code():
    """Another image beside the same code changes nothing; with skips it is the image that is added to."""
    z, x = torch.rand(1, 48, 16, 16), torch.rand(2, 1, 3, 32, 32)
    strict = trained_a_little(Arn(ArnConfig.preset("colour", 3, 32)))
    assert torch.equal(strict.decode(z, x[0]), strict.decode(z, x[1]))
    residual = Arn(ArnConfig.preset("skips", 3, 32)).eval()
    assert torch.allclose(residual.decode(residual.encode(x[0]), x[0]), x[0], atol=1e-6)


def test_the_code_of_the_network_with_skips_holds_every_skip():
    """Nothing but the code and the image itself reaches G, and every channel of the code does."""
    model = trained_a_little(Arn(ArnConfig.preset("skips", 3, 32)))
    x = torch.rand(2, 3, 32, 32) * 0.5 + 0.25
    z = model.encode(x).detach().requires_grad_(True)
    model.decode(z, x).square().sum().backward()
    assert (z.grad.abs().amax((0, 2, 3)) > 0).all()


def test_the_discriminators_answer_one_logit_a_domain_and_one_an_image(config):
    assert AttackDiscriminator(config, 3)(torch.rand(4, *config.code_shape)).shape == (4, 3)
    assert ImageDiscriminator(config)(images(config, 4)).shape == (4,)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"expected \(N, 1, H, W\)"):
        Arn(ArnConfig())(torch.rand(1, 3, 28, 28))


def test_folding_batch_normalisation_changes_nothing(config):
    torch.manual_seed(0)
    model = Arn(config).train()
    model(images(config, 8))
    model.eval()
    without = folded(model)
    assert not [m for m in without.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    x = images(config, 4)
    assert torch.allclose(without(x), model(x), atol=1e-5)
