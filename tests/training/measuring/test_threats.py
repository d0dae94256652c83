"""Threat models: what each differentiates through, and what is counted."""

import dataclasses

import pytest
import torch
from torch import nn

from arn_purify import models
from arn_purify.models import Card
from arn_purify.training import attacks
from arn_purify.training.measuring import evaluate, threats

from ..subjects import Quantiser, measure, subject


def test_a_search_for_the_smallest_change_goes_through_what_answers():
    """Its result lies where the rounding of another layout may decide."""
    classifier = models.load("cifar10-airbench-40")
    defended = threats.Defended(
        classifier, models.card_of(classifier), models.Identity(), Card("i", "purifier", "x", {}, "", (0, 0, 0))
    )
    target = threats.Oblivious().target(defended)
    assert target.by(attacks.get("STA_N", "cifar10")) is classifier
    assert target.by(attacks.get("PGD_N", "cifar10")) is target.module is not classifier


def test_a_running_service_is_asked_whatever_the_attack_went_through(split, tmp_path):
    asked = []

    def service(x):
        asked.append(len(x))
        return x

    chosen = dataclasses.replace(subject(models.Identity()), purify=service, transport="http+npy")
    for threat_model in (threats.Oblivious(), threats.Bpda("g")):
        measure(chosen, split, tmp_path, attacks.get("PGD_N@0.1x1"), threat_model)
        assert sum(asked) == len(split)
        asked.clear()


def test_bpda_through_the_service_counts_what_the_service_answers(split, tmp_path):
    class Fine(nn.Module):
        """Tells levels apart that eight bits do not have."""

        def forward(self, x):
            return torch.where((x * 255 - (x * 255).round()).abs().amax((1, 2, 3), keepdim=True) > 0.01, 1 - x, x)

    natural = measure(subject(Fine()), split, tmp_path, attacks.get("PGD_N@0.001x1"), threats.Bpda("g"))
    bare = measure(subject(models.Identity()), split, tmp_path)
    assert abs(natural.error_rate - bare.error_rate) < 10


def test_white_box_attacks_f_after_g(split, tmp_path):
    class Dim(nn.Module):
        def forward(self, x):
            return x * 0.9

    record = measure(subject(Dim()), split, tmp_path, attacks.get("PGD_N"), threats.WhiteBox())
    assert (record.attacked, record.threat_model) == ("f after g", "white_box")
    assert record.error_rate == 100


def test_bpda_breaks_what_masks_its_gradient(split, tmp_path):
    chosen, attack = subject(Quantiser()), attacks.get("PGD_N")
    masked = measure(chosen, split, tmp_path, attack, threats.WhiteBox())
    broken = measure(chosen, split, tmp_path, attack, threats.Bpda())
    assert any(flag.startswith("zero gradient") for flag in masked.flags)
    assert broken.error_rate > masked.error_rate + 20
    assert (broken.threat_model, broken.attacked) == ("bpda", "f after g, identity backward")


def test_bpda_through_g_sees_the_services_own_rounding(split, tmp_path):
    chosen = subject(models.load("mnist-transparent"))
    record = measure(chosen, split, tmp_path, attacks.get("PGD_N"), threats.Bpda("g"))
    assert record.error_rate > 60
    assert record.path(tmp_path).name == "PGD_N-bpda-through-g.json"


def test_gray_box_goes_through_the_surrogate(split, tmp_path):
    class Dim(nn.Module):
        def forward(self, x):
            return x * 0.9

    card = Card("y", "purifier", "ape-g", {}, "digits", (1, 28, 28), seen_attacks=({"attack": "PGD_N"},))
    threat = threats.GrayBox(Dim(), card)
    record = measure(subject(models.load("mnist-transparent")), split, tmp_path, attacks.get("PGD_N"), threat)
    assert (record.threat_model, record.attacked) == ("gray_box", "f after APE-G_PGD_N")
    assert record.path(tmp_path).name == "PGD_N-gray_box-APE-G_PGD_N.json"


def test_a_robust_classifier_is_attacked_through_the_ordinary_one_and_by_itself(split, tmp_path):
    f = models.load("mnist-lenet5").requires_grad_(False)

    class Stubborn(nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.long), 10) + 0 * f(x)

    card = Card("s", "classifier", "lenet5", {}, "digits", (1, 28, 28), recipe="at-pgd")
    identity = models.Identity()
    chosen = evaluate.Subject(f, models.card_of(f), identity, models.card_of(identity), Stubborn(), card)
    oblivious = measure(chosen, split, tmp_path, attacks.get("PGD_N"))
    white = measure(chosen, split, tmp_path, attacks.get("PGD_N"), threats.WhiteBox())
    assert oblivious.defence == white.defence == "AT_PGD"
    assert (oblivious.attacked, white.attacked) == ("f", "the robust classifier")
    assert oblivious.error_rate == white.error_rate == pytest.approx(100 * float((split.labels != 0).float().mean()))
    assert any(flag.startswith("zero gradient") for flag in white.flags)


def test_the_expectation_over_a_random_purifier_is_steadier():
    torch.manual_seed(0)

    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    one, many = Noise(), threats.ExpectationOverTransformation(Noise(), 100)
    x = torch.zeros(1000, 10)
    assert many(x).std() < one(x).std() / 5


def test_the_white_box_is_the_deployed_function_in_another_layout():
    """Normalisation folded and channels last: logits and input gradients as before, to rounding."""
    purifier, classifier = models.load("mnist-transparent"), models.load("mnist-lenet5")
    defended = threats.Defended(classifier, models.card_of(classifier), purifier, models.card_of(purifier))
    x = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    found = [module(x) for module in (threats.WhiteBox().target(defended).module, nn.Sequential(purifier, classifier))]
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-4)
    gradients = [torch.autograd.grad(logits.square().sum(), x)[0] for logits in found]
    torch.testing.assert_close(*gradients, atol=1e-2, rtol=1e-2)
