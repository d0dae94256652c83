"""Attacks on a part of the image: hand-computed places, and nothing changed outside the mask."""

import pytest
import torch
from torch import nn

from arn_purify import models
from arn_purify.training import attacks, data
from arn_purify.training.attacks import patches
from arn_purify.training.learning import classifier
from arn_purify.training.learning.state import ConfigurationError


class Spot(nn.Module):
    """Class 0 while the 2x2 pixels at (3, 5) are bright, class 1 once they are not."""

    def forward(self, x):
        bright = 10 * x[:, :, 3:5, 5:7].mean((1, 2, 3))
        return torch.stack([bright, 7 - bright], 1)


def test_the_rectangle_goes_where_it_hurts_most():
    images = torch.full((3, 1, 10, 12), 0.9)
    masks = patches.rectangle_masks(Spot(), images, torch.zeros(3, dtype=torch.long), (2, 2))
    expected = torch.zeros(10, 12)
    expected[3:5, 5:7] = 1
    assert torch.equal(masks, expected.expand(3, 1, 10, 12))


def test_a_rectangle_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        patches.rectangle_masks(Spot(), torch.rand(1, 1, 8, 8), torch.zeros(1, dtype=torch.long), (9, 2))


def test_occlusion_fools_and_stays_inside_one_rectangle():
    images = torch.full((2, 1, 10, 12), 0.9)
    labels = torch.zeros(2, dtype=torch.long)
    adversarial = patches.rectangular_occlusion(Spot(), images, labels, (2, 2), iterations=5, step=0.1)
    assert (Spot()(adversarial).argmax(1) == 1).all()
    assert ((adversarial != images).flatten(1).sum(1) <= 4).all()
    assert adversarial[0, 0, 3, 5] < 1e-6  # from grey, five steps of .1 down to black


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_stickers_change_nothing_outside_their_mask(number):
    mask = patches.sticker_mask(number, 32, 32)
    assert 0.028 <= float(mask.mean()) <= 0.048
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    adversarial = patches.robust_physical_perturbation(
        Spot(), images, torch.zeros(2, dtype=torch.long), mask, iterations=3, nps_weight=0.1
    )
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert torch.equal(adversarial * (1 - mask), images * (1 - mask))
    with pytest.raises(ValueError, match="no sticker mask 5"):
        patches.sticker_mask(5, 32, 32)


def test_a_sticker_where_it_hurts_fools():
    images, mask = torch.full((2, 1, 10, 12), 0.9), torch.zeros(1, 1, 10, 12)
    mask[..., 3:5, 5:7] = 1
    labels = torch.zeros(2, dtype=torch.long)
    adversarial = patches.robust_physical_perturbation(Spot(), images, labels, mask, iterations=20)
    assert (Spot()(images).argmax(1) == 0).all()
    assert (Spot()(adversarial).argmax(1) == 1).all()


def test_non_printability_by_hand():
    image = torch.tensor([[[[0.0, 0.25], [0.5, 1.0]]]])
    mask = torch.tensor([[[[1.0, 1.0], [0.0, 1.0]]]])
    black_and_white = torch.tensor([[0.0], [1.0]])
    # 0 * 1 + .25 * .75 + (outside) + 1 * 0
    assert float(patches.non_printability(image, mask, black_and_white)) == pytest.approx(0.1875)


@pytest.fixture(scope="module")
def digits():
    dataset = data.load("digits")
    return data.Dataset("digits", dataset.train.every(4), dataset.validation, dataset.test, dataset.class_names)


def test_adversarial_training_makes_a_classifier_robust(digits):
    survived = {}
    adversary = attacks.get("PGD_N@0.1").with_settings(iterations=5, step=0.03)
    for name, chosen in (("ordinary", None), ("robust", adversary)):
        recipe = classifier.ClassifierRecipe(name, epochs=8, batch_size=32, adversary=chosen, ramp=0.3)
        model = classifier.train_classifier(digits, recipe)
        images, labels = digits.test.batch(slice(0, 200))
        survived[name] = float((~attacks.get("PGD_N@0.1")(model, images, labels, 0).succeeded).float().mean())
    assert survived["robust"] > survived["ordinary"] + 0.15


def test_a_classifier_run_goes_on_where_it_was_killed(digits, tmp_path, monkeypatch):
    recipe = classifier.ClassifierRecipe(epochs=2, batch_size=64)
    whole = classifier.train_classifier(digits, recipe, out=tmp_path / "whole")
    saved = classifier.save_state

    def killed_after_the_first_epoch(*args):
        saved(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(classifier, "save_state", killed_after_the_first_epoch)
    with pytest.raises(KeyboardInterrupt):
        classifier.train_classifier(digits, recipe, out=tmp_path / "broken")
    monkeypatch.undo()
    resumed = classifier.train_classifier(digits, recipe, out=tmp_path / "broken")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    with pytest.raises(ConfigurationError, match="another configuration"):
        classifier.train_classifier(digits, classifier.ClassifierRecipe(epochs=3), out=tmp_path / "broken")


def test_doa_goes_on_from_a_classifier(digits):
    start = models.load("mnist-lenet5")
    recipe = classifier.doa()
    model = classifier.train_classifier(
        data.Dataset("digits", digits.train.every(4), digits.validation, digits.test, digits.class_names),
        recipe, initial=start,
    )  # fmt: skip
    moved = sum(
        float((a - b).detach().abs().sum()) for a, b in zip(model.parameters(), start.parameters(), strict=True)
    )
    assert 0 < moved < 50
