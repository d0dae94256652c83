"""The budgets that a data set is attacked with, by an attack's name: the larger one where it ends in ``_eps2``."""

from __future__ import annotations

_LINF = dict.fromkeys(("mnist", "digits", "digits-colour"), (0.3, 0.4))
# Of the image's mass, in pixels. The paper names neither; set where the undefended classifier errs as often as the
# paper's (98.56 and 99.91 % on MNIST, 99.83 and 99.98 % on CIFAR-10), on the validation split.
_WASSERSTEIN = dict.fromkeys(("mnist", "digits", "digits-colour"), (0.2, 0.25)) | {"cifar10": (0.004, 0.005)}
# A step of PGD on digits; below a budget of .1 it is a share of the budget.
_STEP = 0.01


def linf_budget(name: str, dataset: str) -> float:
    """The l-infinity budget on [0, 1]."""
    return _LINF.get(dataset, (8 / 255, 0.05))[name.endswith("_eps2")]


def wasserstein_budget(name: str, dataset: str) -> float:
    """The Wasserstein budget, as a share of an image's mass times pixels."""
    return _WASSERSTEIN.get(dataset, (8 / 255, 0.05))[name.endswith("_eps2")]


def has_large_budget(name: str, dataset: str) -> bool:
    """Whether the budget is that of digits, where searches take longer."""
    return linf_budget(name, dataset) >= 0.1


def linf_step(eps: float, steps_to_the_edge: int) -> float:
    """A sign step: .01, or where the budget is below .1 such a share of it."""
    return _STEP if eps >= 0.1 else eps / steps_to_the_edge
