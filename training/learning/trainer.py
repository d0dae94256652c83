"""Algorithm 1: E and G against D_A and D_I. Resumable, on a CPU to the same weights, on a GPU, or several by torchrun.

A GPU's kernels add in no fixed order: there a run that was resumed has the same batches and noise, not the same bits.
"""

from __future__ import annotations

import copy
import dataclasses
import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from arn_purify.models import (
    ApeG,
    ApeGConfig,
    ApeGDiscriminator,
    Arn,
    ArnConfig,
    AttackDiscriminator,
    Card,
    Hgd,
    HgdConfig,
    ImageDiscriminator,
    checkpoint,
)

from ..attacks import Attack, adaptive, at_budget, for_crafting, for_training, get, seed_of
from ..data import Dataset, Split, flip_images, shift_images
from ..data.corrupt import corrupt, moved
from ..deadline import OutOfTime, is_near
from ..measuring.craft import crafted_set, versions
from ..report.sheet import contact_sheet, save_png
from . import losses
from .recipes import Recipe, one_cycle
from .state import ConfigurationError, load_state, save_state, weights_sha256

logger = logging.getLogger(__name__)

PurifierConfig = ArnConfig | ApeGConfig | HgdConfig
Purifier = Arn | ApeG | Hgd


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the weights of a run, but the data and the classifier themselves."""

    arch: PurifierConfig
    recipe: Recipe
    seen: tuple[Attack, ...]
    seed: int = 0
    device: str = "cpu"
    mixed_precision: bool = True

    def fingerprint(self, dataset: Dataset, classifier_sha256: Sequence[str], world_size: int, initial: str) -> str:
        """A text that two runs share exactly when they would give the same weights; ``initial`` hashes the first."""
        described = {
            **dataclasses.asdict(dataclasses.replace(self, seen=())),
            "device": torch.device(self.device).type,  # under torchrun each process has one of its own
            "network": type(self.arch).__name__,
            "initial": initial,
            "seen": [attack.describe() for attack in self.seen],
            "data": dataset.train.sha256(),
            "classifier": ", ".join(classifier_sha256),
            "world_size": world_size,
        }
        return json.dumps(described, sort_keys=True)


def check(config: TrainConfig, dataset: Dataset, classifiers: Sequence[nn.Module]) -> None:
    """Refuse a bad configuration before any work.

    Raises:
        ConfigurationError: naming what does not fit.
    """
    if not config.seen:
        raise ConfigurationError("no seen attack: ARN learns from at least one")
    names = [attack.name for attack in config.seen]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"a seen attack is named twice: {', '.join(names)}")
    channels, height, width = dataset.shape
    if (channels, height, width) != (config.arch.channels, config.arch.size, config.arch.size):
        raise ConfigurationError(
            f"the network takes {config.arch.channels}x{config.arch.size}x{config.arch.size} "
            f"images, {dataset.name} has {channels}x{height}x{width}"
        )
    if len(dataset.train) < config.recipe.batch_size:
        raise ConfigurationError(f"{len(dataset.train)} training images are fewer than one batch")
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError("device cuda was asked for, but torch sees no CUDA device")
    weights = config.recipe.weights
    if not isinstance(config.arch, ArnConfig) and (weights.att or weights.nor):
        raise ConfigurationError(f"recipe {config.recipe.name} needs an ARN: no other purifier has a code")
    through = [attack for attack in config.seen if config.recipe.inner_steps]
    if not all(attack.name.startswith("PGD") for attack in through):
        raise ConfigurationError(f"through f after g training attacks by PGD alone, not by {', '.join(names)}")
    if len(classifiers) > 1 and (config.recipe.joint or not through):
        raise ConfigurationError("several classifiers are for a recipe that attacks through f after g, and frozen ones")
    if config.recipe.joint:
        try:
            checkpoint.architecture_of(classifiers[0])
        except TypeError as error:
            raise ConfigurationError(f"a joint run keeps its classifier: {error}") from None
    for classifier in classifiers:
        if weights.feature and not hasattr(classifier, "forward_with_features"):
            raise ConfigurationError(
                f"the recipe's feature loss needs a classifier with forward_with_features, "
                f"not {type(classifier).__name__}"
            )
        with torch.no_grad():
            logits = classifier(dataset.train.batch(slice(0, 2), config.device)[0])
        if logits.shape != (2, len(dataset.class_names)):
            raise ConfigurationError(
                f"the classifier answers {tuple(logits.shape)} for two images, {dataset.name} has "
                f"{len(dataset.class_names)} classes"
            )


class Source(Protocol):
    """Where batches come from: the natural images of some indices, and one image of every seen attack for each."""

    def batch(self, indices: Tensor, epoch: int, step: int) -> list[Tensor]:
        """Natural images first, then the seen attacks in order, each ``(N, C, H, W)`` float32 in [0, 1]."""
        ...


class StaticSource:
    """Every image attacked once, before training."""

    def __init__(self, config: TrainConfig, split: Split, classifier: nn.Module, sha256: str, root: Path) -> None:
        self.split, self.device = split, config.device
        self.sets = [
            crafted_set(
                split, attack, classifier, sha256, root, config.seed, config.device, config.mixed_precision
            ).images
            for attack in config.seen
        ]

    def batch(self, indices: Tensor, epoch: int, step: int) -> list[Tensor]:  # noqa: ARG002 (static)
        """See :class:`Source`."""
        natural = self.split.batch(indices, self.device)[0]
        return [natural, *(images[indices].to(self.device) for images in self.sets)]


class FreshSource:
    """Images shifted and attacked anew every ``refresh_epochs`` epochs; in between, a pool on disk is read again.

    With ``shared`` every generation of the pool stays in ``root`` under a name that says what it depends on, so that
    runs over the same seen attacks, seed and batches craft them once between them.
    """

    def __init__(
        self, config: TrainConfig, split: Split, classifiers: Mapping[str, nn.Module], root: Path, shared: bool = False
    ) -> None:
        """``classifiers`` by their hashes are attacked in turn, a batch each."""
        self.config, self.split, self.root, self.shared = config, split, root, shared
        self.targets = [for_crafting(classifier, config.mixed_precision) for classifier in classifiers.values()]
        recipe = config.recipe
        self.depends_on = (
            split.sha256(), tuple(classifiers), config.seed, config.device, recipe.batch_size, recipe.refresh_epochs,
            recipe.shift, recipe.flip, recipe.budgets, config.mixed_precision,
        )  # fmt: skip
        self.generation = -1
        self.pools: list[tuple[NDArray[np.float16], NDArray[np.bool_]]] = []
        self.offsets = torch.empty(0)
        self.flipped = torch.empty(0)
        self.image_steps, self.seconds = 0, 0.0

    def _open(self, generation: int) -> None:
        self.flush()
        self.root.mkdir(parents=True, exist_ok=True)
        self.generation, self.pools = generation, []
        for attack in self.config.seen:
            key = hashlib.sha256(repr((attack.describe(), generation, *self.depends_on)).encode()).hexdigest()[:16]
            stem = f"{attack.name}-{key}"
            if not self.shared:
                for stale in set(self.root.glob(f"{attack.name}-*")) - set(self.root.glob(f"{stem}.*")):
                    stale.unlink()
            images, done = self.root / f"{stem}.npy", self.root / f"{stem}.done.npy"
            mode = "r+" if done.is_file() else "w+"
            shape = tuple(self.split.images.shape)
            # Its pages come as they are written: a disk that fills up then would end the process without a word.
            if mode == "w+" and shutil.disk_usage(self.root).free < 2 * self.split.images.numel():
                raise OSError(errno.ENOSPC, f"no room for images of {attack.name}", str(self.root))
            self.pools.append(
                (
                    np.lib.format.open_memmap(images, mode, np.float16, shape),
                    np.lib.format.open_memmap(done, mode, np.bool_, shape[:1]),
                )
            )
        generator = torch.Generator().manual_seed(seed_of(self.config.seed, "shift", generation))
        self.offsets = torch.randint(0, 2 * self.config.recipe.shift + 1, (len(self.split), 2), generator=generator)
        self.flipped = torch.rand(len(self.split), generator=generator) < 0.5

    def _attack(self, attack: Attack, images: Tensor, labels: Tensor, step: int) -> NDArray[np.float32]:
        seed = seed_of(self.config.seed, attack.name, self.generation, step)
        if self.config.recipe.budgets:
            lowest, highest = self.config.recipe.budgets
            share = float(torch.rand((), generator=torch.Generator().manual_seed(seed)))
            attack = at_budget(attack, lowest + (highest - lowest) * share)
        started = time.monotonic()
        target = self.targets[step % len(self.targets)]
        crafted: NDArray[np.float32] = attack(target, images, labels, seed).images.cpu().numpy()
        self.seconds += time.monotonic() - started
        self.image_steps += len(images) * int(attack.settings.get("iterations", 1))
        return crafted

    def batch(self, indices: Tensor, epoch: int, step: int) -> list[Tensor]:
        """See :class:`Source`."""
        config = self.config
        generation = epoch // config.recipe.refresh_epochs
        if generation != self.generation:
            self._open(generation)
        images, labels = self.split.batch(indices, config.device)
        natural = shift_images(images, self.offsets[indices], config.recipe.shift)
        if config.recipe.flip:
            natural = flip_images(natural, self.flipped[indices])
        batch, chosen = [natural], indices.numpy()
        for attack, (pool, done) in zip(config.seen, self.pools, strict=True):
            missing = torch.from_numpy(~done[chosen]).to(natural.device)
            if bool(missing.any()):
                pool[chosen[~done[chosen]]] = self._attack(attack, natural[missing], labels[missing], step)
                done[chosen] = True  # after the images: a run that is killed in between crafts them again
            batch.append(torch.from_numpy(pool[chosen]).to(config.device).float())
        return batch

    def flush(self) -> None:
        """Bring the pools to disk, so that a saved state never points at images that are not there."""
        for pool, done in self.pools:
            pool.flush()  # type: ignore[attr-defined]
            done.flush()  # type: ignore[attr-defined]


class AdaptiveSource:
    """Images shifted, mirrored and attacked through f after g as both stand, the budget grown over the run."""

    def __init__(self, config: TrainConfig, split: Split, through: Callable[[], nn.Module], steps: int) -> None:
        self.config, self.split, self.through, self.steps = config, split, through, steps

    def batch(self, indices: Tensor, epoch: int, step: int) -> list[Tensor]:  # noqa: ARG002 (anew at every step)
        """See :class:`Source`."""
        config, recipe = self.config, self.config.recipe
        images, labels = self.split.batch(indices, config.device)
        seed = seed_of(config.seed, "shift", step, int(indices[0]))
        generator = torch.Generator().manual_seed(seed)
        offsets = torch.randint(0, 2 * recipe.shift + 1, (len(indices), 2), generator=generator)
        natural = shift_images(images, offsets, recipe.shift)
        if recipe.flip:
            natural = flip_images(natural, torch.rand(len(indices), generator=generator) < 0.5)
        # Attack.eps is what the ramp ends at.
        begin = recipe.eps_from / recipe.eps_to
        share = begin + (1 - begin) * min(1.0, (step + 1) / max(1.0, recipe.ramp * self.steps))
        target = self.through()
        return [
            natural,
            *(
                adaptive.attacked(
                    target, natural, labels, attack, share, seed_of(seed, attack.name), config.mixed_precision
                )
                for attack in config.seen
            ),
        ]


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The rate at ``step`` of ``steps``, a function of nothing else, so that a resumed run has it too."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    return one_cycle(recipe.learning_rate, step, steps)


def build(config: PurifierConfig) -> Purifier:
    """The purifier of a configuration, with fresh weights."""
    if isinstance(config, ApeGConfig):
        return ApeG(config)
    return Hgd(config) if isinstance(config, HgdConfig) else Arn(config)


def initialise(module: nn.Module, slip: bool) -> None:
    """DCGAN's initialisation: N(0, .02), BatchNorm's gamma N(1, .02), or with the authors' ``slip`` N(0, .02) too."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            nn.init.normal_(layer.weight, float(isinstance(layer, nn.BatchNorm2d) and not slip), 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Trainer:
    """One run. ``fit`` goes from wherever the run folder is to the end and returns the trained network.

    The state is saved every ``save_seconds`` and at the end of each epoch; how often does not change the weights.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        classifier: nn.Module,
        classifier_sha256: str,
        out: Path,
        command: str = "",
        initial: nn.Module | None = None,
        save_seconds: float = 60.0,
        pools: Path | None = None,
        surrogate: tuple[nn.Module, str] | None = None,
        others: Sequence[nn.Module] = (),
        watched: int = 1000,
        crafted: Path | None = None,
    ) -> None:
        self.given, self.classifiers = classifier, [classifier, *others]
        check(config, dataset, self.classifiers)
        self.config, self.dataset, self.out = config, dataset, out
        self.classifier_sha256, self.command, self.save_seconds = classifier_sha256, command, save_seconds
        self.pools, self.watched, self.crafted = pools, watched, crafted or out.parent / "crafted"
        if watched < 1:
            raise ConfigurationError(f"{watched} watched validation images: at least 1")
        self.attacked = {classifier_sha256: classifier, **({surrogate[1]: surrogate[0]} if surrogate else {})}
        if surrogate and not config.recipe.refresh_epochs:
            raise ConfigurationError("a second classifier is attacked by recipes that craft while they train")
        self.recipe, self.device = config.recipe, torch.device(config.device)
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.domains = 1 + len(config.seen)
        weights = self.recipe.weights

        torch.manual_seed(config.seed)
        self.purifier = build(config.arch)
        modules: dict[str, nn.Module] = {"purifier": self.purifier}
        if weights.att:
            assert isinstance(config.arch, ArnConfig)  # check() saw to it
            modules["attack_discriminator"] = AttackDiscriminator(config.arch, self.domains)
        if weights.adv:
            modules["image_discriminator"] = (
                ApeGDiscriminator(config.arch)
                if isinstance(config.arch, ApeGConfig)
                else ImageDiscriminator(config.arch)
            )
        if self.recipe.joint:
            modules["classifier"] = copy.deepcopy(classifier).requires_grad_(True)
        if self.recipe.initialisation != "torch":
            for module in modules.values():
                initialise(module, slip=self.recipe.initialisation == "released")
        if initial is not None:
            held = getattr(initial, "config", type(initial).__name__)
            if held != config.arch:
                raise ConfigurationError(f"--init holds {held}, not {config.arch}")
            self.purifier.load_state_dict(initial.state_dict())
        if self.world_size > 1 and self.device.type == "cuda":  # torch has it for GPUs only
            modules = {name: nn.SyncBatchNorm.convert_sync_batchnorm(module) for name, module in modules.items()}
            self.purifier = modules["purifier"]  # type: ignore[assignment]
        self.modules = {
            name: module.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
            for name, module in modules.items()
        }
        if self.recipe.joint:
            self.classifiers = [self.modules["classifier"]]
        # What is looked at, and kept: the weights themselves, or their moving average.
        self.kept: dict[str, nn.Module] = {
            name: self.modules[name] for name in ("purifier", "classifier") if name in self.modules
        }
        if self.recipe.ema:
            self.kept = {name: copy.deepcopy(module).requires_grad_(False).eval() for name, module in self.kept.items()}
        self.optimisers = {
            name: torch.optim.Adam(module.parameters(), self.recipe.learning_rate, self.recipe.betas)
            for name, module in self.modules.items()
        }
        self.step = 0
        self.batches_an_epoch = len(dataset.train) // self.recipe.batch_size
        self.steps = self.recipe.epochs * self.batches_an_epoch
        self.fingerprint = config.fingerprint(dataset, tuple(self.attacked), self.world_size, weights_sha256(initial))

    @property
    def classifier(self) -> nn.Module:
        """The classifier of this step, drawn where there are several."""
        return self.classifiers[seed_of(self.config.seed, "classifier", self.step) % len(self.classifiers)]

    # -- the run ------------------------------------------------------------------------------------------------

    def fit(self) -> nn.Module:
        """Train to the end, resuming if the run folder holds a state, and leave ``purifier.safetensors`` there.

        A jointly tuned f is left beside it, as ``classifier.safetensors``.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        self._resume()
        source = self._source()
        validation = self._validation_sets()
        writer = SummaryWriter(str(self.out / "tensorboard"), purge_step=self.step) if self.rank == 0 else None
        saved_at = time.monotonic()
        metrics: dict[str, float] | None = None
        epoch_totals: dict[str, float] = {}
        summed = 0  # steps of this epoch; fewer than all of them after a kill
        progress = tqdm(total=self.steps, initial=self.step, desc="train", mininterval=2, disable=self.rank > 0)
        for epoch, indices in self._batches():
            batch = source.batch(indices, epoch, self.step)
            values = self.train_step(batch, self.dataset.train.labels[indices].to(self.device))
            self.step += 1
            summed += 1
            for name, value in values.items():
                epoch_totals[name] = epoch_totals.get(name, 0.0) + value
            progress.update()
            progress.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
            if self.step % self.batches_an_epoch == 0:
                metrics = self._validate(validation)
                mean_losses = {
                    f"{'train' if 'error' in k else 'loss'}/{k}": v / summed for k, v in epoch_totals.items()
                }
                epoch_totals, summed = {}, 0
                speed: dict[str, float] = {}
                if isinstance(source, FreshSource) and source.seconds:
                    speed = {"speed/crafted image steps a second": round(source.image_steps / source.seconds)}
                row = {"epoch": epoch + 1, "step": self.step, **mean_losses, **metrics, **speed}
                self._log(row, writer, validation)
            late = is_near()
            if late or time.monotonic() - saved_at > self.save_seconds or self.step % self.batches_an_epoch == 0:
                self.save_state(source)
                saved_at = time.monotonic()
            if late and self.step < self.steps:
                raise OutOfTime(f"{self.step} of {self.steps} steps")
        progress.close()
        if writer:
            writer.close()
        if self.rank == 0:
            metrics = metrics or self._validate(validation)  # where nothing was left to train
            for name in self.kept:
                plain = self._plain(name)
                checkpoint.save(plain, self.card(metrics, plain), self.out / f"{name}.safetensors")
        return self.kept["purifier"].eval()

    def _batches(self) -> Iterator[tuple[int, Tensor]]:
        """Epoch and indices from the current step on; the order is a function of seed and epoch."""
        first_epoch, offset = divmod(self.step, self.batches_an_epoch)
        for epoch in range(first_epoch, self.recipe.epochs):
            generator = torch.Generator().manual_seed(seed_of(self.config.seed, "order", epoch))
            order = torch.randperm(len(self.dataset.train), generator=generator)
            for batch in range(offset, self.batches_an_epoch):
                start = batch * self.recipe.batch_size
                yield epoch, order[start : start + self.recipe.batch_size][self.rank :: self.world_size]
            offset = 0

    def _source(self) -> Source:
        if self.recipe.inner_steps:
            through = lambda: adaptive.frozen(self.purifier, self.classifier)  # noqa: E731
            return AdaptiveSource(self.config, self.dataset.train, through, self.steps)
        if self.recipe.refresh_epochs:
            parent = self.pools or self.out
            root = parent / f"pool-{self.rank}-of-{self.world_size}"
            shared = self.pools is not None
            return FreshSource(self.config, self.dataset.train, self.attacked, root, shared)
        args = (self.config, self.dataset.train, self.classifier, self.classifier_sha256, self.crafted)
        if self.rank == 0:
            StaticSource(*args)
        if self.world_size > 1:
            dist.barrier()
        return StaticSource(*args)

    # -- Algorithm 1 --------------------------------------------------------------------------------------------

    def train_step(self, batch: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, float]:
        """One iteration of Algorithm 1 on natural images and their attacked versions; returns every loss.

        ``labels`` ``(N,)`` of the natural images are for the losses that need them.
        """
        recipe, weights, k = self.recipe, self.recipe.weights, self.domains
        torch.manual_seed(seed_of(self.config.seed, "noise", self.step, self.rank))
        rate = learning_rate(recipe, self.step, self.steps)
        for name, optimiser in self.optimisers.items():
            optimiser.param_groups[0]["lr"] = rate * (recipe.joint if name == "classifier" else 1)
        natural, attacked = batch[0], list(batch[1:])
        if recipe.moved:
            generator = torch.Generator().manual_seed(seed_of(self.config.seed, "moved", self.step, self.rank))
            attacked = [moved(natural, images, recipe.moved, generator) for images in attacked]
        x = torch.cat([natural, *attacked])
        if recipe.corrupted:
            generator = torch.Generator().manual_seed(seed_of(self.config.seed, "corrupt", self.step, self.rank))
            damaged = corrupt(natural if recipe.inner_steps else x, recipe.corrupted, recipe.damage, generator)
            x = torch.cat([damaged, x[len(damaged) :]])  # what was attacked through g stays as bad as it is
        x = x.contiguous(memory_format=torch.channels_last)
        target = natural.repeat(k, 1, 1, 1)
        domains = torch.arange(k, device=self.device).repeat_interleave(len(natural))
        values: dict[str, float] = {}

        released = recipe.form == "released"
        terms: dict[str, Tensor] = {}
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.mixed_precision)
        if isinstance(self.purifier, Arn):
            with autocast:
                mean, log_variance = self.purifier.encode_distribution(x)
            mean, log_variance = mean.float(), log_variance.float()
            z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if recipe.sample else mean
            with autocast:
                purified = self.purifier.decode(z, x).float()
            values.update(self._update_discriminators(z.detach(), purified.detach(), natural, domains))
            if weights.att:
                confusion = losses.attack_confusion_loss_released if released else losses.attack_confusion_loss
                terms["att"] = confusion(self.modules["attack_discriminator"](z))
            if weights.nor:
                # The authors' code sums over the batch where Eq. 3 averages.
                scale = len(x) if released else 1
                terms["nor"] = scale * losses.normalization_loss(mean, log_variance)
        else:
            with autocast:
                purified = self.purifier(x).float()
            values.update(self._update_discriminators(None, purified.detach(), natural, domains))

        if weights.mse and recipe.form == "paper":
            terms["mse"] = losses.pixel_loss(purified, target, k)
        elif weights.mse:
            terms["mse"] = 4 * (purified - target).square().mean()  # on [-1, 1], as Tanh gives it
        if weights.l1:
            terms["l1"] = losses.absolute_loss(purified, target)
        if weights.feature or weights.logit or weights.guide or weights.labelled:
            found, errors = self._target_terms(purified, natural, labels)
            terms.update(found)
            values.update(errors)
        # What restores the image reaches E and G alike; "mse" stands in the paper's L_mse, the others are ours.
        names = ("mse", "l1", "feature", "logit", "guide", "ce", "clean", "kl", "margin")
        restoring = [getattr(weights, name) * terms[name] for name in names if name in terms]
        restoration = torch.stack(restoring).sum()
        nothing = torch.zeros((), device=self.device)
        att, nor = terms.get("att", nothing), terms.get("nor", nothing)
        encoder_loss = losses.encoder_loss(restoration, att, nor, weights.att, weights.nor)

        learning = [name for name in ("purifier", "classifier") if name in self.modules]
        for name in learning:
            self.optimisers[name].zero_grad()
        if weights.adv:
            terms["adv"] = losses.decoder_adversarial_loss(self.modules["image_discriminator"](purified), self._summed)
        if weights.adv and isinstance(self.purifier, Arn):
            decoder_loss = losses.decoder_loss(restoration, terms["adv"], weights.adv)
            decoder_parameters = list(self.purifier.decoder.parameters())
            gradients = torch.autograd.grad(decoder_loss, decoder_parameters, retain_graph=True)
            encoder_loss.backward(inputs=list(self.purifier.encoder.parameters()))
            for parameter, gradient in zip(decoder_parameters, gradients, strict=True):
                parameter.grad = gradient
        elif weights.adv:
            losses.decoder_loss(restoration, terms["adv"], weights.adv).backward()
        else:
            encoder_loss.backward()  # no other term reaches G than reaches E through it
        for name in learning:
            self._average_gradients(self.modules[name])
            self.optimisers[name].step()
        if recipe.ema:
            self._follow()
        values.update({name: float(term.detach()) for name, term in terms.items()})
        return values

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the averages; early in the run they remember less."""
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for name, average in self.kept.items():
            pairs = zip(average.state_dict().values(), self.modules[name].state_dict().values(), strict=True)
            for mean, now in pairs:
                mean.lerp_(now, 1 - decay) if mean.is_floating_point() else mean.copy_(now)

    @property
    def _summed(self) -> int:
        """Over how many domains D_I's losses are summed: the paper's Eqs. 5 and 6 sum over all, APE-GAN averages."""
        return 1 if self.recipe.form == "averaged" else self.domains

    def _update_discriminators(
        self, z: Tensor | None, purified: Tensor, natural: Tensor, domains: Tensor
    ) -> dict[str, float]:
        released = self.recipe.form == "released"
        updates: dict[str, tuple[str, Tensor]] = {}
        if "attack_discriminator" in self.modules:
            logits = self.modules["attack_discriminator"](z)
            form = losses.attack_discriminator_loss_released if released else losses.attack_discriminator_loss
            updates["attack_discriminator"] = ("d_a", form(logits, domains))
        if "image_discriminator" in self.modules:
            discriminator = self.modules["image_discriminator"]
            fake, real = discriminator(purified), discriminator(natural)
            loss = losses.image_discriminator_loss(fake, real, self._summed)
            if self.recipe.gradient_penalty:
                loss = loss + self.recipe.gradient_penalty * self._gradient_penalty(purified, natural)
            updates["image_discriminator"] = ("d_i", loss)
        for name, (_, loss) in updates.items():
            self.optimisers[name].zero_grad()
            loss.backward()
            self._average_gradients(self.modules[name])
            self.optimisers[name].step()
        return {short: float(loss.detach()) for short, loss in updates.values()}

    def _gradient_penalty(self, purified: Tensor, natural: Tensor) -> Tensor:
        """Between the natural input and its fake, as the authors' code has it (not between real and fake)."""
        fake = purified[: len(natural)]
        mix = torch.rand(len(natural), 1, 1, 1, device=fake.device)
        between = (mix * natural + (1 - mix) * fake).requires_grad_(True)
        (gradients,) = torch.autograd.grad(
            self.modules["image_discriminator"](between).sum(), between, create_graph=True
        )
        return losses.gradient_penalty_released(gradients)

    def _target_terms(
        self, purified: Tensor, natural: Tensor, labels: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The target's view of the purified images, beside its view of the natural ones and beside the labels."""
        weights, k = self.recipe.weights, self.domains
        clean = torch.empty(0)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.mixed_precision):
            if weights.feature:
                with torch.no_grad():
                    clean_features, clean = self.classifier.forward_with_features(natural)  # type: ignore[operator]
                features, seen = self.classifier.forward_with_features(purified)  # type: ignore[operator]
            else:
                if weights.logit or weights.guide:
                    with torch.no_grad():
                        clean = self.classifier(natural)
                seen = self.classifier(purified)
        terms = {}
        if weights.feature:
            terms["feature"] = losses.feature_loss([features.float()], [clean_features.float().repeat(k, 1)])
        clean, seen = clean.float().repeat(k, 1), seen.float()
        if weights.logit:
            terms["logit"] = losses.logit_loss(seen, clean)
        if weights.guide:
            terms["guide"] = losses.guidance_loss(seen, clean)
        if not weights.labelled:
            return terms, {}
        assert labels is not None  # fit() gives them
        n, repeated = len(natural), labels.repeat(k - 1)
        if weights.ce:
            terms["ce"] = losses.robust_loss(seen[n:], repeated)
        if weights.clean:
            terms["clean"] = losses.robust_loss(seen[:n], labels)
        if weights.kl:
            terms["kl"] = losses.trades_loss(seen[n:], seen[:n].repeat(k - 1, 1))
        if weights.margin:
            terms["margin"] = losses.margin_loss(seen[n:], repeated)
        wrong = seen.argmax(1) != labels.repeat(k)
        errors = {"clean error": wrong[:n], "adversarial error": wrong[n:]}
        return terms, {name: 100 * float(found.float().mean()) for name, found in errors.items()}

    def _average_gradients(self, module: nn.Module) -> None:
        if self.world_size == 1:
            return
        for parameter in module.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.world_size

    # -- looking at it ------------------------------------------------------------------------------------------

    def _validation_sets(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Natural and crafted images of about ``watched`` validation images, for watching the run."""
        split = self.dataset.validation.every(len(self.dataset.validation) // self.watched or 1)
        natural, labels = split.batch(slice(None), self.config.device)
        sets, target = {"none": (natural, labels)}, for_crafting(self.given, self.config.mixed_precision)
        for attack in self.config.seen:
            seed = seed_of(self.config.seed, "validation", attack.name)
            # As training crafts them: the numbers that are reported come from `evaluate`. What is learned through f
            # after g is seen here by f alone, as it was given, in steps of its own.
            if self.recipe.inner_steps:
                attack = at_budget(for_training(get(attack.name, self.dataset.name)), attack.eps or 0.0)
            sets[attack.name] = (attack(target, natural, labels, seed).images, labels)
        return sets

    @torch.no_grad()
    def _validate(self, sets: dict[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Error rates of what would be kept; what sees g is crafted anew each time, at the budget of the ramp's end."""
        purifier, classifier = self.kept["purifier"], self.kept.get("classifier", self.classifiers[0])
        purifier.eval()
        classifier.eval()
        metrics = {}
        if self.recipe.inner_steps:
            target, (natural, labels) = adaptive.frozen(purifier, classifier), sets["none"]
            for attack in self.config.seen:
                seed, stronger = (
                    seed_of(self.config.seed, "validation", attack.name),
                    attack.with_settings(iterations=20),
                )
                parts = zip(natural.split(500), labels.split(500), strict=True)
                bf16 = self.config.mixed_precision
                images = torch.cat([adaptive.attacked(target, x, y, stronger, 1.0, seed, bf16) for x, y in parts])
                sets[f"{attack.name} white_box"] = (images, labels)
        for name, (images, labels) in sets.items():
            wrong: int = sum(
                int((classifier(purifier(x)).argmax(1) != y).sum())
                for x, y in zip(images.split(500), labels.split(500), strict=True)
            )
            metrics[f"error/{name}"] = 100 * wrong / len(images)
        for name in self.kept:
            self.modules[name].train()
        return metrics

    @torch.no_grad()
    def _log(self, row: dict[str, Any], writer: SummaryWriter | None, sets: dict[str, tuple[Tensor, Tensor]]) -> None:
        if writer is None:
            return
        with (self.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if "/" in name:
                writer.add_scalar(name, value, row["step"])
        natural = sets["none"][0][:16]
        first = self.config.seen[0].name
        attacked = sets[f"{first} white_box" if self.recipe.inner_steps else first][0][:16]
        sheet = contact_sheet(natural, attacked, self.kept["purifier"].eval()(attacked))
        self.purifier.train()
        save_png(sheet, self.out / "sheets" / f"epoch-{row['epoch']:03d}.png")
        writer.add_image("natural, adversarial, noise x10, purified", sheet, row["step"])
        tqdm.write("  ".join(f"{k.split('/')[-1]} {v:.4g}" for k, v in row.items()))

    # -- state --------------------------------------------------------------------------------------------------

    @property
    def _state_path(self) -> Path:
        return self.out / "state.safetensors"

    def save_state(self, source: Source) -> None:
        """Weights, their averages, optimiser moments and step in one atomic file; the pools go to disk first."""
        if isinstance(source, FreshSource):
            source.flush()
        if self.rank > 0:
            return
        save_state(self._state_path, self._held, self.optimisers, self.step, self.fingerprint)

    def _resume(self) -> None:
        self.step = load_state(self._state_path, self._held, self.optimisers, self.fingerprint, str(self.device))

    @property
    def _held(self) -> dict[str, nn.Module]:
        """What the state holds: everything that learns, and the averages."""
        averages = {f"{name}_average": module for name, module in self.kept.items()} if self.recipe.ema else {}
        return {**self.modules, **averages}

    def _plain(self, name: str = "purifier") -> nn.Module:
        """A network as its checkpoint holds it: under torchrun its BatchNorm layers are synchronised ones."""
        kept = self.kept[name]
        if self.world_size == 1:
            return kept
        plain: nn.Module = type(kept)(kept.config)
        plain.load_state_dict(kept.state_dict())
        return plain

    def _describe(self, attack: Attack) -> dict[str, Any]:
        budgets = self.recipe.budgets
        through = {"through": "f after g"} if self.recipe.inner_steps else {}
        return {
            **attack.describe(),
            **through,
            **({"budgets": list(budgets)} if budgets and attack.eps is not None else {}),
            **({"moved": self.recipe.moved} if self.recipe.moved else {}),
        }

    def card(self, metrics: dict[str, float], network: nn.Module) -> Card:
        """The card of a ``network`` of this run as it stands."""
        architecture, config, kind = checkpoint.architecture_of(network)
        return Card(
            name=self.out.name,
            kind=kind,
            architecture=architecture,
            config=config,
            dataset=self.dataset.name,
            input_shape=self.dataset.shape,
            profile="joint" if self.recipe.joint else "hardened" if self.recipe.inner_steps else "transparent",
            recipe=self.recipe.name,
            class_names=self.dataset.class_names,
            seen_attacks=tuple(self._describe(attack) for attack in self.config.seen),
            classifier_sha256=self.classifier_sha256,
            loss_weights=dataclasses.asdict(self.recipe.weights),
            step=self.step,
            metrics=metrics,
            seed=self.config.seed,
            command=self.command,
            versions=versions(),
        )


def join_process_group(device: str) -> str:
    """Under torchrun, join the other processes and return this one's device; elsewhere return ``device``."""
    if "RANK" not in os.environ:
        return device
    on_gpu = device.startswith("cuda")
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    return device
