"""What every attack shares: seed, targets, restarts, and the checks of range, budget and success.

A new attack is a subclass of :class:`Attack` with a ``perturb`` method. One of this package has a line in
:mod:`.registry`, one of the user's own a function that returns it (``module:function``).
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..code_hash import sha256 as sha256_of_code
from .wrappers import in_fp32, number_of_classes

Norm = Literal["linf", "l2", "l0", "flow", "wasserstein", "patch"]
Goal = Literal["untargeted", "targeted"]
Settings = Mapping[str, float | int]

# Rounding in float32 around clipped sums; far below one grey level (.0039).
BUDGET_TOLERANCE = 1e-5


# How far ``(N, C, H, W)`` was changed, ``(N,)``, in the norms in which a budget is checked. l0 counts pixels.
_DISTANCES: Mapping[Norm, Callable[[Tensor], Tensor]] = {
    "linf": lambda change: change.abs().flatten(1).amax(1),
    "l2": lambda change: change.flatten(1).norm(dim=1),
    "l0": lambda change: change.ne(0).any(1).flatten(1).sum(1),
}


class AttackError(ValueError):
    """An unknown attack, or one that broke its own budget or range."""


class Crafted(NamedTuple):
    """Adversarial images, which of them reached the goal, and the attack's own warnings.

    ``images`` ``(N, C, H, W)`` in [0, 1]; ``succeeded`` ``(N,)`` bool.
    """

    images: Tensor
    succeeded: Tensor
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Attack(abc.ABC):
    """An attack with its exact settings.

    ``eps`` is the budget in ``norm`` on [0, 1]. It is ``None`` for a minimum-norm attack, which returns the natural
    image where it fails, and for an attack whose budget is its patch. ``source`` names the code and the paper.
    ``sha256`` is the hash of the source code of an attack of the user's own, and empty for those of this package.
    ``packages`` are those whose versions a record names beside the usual ones.
    """

    name: str
    goal: Goal
    norm: Norm
    eps: float | None
    settings: Settings
    source: str
    sha256: str = dataclasses.field(default="", kw_only=True)
    packages: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    # Each image's perturbation depends on the others of its batch, so a restart must attack all of them again.
    whole_batch: ClassVar[bool] = False
    starts_at_random: ClassVar[bool] = False

    @abc.abstractmethod
    def perturb(self, classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial images for ``images`` ``(N, C, H, W)`` in [0, 1].

        ``labels`` ``(N,)`` are the targets of a targeted attack, the true classes otherwise.
        """

    def shortened(self) -> Self:
        """The attack with the shorter search that training uses."""
        return self

    def collect_flags(self) -> contextlib.AbstractContextManager[set[str]]:
        """A context that collects what the attack itself warns of."""
        return contextlib.nullcontext(set())

    @property
    def budget(self) -> float:
        """``eps`` of an attack that has one."""
        if self.eps is None:
            raise AttackError(f"{self.name} has no budget")
        return self.eps

    @property
    def code_sha256(self) -> str:
        """Hash of the code that makes the images."""
        return self.sha256 or sha256_of_code(type(self).__module__)

    @property
    def is_minimum_norm(self) -> bool:
        """Whether it seeks the smallest change instead of spending a budget."""
        return self.eps is None and self.norm != "patch"

    def with_settings(self, eps: float | None = None, **settings: float | int) -> Self:
        """The same attack with some settings replaced."""
        unknown = set(settings) - set(self.settings)
        if unknown:
            raise AttackError(f"{self.name} has no setting {', '.join(sorted(unknown))}")
        return dataclasses.replace(self, eps=self.eps if eps is None else eps, settings={**self.settings, **settings})

    def describe(self) -> dict[str, Any]:
        """Name, goal, norm, eps, settings and the hash of the code, as crafted sets and cards carry them."""
        return {
            "attack": self.name,
            "goal": self.goal,
            "norm": self.norm,
            "eps": self.eps,
            "settings": dict(self.settings),
            "sha256": self.code_sha256,
        }

    def __call__(self, classifier: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Crafted:
        """Attack ``classifier`` (logits) at ``images`` ``(N, C, H, W)`` in [0, 1] with true ``labels`` ``(N,)``.

        The same seed and batch give the same images on a CPU; a GPU adds in no fixed order. Targets are drawn uniformly
        from the other classes. With the setting ``restarts`` each image keeps the worst of its starts.

        Raises:
            AttackError: the result left [0, 1], or the budget; of an attack of the user's own the latter is a flag.
        """
        torch.manual_seed(seed)  # advertorch draws its random start from the global generator
        classes = number_of_classes(classifier, images)
        goal_labels = labels
        if self.goal == "targeted":
            goal_labels = (labels + torch.randint(1, classes, labels.shape).to(labels.device)) % classes
        x_adv, succeeded = images, torch.zeros_like(labels, dtype=torch.bool)
        worst = torch.full(labels.shape, -torch.inf, device=images.device)
        with self.collect_flags() as flags:
            for _ in range(int(self.settings.get("restarts", 1))):
                left = torch.arange(len(images), device=images.device)
                left = left if self.whole_batch else left[~succeeded]
                if not len(left):
                    break
                with torch.enable_grad():
                    found = self.perturb(classifier, images[left], goal_labels[left]).detach()
                self._check(images[left], found)
                flags.update(self._overspent(images[left], found))
                reached, rank = self._judge(classifier, found, labels[left], goal_labels[left])
                better = rank > worst[left]
                worst[left] = torch.maximum(worst[left], rank)
                succeeded[left] |= reached
                x_adv = x_adv.index_copy(0, left[better], found[better])
        if self.is_minimum_norm:
            x_adv = torch.where(succeeded.reshape(-1, 1, 1, 1), x_adv, images)
        return Crafted(x_adv, succeeded, tuple(sorted(flags)))

    @torch.no_grad()
    def _judge(
        self, classifier: nn.Module, x_adv: Tensor, labels: Tensor, goal_labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Which images reached the goal, ``(N,)`` bool, and how bad each is for the classifier, ``(N,)``.

        An image that reached the goal ranks above one that is merely wrong, and that above a larger loss.
        """
        logits = in_fp32(classifier)(x_adv).float()
        predicted = logits.argmax(1)
        reached = predicted == goal_labels if self.goal == "targeted" else predicted != labels
        loss = F.cross_entropy(logits, labels, reduction="none")
        return reached, loss.nan_to_num(1e3).clamp(max=1e3) + 1e4 * (predicted != labels) + 1e5 * reached

    def _check(self, images: Tensor, x_adv: Tensor) -> None:
        if x_adv.shape != images.shape or not bool(torch.isfinite(x_adv).all()):
            raise AttackError(f"{self.name} returned the shape {tuple(x_adv.shape)} or values that are not finite")
        if float(x_adv.min()) < 0 or float(x_adv.max()) > 1:
            raise AttackError(f"{self.name} left [0, 1]: {float(x_adv.min())} to {float(x_adv.max())}")

    def _overspent(self, images: Tensor, x_adv: Tensor) -> Iterator[str]:
        """A flag of the user's own attack whose budget is exceeded, or in a norm in which none is checked."""
        if self.eps is None:
            return
        distance = _DISTANCES.get(self.norm)
        if distance is None:
            if self.sha256:
                yield f"budget not checked: no measure of {self.norm}"
            return
        largest = float(distance(x_adv - images).max())
        if largest > self.eps + BUDGET_TOLERANCE:
            if not self.sha256:
                raise AttackError(f"{self.name} spent {largest:.6f} of a budget of {self.eps} ({self.norm})")
            yield f"over budget: changed an image by more than {self.eps} ({self.norm})"


def goal_of(name: str) -> Goal:
    """The goal that an attack's name states: targeted where it ends in ``_T`` or ``_T_eps2``."""
    return "targeted" if name.removesuffix("_eps2").endswith("_T") else "untargeted"


def budget_of(name: str, budgets: tuple[float, float]) -> float:
    """The first of ``budgets``, the second where an attack's name ends in ``_eps2``."""
    return budgets[name.endswith("_eps2")]


def seed_of(*parts: object) -> int:
    """A seed from anything that has a text form, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")
