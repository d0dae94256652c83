"""A checkpoint in the formats of other runtimes: ONNX, and torch.export's archive. Checked before it is kept."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arn_purify import models

TOLERANCE = 1e-4


class ConversionError(ValueError):
    """The converted network does not answer as the original does."""


def convert(source: str, target: Path) -> float:
    """Write a model (released name or path) as ``target``, ``.onnx`` or ``.pt2``; the batch stays free.

    Returns the largest difference to torch's answers on random images, one and several at a time.

    Raises:
        ConversionError: that difference is more than ``TOLERANCE``.
        ValueError: another ending, or a model for images of any size.
    """
    model = models.load(source).requires_grad_(False)
    card = models.card_of(model)
    if not all(card.input_shape):
        raise ValueError(f"{card.name} takes images of any size: nothing to convert")
    if target.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"{target.name}: the ending names the format, .onnx or .pt2")
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(2, *card.input_shape, generator=generator)
    batch = ({0: torch.export.Dim("batch")},)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        written = Path(folder) / target.name
        answer = _onnx(model, example, batch, card, written) if target.suffix == ".onnx" else _pt2(
            model, example, batch, written
        )  # fmt: skip
        difference = 0.0
        for count in (1, 5):
            images = torch.rand(count, *card.input_shape, generator=generator)
            difference = max(difference, float((answer(images) - model(images)).abs().max()))
        if difference > TOLERANCE:
            raise ConversionError(f"{target.name} differs from torch by {difference:.2g}")
        written.replace(target)
    return difference


def _onnx(model: nn.Module, example: Tensor, batch: Any, card: models.Card, path: Path) -> Any:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        raise ValueError(f"{path.name}: {error}; install the extra onnx") from error

    output = "purified" if card.kind == "purifier" else "logits"
    exporter = logging.getLogger("torch.onnx._internal.exporter._registration")
    exporter.setLevel(logging.ERROR)  # it warns at length that torchvision is missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, (example,), dynamo=True, input_names=["images"], output_names=[output], dynamic_shapes=batch,
            verbose=False,
        )  # fmt: skip
    assert program is not None
    program.model.metadata_props.update(
        {"arn.name": card.name, "arn.sha256": card.sha256, "arn.input": f"{card.input_shape} float32 in [0, 1]"}
    )
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path)
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _pt2(model: nn.Module, example: Tensor, batch: Any, path: Path) -> Any:
    program = torch.export.export(model, (example,), dynamic_shapes=batch)
    torch.export.save(program, path)
    return torch.export.load(path).module()
