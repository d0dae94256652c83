"""Wrong configurations are refused before any work."""

import dataclasses

import pytest
import torch

from arn_purify import models
from arn_purify.models import ArnConfig
from arn_purify.training import attacks
from arn_purify.training.learning import recipes
from arn_purify.training.learning.state import ConfigurationError

from .toy import config, hardened, small
from .toy import trainer as make


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seen": ()}, "no seen attack"),
        ({"seen": (attacks.get("PGD_N"),) * 2}, "named twice"),
        ({"arch": ArnConfig(channels=3)}, "the network takes 3x28x28"),
        ({"device": "cuda"}, "cuda"),
        ({"recipe": dataclasses.replace(recipes.transparent(), batch_size=10_000)}, "fewer than one batch"),
    ],
)
def test_a_wrong_configuration_is_refused_before_any_work(change, message, digits, classifier, tmp_path):
    if change.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ConfigurationError, match=message):
        make(dataclasses.replace(config(), **change), digits, classifier, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_classifier_that_does_not_fit_is_refused(digits, tmp_path):
    class Wrong(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :4]

    with pytest.raises(ConfigurationError, match="forward_with_features"):
        make(config(), digits, Wrong(), tmp_path)
    with pytest.raises(ConfigurationError, match="10 classes"):
        make(config("paper"), digits, Wrong(), tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"shift": 2, "refresh_epochs": 0},
        {"weights": recipes.LossWeights(att=1)},
        {"inner_steps": -1},
        {"ema": 1.0},
        {"eps_to": 0.0},
        {"joint": 1.0, "weights": recipes.LossWeights(l1=1, adv=1)},
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"small|shifted|restore|negative|positive"):
        dataclasses.replace(recipes.transparent(), **wrong)


def test_several_classifiers_take_turns(digits, classifier, tmp_path):
    torch.manual_seed(0)
    other = models.Mlp(models.MlpConfig()).eval().requires_grad_(False)
    trainer = make(hardened(), small(digits, 64), classifier, tmp_path, others=(other,))
    drawn = []
    for trainer.step in range(20):
        drawn.append(trainer.classifier)
    assert {type(f) for f in drawn} == {models.LeNet5, models.Mlp}
    with pytest.raises(ConfigurationError, match="several classifiers"):
        make(config("transparent"), small(digits, 64), classifier, tmp_path, others=(other,))
    with pytest.raises(ConfigurationError, match="PGD alone"):
        make(dataclasses.replace(hardened(), seen=(attacks.get("DDN_N"),)), small(digits, 64), classifier, tmp_path)
