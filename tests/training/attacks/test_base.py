"""What every attack shares: targets, restarts, and the checks of range and budget."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from arn_purify.training import attacks


@dataclasses.dataclass(frozen=True)
class Scripted(attacks.Attack):
    """An attack that does what a function says."""

    script: Callable[[nn.Module, Tensor, Tensor], Tensor] = dataclasses.field(kw_only=True)

    def perturb(self, classifier, images, labels):
        return self.script(classifier, images, labels)


def scripted(script, goal="untargeted", norm="linf", eps=0.1, **settings):
    return Scripted("scripted", goal, norm, eps, settings, "", script=script)


def test_targets_are_drawn_from_the_other_classes(problem):
    model, images, labels = problem
    seen = []

    def record(classifier, x, targets):
        seen.append(targets)
        return x

    spy = scripted(record, goal="targeted")
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
    cheat = scripted(lambda f, x, y: broken(x))
    with pytest.raises(attacks.AttackError, match=message):
        cheat(*problem, seed=0)


def test_the_l2_budget_is_checked_in_l2(problem):
    cheat = scripted(lambda f, x, y: x + 0.05, norm="l2", eps=0.5)
    with pytest.raises(attacks.AttackError, match="budget"):
        cheat(*problem, seed=0)


def test_restarts_keep_what_any_start_found(problem):
    """Each start wins a third of the images, and none is attacked again once it was won."""
    model, images, labels = problem
    rounds = []

    def perturb(classifier, x, y):
        rounds.append(len(x))
        out = x.clone()
        keep = len(x) - -(-len(images) // 3)
        out[keep:] = attacks.get("PGD_N")(classifier, x[keep:], y[keep:], 0).images
        return out

    attack = scripted(perturb, eps=0.3, restarts=5)
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

    def perturb(classifier, x, targets):
        rounds.append(len(x))
        return misled if len(rounds) == 1 else x.clone()

    crafted = scripted(perturb, goal="targeted", eps=0.3, restarts=3)(model, images, labels, seed=0)
    assert rounds[1] > 0, "not all reached the goal at once"
    assert (model(crafted.images).argmax(1) != labels).all()
