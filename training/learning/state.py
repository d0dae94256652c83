"""What a run leaves in its folder as it goes.

The state of an unfinished run, in one atomic safetensors file: weights, their averages, optimiser moments, step. And
a row of numbers now and then.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from arn_purify.models.files import write_atomically

logger = logging.getLogger(__name__)


class ConfigurationError(ValueError):
    """A run that cannot be right. Raised before any work."""


class DivergedError(ValueError):
    """A run whose loss is no number any more. Its state before that is kept."""


def check_finite(values: Mapping[str, float], step: int) -> None:
    """Check the losses of ``step``.

    Raises:
        DivergedError: one is infinite or no number.
    """
    if lost := [name for name, value in values.items() if not math.isfinite(value)]:
        raise DivergedError(f"step {step}: {', '.join(lost)} not finite; the run has diverged: lower its learning rate")


def weights_sha256(module: nn.Module | None) -> str:
    """Hash of a module's weights; empty without a module."""
    if module is None:
        return ""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_state(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
    step: int,
    fingerprint: str,
) -> None:
    """Write the state; a kill leaves the old one or the new one."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors.update({f"{name}.model.{k}": v for k, v in module.state_dict().items()})
    for name, optimiser in optimisers.items():
        for index, entry in optimiser.state_dict()["state"].items():
            moments = {k: v for k, v in entry.items() if v is not None}
            tensors.update({f"{name}.optimiser.{index}.{k}": v for k, v in moments.items()})
    metadata = {"step": str(step), "fingerprint": fingerprint}
    write_atomically(path, save_tensors({k: v.contiguous() for k, v in tensors.items()}, metadata))


def load_state(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
    fingerprint: str,
    device: str = "cpu",
) -> int:
    """Bring modules and optimisers back to the saved step and return it; 0 where there is no state.

    Raises:
        ConfigurationError: the state is of a run with another ``fingerprint``, or damaged.
    """
    if not path.is_file():
        return 0
    try:
        opened = safe_open(path, "pt", device=device)
    except SafetensorError as error:
        raise ConfigurationError(f"{path} is damaged ({error}): delete it to start again") from error
    with opened as file:
        metadata = file.metadata() or {}  # a file that is no state of ours may have none
        if metadata.get("fingerprint") != fingerprint:
            raise ConfigurationError(f"{path.parent} holds a run of another configuration: choose another --out")
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    for name, module in modules.items():
        prefix = f"{name}.model."
        module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    for name, optimiser in optimisers.items():
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"{name}.optimiser."):
                index, field = key.removeprefix(f"{name}.optimiser.").split(".")
                entries.setdefault(int(index), {})[field] = value.cpu() if field == "step" else value
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": entries, "param_groups": groups})
    step = int(metadata["step"])
    logger.info("resumed %s at step %d", path.parent, step)
    return step


def log_row(out: Path, row: Mapping[str, Any]) -> None:
    """Add a row to ``metrics.jsonl`` of a run folder, which is made where it is missing."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
