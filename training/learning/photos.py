"""Training on photographs: Algorithm 1 over a pool of attacked crops that is renewed a few at a time.

A photograph is worth many crops and an attack is worth many steps of training, so neither is made for one step alone.
No label is used: the classifier's own answer for the natural crop is what its answer for the purified one should be.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from arn_purify.models import Arn, AttackDiscriminator, Card, checkpoint
from arn_purify.models.classifiers import Classifier
from arn_purify.models.efficientnet_lite import EfficientNetLite

from ..attacks.craft import versions
from ..attacks.gradient import Gradient, gradient_of, sign_ascent, summed_cross_entropy, with_momentum
from ..data.pictures import Crops, Endless, centre_crop
from ..deadline import OutOfTime, is_near
from ..run_name import RunName, describe
from . import losses
from .state import check_finite, load_state, log_row, save_state, weights_sha256

logger = logging.getLogger(__name__)

KINDS = ("natural", "PGD_N", "PGD_T", "MI_N", "L2_N")
"""The domains that D_A tells apart: untargeted and targeted PGD, PGD with momentum, and PGD in an l2 ball."""

_WATCHED_EPS = (4, 8)  # of 255
_SAVED_EVERY, _WATCHED_EVERY = 250, 1000


@dataclasses.dataclass(frozen=True)
class PhotoRecipe:
    """One run on photographs.

    ``crop`` pixels a side, ``batch_size`` crops a step; a share ``natural`` of them is not attacked. The pool holds
    ``pool`` attacked crops, of which ``crafted`` are replaced every ``crafted_every`` steps. ``budgets``: the range of
    eps in grey levels of 255. ``shares`` of the attacks, in the order of :data:`KINDS`.

    ``l1``, ``feature``, ``logit``, ``att`` and ``nor`` weigh the terms of :mod:`.losses`. The first ``pixels_only``
    steps learn from L1 alone: E and G must first see the noise at all, and a step costs half. Then the features' weight
    grows over ``ramp`` steps, and the logits' after it: where they are there from the start, natural images are
    destroyed first. The rate is constant but for ``warm_up`` steps at the start and ``decay`` at the end, so that a run
    can be continued at will.
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
    nor: float = 1e-8
    pixels_only: int = 1_500
    ramp: int = 1_000
    ema: float = 0.999

    def crafts_at(self, step: int) -> bool:
        """Whether new crops are attacked at ``step``; a third as often where a step costs half."""
        return step % (self.crafted_every * (3 if step < self.pixels_only else 1)) == 0

    def rate(self, step: int) -> float:
        """The learning rate at ``step``."""
        rising, falling = (step + 1) / self.warm_up, (self.steps - step) / max(1, self.decay)
        return self.learning_rate * min(1.0, rising, falling)

    def weight_of_features(self, step: int) -> float:
        """0 to ``feature``."""
        return self.feature * min(1.0, max(0.0, (step - self.pixels_only) / self.ramp))

    def weight_of_logits(self, step: int) -> float:
        """0 to ``logit``, three times as slowly, from the middle of the features' ramp on."""
        return self.logit * min(1.0, max(0.0, (step - self.pixels_only - self.ramp / 2) / (3 * self.ramp)))


def answers(classifier: nn.Module, x: Tensor) -> list[Tensor]:
    """Feature maps, as far as the classifier shows them, and last the logits ``(N, classes)``."""
    if isinstance(classifier, EfficientNetLite):
        return classifier.all_answers(x)
    if isinstance(classifier, Classifier):
        return list(classifier.forward_with_features(x))
    return [classifier(x)]


def attacked(
    classifier: nn.Module, x: Tensor, logits: Tensor, kind: str, eps: float, steps: int, rng: np.random.Generator
) -> Tensor:
    """``x`` ``(N, 3, H, W)`` in [0, 1] moved by at most ``eps``, away from the classifier's ``logits`` or to a class.

    ``L2_N`` moves by the l2 norm of .35 ``eps`` in every value instead.
    """
    targeted, in_l2 = kind == "PGD_T", kind == "L2_N"
    labels = logits.argmax(1)
    if targeted:
        labels = torch.from_numpy(rng.integers(0, logits.shape[1], len(x))).to(x.device)
    start = x
    if not in_l2 and rng.random() < 0.5:
        generator = torch.Generator(x.device).manual_seed(int(rng.integers(2**31)))
        start = x + eps * (2 * torch.rand(x.shape, generator=generator, device=x.device) - 1)
    length = float(rng.uniform(1.0, 2.0)) / steps
    gradient = gradient_of(lambda at: summed_cross_entropy(classifier(at), labels))
    if in_l2:
        return _l2_ascent(gradient, x, 0.35 * eps * math.sqrt(x[0].numel()), steps)
    if kind == "MI_N":
        gradient = with_momentum(gradient)
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    step = -eps * length if targeted else eps * length
    return sign_ascent(gradient, start.clamp(0, 1), low, high, itertools.repeat(step, steps))


