"""Training on a GPU: PGD's graph beside advertorch, a step of every recipe, resuming, and error counts as on a CPU."""

import dataclasses
import json
import math

import pytest
import torch

from arn_purify import models
from arn_purify.models import ApeGConfig, ArnConfig, HgdConfig, LisaCnn, LisaCnnConfig
from arn_purify.training import attacks, data, deadline
from arn_purify.training.attacks import adaptive, gradient, pgd
from arn_purify.training.attacks.advertorch_shim import attacks as advertorch
from arn_purify.training.learning.classifier import NETWORKS
from arn_purify.training.learning.config import Classifiers, RunOptions, TrainConfig
from arn_purify.training.learning.recipes import RECIPES
from arn_purify.training.learning.trainer import Trainer
from arn_purify.training.measuring import evaluate, threats
from tests.gpu import DEVICE, NEEDS_GPU, ON_CUDA

pytestmark = NEEDS_GPU

COLOUR = ("cifar10", "lisa", "paper-colour")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def coloured():
    return data.load("digits-colour")


def small(dataset, count):
    return dataclasses.replace(dataset, train=data.Split(dataset.train.images[:count], dataset.train.labels[:count]))


@pytest.mark.parametrize("targeted", [False, True])
def test_pgds_graph_is_advertorchs_loop(targeted, coloured, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    network = NETWORKS["resnet20"]((3, 32, 32), 10).eval().requires_grad_(False).to(DEVICE)
    images, labels = coloured.test.batch(slice(0, 32), DEVICE)
    torch.manual_seed(3)
    ours = pgd.linf_pgd(network, images, labels, 0.03, 0.01, 7, targeted)
    torch.manual_seed(3)
    theirs = advertorch.LinfPGDAttack(
        network, gradient.summed_cross_entropy, eps=0.03, nb_iter=7, eps_iter=0.01, targeted=targeted
    ).perturb(images, labels)
    if ON_CUDA:
        loss = gradient.summed_cross_entropy
        assert isinstance(gradient.input_gradient(network, images, labels, loss), gradient._Graph)
    # Where a gradient is almost zero its sign depends on how the device rounds.
    assert ((ours - theirs).abs() < 1e-5).float().mean() > 0.97
    assert 0.02 < (ours - images).abs().max() <= 0.03 + 1e-6


def trainer(name, dataset, out, **changes):
    """A run of a recipe at toy size."""
    recipe = dataclasses.replace(RECIPES[name](), **{"epochs": 1, "batch_size": 16, **changes})
    colour = name.startswith(COLOUR)
    preset = ArnConfig.preset("colour", 3, 32) if colour else ArnConfig()
    sizes = {"channels": 3, "size": 32} if colour else {}
    network = ApeGConfig(**sizes) if "ape-g" in name else HgdConfig(**sizes) if "hgd" in name else preset
    torch.manual_seed(0)
    classifier = LisaCnn(LisaCnnConfig(10)) if colour else models.load("mnist-lenet5")
    classifier = classifier.eval().requires_grad_(False).to(DEVICE)
    seen = [attacks.get(attack, "cifar10" if colour else "mnist") for attack in ("PGD_N", "PGD_T")]
    if recipe.inner_steps:
        recipe = dataclasses.replace(recipe, inner_steps=2)
        seen = [adaptive.as_learned(attack, recipe) for attack in seen[:1]]
    else:
        seen = [attack.with_settings(iterations=2) for attack in seen]
    config = TrainConfig(network, recipe, tuple(seen), device=DEVICE, mixed_precision=ON_CUDA)
    return Trainer(config, dataset, Classifiers(classifier, "f"), RunOptions(out, watched=50))


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_of_every_recipe(name, digits, coloured, tmp_path):
    run = trainer(name, small(coloured if name.startswith(COLOUR) else digits, 32), tmp_path / "run")
    before = {key: value.clone() for key, value in run.purifier.state_dict().items()}
    epoch, indices = next(iter(run.batches()))
    batch = run.source().batch(indices, epoch, 0)
    values = run.train_step(batch, run.dataset.train.labels_of(indices, DEVICE))
    after = run.purifier.state_dict()
    assert values
    assert all(map(math.isfinite, values.values()))
    assert all(tensor.device.type == DEVICE for tensor in (*batch, *after.values()))
    assert any(not torch.equal(before[key], value) for key, value in after.items())
    assert all(bool(value.isfinite().all()) for value in after.values())


def test_a_run_that_is_out_of_time_resumes(digits, tmp_path):
    dataset = small(digits, 64)
    whole = trainer("transparent", dataset, tmp_path / "whole").fit()
    deadline.set_deadline(0)
    try:
        for steps in (1, 2, 3):
            with pytest.raises(deadline.OutOfTime, match=f"{steps} of 4 steps"):
                trainer("transparent", dataset, tmp_path / "broken").fit()
    finally:
        deadline.set_deadline(None)
    resumed = trainer("transparent", dataset, tmp_path / "broken").fit()
    rows = [json.loads((tmp_path / run / "metrics.jsonl").read_text()) for run in ("whole", "broken")]
    assert rows[0]["step"] == rows[1]["step"] == 4
    x = dataset.train.batch(slice(None), DEVICE)[0]
    with torch.inference_mode():
        apart = (whole(x) - resumed(x)).abs()
    assert apart.mean() < (0.01 if ON_CUDA else 1e-9)  # a GPU adds in no fixed order


@pytest.mark.parametrize(("attack", "apart"), [(None, 2), ("PGD_N", 8)])
def test_an_evaluation_counts_what_the_cpu_counts(attack, apart, digits, tmp_path):
    counts = {}
    for device in ("cpu", DEVICE):
        classifier = models.load("mnist-lenet5", device).requires_grad_(False)
        purifier = models.load("mnist-transparent", device).requires_grad_(False)
        subject = evaluate.Subject(classifier, models.card_of(classifier), purifier, models.card_of(purifier))
        record = evaluate.evaluate(
            subject, digits.test, attacks.get(attack).with_settings(iterations=10) if attack else None,
            threats.Oblivious(), dataset="digits", crafted=tmp_path / "crafted", device=device,
        )  # fmt: skip
        counts[device] = record.errors
        assert record.n == len(digits.test)
        assert record.flags == ()
    # Of an attack the random start differs: each device has a generator of its own.
    assert abs(counts[DEVICE] - counts["cpu"]) <= apart
