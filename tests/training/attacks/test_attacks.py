"""Every attack over a tiny model: range, budget, goal, determinism."""

import logging

import pytest
import torch
from torch import nn

from arn_purify import models
from arn_purify.training import attacks
from arn_purify.training.report.figures import example_digits

from .conftest import Linear

WITHOUT_A_CODE = [name for name in attacks.ATTACKS if name != "MATCH_N"]


@pytest.mark.parametrize("name", WITHOUT_A_CODE)
def test_every_attack_stays_in_range_and_budget_and_succeeds(name, problem):
    model, images, labels = problem
    attack = attacks.get(name)
    crafted = attack(model, images, labels, seed=0)
    assert crafted.images.shape == images.shape
    assert crafted.images.min() >= 0
    assert crafted.images.max() <= 1
    # Noise offers nothing to bend, two pixels at a time may end before a third of the image is won, a patch is small.
    assert crafted.succeeded.all() or name[:2] in ("ST", "JS", "AP", "RO")
    assert (model(crafted.images).argmax(1) != labels)[crafted.succeeded].all()
    if attack.eps is None and attack.norm != "patch":
        assert torch.equal(crafted.images[~crafted.succeeded], images[~crafted.succeeded])
    elif attack.norm == "linf":  # the Wasserstein budget has tests of its own
        assert (crafted.images - images).abs().max() <= attack.eps + attacks.BUDGET_TOLERANCE


def test_jsma_raises_the_pixels_of_its_goal():
    class Columns(nn.Module):
        """Three classes, each a column of two pixels against all the others."""

        def forward(self, x):
            return 4 * x.sum((1, 2)) - 2 * x.sum((1, 2, 3))[:, None]

    images = torch.full((3, 1, 2, 3), 0.2)
    images[..., 0] = 0.6
    jsma = attacks.get("JSMA_T").with_settings(gamma=1.0)
    crafted = jsma(Columns(), images, torch.zeros(3, dtype=torch.long), seed=0)
    assert crafted.succeeded.all()
    assert (crafted.images[..., 0] == images[..., 0]).all(), "its own pixels would be the wrong way"


@pytest.mark.parametrize("name", WITHOUT_A_CODE)
def test_every_attack_takes_colour_as_it_lies_in_memory_in_training(name):
    """Channels last, images and weights alike; searches are cut short where that can be said."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    images = (torch.rand(3, 3, 16, 16) * 0.5 + 0.25).contiguous(memory_format=torch.channels_last)
    attack = attacks.get(name, "cifar10")
    short = {"iterations": 3, "searches": 2} if name[:2] in ("CW", "ST") else {}
    crafted = attack.with_settings(**short)(model, images, model(images).argmax(1), seed=0)
    assert crafted.images.shape == images.shape


def test_digits_are_bent_until_they_are_misclassified():
    classifier = models.load("mnist-lenet5").requires_grad_(False)
    images, _ = example_digits()
    attack = attacks.get("STA_N").with_settings(iterations=50, searches=1)
    crafted = attack(classifier, images, torch.arange(10), seed=0)
    assert crafted.succeeded.sum() >= 8
    assert (crafted.images.flatten(1).amax(1) > 0.5).all()  # nothing black


@pytest.mark.parametrize("name", WITHOUT_A_CODE)
def test_the_same_seed_gives_the_same_images(name, problem):
    attack = attacks.get(name)
    assert torch.equal(attack(*problem, seed=3).images, attack(*problem, seed=3).images)


def test_what_autoattack_warns_of_comes_back_and_its_logger_is_left_alone(problem):
    _, images, labels = problem

    class Flat(Linear):
        def forward(self, x):
            return super().forward((x * 2).round() / 2)

    logger = logging.getLogger("auto-attack")
    before = (logger.level, logger.propagate, list(logger.handlers))
    crafted = attacks.get("AA_N")(Flat(), images, labels, seed=0)
    assert any("Square Attack has decreased" in flag for flag in crafted.flags)
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_matching_features_of_another_class_misleads_an_ordinary_purifier():
    images, _ = example_digits()
    g, f = models.load("mnist-transparent"), models.load("mnist-lenet5").requires_grad_(False)
    attack = attacks.get("MATCH_N")
    crafted = attack(nn.Sequential(g, f), images, torch.arange(10), seed=0)
    assert crafted.succeeded.sum() >= 5
    codes = g.encode(images).flatten(1)
    moved = torch.cdist(g.encode(crafted.images).flatten(1), codes)
    assert (
        moved.min(1).values < torch.linalg.vector_norm(codes - g.encode(crafted.images).flatten(1), dim=1)
    ).sum() >= 5
    with pytest.raises(attacks.AttackError, match="has a code"):
        attack(f, images, torch.arange(10), seed=0)