def _l2_ascent(gradient: Gradient, x: Tensor, norm: float, steps: int) -> Tensor:
    """``x`` moved along ``gradient`` within an l2 ball of radius ``norm`` around it, in steps of 1.5 of its share."""
    moved = torch.zeros_like(x)
    for _ in range(steps):
        found = gradient(x + moved)
        moved = moved + 1.5 * norm / steps * found / _norms(found)
        moved = moved * (norm / _norms(moved)).clamp_max(1)
        moved = (x + moved).clamp(0, 1) - x
    return x + moved


def _norms(x: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
    return norms.clamp_min(1e-12)


def _images(pixels: Tensor, device: torch.device) -> Tensor:
    return pixels.to(device).float().div_(255).contiguous(memory_format=torch.channels_last)


class Pool:
    """Natural crops, their attacked versions, both uint8, and the classifier's answers for the natural ones, in fp16.

    What a resumed run finds in it depends on the step that it resumes at: the pool is not saved.
    """

    def __init__(
        self, recipe: PhotoRecipe, classifier: nn.Module, crops: Iterator[Tensor], device: torch.device,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        self.recipe, self.classifier, self.crops, self.device, self.rng = recipe, classifier, crops, device, rng
        shape = (recipe.pool, 3, recipe.crop, recipe.crop)
        self.natural, self.attacked = (torch.zeros(shape, dtype=torch.uint8) for _ in range(2))
        self.kinds = torch.zeros(recipe.pool, dtype=torch.long)
        self.answers: list[Tensor] = []
        self.filled = self.next = 0

    def craft(self) -> None:
        """Put ``recipe.crafted`` new crops in the place of the oldest."""
        recipe, rng = self.recipe, self.rng
        pixels = torch.stack([next(self.crops) for _ in range(recipe.crafted)])
        x = _images(pixels, self.device)
        with torch.no_grad():
            found = answers(self.classifier, x)
        kind = int(rng.choice(len(recipe.shares), p=recipe.shares)) + 1
        eps, steps = float(rng.uniform(*recipe.budgets)) / 255, int(rng.integers(3, 7))
        moved = attacked(self.classifier, x, found[-1], KINDS[kind], eps, steps, rng)
        if not self.answers:
            self.answers = [torch.zeros((recipe.pool, *f.shape[1:]), dtype=torch.float16) for f in found]
        at = (torch.arange(recipe.crafted) + self.next) % recipe.pool
        self.natural[at], self.attacked[at] = pixels, (255 * moved).round().byte().cpu()
        self.kinds[at] = kind
        for kept, new in zip(self.answers, found, strict=True):
            kept[at] = new.half().cpu()
        self.next = (self.next + recipe.crafted) % recipe.pool
        self.filled = min(recipe.pool, self.filled + recipe.crafted)

    def batch(self) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Natural images, inputs, their domains, and the answers for the natural images.

        Three of ten attacked inputs go only a part of the way from the natural image.
        """
        recipe, rng = self.recipe, self.rng
        at = torch.from_numpy(rng.choice(self.filled, recipe.batch_size, replace=self.filled < recipe.batch_size))
        untouched = rng.random(recipe.batch_size) < recipe.natural
        share = np.where(rng.random(recipe.batch_size) < 0.7, 1.0, rng.random(recipe.batch_size))
        share[untouched] = 0
        natural, moved = _images(self.natural[at], self.device), _images(self.attacked[at], self.device)
        x = natural + torch.from_numpy(share).float().to(self.device)[:, None, None, None] * (moved - natural)
        domains = torch.where(torch.from_numpy(untouched), 0, self.kinds[at]).to(self.device)
        return natural, x, domains, [kept[at].float().to(self.device) for kept in self.answers]


class Watch:
    """Validation pictures, as they are and under PGD-10: how often the classifier's answer changes."""

    def __init__(self, pictures: Sequence[Path], classifier: nn.Module, size: int, device: torch.device) -> None:
        self.classifier = classifier
        self.x = _images(torch.stack([centre_crop(path, size) for path in pictures]), device)
        with torch.no_grad():
            logits = torch.cat([classifier(x) for x in self.x.split(20)])
        self.labels = logits.argmax(1)
        rng = np.random.default_rng(0)
        self.sets = {"natural": self.x}
        for eps in _WATCHED_EPS:
            parts = zip(self.x.split(20), logits.split(20), strict=True)
            self.sets[f"PGD_N {eps}"] = torch.cat(
                [attacked(classifier, x, y, "PGD_N", eps / 255, 10, rng) for x, y in parts]
            )

    @torch.no_grad()
    def errors(self, purifier: nn.Module) -> dict[str, float]:
        """``error/NAME`` in percent and ``l1/NAME`` on [0, 1]."""
        found = {}
        for name, images in self.sets.items():
            purified = torch.cat([purifier(x) for x in images.split(20)])
            wrong = torch.cat([self.classifier(x).argmax(1) for x in purified.split(20)]) != self.labels
            found[f"error/{name}"] = 100 * float(wrong.float().mean())
            found[f"l1/{name}"] = float((purified - self.x).abs().mean())
        return found


class PhotoTrainer:
    """One run. ``fit`` continues from the state in the run folder and leaves ``purifier.safetensors`` there.

    ``classifiers`` by their hashes, the target first, take turns from step to step: each has a pool of crops that were
    attacked through it, and judges them. In front of one alone the purifier learns what misleads that one. ``run``
    names the run in the card, and so in records.
    """

    def __init__(
        self, purifier: Arn, recipe: PhotoRecipe, classifiers: Mapping[str, nn.Module], out: Path,
        run: RunName, device: str = "cpu", seed: int = 0, command: str = "", workers: int = 1,
    ) -> None:  # fmt: skip
        self.recipe, self.out, self.run = recipe, out, run
        self.seed, self.command, self.workers = seed, command, workers
        self.device = torch.device(device)
        self.classifiers = classifiers
        channels_last = {"device": self.device, "memory_format": torch.channels_last}
        fingerprint = (dataclasses.asdict(dataclasses.replace(recipe, steps=0, decay=0)), seed, *classifiers)
        self.fingerprint = repr((*fingerprint, weights_sha256(purifier)))
        self.purifier = purifier.to(**channels_last).train()  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.purifier)
        self.d_a = AttackDiscriminator(purifier.config, len(KINDS)).to(**channels_last)  # type: ignore[call-overload]
        self.optimisers = {
            "purifier": torch.optim.Adam(self.purifier.parameters(), recipe.learning_rate, (0.9, 0.99)),
            "d_a": torch.optim.Adam(self.d_a.parameters(), 2e-4, (0.5, 0.999)),
        }
        self.modules = {"purifier": self.purifier, "purifier_average": self.average, "d_a": self.d_a}
        self.step = 0

    def fit(self, train: Sequence[Path], watched: Sequence[Path]) -> Arn:
        """Train on ``train``, evaluating on ``watched`` pictures; returns the averaged network in eval mode.

        Raises:
            OutOfTime: the deadline is near; the state is saved.
            DataError: a picture cannot be read.
        """
        recipe, state = self.recipe, self.out / "state.safetensors"
        self.out.mkdir(parents=True, exist_ok=True)
        self.step = load_state(state, self.modules, self.optimisers, self.fingerprint, str(self.device))
        rng = np.random.default_rng([self.seed, self.step])
        torch.manual_seed(self.seed + self.step)
        loader = DataLoader(
            Crops(train, recipe.crop), batch_size=None, sampler=Endless(len(train), self.seed, self.step),
            num_workers=self.workers,
        )  # fmt: skip
        crops, classifiers = iter(loader), list(self.classifiers.values())
        pools = [Pool(recipe, classifier, crops, self.device, rng) for classifier in classifiers]
        watch = Watch(watched, classifiers[0], self.purifier.config.size, self.device)
        metrics: dict[str, float] = {}
        sums: list[dict[str, float]] = []
        for pool in pools:
            while pool.filled < min(recipe.pool, 16 * recipe.batch_size):
                pool.craft()
        started = time.monotonic()
        progress = tqdm(total=recipe.steps, initial=self.step, desc="train", mininterval=2)
        while self.step < recipe.steps:
            turn = self.step % len(pools)
            if recipe.crafts_at(self.step // len(pools)):
                pools[turn].craft()
            sums.append(self.train_step(classifiers[turn], *pools[turn].batch()))
            check_finite(sums[-1], self.step)
            progress.update()
            if is_near() or self.step % _SAVED_EVERY == 0 or self.step == recipe.steps:
                save_state(state, self.modules, self.optimisers, self.step, self.fingerprint)
                if self.step % _WATCHED_EVERY == 0 or self.step == recipe.steps:
                    metrics = watch.errors(self.average.eval())
                self._log(sums, metrics, time.monotonic() - started)
                sums = []
            if is_near() and self.step < recipe.steps:
                raise OutOfTime(f"{self.step} of {recipe.steps} steps")
        progress.close()
        average: Arn = self.average.eval()
        checkpoint.save(average, self._card(metrics or watch.errors(average)), self.out / "purifier.safetensors")
        return average

    def train_step(
        self, classifier: nn.Module, natural: Tensor, x: Tensor, domains: Tensor, wanted: Sequence[Tensor]
    ) -> dict[str, float]:
        """One iteration of Algorithm 1; returns every loss."""
        recipe, rate = self.recipe, self.recipe.rate(self.step)
        mean, log_variance = self.purifier.encode_distribution(x)
        purified = self.purifier.decode(mean, x)
        terms = {
            "l1": losses.absolute_loss(purified, natural),
            # Nothing is drawn from the variance here, so nothing else keeps its exponential from running away.
            "nor": losses.normalization_loss(mean, log_variance.clamp(-12, 4)),
        }
        loss = recipe.l1 * terms["l1"] + recipe.nor * terms["nor"]
        if self.step >= recipe.pixels_only:
            *features, logits = answers(classifier, purified)
            if features:
                terms["feature"] = losses.feature_loss(features, wanted[:-1])
                loss = loss + recipe.weight_of_features(self.step) * terms["feature"]
            terms["logit"] = losses.logit_loss(logits, wanted[-1])
            loss = loss + recipe.weight_of_logits(self.step) * terms["logit"]
            terms["d_a"] = losses.attack_discriminator_loss(self.d_a(mean.detach()), domains)
            self._descend("d_a", terms["d_a"], 2e-4)
            terms["att"] = losses.attack_confusion_loss(self.d_a(mean))
            loss = loss + recipe.att * terms["att"]
        self._descend("purifier", loss, rate)
        self.step += 1
        decay = min(recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.purifier.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        return {name: float(term.detach()) for name, term in terms.items()} | {"changed": _mean(x, natural)}

    def _descend(self, name: str, loss: Tensor, rate: float) -> None:
        optimiser = self.optimisers[name]
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.modules[name].parameters(), 1.0)
        optimiser.step()

    def _log(self, sums: Sequence[dict[str, float]], metrics: dict[str, float], seconds: float) -> None:
        names = {name: None for row in sums for name in row}  # not every classifier shows features
        means = {name: float(np.mean([row[name] for row in sums if name in row])) for name in names}
        watched = self.step % _WATCHED_EVERY == 0 or self.step == self.recipe.steps
        row = {"step": self.step, **means, **(metrics if watched else {}), "seconds": seconds}
        log_row(self.out, row)
        tqdm.write("  ".join(f"{name.split('/')[-1]} {value:.4g}" for name, value in row.items()))

    def _card(self, metrics: dict[str, float]) -> Card:
        config, size = self.purifier.config, self.purifier.config.size
        eps = [value / 255 for value in self.recipe.budgets]
        terms = ("l1", "feature", "logit", "att", "nor")
        return Card(
            self.out.name, "purifier", "arn", dataclasses.asdict(config), "photos", (config.channels, size, size),
            profile="transparent", recipe=describe(self.run), run=self.run.to_json(),
            seen_attacks=tuple({"attack": kind, "eps": None, "budgets": eps} for kind in KINDS[1:]),
            classifier_sha256=", ".join(self.classifiers),
            loss_weights={term: getattr(self.recipe, term) for term in terms},
            step=self.step, metrics=metrics, seed=self.seed, command=self.command, versions=versions(),
        )  # fmt: skip


def _mean(x: Tensor, natural: Tensor) -> float:
    return float((x - natural).abs().mean())
