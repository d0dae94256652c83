"""Attacks by the paper's names, from one registry. Each returns images inside its budget and says which ones failed.

A new attack is one entry: a function from (classifier, images, labels, targets, settings) to adversarial images.
Everything else (targets, seeding, range and budget checks, counting failures) happens once, in :meth:`Attack.__call__`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from . import fast, patches, wasserstein

Norm = Literal["linf", "l2", "l0", "flow", "wasserstein", "patch"]
Goal = Literal["untargeted", "targeted"]
Settings = Mapping[str, float | int]
# (classifier, images, labels or targets, settings) -> adversarial images
Perturb = Callable[[nn.Module, Tensor, Tensor, Settings], Tensor]

# Rounding in float32 around clipped sums; far below one grey level (.0039).
BUDGET_TOLERANCE = 1e-5


class AttackError(ValueError):
    """An unknown attack, or one that broke its own budget or range."""


class Crafted(NamedTuple):
    """``images`` ``(N, C, H, W)`` in [0, 1], which of them, ``(N,)`` bool, reached the goal, and what was warned of."""

    images: Tensor
    succeeded: Tensor
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Attack:
    """An attack with its exact settings.

    ``eps`` is the budget in ``norm`` on [0, 1], ``None`` for an attack that seeks the smallest change, and where such a
    one fails the natural image comes back; or for one whose budget is its ``patch``. ``source`` says whose code and
    which paper.
    """

    name: str
    goal: Goal
    norm: Norm
    eps: float | None
    settings: Settings
    source: str
    perturb: Perturb = dataclasses.field(repr=False, compare=False)
    whole_batch: bool = False  # one image's perturbation depends on the others, which restarts must not leave out

    def with_settings(self, eps: float | None = None, **settings: float | int) -> Attack:
        """The same attack with some settings replaced."""
        unknown = set(settings) - set(self.settings)
        if unknown:
            raise AttackError(f"{self.name} has no setting {', '.join(sorted(unknown))}")
        return dataclasses.replace(self, eps=self.eps if eps is None else eps, settings={**self.settings, **settings})

    @property
    def smallest(self) -> bool:
        """Whether it seeks the smallest change instead of spending a budget."""
        return self.eps is None and self.norm != "patch"

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
        crafted, succeeded = images, torch.zeros_like(labels, dtype=torch.bool)
        worst = torch.full(labels.shape, -torch.inf, device=images.device)
        with _autoattack_flags() as flags:
            for _ in range(int(self.settings.get("restarts", 1))):
                left = torch.arange(len(images), device=images.device)
                left = left if self.whole_batch else left[~succeeded]
                if not len(left):
                    break
                with torch.enable_grad():
                    found = self.perturb(classifier, images[left], goal_labels[left], settings).detach()
                self._check(images[left], found)
                with torch.no_grad():
                    logits = fast.exact(classifier)(found).float()
                predicted = logits.argmax(1)
                reached = predicted == goal_labels[left] if self.goal == "targeted" else predicted != labels[left]
                # Worse is what reached the goal, else what is wrong at all, else what is nearer to it.
                loss = nn.functional.cross_entropy(logits, labels[left], reduction="none")
                rank = loss.nan_to_num(1e3).clamp(max=1e3) + 1e4 * (predicted != labels[left]) + 1e5 * reached
                better = rank > worst[left]
                worst[left] = torch.maximum(worst[left], rank)
                succeeded[left] |= reached
                crafted = crafted.index_copy(0, left[better], found[better])
        if self.smallest:  # where none was found
            crafted = torch.where(succeeded.reshape(-1, 1, 1, 1), crafted, images)
        return Crafted(crafted, succeeded, tuple(sorted(flags)))

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


@contextlib.contextmanager
def _autoattack_flags() -> Iterator[set[str]]:
    """What AutoAttack warns of while it runs: its signs that its own result may not be trusted."""
    found: set[str] = set()

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = re.sub(r"there are \d+ points", "there are points", record.getMessage().partition(" See ")[0])
            found.add(f"AutoAttack: {text}")

    logger, handler = logging.getLogger("auto-attack"), Collect(logging.WARNING)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def seed_of(*parts: object) -> int:
    """A seed from anything that has a text form, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def _summed_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the best of the other classes wins: Carlini & Wagner's objective without its floor."""
    logits = logits.float()
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return (others - logits.gather(1, labels[:, None]).squeeze(1)).sum()


