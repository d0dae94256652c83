"""One iteration of Algorithm 1: the discriminators' update, then every loss term, then the purifier's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from arn_purify.models import Arn

from ..attacks import seed_of
from ..data.corrupt import corrupt, moved
from . import losses
from .config import TrainConfig
from .networks import Networks

# What restores the image reaches E and G alike; "mse" stands in the paper's L_mse, the others are ours.
_RESTORING = ("mse", "l1", "sticker", "feature", "logit", "guide", "ce", "clean", "kl", "margin")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the purifier is shown in one step, natural images first and then each attack's.

    ``x`` and what it should become, ``target``, are ``(K N, C, H, W)``; ``domains`` ``(K N,)`` says which attack.
    """

    natural: Tensor
    x: Tensor
    target: Tensor
    domains: Tensor


def prepare(batch: Sequence[Tensor], config: TrainConfig, step: int, rank: int) -> Inputs:
    """The inputs from natural images and their attacked versions, with what the recipe moves or damages."""
    recipe = config.recipe
    natural, attacked = batch[0], list(batch[1:])
    if recipe.moved:
        generator = torch.Generator().manual_seed(seed_of(config.seed, "moved", step, rank))
        attacked = [moved(natural, images, recipe.moved, generator) for images in attacked]
    x = torch.cat([natural, *attacked])
    if recipe.corrupted:
        generator = torch.Generator().manual_seed(seed_of(config.seed, "corrupt", step, rank))
        damaged = corrupt(natural if recipe.inner_steps else x, recipe.corrupted, recipe.damage, generator)
        x = torch.cat([damaged, x[len(damaged) :]])  # what was attacked through g stays as bad as it is
    domains = len(batch)
    return Inputs(
        natural,
        x.contiguous(memory_format=torch.channels_last),
        natural.repeat(domains, 1, 1, 1),
        torch.arange(domains, device=x.device).repeat_interleave(len(natural)),
    )


