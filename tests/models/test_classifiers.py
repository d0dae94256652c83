"""The target classifiers: sizes, features under the logits, input range, checkpoints."""

import pytest
import torch

from arn_purify import models
from arn_purify.models import (
    Card,
    LisaCnn,
    LisaCnnConfig,
    Mlp,
    MlpConfig,
    ResNet,
    ResNet8,
    ResNet8Config,
    ResNetConfig,
    Vgg19,
    Vgg19Config,
    WideResNet,
    WideResNetConfig,
    checkpoint,
)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("module", "config", "millions"),
    [
        (ResNet, ResNetConfig(20), 0.27),
        (ResNet, ResNetConfig(32), 0.46),
        (ResNet, ResNetConfig(110), 1.73),
        (ResNet, ResNetConfig(18), 11.17),
        (WideResNet, WideResNetConfig(28, 10), 36.48),
        (WideResNet, WideResNetConfig(), 145.82),
        (Vgg19, Vgg19Config(), 20.04),
        (LisaCnn, LisaCnnConfig(), 0.73),
    ],
    ids=str,
)
def test_the_networks_have_their_published_sizes(module, config, millions):
    with torch.device("meta"):
        model = module(config)
    assert parameters(model) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.fixture(
    params=[(ResNet, ResNetConfig(8)), (ResNet, ResNetConfig(18)), (WideResNet, WideResNetConfig(10, 1)),
            (Vgg19, Vgg19Config()), (LisaCnn, LisaCnnConfig(10))],
    ids=["resnet8", "resnet18", "wrn10-1", "vgg19", "lisa-cnn"],
)  # fmt: skip
def classifier(request):
    torch.manual_seed(0)
    module, config = request.param
    return module(config).eval()


def test_logits_are_linear_in_the_features(classifier):
    x = torch.rand(3, 3, 32, 32)
    features, logits = classifier.forward_with_features(x)
    assert features.dim() == 2
    assert torch.equal(logits, classifier(x))
    assert torch.equal(classifier.linear(features), logits)
    assert logits.shape == (3, 10)


def test_the_network_normalises_for_itself(classifier):
    """The mean image is what its layers see as zero."""
    seen = []
    classifier.layers.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    classifier(torch.tensor(classifier.mean).reshape(1, 3, 1, 1).expand(2, 3, 32, 32))
    assert seen[0].abs().max() < 1e-6


def test_it_comes_back_from_its_checkpoint(classifier, tmp_path):
    architecture, config, kind = checkpoint.architecture_of(classifier)
    card = Card("x", kind, architecture, config, "cifar10", (3, 32, 32))
    checkpoint.save(classifier, card, tmp_path / "x.safetensors")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(models.load(tmp_path / "x.safetensors")(x), classifier(x))


def test_depths_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="not 51"):
        ResNetConfig(50 + 1)
    with pytest.raises(ValueError, match="not 27"):
        WideResNetConfig(27)


@pytest.mark.parametrize(("module", "config"), [(Mlp, MlpConfig), (ResNet8, ResNet8Config)])
def test_a_grey_classifier_answers_logits_and_comes_back_from_its_checkpoint(module, config, tmp_path):
    torch.manual_seed(0)
    model = module(config()).eval()
    x = torch.rand(3, 1, 28, 28)
    features, logits = model.forward_with_features(x)
    assert logits.shape == (3, 10)
    assert torch.equal(model.linear(features), model(x))
    architecture, fields, kind = checkpoint.architecture_of(model)
    assert kind == "classifier"
    checkpoint.save(model, Card("x", kind, architecture, fields, "mnist", (1, 28, 28)), tmp_path / "x.safetensors")
    assert torch.equal(models.load(tmp_path / "x.safetensors")(x), logits)
