"""bf16 keeps what the documents promise, on every architecture that a checkpoint can hold."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import models
from models import ApeG, ApeGConfig, Arn, ArnConfig, Hgd, HgdConfig
from models.precision import multiplies_bf16
from service.engine import Engine, Work
from service.precision import lowered, resolve
from training import attacks, data

EXAMPLES = Path(__file__).parents[2] / "examples"
# Where bf16 is emulated a value goes one level further.
FURTHEST = 4 if multiplies_bf16("cpu") else 5


def adversarial_digits():
    images = [np.asarray(Image.open(EXAMPLES / f"adversarial_{digit}.png")) for digit in range(10)]
    return torch.from_numpy(np.stack(images))[:, None].float() / 255


def levels(images):
    return images.clamp(0, 1).mul(255).round()


def test_the_shipped_purifier_moves_by_few_levels_and_no_label():
    purifier, classifier = models.load("mnist-transparent"), models.load("mnist-lenet5")
    x = adversarial_digits()
    with torch.inference_mode():
        exact, fast = levels(purifier(x)), levels(lowered(purifier)(x))
        assert torch.equal(classifier(exact / 255).argmax(1), classifier(fast / 255).argmax(1))
    apart = (exact - fast).abs()
    assert 0 < apart.max() <= FURTHEST
    assert (apart <= 1).float().mean() > 0.99


@pytest.mark.skipif(
    not (Path(os.environ.get("ARN_DATA_DIR", "data")) / "mnist").is_dir(), reason="mnist is not in ARN_DATA_DIR"
)
@pytest.mark.parametrize("attack", ["none", "PGD_Nx10"])
def test_on_mnist_bf16_keeps_the_labels_and_nearly_every_level(attack):
    purifier, classifier = models.load("mnist-transparent"), models.load("mnist-lenet5").requires_grad_(False)
    x, labels = data.load("mnist").validation.every(2 if attack == "none" else 10).batch(slice(None))
    if attack != "none":
        x = attacks.get(attack)(classifier, x, labels, seed=0).images
    with torch.inference_mode():
        exact, fast = levels(purifier(x)), levels(lowered(purifier)(x))
        kept = classifier(exact / 255).argmax(1) == classifier(fast / 255).argmax(1)
    apart = (exact - fast).abs()
    assert apart.max() <= FURTHEST
    assert (apart <= 1).float().mean() > 0.99
    assert kept.float().mean() >= 0.999


@pytest.mark.parametrize(
    "network",
    [Arn(ArnConfig(channels=3, size=32)), ApeG(ApeGConfig()), Hgd(HgdConfig())],
    ids=lambda network: type(network).__name__,
)
def test_every_network_has_a_copy_in_bf16_with_its_normalisation_folded(network):
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics as training leaves them, not the fresh 0 and 1
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    network.eval().requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    copy = lowered(network)
    x = torch.rand(4, network.config.channels, network.config.size, network.config.size)
    assert copy(x).dtype == torch.float32
    assert (copy(x) - network(x)).abs().max() < 0.05
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in copy.modules())
    assert sum(p.dtype == torch.bfloat16 for p in copy.parameters()) >= len(list(copy.parameters())) / 2
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_the_identity_stays_what_it_is():
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(lowered(models.load("identity"))(x), x)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_engine_computes_in_what_it_says(precision):
    engine = Engine(("mnist-transparent",), ("mnist-lenet5",), "cpu", precision)
    x = adversarial_digits()
    answer = engine.run(Work("mnist-transparent", classify=True), x.numpy())
    with torch.inference_mode():
        apart = (torch.from_numpy(answer.images) - models.load("mnist-transparent")(x)).abs()
    assert engine.precision == precision
    assert apart.max() < (1e-4 if precision == "fp32" else 5 / 255)
    assert answer.probabilities.argmax(1).tolist() == list(range(10))


def test_auto_takes_bf16_only_where_the_processor_multiplies_it(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert resolve("auto", "cpu") == "bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert resolve("auto", "cpu") == "fp32"
    assert resolve("bf16", "cpu") == "bf16"