class Objective:
    """The losses of a recipe over the networks of a run."""

    def __init__(self, config: TrainConfig, networks: Networks) -> None:
        self.config, self.recipe, self.weights = config, config.recipe, config.recipe.weights
        self.networks, self.domains = networks, 1 + len(config.seen)
        self.released = self.recipe.form == "released"

    def step(self, inputs: Inputs, labels: Tensor | None, classifier: nn.Module) -> dict[str, float]:
        """Update the discriminators and then the rest on ``inputs``; returns every loss.

        ``labels`` ``(N,)`` of the natural images are for the losses that need them; ``classifier`` is f.
        """
        terms, values, purified = self._purify(inputs)
        terms.update(self._image_terms(purified, inputs))
        if self.weights.feature or self.weights.logit or self.weights.guide or self.weights.labelled:
            found, errors = self._target_terms(purified, inputs.natural, labels, classifier)
            terms.update(found)
            values.update(errors)
        self._update_purifier(terms, purified)
        values.update({name: float(term.detach()) for name, term in terms.items()})
        return values

    def _autocast(self) -> torch.autocast:
        device = torch.device(self.config.device).type
        return torch.autocast(device, torch.bfloat16, enabled=self.config.mixed_precision)

    @property
    def _summed(self) -> int:
        """Over how many domains D_I's losses are summed: the paper's Eqs. 5 and 6 sum over all, APE-GAN averages."""
        return 1 if self.recipe.form == "averaged" else self.domains

    def _purify(self, inputs: Inputs) -> tuple[dict[str, Tensor], dict[str, float], Tensor]:
        """The terms on the code, the discriminators' losses, and the purified images."""
        purifier, terms = self.networks.purifier, {}
        if not isinstance(purifier, Arn):
            with self._autocast():
                purified = purifier(inputs.x).float()
            return {}, self._update_discriminators(None, purified.detach(), inputs), purified
        with self._autocast():
            mean, log_variance = purifier.encode_distribution(inputs.x)
        mean, log_variance = mean.float(), log_variance.float()
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if self.recipe.sample else mean
        with self._autocast():
            purified = purifier.decode(z, inputs.x).float()
        values = self._update_discriminators(z.detach(), purified.detach(), inputs)
        if self.weights.att:
            confusion = losses.attack_confusion_loss_released if self.released else losses.attack_confusion_loss
            terms["att"] = confusion(self.networks.modules["attack_discriminator"](z))
        if self.weights.nor:
            # The authors' code sums over the batch where Eq. 3 averages.
            scale = len(inputs.x) if self.released else 1
            terms["nor"] = scale * losses.normalization_loss(mean, log_variance)
        return terms, values, purified

    def _image_terms(self, purified: Tensor, inputs: Inputs) -> dict[str, Tensor]:
        terms, target = {}, inputs.target
        if self.weights.mse and self.recipe.form == "paper":
            terms["mse"] = losses.pixel_loss(purified, target, self.domains)
        elif self.weights.mse:
            terms["mse"] = 4 * (purified - target).square().mean()  # on [-1, 1], as Tanh gives it
        if self.weights.l1:
            terms["l1"] = losses.absolute_loss(purified, target)
        if self.weights.sticker:
            terms["sticker"] = losses.sticker_loss(purified, target, inputs.x)
        return terms

    def _target_terms(
        self, purified: Tensor, natural: Tensor, labels: Tensor | None, classifier: nn.Module
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """How f sees the purified images, beside how it sees the natural ones and beside the labels."""
        weights, k = self.weights, self.domains
        clean = torch.empty(0)
        with self._autocast():
            if weights.feature:
                with torch.no_grad():
                    clean_features, clean = classifier.forward_with_features(natural)  # type: ignore[operator]
                features, seen = classifier.forward_with_features(purified)  # type: ignore[operator]
            else:
                if weights.logit or weights.guide:
                    with torch.no_grad():
                        clean = classifier(natural)
                seen = classifier(purified)
        terms = {}
        if weights.feature:
            terms["feature"] = losses.feature_loss([features.float()], [clean_features.float().repeat(k, 1)])
        clean, seen = clean.float().repeat(k, 1), seen.float()
        if weights.logit:
            terms["logit"] = losses.logit_loss(seen, clean)
        if weights.guide:
            terms["guide"] = losses.guidance_loss(seen, clean)
        if not weights.labelled:
            return terms, {}
        assert labels is not None  # Trainer.fit() gives them
        labelled, errors = self._labelled_terms(seen, labels)
        return {**terms, **labelled}, errors

    def _labelled_terms(self, logits: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
        """From f's ``logits`` ``(K N, classes)`` and the ``labels`` ``(N,)``; the errors are percent."""
        weights, k, n = self.weights, self.domains, len(labels)
        natural, attacked, repeated = logits[:n], logits[n:], labels.repeat(k - 1)
        terms = {}
        if weights.ce:
            terms["ce"] = losses.robust_loss(attacked, repeated)
        if weights.clean:
            terms["clean"] = losses.robust_loss(natural, labels)
        if weights.kl:
            terms["kl"] = losses.trades_loss(attacked, natural.repeat(k - 1, 1))
        if weights.margin:
            terms["margin"] = losses.margin_loss(attacked, repeated)
        wrong = logits.argmax(1) != labels.repeat(k)
        errors = {"clean error": wrong[:n], "adversarial error": wrong[n:]}
        return terms, {name: 100 * float(found.float().mean()) for name, found in errors.items()}

    def _update_discriminators(self, z: Tensor | None, purified: Tensor, inputs: Inputs) -> dict[str, float]:
        modules = self.networks.modules
        updates: dict[str, tuple[str, Tensor]] = {}
        if "attack_discriminator" in modules:
            logits = modules["attack_discriminator"](z)
            form = losses.attack_discriminator_loss_released if self.released else losses.attack_discriminator_loss
            updates["attack_discriminator"] = ("d_a", form(logits, inputs.domains))
        if "image_discriminator" in modules:
            discriminator = modules["image_discriminator"]
            fake, real = discriminator(purified), discriminator(inputs.natural)
            loss = losses.image_discriminator_loss(fake, real, self._summed)
            if self.recipe.gradient_penalty:
                loss = loss + self.recipe.gradient_penalty * self._gradient_penalty(purified, inputs.natural)
            updates["image_discriminator"] = ("d_i", loss)
        for name, (_, loss) in updates.items():
            self.networks.zero_grad([name])
            loss.backward()
            self.networks.step([name])
        return {short: float(loss.detach()) for short, loss in updates.values()}

    def _gradient_penalty(self, purified: Tensor, natural: Tensor) -> Tensor:
        """Between the natural input and its fake, as the authors' code has it (not between real and fake)."""
        fake = purified[: len(natural)]
        mix = torch.rand(len(natural), 1, 1, 1, device=fake.device)
        between = (mix * natural + (1 - mix) * fake).requires_grad_(True)
        discriminator = self.networks.modules["image_discriminator"]
        (gradients,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
        return losses.gradient_penalty_released(gradients)

    def _update_purifier(self, terms: dict[str, Tensor], purified: Tensor) -> None:
        """Eq. 7 for E and Eq. 8 for G; ``adv``, which only G learns from, joins the ``terms``."""
        weights, purifier, names = self.weights, self.networks.purifier, self.networks.deployed
        restoring = [getattr(weights, name) * terms[name] for name in _RESTORING if name in terms]
        restoration = torch.stack(restoring).sum()
        nothing = torch.zeros((), device=purified.device)
        att, nor = terms.get("att", nothing), terms.get("nor", nothing)
        encoder_loss = losses.encoder_loss(restoration, att, nor, weights.att, weights.nor)
        self.networks.zero_grad(names)
        if weights.adv:
            fake = self.networks.modules["image_discriminator"](purified)
            terms["adv"] = losses.decoder_adversarial_loss(fake, self._summed)
        if weights.adv and isinstance(purifier, Arn):
            decoder_loss = losses.decoder_loss(restoration, terms["adv"], weights.adv)
            decoder_parameters = list(purifier.decoder.parameters())
            gradients = torch.autograd.grad(decoder_loss, decoder_parameters, retain_graph=True)
            encoder_loss.backward(inputs=list(purifier.encoder.parameters()))
            for parameter, gradient in zip(decoder_parameters, gradients, strict=True):
                parameter.grad = gradient
        elif weights.adv:
            losses.decoder_loss(restoration, terms["adv"], weights.adv).backward()
        else:
            encoder_loss.backward()  # G has no other terms than those that reach E through it
        self.networks.step(names)