def objective(name: str) -> fast.Loss:
    """What the PGD attack of that name climbs, of logits and labels; with targets, what it goes down."""
    return _summed_margin if name.startswith("PGDM") else fast.summed_cross_entropy


def _linf_pgd(targeted: bool, loss: fast.Loss) -> Perturb:
    def perturb(classifier: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
        eps, step, iterations = settings["eps"], settings["step"], int(settings["iterations"])
        if images.is_cuda:
            return fast.pgd(classifier, images, labels, eps, step, iterations, targeted, loss)
        from .advertorch_shim import attacks

        attack = attacks.LinfPGDAttack(
            classifier,
            loss_fn=loss,
            eps=eps,
            nb_iter=iterations,
            eps_iter=step,
            rand_init=True,
            targeted=targeted,
        )
        out: Tensor = attack.perturb(images, labels)
        return out

    return perturb


def _match(classifier: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
    """Pull E's features to those of a natural image of another class, one of the ``nearest`` in the batch."""
    encode = getattr(classifier[0], "encode", None) if isinstance(classifier, nn.Sequential) else None
    if encode is None:
        raise AttackError("MATCH_N attacks the features of an ARN: white box, through a purifier that has a code")
    with torch.no_grad():
        codes = encode(images).flatten(1)
        distances = torch.cdist(codes, codes).masked_fill(labels[:, None] == labels, torch.inf)
        others = int((distances < torch.inf).sum(1).min())
        if not others:
            return images
        near = distances.topk(min(int(settings["nearest"]), others), largest=False).indices
        chosen = torch.randint(near.shape[1], (len(images), 1)).to(near.device)
        wanted = codes[near.gather(1, chosen).squeeze(1)]
    eps, step = settings["eps"], settings["step"]
    found = (images + eps * (2 * torch.rand_like(images) - 1)).clamp(0, 1)
    for _ in range(int(settings["iterations"])):
        found.requires_grad_(True)
        (gradient,) = torch.autograd.grad((encode(found).flatten(1) - wanted).square().sum(), found)
        moved = found.detach() - step * gradient.sign()
        found = torch.min(torch.max(moved, images - eps), images + eps).clamp(0, 1)
    return found


def _ddn(targeted: bool) -> Perturb:
    def perturb(classifier: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
        from .advertorch_shim import attacks

        attack = attacks.DDNL2Attack(
            classifier,
            nb_iter=settings["iterations"],
            gamma=settings["gamma"],
            init_norm=settings["init_norm"],
            quantize=True,
            levels=settings["levels"],
            targeted=targeted,
        )
        with warnings.catch_warnings():
            # It steps its cosine schedule before its optimiser, as its authors wrote it; torch would rather not.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            out: Tensor = attack.perturb(images, labels)
        return out

    return perturb


class _PlainGradient(nn.Module):
    """A classifier whose input gradient lies in memory as NCHW, which some libraries take for granted."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(_Plain.apply(x))  # type: ignore[no-untyped-call]
        return logits


class _Plain(torch.autograd.Function):
    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()


def _carlini_wagner(targeted: bool) -> Perturb:
    def perturb(classifier: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
        from .advertorch_shim import attacks

        attack = attacks.CarliniWagnerL2Attack(
            _PlainGradient(classifier),
            num_classes=_classes(classifier, images),
            confidence=settings["confidence"],
            learning_rate=settings["step"],
            binary_search_steps=settings["searches"],
            max_iterations=settings["iterations"],
            initial_const=settings["initial_const"],
            targeted=targeted,
        )
        out: Tensor = attack.perturb(images.contiguous(), labels)
        return out

    return perturb


def _jsma(classifier: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
    from .advertorch_shim import attacks

    attack = attacks.JacobianSaliencyMapAttack(
        _PlainGradient(classifier), _classes(classifier, images), theta=settings["theta"], gamma=settings["gamma"]
    )
    # Its map has the square of the values' number for each image: few at a time.
    batch = max(1, _JSMA_ENTRIES // images[0].numel() ** 2)
    parts = zip(images.contiguous().split(batch), labels.split(batch), strict=True)
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


def _autoattack(version: str) -> Perturb:
    """``standard``, ``rand`` (EOT 20), or its black-box part ``square`` alone."""

    def perturb(classifier: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
        from pyautoattack import AutoAttack

        attack = AutoAttack(
            _PlainGradient(classifier), norm="Linf", eps=settings["eps"], device=images.device,
            seed=int(settings["seed"]), version="rand" if version == "rand" else "standard",
        )  # fmt: skip
        others = _classes(classifier, images) - 1
        attack.apgd_targeted.n_target_classes = min(9, others)
        attack.fab.n_target_classes = min(9, others)
        if others < 3:  # the targeted DLR loss compares four logits
            attack.attacks_to_run = [name for name in attack.attacks_to_run if name != "apgd-t"]
        if version == "square":
            attack.attacks_to_run = ["square"]
            attack.square.n_queries = int(settings["queries"])
        found, _ = attack.run_standard_evaluation(images.contiguous(), labels, batch_size=500)
        # It may overstep by a rounding of float32.
        out: Tensor = torch.min(torch.max(found, images - settings["eps"]), images + settings["eps"]).clamp(0, 1)
        return out

    return perturb


def _wasserstein(classifier: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
    # The coupling has a window's worth of entries for each pixel: few images at a time.
    parts = zip(images.split(_FWA_BATCH), labels.split(_FWA_BATCH), strict=True)
    eps, iterations, step, window = (settings[key] for key in ("eps", "iterations", "step", "window"))
    return torch.cat([wasserstein.attack(classifier, x, y, eps, int(iterations), step, int(window)) for x, y in parts])


def _stickers(number: int) -> Perturb:
    def perturb(classifier: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
        mask = patches.sticker_mask(number, *images.shape[2:])
        return patches.robust_physical_perturbation(
            classifier, images, labels, mask, int(settings["iterations"]), settings["rate"], settings["weight"],
            settings["nps_weight"], int(settings["transformations"]),
        )  # fmt: skip

    return perturb


def _rectangle(classifier: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Tensor:
    rows, columns, iterations, candidates = (
        int(settings[key]) for key in ("rows", "columns", "iterations", "candidates")
    )
    return patches.rectangular_occlusion(
        classifier, images, labels, (rows, columns), iterations, settings["step"], candidates=candidates
    )


def _classes(classifier: nn.Module, images: Tensor) -> int:
    with torch.no_grad():
        return int(classifier(images[:1]).shape[1])


_JSMA_ENTRIES = 50 * 784**2
_FWA_BATCH = 100
_PGD = "Madry et al., ICLR 2018; advertorch LinfPGDAttack, summed cross-entropy, random start"
_AA = "Croce & Hein, ICML 2020; pyautoattack"
_EPS = dict.fromkeys(("mnist", "digits", "digits-colour"), (0.3, 0.4))
# Of the image's mass, in pixels. The paper names neither; set where the undefended classifier errs as often as the
# paper's (98.56 and 99.91 % on MNIST, 99.83 and 99.98 % on CIFAR-10), on the validation split.
_FWA_EPS = dict.fromkeys(("mnist", "digits", "digits-colour"), (0.2, 0.25)) | {"cifar10": (0.004, 0.005)}
_STEP = 0.01

ATTACKS = (
    "PGD_N", "PGD_N_eps2", "PGD_T", "PGD_T_eps2", "PGDM_N", "PGDM_T", "MATCH_N",
    "CW_N", "CW_T", "DDN_N", "DDN_T", "AA_N", "AA_N_eps2", "AA_N_rand",
    "SQUARE_N", "JSMA_T", "STA_N", "STA_T", "FWA_N", "FWA_N_eps2",
    "ROA_N", "AP_1", "AP_2", "AP_3", "AP_4",
)  # fmt: skip
_VARIANT = re.compile(
    r"(?P<name>[A-Za-z0-9_]+?)(?:@(?P<eps>[0-9]*\.?[0-9]+))?(?:x(?P<iterations>[1-9][0-9]*))?(?:r(?P<restarts>[1-9][0-9]*))?"
)


def get(name: str, dataset: str = "mnist") -> Attack:
    """The attack of that name with the settings it is tested with on ``dataset``.

    ``NAME@EPS`` and ``NAMExITERATIONS`` (``PGD_N@0.2``, ``PGD_Nx100``, ``PGD_N@0.2x100``) are the same attack with
    another budget, another number of iterations, or both, of which PGD's steps are at least long enough to cross all of
    the budget (``PGD_Nx1`` is FGSM from a random start); ``rRESTARTS`` behind them (``PGD_Nx100r10``) repeats it on the
    images that withstood, so that each is as bad as the worst of its random starts.

    Raises:
        AttackError: no attack of that name, or not with such a setting.
    """
    variant = _VARIANT.fullmatch(name)
    if variant is None or variant["name"] not in ATTACKS:
        raise AttackError(
            f"no attack {name!r}: one of {', '.join(ATTACKS)}, also as NAME@EPS, NAMExITERATIONS and NAMErRESTARTS"
        )
    attack = paper = _of_the_paper(variant["name"], dataset)
    if variant["eps"] and attack.eps is None:
        raise AttackError(f"{attack.name} seeks the smallest change: it has no budget to set")
    attack = attack.with_settings(
        float(variant["eps"]) if variant["eps"] else None,
        **({"iterations": int(variant["iterations"])} if variant["iterations"] else {}),
    )
    changed = (attack.eps, attack.settings.get("iterations")) != (paper.eps, paper.settings.get("iterations"))
    if attack.name.startswith("PGD") and attack.eps and changed:
        across = round(2 * attack.eps / attack.settings["iterations"], 6)
        attack = attack.with_settings(step=max(attack.settings["step"], across))
    if variant["restarts"]:
        if not attack.name.startswith(("PGD", "MATCH")):
            raise AttackError(f"{attack.name} does not start at random: it has no restarts to set")
        attack = dataclasses.replace(attack, settings={**attack.settings, "restarts": int(variant["restarts"])})
    return dataclasses.replace(attack, name=name)


def _of_the_paper(name: str, dataset: str) -> Attack:
    base = name.removesuffix("_eps2")
    eps = _EPS.get(dataset, (8 / 255, 0.05))[base != name]
    targeted = base.endswith("_T")
    goal: Goal = "targeted" if targeted else "untargeted"
    settings: Settings
    match base:
        case "PGD_N" | "PGD_T" | "PGDM_N" | "PGDM_T":
            settings = {"iterations": 40, "step": _STEP if eps >= 0.1 else eps / 4}
            margin = "the margin of Carlini & Wagner, S&P 2017"
            source = _PGD.replace("summed cross-entropy", margin) if base.startswith("PGDM") else _PGD
            return Attack(name, goal, "linf", eps, settings, source, _linf_pgd(targeted, objective(base)))
        case "MATCH_N":
            settings = {"iterations": 100, "step": _STEP if eps >= 0.1 else eps / 10, "nearest": 5}
            source = "features of E pulled to those of another class (feature adversaries: Sabour et al., ICLR 2016)"
            return Attack(name, goal, "linf", eps, settings, source, _match, whole_batch=True)
        case "AA_N":
            return Attack(name, goal, "linf", eps, {"seed": 0, "eot": 0}, f"{_AA}, standard", _autoattack("standard"))
        case "AA_N_rand":
            return Attack(name, goal, "linf", eps, {"seed": 0, "eot": 20}, f"{_AA}, rand", _autoattack("rand"))
        case "SQUARE_N":
            settings = {"seed": 0, "queries": 5000}
            source = "Andriushchenko et al., ECCV 2020; pyautoattack, scores only"
            return Attack(name, goal, "linf", eps, settings, source, _autoattack("square"))
        case "CW_N" | "CW_T":
            iterations = 500 if eps >= 0.1 else 100
            settings = {"confidence": 1.0, "iterations": iterations, "searches": 4, "initial_const": 1.0, "step": 0.01}
            source = "Carlini & Wagner, S&P 2017; advertorch CarliniWagnerL2Attack"
            return Attack(name, goal, "l2", None, settings, source, _carlini_wagner(targeted))
        case "JSMA_T":
            # On the toy set an image that is not won would be searched for hours.
            settings = {"theta": 1.0, "gamma": 0.02 if dataset == "digits-colour" else 1.0}
            source = "Papernot et al., EuroS&P 2016; advertorch JacobianSaliencyMapAttack"
            return Attack(name, goal, "l0", None, settings, source, _jsma)
        case "STA_N" | "STA_T":
            # advertorch's own: 20 searches of 5000 iterations on MNIST, of 100 on CIFAR-10.
            iterations, searches = (200, 5) if eps >= 0.1 else (100, 20)
            settings = {
                "confidence": 0.0, "initial_const": 1.0, "iterations": iterations, "searches": searches, "batch": 50
            }  # fmt: skip
            source = "Xiao et al., ICLR 2018; advertorch SpatialTransformAttack"
            return Attack(name, goal, "flow", None, settings, source, _spatial(targeted))
        case "FWA_N":
            eps = _FWA_EPS.get(dataset, (8 / 255, 0.05))[base != name]
            settings = {"iterations": 40, "step": 0.1, "window": 5}
            source = "Wu, Wang & Yu, ICML 2020, projected gradient with dual projection"
            return Attack(name, goal, "wasserstein", eps, settings, source, _wasserstein)
        case "ROA_N":
            iterations, step = (50, 1 / 64) if dataset.startswith("lisa") else (30, 0.05)
            settings = {"rows": 7, "columns": 7, "iterations": iterations, "step": step, "candidates": 20}
            source = "Wu, Tong & Vorobeychik, ICLR 2020, gradient search"
            return Attack(name, goal, "patch", None, settings, source, _rectangle)
        case "AP_1" | "AP_2" | "AP_3" | "AP_4":
            # With the sum of |M d| weighted an image that f is sure of stays as it is: the loss has no gradient to set
            # against it. Without, the undefended error is the paper's (55 to 62 %), on the validation split.
            settings = {"iterations": 100, "rate": 0.1, "weight": 0.0, "nps_weight": 0.0, "transformations": 1}
            source = "Eykholt et al., CVPR 2018 (RP2), untargeted, an image at a time"
            return Attack(name, goal, "patch", None, settings, source, _stickers(int(base[-1])))
        case _:
            settings = {"iterations": 100, "gamma": 0.05, "init_norm": 1.0, "levels": 256}
            source = "Rony et al., CVPR 2019; advertorch DDNL2Attack"
            return Attack(name, goal, "l2", None, settings, source, _ddn(targeted))


def for_training(attack: Attack) -> Attack:
    """The attack as training crafts it: PGD at half the steps of twice the size, or 10 where they are a quarter of its
    budget each, unless its name says how many; STA and RP2 with a shorter search.
    """
    base = attack.name.partition("_")[0].replace("PGDM", "PGD")
    variant = _VARIANT.fullmatch(attack.name)
    if variant and variant["iterations"]:
        return attack
    if base == "PGD" and attack.eps is not None and attack.eps < 0.1:
        return attack.with_settings(iterations=10, step=attack.eps / 4)
    if base == "PGD":
        whole = int(attack.settings["iterations"])
        return attack.with_settings(iterations=whole // 2, step=2 * attack.settings["step"])
    if base == "STA":
        return attack.with_settings(iterations=50, searches=3)
    return attack.with_settings(iterations=30) if base == "AP" else attack


def at_budget(attack: Attack, eps: float) -> Attack:
    """The attack at another budget, its step in proportion; one that has no budget as it is."""
    if attack.eps is None:
        return attack
    step = {"step": attack.settings["step"] * eps / attack.eps} if "step" in attack.settings else {}
    return attack.with_settings(eps=eps, **step)
