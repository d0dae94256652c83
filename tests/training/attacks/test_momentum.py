"""MI-FGSM beside advertorch's, and DI-FGSM's random sizes."""

import pytest
import torch

from arn_purify.models import LisaCnn, LisaCnnConfig
from arn_purify.training import attacks, data
from arn_purify.training.attacks import gradient
from arn_purify.training.attacks.advertorch_shim import attacks as advertorch


@pytest.fixture(scope="module")
def batch():
    images, labels = data.load("digits-colour").test.batch(slice(0, 8))
    return images.contiguous(), labels  # as advertorch wants them


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return LisaCnn(LisaCnnConfig(10)).eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["MI_FGSM", "MI_FGSM@0.1x7"])
def test_mi_fgsm_is_advertorchs(name, batch, classifier):
    attack = attacks.get(name, "photos")
    settings = attack.settings
    theirs = advertorch.MomentumIterativeAttack(
        classifier, gradient.summed_cross_entropy, eps=attack.eps, nb_iter=settings["iterations"],
        decay_factor=settings["decay"], eps_iter=settings["step"],
    ).perturb(*batch)  # fmt: skip
    ours = attack(classifier, *batch, seed=0).images
    assert (ours - theirs).abs().max() < 1e-6
    assert (ours - batch[0]).abs().max() > attack.eps / 2


def test_the_budget_is_that_of_the_paper_and_its_steps_make_it_up():
    for name in ("MI_FGSM", "DI_FGSM"):
        attack = attacks.get(name, "photos")
        assert (attack.eps, attack.goal, attack.norm) == (8 / 255, "untargeted", "linf")
        assert (attack.settings["iterations"], attack.settings["decay"]) == (10, 1)
        assert attack.settings["step"] == pytest.approx(0.8 / 255)
    assert attacks.get("MI_FGSM@0.1x5").settings["step"] == pytest.approx(0.02)
    assert attacks.at_budget(attacks.get("MI_FGSM", "photos"), 0.1).settings["step"] == pytest.approx(0.01)


def test_momentum_counts_directions_and_not_lengths():
    pieces = iter([torch.full((1, 1, 1, 2), 5.0), torch.tensor([[[[-0.02, 0.0]]]])])
    step = gradient.with_momentum(lambda x: next(pieces), decay=0.5)
    assert step(torch.zeros(1)).flatten().tolist() == [1, 1]
    assert step(torch.zeros(1)).flatten().tolist() == [-1.5, 0.5]


def test_di_fgsm_shrinks_about_half_the_time_and_keeps_the_size(batch, classifier):
    attack = attacks.get("DI_FGSM", "photos")
    torch.manual_seed(0)
    white = torch.ones(1, 3, 40, 50)
    seen = [attack._diverse(white) for _ in range(200)]
    assert {tuple(x.shape) for x in seen} == {(1, 3, 40, 50)}
    shares = [float(x.mean()) for x in seen]
    assert 70 < sum(share < 1 for share in shares) < 130
    assert 0.9**2 - 0.02 < min(shares) < 0.85
    assert len({float(x[0, 0, 0].sum()) for x in seen}) > 1  # not always in the corner
    found = attack(classifier, *batch, seed=0).images
    assert torch.equal(found, attack(classifier, *batch, seed=0).images)
    assert not torch.equal(found, attacks.get("MI_FGSM", "photos")(classifier, *batch, seed=0).images)
