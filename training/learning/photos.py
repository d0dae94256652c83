"""Training on photographs: Algorithm 1 over a pool of attacked crops that is renewed a few at a time.

A photograph is worth many crops and an attack is worth many steps of training, so neither is made for one step alone.
No label is used: the classifier's own answer for the natural crop is what its answer for the purified one should be.
"""

from __future__ import annotations

import dataclasses
import logging

logger = logging.getLogger(__name__)

KINDS = ("natural", "PGD_N", "PGD_T", "MI_N", "L2_N")
"""The domains that D_A tells apart: untargeted and targeted PGD, PGD with momentum, and PGD in an l2 ball."""


@dataclasses.dataclass(frozen=True)
class PhotoRecipe:
    """One run on photographs.

    ``crop`` pixels of a side; ``batch_size`` crops a step, of which a share ``natural`` is left as it is. The pool holds
    ``pool`` attacked crops, and ``crafted`` new ones replace the oldest every ``crafted_every`` steps. ``budgets``: the
    range of eps in grey levels of 255. ``shares`` of the attacks, in the order of :data:`KINDS`.
    ``l1``, ``feature``, ``logit``, ``att`` and ``nor`` weigh the loss terms of :mod:`training.learning.losses`; the
    logits' weight is 0 for ``hold`` steps and then grows over ``ramp`` steps, since natural images are destroyed where
    it is there from the start. The rate is constant but for ``warm_up`` steps at the start and ``decay`` at the end, so
    that a run can be made longer without planning it.
    """

    steps: int = 40_000
    crop: int = 128
    batch_size: int = 16
    learning_rate: float = 2e-3
    warm_up: int = 200
    decay: int = 4_000
    natural: float = 0.35
    pool: int = 4096
    crafted: int = 16
    crafted_every: int = 8
    budgets: tuple[float, float] = (1.0, 16.0)
    shares: tuple[float, ...] = (0.4, 0.25, 0.2, 0.15)
    l1: float = 60.0
    feature: float = 1.0
    logit: float = 0.5
    att: float = 0.01
    nor: float = 1e-6
    hold: int = 600
    ramp: int = 3_000
    ema: float = 0.999
