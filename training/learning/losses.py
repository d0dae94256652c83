"""ARN's losses, one pure function per equation of the paper, and the terms of ours that stand beside them.

Every function averages over the batch. ``K`` counts the domains: the seen attacks, and natural images as one more.
Where the paper leaves room, ``docs/fidelity.md`` says what is taken and why.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def attack_discriminator_loss(logits: Tensor, domains: Tensor) -> Tensor:
    """Eq. 1, L_DA: cross-entropy of D_A's ``logits`` ``(N, K)`` with the true ``domains`` ``(N,)``."""
    return F.cross_entropy(logits, domains)


def attack_confusion_loss(logits: Tensor) -> Tensor:
    """Eq. 2, L_att: cross-entropy of D_A's ``logits`` ``(N, K)`` with 1/K everywhere; log K when D_A knows nothing."""
    return -F.log_softmax(logits, dim=1).mean()


def attack_discriminator_loss_released(logits: Tensor, domains: Tensor) -> Tensor:
    """L_DA as the authors' code has it: binary cross-entropy of each logit with its one-hot entry."""
    return F.binary_cross_entropy_with_logits(logits, F.one_hot(domains, logits.shape[1]).to(logits.dtype))


def attack_confusion_loss_released(logits: Tensor) -> Tensor:
    """L_att as the authors' code has it: binary cross-entropy of each logit with 1/K."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 1 / logits.shape[1]))


def normalization_loss(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Eq. 3, L_nor: KL(N(mu, sigma^2) || N(0, I)) of the codes ``(N, ...)``, summed over a code, in nats.

    With domains of equal size the batch mean is the mean over k of KL(P_k || N), each P_k taken sample by sample.
    """
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return divergence.flatten(1).sum(1).mean()


def pixel_loss(x_purified: Tensor, x_natural: Tensor, domains: int) -> Tensor:
    """Eq. 4, L_mse: squared error summed over an image in [-1, 1], averaged in each domain, summed over domains.

    Both arguments are ``(N, C, H, W)`` in [0, 1]; the factor 4 carries them to the paper's Tanh range.
    """
    return 4 * domains * (x_purified - x_natural).square().flatten(1).sum(1).mean()


def image_discriminator_loss(fake_logits: Tensor, real_logits: Tensor, domains: int) -> Tensor:
    """Eq. 5, L_DI: D_I's cross-entropy, natural as 1 and synthesised as 0, summed over domains.

    The paper prints log D(fake) + log(1 - D(real)); minimising that is unbounded, and binary cross-entropy is its
    bounded twin with the same optimum, which the authors' code uses too. ``fake_logits`` is ``(K N,)``, ``real_logits``
    ``(N,)``.
    """
    return domains * (F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean())


def decoder_adversarial_loss(fake_logits: Tensor, domains: int) -> Tensor:
    """Eq. 6, L_adv: -log D_I(G(E(x~))) from D_I's ``fake_logits``, summed over domains."""
    return domains * F.softplus(-fake_logits).mean()


def encoder_loss(mse: Tensor, att: Tensor, nor: Tensor, lambda1: float, lambda2: float) -> Tensor:
    """Eq. 7, L_E = L_mse + lambda1 L_att + lambda2 L_nor."""
    return mse + lambda1 * att + lambda2 * nor


def decoder_loss(mse: Tensor, adv: Tensor, theta: float) -> Tensor:
    """Eq. 8, L_G = L_mse + theta L_adv."""
    return mse + theta * adv


def gradient_penalty_released(gradients: Tensor) -> Tensor:
    """The authors' penalty on D_I's input ``gradients`` ``(N, C, H, W)``, slip included: a norm over channels only."""
    norms: Tensor = torch.linalg.vector_norm(gradients, 2, dim=1)
    return (norms - 1).square().mean()


def absolute_loss(x_purified: Tensor, x_natural: Tensor) -> Tensor:
    """Ours: mean absolute error on [0, 1]; keeps edges that a squared error blurs."""
    return F.l1_loss(x_purified, x_natural)


def sticker_loss(x_purified: Tensor, x_natural: Tensor, x: Tensor) -> Tensor:
    """Ours: mean absolute error where the input ``x`` is off by over a tenth; a sticker counts as much as the rest."""
    changed = ((x - x_natural).abs().amax(1, keepdim=True) > 0.1).expand_as(x)
    return ((x_purified - x_natural).abs() * changed).sum() / changed.sum().clamp_min(1)


def feature_loss(purified: Sequence[Tensor], natural: Sequence[Tensor]) -> Tensor:
    """Ours: mean absolute distance of the frozen target's representations, relative to their natural size."""
    distances = [F.l1_loss(p, n) / n.abs().mean().clamp_min(1e-6) for p, n in zip(purified, natural, strict=True)]
    return torch.stack(distances).mean()


def logit_loss(purified: Tensor, natural: Tensor) -> Tensor:
    """Ours: KL(f(x) || f(purified)) between the frozen target's logits ``(N, classes)``; no label is used."""
    return F.kl_div(F.log_softmax(purified, 1), F.log_softmax(natural, 1), reduction="batchmean", log_target=True)


def guidance_loss(purified: Tensor, natural: Tensor) -> Tensor:
    """HGD's (Liao et al., CVPR 2018): L1 distance of the target's logits ``(N, classes)``, summed over classes."""
    return (purified - natural).abs().sum(1).mean()


def robust_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of f(g(x)) ``(N, classes)`` with the labels: at attacked images Madry et al.'s (ICLR 2018)."""
    return F.cross_entropy(logits, labels)


def trades_loss(attacked: Tensor, natural: Tensor) -> Tensor:
    """KL(f(g(x)) || f(g(x~))) of logits ``(N, classes)`` (TRADES: Zhang et al., ICML 2019); both sides learn."""
    return F.kl_div(F.log_softmax(attacked, 1), F.log_softmax(natural, 1), reduction="batchmean", log_target=True)


def margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """-log(1 - p) of the likeliest wrong class (MART: Wang et al., ICLR 2020): what it adds to cross-entropy."""
    wrong = F.softmax(logits, 1).scatter(1, labels[:, None], 0).amax(1)
    return -torch.log1p(1e-4 - wrong).mean()
