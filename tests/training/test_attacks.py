"""Every attack of the registry over a tiny model: range, budget, goal, determinism."""

import pytest
import torch
from torch import nn

from training import attacks


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


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_every_attack_stays_in_range_and_budget_and_succeeds(name, problem):
    model, images, labels = problem
    attack = attacks.get(name)
    crafted = attack(model, images, labels, seed=0)
    assert crafted.images.shape == images.shape
    assert crafted.images.min() >= 0
    assert crafted.images.max() <= 1
    assert crafted.succeeded.all()
    assert (model(crafted.images).argmax(1) != labels).all()
    if attack.eps is not None:
        assert (crafted.images - images).abs().max() <= attack.eps + attacks.BUDGET_TOLERANCE


@pytest.mark.parametrize("name", attacks.ATTACKS)
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


def test_budgets_follow_the_data_set():
    assert attacks.get("PGD_N_eps2", "mnist").eps == 0.4
    assert attacks.get("PGD_N", "folder").eps == pytest.approx(8 / 255)
