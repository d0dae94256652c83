"""Crafted sets: every image of a split attacked once, with provenance; resumable.

On a CPU they are the same bytes every time. A GPU adds in no fixed order, so that a few pixels may differ.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from arn_purify.models.files import write_atomically

from ..data import Split
from ..deadline import OutOfTime, is_near
from . import gradient
from .base import Attack, seed_of
from .wrappers import for_crafting

logger = logging.getLogger(__name__)

CHUNK = 500
_VALUES_A_CHUNK = 50 * 3 * 224 * 224  # photographs: the gradient of 500 takes 30 GB


def chunk_of(shape: Sequence[int]) -> int:
    """How many images of ``shape`` (C, H, W) are attacked, or purified, at once."""
    return max(1, min(CHUNK, _VALUES_A_CHUNK // math.prod(shape)))


def versions(attack: Attack | None = None) -> dict[str, str]:
    """Versions of the packages that a measured number depends on, those of the attack among them."""
    found = {"python": platform.python_version()}
    for package in ("torch", "numpy", "scipy", "advertorch", "pyautoattack", *(attack.packages if attack else ())):
        found[package] = metadata.version(package)
    return found


@dataclasses.dataclass(frozen=True)
class CraftedSet:
    """``images`` float32 ``(N, C, H, W)`` in [0, 1], ``succeeded`` ``(N,)`` bool, in the split's order."""

    images: Tensor
    succeeded: Tensor
    provenance: Mapping[str, Any]


@contextlib.contextmanager
def _cuda_graphs_freed() -> Iterator[None]:
    """Free the graphs of a block at its end: each holds its model, and the memory of a whole pass through it."""
    try:
        yield
    finally:
        gradient._graph.cache_clear()


def crafted_set(
    split: Split,
    attack: Attack,
    classifier: nn.Module,
    classifier_sha256: str,
    root: Path,
    seed: int = 0,
    device: str = "cpu",
    fast: bool = False,
) -> CraftedSet:
    """Craft ``attack`` against ``classifier`` for a whole split, or read the set from ``root`` if it is there.

    A run that was killed resumes at its last chunk. Each chunk has its own seed, so the result is that of an unbroken
    run. ``fast`` crafts in bf16, for training sets.

    Raises:
        OutOfTime: the deadline is near; the chunks so far are kept.
    """
    provenance = {
        **attack.describe(),
        "source": attack.source,
        "classifier_sha256": classifier_sha256,
        "split_sha256": split.sha256(),
        "n": len(split),
        "seed": seed,
        "device": torch.device(device).type,
        "precision": "bf16" if fast else "fp32",
        "versions": versions(attack),
    }
    identity = hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest()
    folder = root / f"{attack.name}-{identity[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    card, images_path, succeeded_path = (folder / f for f in ("provenance.json", "images.npy", "succeeded.npy"))
    state = json.loads(card.read_text()) if card.is_file() else {**provenance, "done": 0}
    mode = "r+" if state["done"] else "w+"
    images = np.lib.format.open_memmap(images_path, mode, np.float32, tuple(split.images.shape))
    succeeded = np.lib.format.open_memmap(succeeded_path, mode, np.bool_, (len(split),))
    target, chunk = for_crafting(classifier, fast), chunk_of(split.shape)
    progress = tqdm(total=len(split), initial=state["done"], desc=f"craft {attack.name}", mininterval=2, delay=2)
    started, first = time.monotonic(), state["done"]
    with progress, _cuda_graphs_freed():
        for start in range(first, len(split), chunk):
            if is_near():
                raise OutOfTime(f"{attack.name}: {start} of {len(split)} images crafted")
            part = slice(start, min(start + chunk, len(split)))
            natural, labels = split.batch(part, device)
            crafted = attack(target, natural, labels, seed_of(seed, attack.name, start))
            images[part] = crafted.images.cpu().numpy()
            state["flags"] = sorted({*state.get("flags", ()), *crafted.flags})
            succeeded[part] = crafted.succeeded.cpu().numpy()
            images.flush()
            succeeded.flush()
            state["done"] = part.stop
            write_atomically(card, json.dumps(state, indent=1).encode())
            progress.update(part.stop - part.start)
    if first < len(split) and "iterations" in attack.settings:
        speed = (len(split) - first) * attack.settings["iterations"] / (time.monotonic() - started)
        logger.info("%s on %s: %.0f image steps a second", attack.name, device, speed)
    kept = torch.from_numpy(np.load(images_path, mmap_mode="c"))  # what a defence writes stays in its memory
    return CraftedSet(kept, torch.from_numpy(np.array(succeeded)), state)
