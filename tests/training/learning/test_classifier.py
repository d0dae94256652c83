"""Classifiers: adversarial training, DOA, and a run that was killed."""

import subprocess
import sys

import pytest
import torch

from arn_purify import models
from arn_purify.training import attacks, data
from arn_purify.training.learning import classifier
from arn_purify.training.learning.state import ConfigurationError


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


def test_a_classifier_run_resumes_where_it_was_killed(digits, tmp_path, monkeypatch):
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


def test_a_robust_run_resumes_in_another_process(tmp_path):
    command = [
        *(sys.executable, "-m", "arn_purify.training", "train", "--dataset", "digits", "--arch", "mlp"),
        *("--recipe", "at-pgd", "--every", "40", "--epochs", "1", "--batch-size", "32", "--out", str(tmp_path / "run")),
    ]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_doa_is_fine_tuned_from_a_classifier(digits):
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
