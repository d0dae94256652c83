"""Attacks, one family for each file, all over :class:`Attack`; :func:`get` finds one by the paper's name."""

from .base import BUDGET_TOLERANCE, Attack, AttackError, Crafted, seed_of
from .names import AttackName
from .registry import ATTACKS, at_budget, for_training, get
from .wrappers import for_crafting, in_fp32

__all__ = [
    "ATTACKS",
    "BUDGET_TOLERANCE",
    "Attack",
    "AttackError",
    "AttackName",
    "Crafted",
    "at_budget",
    "for_crafting",
    "for_training",
    "get",
    "in_fp32",
    "seed_of",
]
