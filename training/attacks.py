"""Attacks by the paper's names, from one registry. Each returns images inside its budget and says which ones failed.

A new attack is one entry: a function from (classifier, images, labels, targets, settings) to adversarial images.
Everything else (targets, seeding, range and budget checks, counting failures) happens once, in :meth:`Attack.__call__`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["linf", "l2", "l0", "flow"]
Goal = Literal["untargeted", "targeted"]
Settings = Mapping[str, float | int]
# (classifier, images, labels or targets, settings) -> adversarial images
Perturb = Callable[[nn.Module, Tensor, Tensor, Settings], Tensor]

# Rounding in float32 around clipped sums; far below one grey level (.0039).
BUDGET_TOLERANCE = 1e-5


class AttackError(ValueError):
    """An unknown attack, or one that broke its own budget or range."""


class Crafted(NamedTuple):
    """``images`` ``(N, C, H, W)`` in [0, 1], and which of them, ``(N,)`` bool, reached the attack's goal."""

    images: Tensor
    succeeded: Tensor


@dataclasses.dataclass(frozen=True)
class Attack:
    """An attack with its exact settings.

    ``eps`` is the budget in ``norm`` on [0, 1], ``None`` for an attack that seeks the smallest change; where such a one
    fails, the natural image comes back. ``source`` says whose code and which paper.
    """

    name: str
    goal: Goal
    norm: Norm
    eps: float | None
    settings: Settings
    source: str
    perturb: Perturb = dataclasses.field(repr=False, compare=False)

    def with_settings(self, eps: float | None = None, **settings: float | int) -> Attack:
        """The same attack with some settings replaced."""
        unknown = set(settings) - set(self.settings)
        if unknown:
            raise AttackError(f"{self.name} has no setting {', '.join(sorted(unknown))}")
        return dataclasses.replace(self, eps=self.eps if eps is None else eps, settings={**self.settings, **settings})

    def describe(self) -> dict[str, Any]:
        """Name, goal, norm, eps and settings, as records and cards carry them."""
        return {
            "attack": self.name,
            "goal": self.goal,
            "norm": self.norm,
            "eps": self.eps,
            "settings": dict(self.settings),
        }

    def __call__(self, classifier: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Crafted:
        """Attack ``classifier`` (logits) at ``images`` ``(N, C, H, W)`` in [0, 1] with true ``labels`` ``(N,)``.

        The same seed, batch and device give the same images. Targets are drawn uniformly from the other classes.

        Raises:
            AttackError: the result left [0, 1] or the budget.
        """
        torch.manual_seed(seed)  # advertorch draws its random start from the global generator
        with torch.no_grad():
            classes = classifier(images[:1]).shape[1]
        goal_labels = labels
        if self.goal == "targeted":
            goal_labels = (labels + torch.randint(1, classes, labels.shape).to(labels.device)) % classes
        settings = self.settings if self.eps is None else {**self.settings, "eps": self.eps}
        with torch.enable_grad():
            crafted = self.perturb(classifier, images, goal_labels, settings).detach()
        self._check(images, crafted)
        with torch.no_grad():
            predicted = classifier(crafted).argmax(1)
        succeeded = predicted == goal_labels if self.goal == "targeted" else predicted != labels
        if self.eps is None:
            crafted = torch.where(succeeded.reshape(-1, 1, 1, 1), crafted, images)
        return Crafted(crafted, succeeded)

    def _check(self, images: Tensor, crafted: Tensor) -> None:
        if crafted.shape != images.shape or not bool(torch.isfinite(crafted).all()):
            raise AttackError(f"{self.name} gave back {tuple(crafted.shape)} or values that are not finite")
        if float(crafted.min()) < 0 or float(crafted.max()) > 1:
            raise AttackError(f"{self.name} left [0, 1]: {float(crafted.min())} to {float(crafted.max())}")
        if self.eps is not None and self.norm in ("linf", "l2"):
            order = torch.inf if self.norm == "linf" else 2
            largest = float(torch.linalg.vector_norm((crafted - images).flatten(1), order, dim=1).max())
            if largest > self.eps + BUDGET_TOLERANCE:
                raise AttackError(f"{self.name} spent {largest:.6f} of a budget of {self.eps} ({self.norm})")


def seed_of(*parts: object) -> int:
    """A seed from anything that has a text form, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def _summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), labels, reduction="sum")


def _linf_pgd(targeted: bool) -> Perturb:
    def perturb(classifier: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
        from .advertorch_shim import attacks

        attack = attacks.LinfPGDAttack(
            classifier,
            loss_fn=_summed_cross_entropy,
            eps=settings["eps"],
            nb_iter=settings["iterations"],
            eps_iter=settings["step"],
            rand_init=True,
            targeted=targeted,
        )
        out: Tensor = attack.perturb(images, labels)
        return out

    return perturb


def _ddn(classifier: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
    from .advertorch_shim import attacks

    attack = attacks.DDNL2Attack(
        classifier,
        nb_iter=settings["iterations"],
        gamma=settings["gamma"],
        init_norm=settings["init_norm"],
        quantize=True,
        levels=settings["levels"],
    )
    with warnings.catch_warnings():
        # It steps its cosine schedule before its optimiser, as its authors wrote it; torch would rather not.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        out: Tensor = attack.perturb(images, labels)
    return out


def _carlini_wagner(classifier: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
    from .advertorch_shim import attacks

    attack = attacks.CarliniWagnerL2Attack(
        classifier,
        num_classes=_classes(classifier, images),
        confidence=settings["confidence"],
        learning_rate=settings["step"],
        binary_search_steps=settings["searches"],
        max_iterations=settings["iterations"],
        initial_const=settings["initial_const"],
    )
    out: Tensor = attack.perturb(images, labels)
    return out


def _jsma(classifier: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
    from .advertorch_shim import attacks

    attack = attacks.JacobianSaliencyMapAttack(
        classifier, _classes(classifier, images), theta=settings["theta"], gamma=settings["gamma"]
    )
    # Its map has the square of the pixels' number for each image: few at a time.
    parts = zip(images.split(_JSMA_BATCH), labels.split(_JSMA_BATCH), strict=True)
    return torch.cat([attack.perturb(x, y) for x, y in parts])


def _spatial(targeted: bool) -> Perturb:
    def perturb(classifier: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
        from .advertorch_shim import attacks

        attack = attacks.SpatialTransformAttack(
            classifier,
            num_classes=_classes(classifier, images),
            confidence=settings["confidence"],
            initial_const=settings["initial_const"],
            max_iterations=settings["iterations"],
            search_steps=settings["searches"],
            targeted=targeted,
        )
        # One search serves a whole batch, so the batch's size is a setting of the attack.
        batch = int(settings["batch"])
        parts = zip(images.split(batch), labels.split(batch), strict=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Default (grid_sample|affine_grid)")  # it takes today's default knowingly
            warnings.filterwarnings("ignore", ".*iprint", DeprecationWarning)
            found = torch.cat([attack.perturb(x, y) for x, y in parts])
        # Where it fails it leaves a black image, which is no adversarial example.
        failed = found.flatten(1).amax(1) == 0
        return torch.where(failed.reshape(-1, 1, 1, 1), images, found).clamp(0, 1)

    return perturb


def _autoattack(classifier: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
    from pyautoattack import AutoAttack

    logger = logging.getLogger("auto-attack")
    level = logger.level
    logger.setLevel(logging.WARNING)  # its flags are warnings; its progress is not for our log
    attack = AutoAttack(
        classifier, norm="Linf", eps=settings["eps"], device=images.device, seed=int(settings["seed"]),
        version="rand" if settings["eot"] else "standard",
    )  # fmt: skip
    others = _classes(classifier, images) - 1
    attack.apgd_targeted.n_target_classes = min(9, others)
    attack.fab.n_target_classes = min(9, others)
    try:
        found, _ = attack.run_standard_evaluation(images, labels, batch_size=500)
    finally:
        logger.setLevel(level)
    # It may overstep by a rounding of float32.
    out: Tensor = torch.min(torch.max(found, images - settings["eps"]), images + settings["eps"]).clamp(0, 1)
    return out


def _classes(classifier: nn.Module, images: Tensor) -> int:
    with torch.no_grad():
        return int(classifier(images[:1]).shape[1])


_JSMA_BATCH = 50
_PGD = "Madry et al., ICLR 2018; advertorch LinfPGDAttack, summed cross-entropy, random start"
_EPS = {"mnist": (0.3, 0.4), "digits": (0.3, 0.4)}
_STEP = 0.01

ATTACKS = (
    "PGD_N", "PGD_N_eps2", "PGD_T", "PGD_T_eps2", "CW_N", "DDN_N", "AA_N", "AA_N_eps2", "AA_N_rand", "JSMA_T", "STA_N",
    "STA_T",
)  # fmt: skip


def get(name: str, dataset: str = "mnist") -> Attack:
    """The attack of that name with the settings it is tested with on ``dataset``.

    Raises:
        AttackError: no attack of that name.
    """
    base = name.removesuffix("_eps2")
    eps = _EPS.get(dataset, (8 / 255, 0.05))[base != name]
    if name not in ATTACKS:
        raise AttackError(f"no attack {name!r}: one of {', '.join(ATTACKS)}")
    if base in ("PGD_N", "PGD_T"):
        step = _STEP if eps >= 0.1 else eps / 4
        goal: Goal = "targeted" if base == "PGD_T" else "untargeted"
        return Attack(name, goal, "linf", eps, {"iterations": 40, "step": step}, _PGD, _linf_pgd(goal == "targeted"))
    if base in ("AA_N", "AA_N_rand"):
        source = "Croce & Hein, ICML 2020; pyautoattack, " + ("rand: EOT 20" if base == "AA_N_rand" else "standard")
        settings: Settings = {"seed": 0, "eot": 20 if base == "AA_N_rand" else 0}
        return Attack(name, "untargeted", "linf", eps, settings, source, _autoattack)
    if base == "CW_N":
        iterations = 500 if eps >= 0.1 else 100
        settings = {"confidence": 1.0, "iterations": iterations, "searches": 4, "initial_const": 1.0, "step": 0.01}
        source = "Carlini & Wagner, S&P 2017; advertorch CarliniWagnerL2Attack"
        return Attack(name, "untargeted", "l2", None, settings, source, _carlini_wagner)
    if base == "JSMA_T":
        source = "Papernot et al., EuroS&P 2016; advertorch JacobianSaliencyMapAttack"
        return Attack(name, "targeted", "l0", None, {"theta": 1.0, "gamma": 1.0}, source, _jsma)
    if base in ("STA_N", "STA_T"):
        goal = "targeted" if base == "STA_T" else "untargeted"
        settings = {"confidence": 0.0, "initial_const": 1.0, "iterations": 200, "searches": 5, "batch": 50}
        source = "Xiao et al., ICLR 2018; advertorch SpatialTransformAttack (5000 iterations x 20 searches there)"
        return Attack(name, goal, "flow", None, settings, source, _spatial(goal == "targeted"))
    settings = {"iterations": 100, "gamma": 0.05, "init_norm": 1.0, "levels": 256}
    return Attack(name, "untargeted", "l2", None, settings, "Rony et al., CVPR 2019; advertorch DDNL2Attack", _ddn)


def for_training(attack: Attack) -> Attack:
    """The attack as training crafts it: half the iterations at twice the step, the same budget."""
    if "step" not in attack.settings:
        return attack
    return attack.with_settings(iterations=int(attack.settings["iterations"]) // 2, step=2 * attack.settings["step"])
