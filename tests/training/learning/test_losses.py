"""Each loss against numbers worked out by hand."""

import math

import pytest
import torch

from arn_purify.training.learning import losses


def test_eq1_is_the_cross_entropy_of_the_true_attack():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    expected = (-2 + math.log(math.e**2 + 2) - 1 + math.log(math.e + 2)) / 2
    assert losses.attack_discriminator_loss(logits, torch.tensor([0, 2])).item() == pytest.approx(expected)


def test_eq2_is_least_when_the_discriminator_knows_nothing():
    assert losses.attack_confusion_loss(torch.zeros(4, 3)).item() == pytest.approx(math.log(3))
    assert losses.attack_confusion_loss(torch.tensor([[3.0, 0.0, 0.0]])) > math.log(3)


def test_the_released_forms_are_binary_cross_entropies():
    logits = torch.zeros(2, 3)
    assert losses.attack_discriminator_loss_released(logits, torch.tensor([0, 1])).item() == pytest.approx(math.log(2))
    assert losses.attack_confusion_loss_released(logits).item() == pytest.approx(math.log(2))


def test_eq3_sums_over_a_code_and_averages_over_the_batch():
    mean, log_variance = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, math.log(4)], [0.0, 0.0]])
    expected = (0.5 + 0.5 * (4 + 4 - 1 - math.log(4))) / 2
    assert losses.normalization_loss(mean, log_variance).item() == pytest.approx(expected)


def test_eq4_is_a_sum_over_pixels_in_the_tanh_range_and_over_domains():
    purified, natural = torch.full((6, 1, 2, 2), 0.5), torch.zeros(6, 1, 2, 2)
    assert losses.pixel_loss(purified, natural, domains=3).item() == pytest.approx(3 * 4 * 1.0)


def test_eq5_and_eq6_pull_the_decoder_and_the_discriminator_apart():
    fake, real = torch.tensor([0.0, 2.0]), torch.tensor([1.0])
    softplus = lambda x: math.log1p(math.exp(x))  # noqa: E731
    expected = 2 * ((softplus(0) + softplus(2)) / 2 + softplus(-1))
    assert losses.image_discriminator_loss(fake, real, domains=2).item() == pytest.approx(expected)
    assert losses.decoder_adversarial_loss(fake, domains=2).item() == pytest.approx(softplus(0) + softplus(-2))


def test_eq7_and_eq8_weigh_their_terms():
    one, two, three = (torch.tensor(float(value)) for value in (1, 2, 3))
    assert losses.encoder_loss(one, two, three, 0.1, 0.01).item() == pytest.approx(1.23)
    assert losses.decoder_loss(one, two, 0.1).item() == pytest.approx(1.2)


def test_the_released_penalty_takes_its_norm_over_channels_only():
    gradients = torch.zeros(1, 2, 1, 2)
    gradients[0, :, 0, 0] = torch.tensor([3.0, 4.0])
    assert losses.gradient_penalty_released(gradients).item() == pytest.approx(((5 - 1) ** 2 + 1) / 2)


def test_losses_on_the_target_vanish_where_it_sees_the_same():
    logits, features = torch.randn(4, 10), torch.rand(4, 7)
    assert losses.logit_loss(logits, logits).item() == pytest.approx(0, abs=1e-6)
    assert losses.feature_loss([features], [features]).item() == 0
    assert losses.feature_loss([2 * features], [features]).item() == pytest.approx(1)
    assert losses.logit_loss(torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])) > 0


def test_the_robust_terms_against_numbers_by_hand():
    logits, labels = torch.tensor([[math.log(2), 0.0, 0.0]]), torch.tensor([1])  # probabilities 1/2, 1/4, 1/4
    assert losses.robust_loss(logits, labels).item() == pytest.approx(math.log(4))
    assert losses.margin_loss(logits, labels).item() == pytest.approx(math.log(2), abs=1e-3)
    assert losses.trades_loss(logits, logits).item() == pytest.approx(0, abs=1e-6)
    expected = 0.5 * math.log(0.5 * 3) + 2 * 0.25 * math.log(0.25 * 3)  # KL(natural || uniform)
    assert losses.trades_loss(torch.zeros(1, 3), logits).item() == pytest.approx(expected)
    certain = torch.tensor([[100.0, 0.0, 0.0]])
    assert torch.isfinite(losses.margin_loss(certain, labels)), "a wrong class with probability 1"


def test_a_sticker_counts_by_its_own_pixels():
    natural = torch.full((1, 3, 4, 4), 0.5)
    x = natural + 0.05  # noise
    x[0, 1, :2, 0] = 1.0  # in one of the channels
    purified = natural.clone()
    assert losses.sticker_loss(purified, natural, x).item() == 0
    purified[0, :, 3, 3] = 0.0  # elsewhere
    assert losses.sticker_loss(purified, natural, x).item() == 0
    purified[0, 1, 0, 0] = 0.8
    assert losses.sticker_loss(purified, natural, x).item() == pytest.approx(0.3 / 6)
    assert losses.sticker_loss(purified, natural, natural).item() == 0, "nothing was changed much"
