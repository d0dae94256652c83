"""Where training batches come from: crafted once, crafted anew every few epochs, or through the pair as it stands."""

from __future__ import annotations

import abc
import errno
import hashlib
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..attacks import Attack, adaptive, at_budget, for_crafting, seed_of
from ..attacks.craft import crafted_set
from ..data import Images, Split, augment, flip_images, shift_images
from .config import TrainConfig


class Source(abc.ABC):
    """The natural images of some indices, and one image of every seen attack for each."""

    @abc.abstractmethod
    def batch(self, indices: Tensor, epoch: int, step: int) -> list[Tensor]:
        """Natural images first, then the seen attacks in order, each ``(N, C, H, W)`` float32 in [0, 1]."""

    def flush(self) -> None:  # noqa: B027 (most keep nothing)
        """Bring to disk what is kept there, so that a saved state never points at images that are missing."""

    def speed(self) -> dict[str, float]:
        """What the log says of crafting."""
        return {}


class StaticSource(Source):
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
        natural = self.split.images_of(indices, self.device)
        return [natural, *(images[indices].to(self.device) for images in self.sets)]


class FreshSource(Source):
    """Images shifted and attacked anew every ``refresh_epochs`` epochs; in between, a pool on disk is read again.

    With ``shared`` every generation of the pool stays in ``root`` under a name that says what it depends on, so that
    runs over the same seen attacks, seed and batches craft them once between them.
    """

    def __init__(
        self, config: TrainConfig, split: Images, classifiers: Mapping[str, nn.Module], root: Path, shared: bool = False
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
            shape = (len(self.split), *self.split.shape)
            # A memory map takes disk space as it is written: a disk that fills up then ends the process without a word.
            if mode == "w+" and shutil.disk_usage(self.root).free < 2 * math.prod(shape):
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
        images, labels = (of(indices, config.device) for of in (self.split.images_of, self.split.labels_of))
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

    def speed(self) -> dict[str, float]:
        """See :class:`Source`."""
        if not self.seconds:
            return {}
        return {"speed/crafted image steps a second": round(self.image_steps / self.seconds)}

    def flush(self) -> None:
        """See :class:`Source`."""
        for pool, done in self.pools:
            pool.flush()  # type: ignore[attr-defined]
            done.flush()  # type: ignore[attr-defined]


class AdaptiveSource(Source):
    """Images shifted, mirrored and attacked through f after g as both stand, the budget grown over the run."""

    def __init__(self, config: TrainConfig, split: Images, through: Callable[[], nn.Module], steps: int) -> None:
        self.config, self.split, self.through, self.steps = config, split, through, steps

    def batch(self, indices: Tensor, epoch: int, step: int) -> list[Tensor]:  # noqa: ARG002 (anew at every step)
        """See :class:`Source`."""
        config, recipe = self.config, self.config.recipe
        images, labels = (of(indices, config.device) for of in (self.split.images_of, self.split.labels_of))
        seed = seed_of(config.seed, "shift", step, int(indices[0]))
        generator = torch.Generator().manual_seed(seed)
        natural = augment(images, recipe.shift, recipe.flip, generator)
        # Attack.eps is what the ramp ends at, or the largest of the budgets.
        begin = recipe.eps_from / recipe.eps_to
        share = begin + (1 - begin) * min(1.0, (step + 1) / max(1.0, recipe.ramp * self.steps))
        if recipe.budgets:
            lowest = recipe.budgets[0] / recipe.budgets[1]
            share = lowest + (1 - lowest) * float(torch.rand((), generator=generator))
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
