"""Attacks by the paper's names, with the settings that each is tested with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from .. import own
from ..data.datasets import spec_of
from .autoattack import AutoAttack
from .base import Attack, AttackError
from .cw import CarliniWagner
from .ddn import Ddn
from .jsma import Jsma
from .match import FeatureMatching
from .momentum import MomentumFgsm
from .names import AttackName
from .pgd import LinfPgd
from .roa import RectangularOcclusion
from .rp2 import Rp2
from .sta import SpatialTransform
from .sticker_pgd import StickerPgd
from .wasserstein import Wasserstein

# By what stands before the first underscore of a name: the attack of a name for a data set.
_FAMILIES: Mapping[str, Callable[[str, str], Attack]] = {
    "PGD": LinfPgd.preset,
    "PGDM": LinfPgd.preset,
    "MI": MomentumFgsm.preset,
    "DI": MomentumFgsm.preset,
    "MATCH": FeatureMatching.preset,
    "CW": CarliniWagner.preset,
    "DDN": Ddn.preset,
    "AA": AutoAttack.preset,
    "SQUARE": AutoAttack.preset,
    "JSMA": Jsma.preset,
    "STA": SpatialTransform.preset,
    "FWA": Wasserstein.preset,
    "ROA": RectangularOcclusion.preset,
    "AP": Rp2.preset,
    "APM": StickerPgd.preset,
}
ATTACKS = (
    "PGD_N", "PGD_N_eps2", "PGD_T", "PGD_T_eps2", "PGDM_N", "PGDM_T", "MI_FGSM", "DI_FGSM", "MATCH_N",
    "CW_N", "CW_T", "DDN_N", "DDN_T", "AA_N", "AA_N_eps2", "AA_N_rand",
    "SQUARE_N", "JSMA_T", "STA_N", "STA_T", "FWA_N", "FWA_N_eps2",
    "ROA_N", "AP_1", "AP_2", "AP_3", "AP_4", "APM_1", "APM_2", "APM_3", "APM_4",
)  # fmt: skip


def get(name: str, dataset: str = "mnist") -> Attack:
    """The attack of that name with the settings it is tested with on ``dataset``.

    ``NAME@EPS`` and ``NAMExITERATIONS`` (``PGD_N@0.2``, ``PGD_Nx100``, ``PGD_N@0.2x100``) are the same attack with
    another budget, another number of iterations, or both. A step that is a share of the budget stays that share, and
    PGD's steps are then at least long enough to cross the whole budget (``PGD_Nx1`` is FGSM from a random start). A
    last ``rRESTARTS`` (``PGD_Nx100r10``) repeats the attack on the images that withstood it; each image keeps the worst
    of its random starts.

    ``module:function`` in NAME's place is an attack of the user's own: the function takes no arguments and returns an
    :class:`Attack`. It is called ``module.function`` from here on, and found by that name too.

    Raises:
        ValueError: no attack of that name, or not with such a setting.
    """
    name = own.spec_of(name)
    # A function of the user's own may end as if it had endings.
    variant = AttackName(name) if own.has(name) else AttackName.parse(name)
    if variant is None or (":" not in variant.name and variant.name not in ATTACKS):
        raise AttackError(
            f"no attack {name!r}: module:function, or one of {', '.join(ATTACKS)}; also as NAME@EPS, NAMExITERATIONS "
            "and NAMErRESTARTS"
        )
    attack = preset = _own(variant.name) if ":" in variant.name else _of_family(variant.name, dataset)
    if variant.eps is not None and attack.eps is None:
        raise AttackError(f"{attack.name} seeks the smallest change: it has no budget to set")
    if variant.eps is not None and attack.norm == "linf" and variant.eps > 1:
        raise AttackError(f"{name}: a budget of {variant.eps:g} on values in [0, 1]; 8/255 is {8 / 255:.4f}")
    if variant.eps is not None:
        # In l-infinity the step is a share of the budget, but for data that have a step of their own.
        is_share = attack.norm == "linf" and ":" not in variant.name and not spec_of(dataset).attacks.step
        attack = at_budget(attack, variant.eps) if is_share else attack.with_settings(variant.eps)
    if variant.iterations:
        attack = attack.with_settings(iterations=variant.iterations)
    changed = (attack.eps, attack.settings.get("iterations")) != (preset.eps, preset.settings.get("iterations"))
    if isinstance(attack, LinfPgd) and changed:
        attack = attack.crossing_its_budget()
    if variant.restarts:
        if not attack.starts_at_random:
            raise AttackError(f"{attack.name} does not start at random: it has no restarts to set")
        attack = dataclasses.replace(attack, settings={**attack.settings, "restarts": variant.restarts})
    return dataclasses.replace(attack, name=own.short_name(name))


def _of_family(name: str, dataset: str) -> Attack:
    return _FAMILIES[name.partition("_")[0]](name, dataset)


def _own(spec: str) -> Attack:
    attack = own.call(spec)
    if not isinstance(attack, Attack):
        raise AttackError(f"{spec} gives a {type(attack).__name__}, not an Attack")
    return dataclasses.replace(attack, sha256=own.sha256(spec, attack))


def for_training(attack: Attack) -> Attack:
    """The attack with the shorter search that training uses, unless its name says how many iterations it takes."""
    variant = AttackName.parse(attack.name)
    return attack if variant and variant.iterations else attack.shortened()


def at_budget(attack: Attack, eps: float) -> Attack:
    """The attack at another budget, its step in proportion; an attack without a budget stays as it is."""
    if attack.eps is None:
        return attack
    step = {"step": attack.settings["step"] * eps / attack.eps} if "step" in attack.settings else {}
    return attack.with_settings(eps=eps, **step)
