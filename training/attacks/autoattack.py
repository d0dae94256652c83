"""AutoAttack, its variant for random defences, and its black-box part Square alone.

Sources: Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", ICML 2020; Andriushchenko et al., "Square Attack", ECCV 2020.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Literal, Self

import torch
from torch import Tensor, nn

from ..data.datasets import spec_of
from .base import Attack, budget_of
from .wrappers import ContiguousGradient, number_of_classes

Version = Literal["standard", "rand", "square"]
_SOURCES: Mapping[Version, str] = {
    "standard": "Croce & Hein, ICML 2020; pyautoattack, standard",
    "rand": "Croce & Hein, ICML 2020; pyautoattack, rand",
    "square": "Andriushchenko et al., ECCV 2020; pyautoattack, scores only",
}
_BATCH = 500


@dataclasses.dataclass(frozen=True)
class AutoAttack(Attack):
    """AA_N, AA_N_rand (20 draws for each gradient) and SQUARE_N."""

    version: Version = "standard"

    @classmethod
    def preset(cls, name: str, dataset: str) -> Self:
        """The authors' settings."""
        version: Version = "square" if name.startswith("SQUARE") else "rand" if name.endswith("_rand") else "standard"
        settings = {"seed": 0, "queries": 5000} if version == "square" else {"seed": 0, "eot": 20 * (version == "rand")}
        eps = budget_of(name, spec_of(dataset).attacks.linf_eps)
        return cls(name, "untargeted", "linf", eps, settings, _SOURCES[version], version)

    def perturb(self, classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """By pyautoattack."""
        from pyautoattack import AutoAttack as Implementation

        eps = self.budget
        attack = Implementation(
            ContiguousGradient(classifier), norm="Linf", eps=eps, device=images.device,
            seed=int(self.settings["seed"]), version="rand" if self.version == "rand" else "standard",
        )  # fmt: skip
        others = number_of_classes(classifier, images) - 1
        attack.apgd_targeted.n_target_classes = min(9, others)
        attack.fab.n_target_classes = min(9, others)
        if others < 3:  # the targeted DLR loss compares four logits
            attack.attacks_to_run = [name for name in attack.attacks_to_run if name != "apgd-t"]
        if self.version == "square":
            attack.attacks_to_run = ["square"]
            attack.square.n_queries = int(self.settings["queries"])
        found, _ = attack.run_standard_evaluation(images.contiguous(), labels, batch_size=_BATCH)
        # It may leave the ball by a rounding of float32.
        x_adv: Tensor = torch.min(torch.max(found, images - eps), images + eps).clamp(0, 1)
        return x_adv

    @contextlib.contextmanager
    def collect_flags(self) -> Iterator[set[str]]:
        """What its logger warns of: signs that its own result may not be trusted."""
        flags: set[str] = set()

        class Collect(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                text = re.sub(r"there are \d+ points", "there are points", record.getMessage().partition(" See ")[0])
                flags.add(f"AutoAttack: {text}")

        logger, handler = logging.getLogger("auto-attack"), Collect(logging.WARNING)
        level, propagate = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        try:
            yield flags
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
