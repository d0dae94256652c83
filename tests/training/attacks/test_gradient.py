"""The losses that attacks climb, and the loop of sign steps beside advertorch's."""

import pytest
import torch

from arn_purify.models import LisaCnn, LisaCnnConfig
from arn_purify.training import attacks, data
from arn_purify.training.attacks import gradient, pgd
from arn_purify.training.attacks.advertorch_shim import attacks as advertorch
from arn_purify.training.attacks.wrappers import MixedPrecision
from arn_purify.training.learning.classifier import NETWORKS


@pytest.fixture(scope="module")
def digits():
    return data.load("digits-colour")


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return LisaCnn(LisaCnnConfig(10)).eval().requires_grad_(False)


def test_the_margin_is_between_the_label_and_the_best_other_class():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    assert gradient.summed_margin(logits, torch.tensor([0, 2])).item() == pytest.approx((2 - 3) + (5 - 1))


@pytest.mark.parametrize("targeted", [False, True])
def test_the_loop_for_gpus_is_advertorchs(targeted, digits, classifier):
    images, labels = digits.test.batch(slice(0, 8))
    torch.manual_seed(3)
    ours = pgd.linf_pgd(classifier, images, labels, 0.1, 0.03, 7, targeted)
    torch.manual_seed(3)
    theirs = advertorch.LinfPGDAttack(
        classifier, gradient.summed_cross_entropy, eps=0.1, nb_iter=7, eps_iter=0.03, targeted=targeted
    ).perturb(images, labels)
    assert (ours - theirs).abs().max() < 1e-6
    assert 0.05 < (ours - images).abs().max() <= 0.1 + 1e-6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recorded_gradient_is_the_eager_one(digits, classifier):
    images, labels = digits.test.batch(slice(0, 8), "cuda")
    loss = gradient.summed_cross_entropy
    network = NETWORKS["resnet20"]((3, 32, 32), 10).eval().requires_grad_(False).cuda()
    for weights in (1.0, 0.5):  # a recording reads the weights as they are now
        network.linear.weight.data.mul_(weights)
        recorded = gradient.input_gradient(network, images, labels, loss)
        assert isinstance(recorded, gradient._Graph)
        eager = gradient.gradient_of(lambda x: loss(network(x), labels))
        assert torch.allclose(recorded(images), eager(images), rtol=1e-3, atol=1e-5)


def test_a_search_in_bf16_is_judged_in_float32(classifier):
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    called = []
    hook = classifier.register_forward_hook(lambda _module, _given, out: called.append(out.dtype))
    attacks.get("PGD_N", "cifar10")(MixedPrecision(classifier), images, labels, 0)
    hook.remove()
    assert called[-1] == torch.float32
    assert called[-2] == torch.bfloat16
