"""Algorithm 1: E and G against D_A and D_I. Resumable, on a CPU to the same weights, on a GPU, or several by torchrun.

A GPU's kernels add in no fixed order: there a run that was resumed has the same batches and noise, not the same bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from arn_purify.models import Card, checkpoint

from ..attacks import Attack, adaptive, seed_of
from ..attacks.craft import versions
from ..data import Dataset
from ..deadline import OutOfTime, is_near
from .config import Classifiers, RunOptions, TrainConfig, check
from .distributed import rank, wait_for_all, world_size
from .networks import Networks, Purifier, learning_rate
from .objective import Objective, prepare
from .sources import AdaptiveSource, FreshSource, Source, StaticSource
from .state import check_finite, load_state, save_state, weights_sha256
from .validation import RunLog, Validation


class Trainer:
    """One run. ``fit`` goes from the state in the run folder to the end and returns the trained network.

    The state is saved at the end of each epoch too; how often it is saved does not change the weights.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        classifiers: Classifiers,
        options: RunOptions,
        initial: nn.Module | None = None,
    ) -> None:
        """``initial``: a purifier of the same shape whose weights the run begins with.

        Raises:
            ConfigurationError: what does not fit, before any work.
        """
        check(config, dataset, classifiers)
        self.config, self.dataset, self.classifiers, self.options = config, dataset, classifiers, options
        self.recipe, self.device, self.rank = config.recipe, torch.device(config.device), rank()
        self.networks = Networks(config, classifiers.first, initial)
        self.objective = Objective(config, self.networks)
        tuned = self.networks.modules.get("classifier")
        self.in_turn = classifiers.all if tuned is None else [tuned]
        self.step = 0
        self.batches_an_epoch = len(dataset.train) // self.recipe.batch_size
        self.steps = self.recipe.epochs * self.batches_an_epoch
        hashes = tuple(classifiers.attacked)
        self.fingerprint = config.fingerprint(dataset, hashes, world_size(), weights_sha256(initial))
        self._state_path = options.out / "state.safetensors"

    @property
    def purifier(self) -> Purifier:
        """The purifier that learns."""
        return self.networks.purifier

    @property
    def classifier(self) -> nn.Module:
        """The classifier of this step, drawn where there are several."""
        return self.in_turn[seed_of(self.config.seed, "classifier", self.step) % len(self.in_turn)]

    def fit(self) -> nn.Module:
        """Train to the end, resuming if the run folder holds a state, and leave ``purifier.safetensors`` there.

        A jointly tuned f is left beside it, as ``classifier.safetensors``.

        Raises:
            OutOfTime: the deadline is near; the state is saved.
        """
        options = self.options
        options.out.mkdir(parents=True, exist_ok=True)
        self.step = load_state(
            self._state_path, self.networks.held, self.networks.optimisers, self.fingerprint, str(self.device)
        )
        source = self.source()
        validation = Validation(self.config, self.dataset, self.classifiers.first, options.watched)
        with contextlib.ExitStack() as opened:  # TensorBoard's files too are whole where a run stops
            log = RunLog(options.out, self.step) if self.rank == 0 else None
            if log:
                opened.callback(log.close)
            metrics = self._train(source, validation, log)
        if log:
            self._save_networks(metrics or self.validate(validation))  # where nothing was left to train
        return self.networks.kept["purifier"].eval()

    def _train(self, source: Source, validation: Validation, log: RunLog | None) -> dict[str, float] | None:
        """The steps that are left; returns the error rates after the last, None where there was none."""
        metrics: dict[str, float] | None = None
        means, saved_at = _Means(), time.monotonic()
        bar = tqdm(total=self.steps, initial=self.step, desc="train", mininterval=2, disable=self.rank > 0)
        with bar as progress:
            for epoch, indices in self.batches():
                batch = source.batch(indices, epoch, self.step)
                values = self.train_step(batch, self.dataset.train.labels_of(indices, self.device))
                self.step += 1
                check_finite(values, self.step)
                means.add(values)
                progress.update()
                progress.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
                end_of_epoch = self.step % self.batches_an_epoch == 0
                if end_of_epoch:
                    metrics = self.validate(validation)
                    row = {"epoch": epoch + 1, "step": self.step, **means.take(), **metrics, **source.speed()}
                    if log:
                        self._log(log, row, validation)
                late = is_near()
                if late or end_of_epoch or time.monotonic() - saved_at > self.options.save_seconds:
                    self.save_state(source)
                    saved_at = time.monotonic()
                if late and self.step < self.steps:
                    raise OutOfTime(f"{self.step} of {self.steps} steps")
        return metrics

    def batches(self) -> Iterator[tuple[int, Tensor]]:
        """Epoch and indices from the current step on; the order is a function of seed and epoch."""
        first_epoch, offset = divmod(self.step, self.batches_an_epoch)
        for epoch in range(first_epoch, self.recipe.epochs):
            generator = torch.Generator().manual_seed(seed_of(self.config.seed, "order", epoch))
            order = torch.randperm(len(self.dataset.train), generator=generator)
            for batch in range(offset, self.batches_an_epoch):
                start = batch * self.recipe.batch_size
                yield epoch, order[start : start + self.recipe.batch_size][self.rank :: world_size()]
            offset = 0

    def source(self) -> Source:
        """Where the recipe takes its batches from."""
        options, train = self.options, self.dataset.train
        if self.recipe.inner_steps:
            return AdaptiveSource(self.config, train, self._pair(), self.steps)
        if self.recipe.refresh_epochs:
            root = (options.pools or options.out) / f"pool-{self.rank}-of-{world_size()}"
            return FreshSource(self.config, train, self.classifiers.attacked, root, options.pools is not None)
        crafted = options.crafted or options.out.parent / "crafted"
        args = (self.config, train, self.classifier, self.classifiers.sha256, crafted)
        if self.rank == 0:
            StaticSource(*args)  # the others read what this one crafts
        wait_for_all()
        return StaticSource(*args)

    def _pair(self) -> Callable[[], nn.Module]:
        """A call for f after g as both stand, frozen; an f that does not learn is folded once, which takes long."""
        if "classifier" in self.networks.modules:
            return lambda: adaptive.frozen(self.purifier, self.classifier)
        fixed = {classifier: adaptive.frozen(classifier) for classifier in self.in_turn}
        return lambda: nn.Sequential(adaptive.frozen(self.purifier), fixed[self.classifier])

    def train_step(self, batch: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, float]:
        """One iteration of Algorithm 1 on natural images and their attacked versions; returns every loss.

        ``labels`` ``(N,)`` of the natural images are for the losses that need them.
        """
        torch.manual_seed(seed_of(self.config.seed, "noise", self.step, self.rank))
        self.networks.set_learning_rate(learning_rate(self.recipe, self.step, self.steps))
        inputs = prepare(batch, self.config, self.step, self.rank)
        values = self.objective.step(inputs, labels, self.classifier)
        self.networks.update_averages(self.step)
        return values

    def validate(self, validation: Validation) -> dict[str, float]:
        """Error rates of what would be kept; what learns is in training mode again after it."""
        kept = self.networks.kept
        rates = validation.error_rates(kept["purifier"], kept.get("classifier", self.in_turn[0]))
        for name in kept:
            self.networks.modules[name].train()
        return rates

    @torch.no_grad()
    def _log(self, log: RunLog, row: dict[str, Any], validation: Validation) -> None:
        natural, attacked = validation.examples()
        log.write(row, natural, attacked, self.networks.kept["purifier"].eval()(attacked))
        self.purifier.train()

    def save_state(self, source: Source) -> None:
        """Weights, averages, optimiser moments and step in one atomic file, after what was crafted."""
        source.flush()
        if self.rank == 0:
            save_state(self._state_path, self.networks.held, self.networks.optimisers, self.step, self.fingerprint)

    def _save_networks(self, metrics: dict[str, float]) -> None:
        for name in self.networks.kept:
            plain = self.networks.plain(name)
            checkpoint.save(plain, self.card(metrics, plain), self.options.out / f"{name}.safetensors")

    def card(self, metrics: Mapping[str, float], network: nn.Module) -> Card:
        """The card of a ``network`` of this run as it stands."""
        architecture, config, kind = checkpoint.architecture_of(network)
        return Card(
            name=self.options.out.name,
            kind=kind,
            architecture=architecture,
            config=config,
            dataset=self.dataset.name,
            input_shape=self.dataset.shape,
            profile="joint" if self.recipe.joint else "hardened" if self.recipe.inner_steps else "transparent",
            recipe=self.recipe.name,
            run=self.options.run.to_json() if self.options.run else {},
            class_names=self.dataset.class_names,
            seen_attacks=tuple(_as_seen(attack, self.config) for attack in self.config.seen),
            classifier_sha256=self.classifiers.sha256,
            loss_weights=dataclasses.asdict(self.recipe.weights),
            step=self.step,
            metrics=metrics,
            seed=self.config.seed,
            command=self.options.command,
            versions=versions(),
        )


class _Means:
    """The mean of each loss over the steps of an epoch; fewer than all of them after a kill."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        self.steps = 0

    def add(self, values: Mapping[str, float]) -> None:
        """The losses of a step."""
        self.steps += 1
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        """The means under the names that the log has, and begin again."""
        means = {
            f"{'train' if 'error' in name else 'loss'}/{name}": total / self.steps
            for name, total in self.totals.items()
        }
        self.totals, self.steps = {}, 0
        return means


def _as_seen(attack: Attack, config: TrainConfig) -> dict[str, Any]:
    """An attack as the card lists it, with what the recipe changes of it."""
    recipe, described = config.recipe, attack.describe()
    if recipe.inner_steps:
        described["through"] = "f after g"
    if recipe.budgets and attack.eps is not None:
        described["budgets"] = list(recipe.budgets)
        if recipe.inner_steps:  # shares of the attack's budget, which is that of the data set
            described["budgets"] = [round(attack.eps * budget / recipe.budgets[1], 6) for budget in recipe.budgets]
    if recipe.moved:
        described["moved"] = recipe.moved
    return described
