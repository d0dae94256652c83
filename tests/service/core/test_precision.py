"""bf16 keeps what the documents promise, on every architecture that a checkpoint can hold."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from arn_purify import models
from arn_purify.models.inference import multiplies_bf16
from arn_purify.service.core.engine import Engine, Work
from arn_purify.service.core.precision import resolve, to_bf16
from arn_purify.training import attacks, data
from tests.networks import NETWORKS

EXAMPLES = Path(__file__).parents[3] / "examples"
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
        exact, fast = levels(purifier(x)), levels(to_bf16(purifier)(x))
        assert torch.equal(classifier(exact / 255).argmax(1), classifier(fast / 255).argmax(1))
    apart = (exact - fast).abs()
    assert 0 < apart.max() <= FURTHEST
    assert (apart <= 1).float().mean() > 0.99


def lowering(name, classifier, stride, attack):
    """Of every ``stride``-th validation image: how many levels bf16 is off, and where it keeps the label."""
    dataset = name.partition("-")[0]
    if not (Path(os.environ.get("ARN_DATA_DIR", "data")) / dataset).is_dir():
        pytest.skip(f"{dataset} is not in ARN_DATA_DIR")
    purifier, classifier = models.load(name), models.load(classifier).requires_grad_(False)
    x, labels = data.load(dataset).validation.every(stride).batch(slice(None))
    if attack != "none":
        x = attacks.get(attack, dataset)(classifier, x, labels, seed=0).images
    with torch.inference_mode():
        exact, fast = levels(purifier(x)), levels(to_bf16(purifier)(x))
        kept = classifier(exact / 255).argmax(1) == classifier(fast / 255).argmax(1)
    return (exact - fast).abs(), kept


@pytest.mark.parametrize(
    ("name", "classifier", "stride", "attack"),
    [
        ("mnist-transparent", "mnist-lenet5", 2, "none"),
        ("mnist-transparent", "mnist-lenet5", 10, "PGD_Nx10"),
        ("mnist-hardened", "mnist-lenet5", 10, "none"),
        ("mnist-hardened", "mnist-lenet5", 20, "PGD_Nx10"),
        ("lisa-track-transparent", "lisa-track-cnn", 2, "none"),
        ("lisa-track-transparent", "lisa-track-cnn", 20, "AP_1x10"),
        ("cifar10-transparent", "cifar10-airbench-40", 10, "none"),
        ("cifar10-transparent", "cifar10-airbench-40", 20, "PGD_Nx10"),
    ],
)
def test_bf16_keeps_the_labels_and_nearly_every_level(name, classifier, stride, attack):
    apart, kept = lowering(name, classifier, stride, attack)
    assert apart.max() <= FURTHEST
    assert (apart <= 1).float().mean() > 0.99
    assert kept.float().mean() >= (0.98 if name.startswith("cifar10") else 0.999)  # of photographs f is less sure


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_a_copy_in_bf16_with_its_normalisation_folded(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics as training leaves them, not the fresh 0 and 1
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    network.eval().requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    copy = to_bf16(network)
    x = torch.rand(4, network.config.channels, network.config.size, network.config.size)
    assert copy(x).dtype == torch.float32
    assert (copy(x) - network(x)).abs().max() < 0.05
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in copy.modules())
    low = sum(p.numel() for p in copy.parameters() if p.dtype == torch.bfloat16)
    assert low > sum(p.numel() for p in copy.parameters()) / 2
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_the_identity_stays_what_it_is():
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(to_bf16(models.load("identity"))(x), x)


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
