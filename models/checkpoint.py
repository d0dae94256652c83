"""Self-describing checkpoints: one safetensors file whose metadata rebuilds the model. No pickle anywhere.

The metadata holds ``format``, ``card`` (JSON) and ``content_sha256`` over the card and every tensor, so that a file
changed after it was written does not load. The SHA-256 of the whole file names the checkpoint everywhere else.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from .arn import Arn
from .baselines import ApeG, ApeGConfig, Hgd, HgdConfig
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
from .efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig
from .files import write_atomically

FORMAT = "arn-checkpoint-1"
Kind = Literal["purifier", "classifier"]
SMALLEST_PHOTOGRAPH = 65
"""Height and width in pixels from which a purifier of photographs takes images of other sizes than its own."""

# architecture name on the card -> (config, module, what it is)
_ARCHITECTURES: dict[str, tuple[type, type[nn.Module], Kind]] = {
    "arn": (ArnConfig, Arn, "purifier"),
    "ape-g": (ApeGConfig, ApeG, "purifier"),
    "hgd": (HgdConfig, Hgd, "purifier"),
    "lenet5": (LeNet5Config, LeNet5, "classifier"),
    "mlp": (MlpConfig, Mlp, "classifier"),
    "resnet8": (ResNet8Config, ResNet8, "classifier"),
    "resnet": (ResNetConfig, ResNet, "classifier"),
    "wide-resnet": (WideResNetConfig, WideResNet, "classifier"),
    "vgg19": (Vgg19Config, Vgg19, "classifier"),
    "airbench": (AirbenchConfig, Airbench, "classifier"),
    "lisa-cnn": (LisaCnnConfig, LisaCnn, "classifier"),
    "efficientnet-lite": (EfficientNetLiteConfig, EfficientNetLite, "classifier"),
}


class CheckpointError(ValueError):
    """A file that is no checkpoint of ours, is broken, or is not what was asked for. The message says which."""


@dataclasses.dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself.

    ``input_shape`` is (C, H, W); ``recipe`` names the run and ``run`` says the same in fields (``training.run_name``);
    ``seen_attacks`` lists ``{"attack", "eps", ...}``; ``metrics`` are error rates in percent on so many ``images`` of
    the validation split, measured on the released file; ``curve`` what its run saw on a part of that split after each
    epoch; ``sha256`` is the hash of the file read.
    """

    name: str
    kind: Kind
    architecture: str
    config: Mapping[str, Any]
    dataset: str
    input_shape: tuple[int, int, int]
    profile: str = ""
    recipe: str = ""
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    seen_attacks: tuple[Mapping[str, Any], ...] = ()
    classifier_sha256: str = ""
    loss_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    step: int = 0
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    curve: tuple[Mapping[str, float], ...] = ()
    seed: int = 0
    command: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sha256: str = ""


def any_size(card: Card) -> bool:
    """Whether the network takes images of other sizes than the ``input_shape`` that it was evaluated at."""
    entry = _ARCHITECTURES.get(card.architecture)
    return entry is not None and getattr(entry[0](**card.config), "any_size", False)


def for_photographs(card: Card) -> bool:
    """Whether it is a purifier of photographs: it takes any size, in tiles, and was evaluated at a large one."""
    entry = _ARCHITECTURES.get(card.architecture)
    large = min(card.input_shape[1:]) >= SMALLEST_PHOTOGRAPH
    return large and entry is not None and getattr(entry[0](**card.config), "in_tiles", False)


def card_of(model: nn.Module) -> Card:
    """The card of a loaded model; ``TypeError`` for a module that was not loaded."""
    card = getattr(model, "card", None)
    if not isinstance(card, Card):
        raise TypeError(f"{type(model).__name__} has no card: it was not loaded from a checkpoint")
    return card


def architecture_of(model: nn.Module) -> tuple[str, dict[str, Any], Kind]:
    """The card's ``architecture``, ``config`` and ``kind`` of a module; ``TypeError`` if no checkpoint can hold it."""
    for name, (_, module, kind) in _ARCHITECTURES.items():
        if type(model) is module:
            return name, dataclasses.asdict(model.config), kind  # type: ignore[call-overload]
    raise TypeError(f"{type(model).__name__} has no checkpoint format")


