"""Every attack of the registry over a tiny model: range, budget, goal, determinism."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from arn_purify import models
from arn_purify.training import attacks

EXAMPLES = Path(__file__).parents[2] / "examples"


class Linear(nn.Module):
    """Three classes, each the brightness of its own third of an image."""

    def forward(self, x):
        thirds = x.flatten(1)[:, :144].reshape(len(x), 3, 48)
        return 10 * thirds.mean(2)


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(12, 1, 12, 12, generator=generator) * 0.5 + 0.25
    model = Linear()
    return model, images, model(images).argmax(1)


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


def test_an_attack_without_a_step_takes_another_budget():
    assert attacks.at_budget(attacks.get("AA_N"), 0.1).eps == 0.1


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


def test_digits_are_bent_until_the_classifier_errs():
    classifier = models.load("mnist-lenet5").requires_grad_(False)
    paths = [EXAMPLES / f"natural_{digit}.png" for digit in range(10)]
    digits = torch.stack([torch.from_numpy(np.array(Image.open(path), np.float32))[None] / 255 for path in paths])
    attack = attacks.get("STA_N").with_settings(iterations=50, searches=1)
    crafted = attack(classifier, digits, torch.arange(10), seed=0)
    assert crafted.succeeded.sum() >= 8
    assert (crafted.images.flatten(1).amax(1) > 0.5).all()  # nothing black


@pytest.mark.parametrize("name", WITHOUT_A_CODE)
def test_the_same_seed_gives_the_same_images(name, problem):
    attack = attacks.get(name)
    assert torch.equal(attack(*problem, seed=3).images, attack(*problem, seed=3).images)


def test_targets_are_drawn_from_the_other_classes(problem):
    model, images, labels = problem
    seen = []

    def record(classifier, x, targets, settings):
        seen.append(targets)
        return x

    spy = attacks.Attack("spy", "targeted", "linf", 0.1, {}, "", record)
    for seed in range(20):
        spy(model, images, labels, seed)
    targets = torch.stack(seen)
    assert (targets != labels).all()
    assert {0, 1, 2} == set(targets.flatten().tolist())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda x: x + 0.2, "budget"),
        (lambda x: x * 0 - 0.01, "left"),
        (lambda x: x * torch.nan, "finite"),
        (lambda x: x[:1], "finite"),
    ],
)
def test_an_attack_that_cheats_is_caught(broken, message, problem):
    cheat = attacks.Attack("cheat", "untargeted", "linf", 0.1, {}, "", lambda f, x, y, s: broken(x))
    with pytest.raises(attacks.AttackError, match=message):
        cheat(*problem, seed=0)


def test_the_l2_budget_is_checked_in_l2(problem):
    cheat = attacks.Attack("cheat", "untargeted", "l2", 0.5, {}, "", lambda f, x, y, s: x + 0.05)
    with pytest.raises(attacks.AttackError, match="budget"):
        cheat(*problem, seed=0)


def test_names_and_settings_are_strict():
    with pytest.raises(attacks.AttackError, match="no attack 'PGD'"):
        attacks.get("PGD")
    with pytest.raises(attacks.AttackError, match="no setting"):
        attacks.get("PGD_N").with_settings(steps=3)


def test_training_takes_half_the_steps_of_twice_the_size():
    attack = attacks.for_training(attacks.get("PGD_N"))
    assert dict(attack.settings) == {"iterations": 20, "step": 0.02}
    assert attack.eps == 0.3
    for name in ("PGD_N", "PGDM_T"):
        assert attacks.for_training(attacks.get(name, "cifar10")).settings["iterations"] == 10
    for name in ("PGD_Nx1", "PGD_Nx100"):  # as many as its name says
        for dataset in ("mnist", "cifar10"):
            assert attacks.for_training(attacks.get(name, dataset)) == attacks.get(name, dataset)


def test_variants_change_the_budget_and_the_iterations_and_are_named_so():
    attack = attacks.get("PGD_N@0.2x100")
    assert (attack.name, attack.eps, attack.settings["iterations"]) == ("PGD_N@0.2x100", 0.2, 100)
    assert attacks.get("AA_N_rand@0.1").eps == 0.1
    attack = attacks.get("PGDM_T@0.2x100r10")
    assert (attack.name, attack.eps, attack.goal) == ("PGDM_T@0.2x100r10", 0.2, "targeted")
    assert dict(attack.settings) == {"iterations": 100, "step": 0.01, "restarts": 10}
    for impossible in ("CW_N@0.2", "AA_Nx3", "PGD_N@", "PGD_N@0.1@0.2", "PGD_Nr0", "AA_Nr2"):
        with pytest.raises(attacks.AttackError):
            attacks.get(impossible)


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


def test_budgets_follow_the_data_set():
    assert attacks.get("PGD_N_eps2", "mnist").eps == 0.4
    assert attacks.get("PGD_N", "folder").eps == pytest.approx(8 / 255)


def test_restarts_keep_what_any_start_found(problem):
    """Each start wins a third of the images, and none is attacked again once it was won."""
    model, images, labels = problem
    rounds = []

    def perturb(classifier, x, y, settings):
        rounds.append(len(x))
        out = x.clone()
        keep = len(x) - -(-len(images) // 3)
        out[keep:] = attacks.get("PGD_N")(classifier, x[keep:], y[keep:], 0).images
        return out

    attack = dataclasses.replace(attacks.get("PGD_Nr5"), perturb=perturb)
    assert attack(model, images, labels, seed=0).succeeded.all()
    assert rounds == [12, 8, 4]
    crafted = attacks.get("PGD_Nx2r3")(model, images, labels, seed=0)
    once = attacks.get("PGD_Nx2")(model, images, labels, seed=0)
    assert crafted.succeeded.sum() >= once.succeeded.sum()


def test_targeted_restarts_never_give_back_an_image_that_was_wrong_already(problem):
    """A third class counts as an error, too: what comes after it must not undo it."""
    model, images, labels = problem
    misled = attacks.get("PGD_N")(model, images, labels, seed=0).images
    rounds = []

    def perturb(classifier, x, targets, settings):
        rounds.append(len(x))
        return misled if len(rounds) == 1 else x.clone()

    crafted = dataclasses.replace(attacks.get("PGD_Tr3"), perturb=perturb)(model, images, labels, seed=0)
    assert rounds[1] > 0, "not all reached the goal at once"
    assert (model(crafted.images).argmax(1) != labels).all()


def test_steps_of_a_variant_reach_across_its_budget():
    assert attacks.get("PGD_Nx1").settings["step"] == 0.6
    assert attacks.get("PGD_T@0.5").settings["step"] == 0.025
    assert attacks.get("PGD_N@0.2").settings["step"] == 0.01
    assert attacks.get("PGD_N@0.3x40").settings == attacks.get("PGD_N").settings


def test_the_margin_is_between_the_label_and_the_best_other_class():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    assert attacks._summed_margin(logits, torch.tensor([0, 2])).item() == pytest.approx((2 - 3) + (5 - 1))


def test_matching_features_of_another_class_misleads_an_ordinary_purifier():
    digits = torch.stack(
        [
            torch.from_numpy(np.array(Image.open(EXAMPLES / f"natural_{d}.png"), np.float32))[None] / 255
            for d in range(10)
        ]
    )
    g, f = models.load("mnist-transparent"), models.load("mnist-lenet5").requires_grad_(False)
    attack = attacks.get("MATCH_N")
    crafted = attack(nn.Sequential(g, f), digits, torch.arange(10), seed=0)
    assert crafted.succeeded.sum() >= 5
    codes = g.encode(digits).flatten(1)
    moved = torch.cdist(g.encode(crafted.images).flatten(1), codes)
    assert (
        moved.min(1).values < torch.linalg.vector_norm(codes - g.encode(crafted.images).flatten(1), dim=1)
    ).sum() >= 5
    with pytest.raises(attacks.AttackError, match="has a code"):
        attack(f, digits, torch.arange(10), seed=0)
