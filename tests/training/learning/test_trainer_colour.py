"""Colour: every network trains, runs stop in time and resume to the same weights, budgets and surrogates take turns."""

import dataclasses
import json

import pytest
import torch

from arn_purify.models import ArnConfig, LisaCnn, LisaCnnConfig
from arn_purify.training import attacks, data, deadline
from arn_purify.training.learning import recipes
from arn_purify.training.learning import trainer as train
from arn_purify.training.learning.classifier import CLASSIFIER_RECIPES, NETWORKS, error_rate, natural, train_classifier
from arn_purify.training.learning.config import Classifiers, RunOptions, TrainConfig


@pytest.fixture(scope="module")
def digits():
    whole = data.load("digits-colour")
    return dataclasses.replace(whole, train=whole.train.every(20), validation=whole.validation.every(20))


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return LisaCnn(LisaCnnConfig(10)).eval().requires_grad_(False)


@pytest.mark.parametrize("name", CLASSIFIER_RECIPES)
@pytest.mark.parametrize("arch", NETWORKS)
def test_every_network_has_every_recipe(arch, name):
    grey = dict.fromkeys(("lenet5", "mlp", "resnet8"), "mnist")
    dataset = {**grey, "lisa-cnn": "lisa"}.get(arch, "cifar10")
    recipe = CLASSIFIER_RECIPES[name](arch, dataset)
    assert recipe.flip == (dataset == "cifar10"), "digits and signs read one way"
    assert (recipe.adversary is None) == (name == "natural")
    if name == "doa-9x5":
        assert (recipe.adversary.settings["rows"], recipe.adversary.settings["columns"]) == (9, 5)


def test_a_colour_classifier_that_is_out_of_time_resumes(digits, tmp_path, monkeypatch):
    recipe = dataclasses.replace(natural("resnet20", "cifar10"), epochs=2, batch_size=32)
    whole = train_classifier(digits, recipe, arch="resnet20", out=tmp_path / "whole")
    out = tmp_path / "broken"
    monkeypatch.setattr("arn_purify.training.learning.classifier.is_near", lambda _: out.exists())
    with pytest.raises(deadline.OutOfTime, match="1 of 2 epochs"):
        train_classifier(digits, recipe, arch="resnet20", out=out)
    monkeypatch.undo()
    resumed = train_classifier(digits, recipe, arch="resnet20", out=out)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    rows = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("whole", "broken")
    ]
    assert rows[0] == rows[1]
    assert [row["epoch"] for row in rows[0]] == [1, 2]
    assert rows[0][-1]["error/none"] == error_rate(whole, digits.validation)


class Still(attacks.Attack):
    """Asks the classifier and changes nothing."""

    def perturb(self, classifier, images, labels):
        classifier(images)
        return images


def test_crafting_does_not_move_the_statistics_of_batchnorm(digits, monkeypatch):
    """An adversary of no iterations leaves the weights of ordinary training."""
    recipe = dataclasses.replace(natural("resnet20", "cifar10"), epochs=1, batch_size=32)
    still = Still("still", "untargeted", "linf", 0.1, {}, "")
    plain = train_classifier(digits, recipe, arch="resnet20")
    attacked = train_classifier(digits, dataclasses.replace(recipe, adversary=still), arch="resnet20")
    assert all(
        torch.equal(a, b) for a, b in zip(plain.state_dict().values(), attacked.state_dict().values(), strict=True)
    )


def trainer(digits, classifier, out, seen=("PGD_N", "PGD_T"), arch="colour", surrogate=None, **changes):
    recipe = dataclasses.replace(recipes.cifar10(), epochs=2, batch_size=32, **changes)
    chosen = tuple(attacks.get(name, "cifar10").with_settings(iterations=2) for name in seen)
    network = dataclasses.replace(ArnConfig.preset(arch, 3, 32), width=8)
    config = TrainConfig(network, recipe, chosen, mixed_precision=False)
    return train.Trainer(
        config, digits, Classifiers(classifier, "f", surrogate=surrogate), RunOptions(out, save_seconds=1e9)
    )


def test_a_run_that_is_out_of_time_resumes_to_the_weights_of_an_unbroken_one(digits, classifier, tmp_path):
    whole = trainer(digits, classifier, tmp_path / "whole").fit()
    deadline.set_deadline(0)
    try:
        for steps in (1, 2, 3):
            with pytest.raises(deadline.OutOfTime, match=f"{steps} of 4 steps"):
                trainer(digits, classifier, tmp_path / "broken").fit()
    finally:
        deadline.set_deadline(None)
    resumed = trainer(digits, classifier, tmp_path / "broken").fit()
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_budgets_are_drawn_a_batch_and_every_other_one_is_crafted_against_the_surrogate(
    digits, classifier, tmp_path, monkeypatch
):
    second, seen = LisaCnn(LisaCnnConfig(10)).eval().requires_grad_(False), []
    crafting = attacks.Attack.__call__

    def watched(self, target, images, labels, seed):
        seen.append((attacks.in_fp32(target), self.eps, self.settings["step"] / self.eps))
        return crafting(self, target, images, labels, seed)

    monkeypatch.setattr(attacks.Attack, "__call__", watched)
    budgets = (2 / 255, 12 / 255)
    run = trainer(digits, classifier, tmp_path, ("PGD_N",), budgets=budgets, surrogate=(second, "s"))
    run.fit()
    crafted = [call for call in seen if call[1] != 8 / 255]  # but for the validation set
    assert [call[0] is second for call in crafted] == [False, True, False, True]
    assert len({call[1] for call in crafted}) == 4
    assert all(budgets[0] <= call[1] <= budgets[1] for call in crafted)
    assert all(call[2] == pytest.approx(0.25) for call in crafted)
    assert run.card({}, run.purifier).seen_attacks[0]["budgets"] == list(budgets)


def test_half_of_the_images_are_mirrored_and_crafted_so(digits, classifier, tmp_path):
    run = trainer(digits, classifier, tmp_path, shift=0)
    source = run.source()
    (natural, *attacked) = source.batch(torch.arange(32), 0, 0)
    plain = digits.train.batch(slice(0, 32))[0]
    mirrored = [not torch.equal(a, b) for a, b in zip(natural, plain, strict=True)]
    assert 8 < sum(mirrored) < 24
    assert torch.equal(natural[mirrored], plain[mirrored].flip(3))
    for images in attacked:
        assert (images - natural).abs().max() <= 8 / 255 + 1e-3  # kept as fp16


@pytest.mark.parametrize("arch", ["colour", "skips"])
def test_the_papers_losses_reach_the_colour_networks(arch, digits, classifier, tmp_path):
    recipe = dataclasses.replace(recipes.paper_colour(), batch_size=8)
    config = TrainConfig(ArnConfig.preset(arch, 3, 32), recipe, (attacks.get("PGD_N", "cifar10"),))
    run = train.Trainer(config, digits, Classifiers(classifier, "f"), RunOptions(tmp_path))
    natural = digits.train.batch(slice(0, 8))[0]
    first = run.train_step([natural, natural])
    assert {"mse", "att", "nor", "adv", "d_a", "d_i"} == first.keys()