def _content_sha256(card_json: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(card_json.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        # Not by way of numpy, which need not be installed to load a checkpoint.
        digest.update(ctypes.string_at(tensor.data_ptr(), tensor.nbytes))
    return digest.hexdigest()


def save(model: nn.Module, card: Card, path: str | Path, dtype: torch.dtype = torch.float32) -> str:
    """Write ``model`` and ``card`` to one safetensors file and return the file's SHA-256.

    ``dtype`` rounds floating-point weights (``torch.float16`` to release them); loading always gives float32 back. A
    tensor with values beyond that type, as a batch norm's variances may be, is kept as it is.
    """
    architecture, config, kind = architecture_of(model)
    if (architecture, dict(card.config), kind) != (card.architecture, config, card.kind):
        raise CheckpointError(f"the card says {card.architecture} {dict(card.config)}, not {architecture} {config}")
    tensors = {
        name: (_rounded(tensor, dtype) if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    fields = dataclasses.asdict(card)
    del fields["sha256"]
    card_json = json.dumps(fields, sort_keys=True)
    metadata = {"format": FORMAT, "card": card_json, "content_sha256": _content_sha256(card_json, tensors)}
    data = save_tensors(tensors, metadata)
    write_atomically(Path(path), data)
    return hashlib.sha256(data).hexdigest()


def _rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    rounded = tensor.to(dtype)
    return rounded if torch.equal(rounded.isfinite(), tensor.isfinite()) else tensor


def _metadata(data: bytes) -> dict[str, str]:
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, dict[str, str]] = json.loads(data[8 : 8 + length])
    return header.get("__metadata__", {})


def read(path: str | Path) -> tuple[Card, dict[str, Tensor]]:
    """The card and the tensors of a checkpoint, as stored.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: truncated, foreign or changed after it was written.
    """
    path = Path(path)
    data = path.read_bytes()
    try:
        tensors = load_tensors(data)
        metadata = _metadata(data)
    except (SafetensorError, KeyError, ValueError, struct.error) as error:  # KeyError: a type that torch has not
        raise CheckpointError(f"{path.name}: not a safetensors file, or a truncated one ({error})") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path.name}: safetensors, but no ARN checkpoint (format {metadata.get('format')!r}, not {FORMAT!r})"
        )
    card_json = metadata.get("card", "")
    if _content_sha256(card_json, tensors) != metadata.get("content_sha256"):
        raise CheckpointError(f"{path.name}: changed after it was written (its content does not match its hash)")
    try:
        fields = json.loads(card_json)
        fields["input_shape"] = tuple(fields["input_shape"])
        fields["class_names"] = tuple(fields["class_names"])
        fields["seen_attacks"] = tuple(fields["seen_attacks"])
        fields["curve"] = tuple(fields.get("curve", ()))
        card = Card(**fields, sha256=hashlib.sha256(data).hexdigest())
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path.name}: its card is not one this version reads ({error})") from error
    return card, tensors


def _contradiction(card: Card, config: Any, kind: Kind) -> str:
    """What a card says of its network that is not so; empty where nothing is."""
    shape, classes = card.input_shape, getattr(config, "classes", None)
    if card.kind != kind:
        return f"a {kind}, not a {card.kind}"
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        return f"no shape (C, H, W) of images: {shape}"
    if shape[0] != getattr(config, "channels", 3):
        return f"{shape[0]} channels"
    if card.class_names and classes not in (None, len(card.class_names)):
        return f"{len(card.class_names)} names of {classes} classes"
    return ""


def load(path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """Rebuild the model of a checkpoint in eval mode, float32, on ``device``, with its ``.card``.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: truncated, foreign, changed, not matching the architecture it names, or with a card that
            contradicts it.
    """
    card, tensors = read(path)
    if card.architecture not in _ARCHITECTURES:
        raise CheckpointError(f"{Path(path).name}: unknown architecture {card.architecture!r}")
    config_type, module, kind = _ARCHITECTURES[card.architecture]
    try:
        model = module(config_type(**card.config))
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{Path(path).name}: its tensors do not fit {card.architecture} ({error})") from error
    if wrong := _contradiction(card, model.config, kind):
        raise CheckpointError(f"{Path(path).name}: its card contradicts its network: {wrong}")
    model.card = card  # type: ignore[assignment]
    return model.eval().to(device)
