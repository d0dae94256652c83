"""Threat models as types: what an attacker differentiates through. Every number is printed with its threat model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from arn_purify.models import Card

from ..attacks import Attack
from ..attacks.adaptive import frozen
from .records import ThreatName


@dataclasses.dataclass(frozen=True)
class Defended:
    """A classifier behind a purifier.

    ``classifier`` is the ordinary f that an oblivious attacker sees. Where the defence is a classifier (AT_PGD, DOA)
    ``robust`` answers in its place, and the purifier is the identity.
    """

    classifier: nn.Module
    classifier_card: Card
    purifier: nn.Module
    purifier_card: Card
    robust: nn.Module | None = None
    robust_card: Card | None = None

    @property
    def deployed(self) -> nn.Module:
        """The classifier that answers."""
        return self.classifier if self.robust is None else self.robust

    @property
    def defence_card(self) -> Card:
        """The card of the purifier or of the robust classifier that defends."""
        return self.purifier_card if self.robust_card is None else self.robust_card

    @property
    def name(self) -> str:
        """The paper's name of the row: the method, and the attacks seen in training."""
        card = self.defence_card
        if card.name == "identity":
            return "none"
        if self.robust_card is not None:
            return {"at-pgd": "AT_PGD", "doa-7x7": "DOA_7x7", "doa-9x5": "DOA_9x5"}.get(card.recipe, card.name)
        method = {"arn": "ARN", "ape-g": "APE-G", "hgd": "HGD"}.get(card.architecture)
        if method is None:
            return card.name
        if card.profile in ("hardened", "joint"):
            return f"{method}_W"  # trained on white-box attacks
        if any("budgets" in attack for attack in card.seen_attacks):
            return f"{method}_wide"
        seen = frozenset(str(attack["attack"]) for attack in card.seen_attacks)
        return f"{method}_{_SEEN.get(seen) or '+'.join(sorted(seen))}"


_SEEN = {
    frozenset({"PGD_N", "PGD_T"}): "PP",
    frozenset({"PGD_N", "DDN_N"}): "DP",
    frozenset({"PGD_N", "STA_N"}): "PS",
    frozenset({"AP_1", "AP_2"}): "AP",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """What is attacked: a module from images in [0, 1] to logits.

    Crafted sets are stored under its ``identity``. ``attacked`` describes it in words, and ``settings`` go into the
    record. ``as_deployed`` is the module that answers, where ``module`` is the same function in another memory layout,
    equal but for rounding. ``purify`` is the purification that errors are counted after, where it is not the
    purifier's.
    """

    module: nn.Module
    identity: str
    attacked: str
    settings: Mapping[str, Any]
    as_deployed: nn.Module | None = None
    purify: Callable[[Tensor], Tensor] | None = None

    def by(self, attack: Attack) -> nn.Module:
        """The module that ``attack`` goes through; a minimum-norm attack ends where rounding decides."""
        return self.as_deployed if self.as_deployed is not None and attack.is_minimum_norm else self.module


class ThreatModel(Protocol):
    """One threat model."""

    name: ClassVar[ThreatName]

    def target(self, defended: Defended) -> Target:
        """What this attacker differentiates through."""
        ...


class Oblivious:
    """The attacker sees the classifier f alone, and one crafted set serves every defence (Tables 1, 2 and 5)."""

    name: ClassVar[ThreatName] = "oblivious"

    def target(self, defended: Defended) -> Target:
        """The classifier f."""
        f = defended.classifier
        return Target(_in_fast_layout(f), defended.classifier_card.sha256, "f", {}, f)


class WhiteBox:
    """The attacker sees the defended model: f after g with full gradients, or the robust classifier (Table 3)."""

    name: ClassVar[ThreatName] = "white_box"

    def target(self, defended: Defended) -> Target:
        """The classifier f after the purifier g."""
        if defended.robust is not None and defended.robust_card is not None:
            robust = defended.robust
            return Target(_in_fast_layout(robust), defended.robust_card.sha256, "the robust classifier", {}, robust)
        parts = defended.purifier, defended.classifier
        identity = f"{defended.classifier_card.sha256} after {defended.purifier_card.sha256}"
        return Target(_in_fast_layout(*parts), identity, "f after g", {}, nn.Sequential(*parts))


@dataclasses.dataclass(frozen=True)
class GrayBox:
    """The attacker knows that there is a purifier, but holds another one: f after a surrogate (Table 3)."""

    surrogate: nn.Module
    card: Card
    name: ClassVar[ThreatName] = "gray_box"

    def target(self, defended: Defended) -> Target:
        """The classifier f after the surrogate."""
        behind = Defended(defended.classifier, defended.classifier_card, self.surrogate, self.card)
        found = WhiteBox().target(behind)
        which = {"surrogate": behind.name, "surrogate_recipe": self.card.recipe, "surrogate_sha256": self.card.sha256}
        return dataclasses.replace(found, attacked=f"f after {behind.name}", settings=which)


@dataclasses.dataclass(frozen=True)
class Bpda:
    """Backward pass differentiable approximation (Athalye, Carlini & Wagner, ICML 2018) through advertorch.

    With ``backward`` ``identity`` the gradient of f at g(x) is taken for that at x (Table 4). With ``g`` the forward
    pass is the service's own, uint8 in and out, which has no gradient, and the backward pass is g's.
    """

    backward: Literal["identity", "g"] = "identity"
    name: ClassVar[ThreatName] = "bpda"

    def target(self, defended: Defended) -> Target:
        """The classifier f after the purifier g, with the approximate gradient."""
        from ..attacks.advertorch_shim import BPDAWrapper

        g = defended.purifier

        def served(x: Tensor) -> Tensor:
            return _uint8(g(_uint8(x)))

        through = self.backward == "g"
        wrapped = BPDAWrapper(served, forwardsub=g) if through else BPDAWrapper(g)
        attacked = "f after uint8 g, g backward" if through else "f after g, identity backward"
        identity = f"{defended.classifier_card.sha256} after {defended.purifier_card.sha256} bpda {self.backward}"
        module, settings = nn.Sequential(wrapped, defended.classifier), {"backward": self.backward}
        return Target(module, identity, attacked, settings, purify=served if through else None)


class ExpectationOverTransformation(nn.Module):
    """Mean logits over ``draws`` passes of a random ``module`` (Athalye et al., ICML 2018), to attack through."""

    def __init__(self, module: nn.Module, draws: int = 20) -> None:
        super().__init__()
        self.module, self.draws = module, draws

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to the mean of ``draws`` logits ``(N, classes)``."""
        return torch.stack([self.module(x) for _ in range(self.draws)]).mean(0)


def _in_fast_layout(*parts: nn.Module) -> nn.Module:
    """The parts in a row; networks of this package in a layout that is the same function and faster on a CPU."""
    ours = all(type(part).__module__.startswith("arn_purify.models.") for part in parts)
    return frozen(*parts) if ours else nn.Sequential(*parts) if len(parts) > 1 else parts[0]


def _uint8(x: Tensor) -> Tensor:
    return x.mul(255).round().div(255)
