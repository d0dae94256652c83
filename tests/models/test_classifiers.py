"""The classifiers beside LeNet-5: shapes, features, checkpoints."""

import pytest
import torch

import models
from models import Card, Mlp, MlpConfig, ResNet8, ResNet8Config, checkpoint


@pytest.mark.parametrize(("module", "config"), [(Mlp, MlpConfig), (ResNet8, ResNet8Config)])
def test_a_classifier_answers_logits_and_comes_back_from_its_checkpoint(module, config, tmp_path):
    torch.manual_seed(0)
    model = module(config()).eval()
    x = torch.rand(3, 1, 28, 28)
    features, logits = model.forward_with_features(x)
    assert logits.shape == (3, 10)
    assert torch.equal(model.linear(features), model(x))
    architecture, fields, kind = checkpoint.architecture_of(model)
    assert kind == "classifier"
    checkpoint.save(model, Card("x", kind, architecture, fields, "mnist", (1, 28, 28)), tmp_path / "x.safetensors")
    assert torch.equal(models.load(tmp_path / "x.safetensors")(x), logits)
