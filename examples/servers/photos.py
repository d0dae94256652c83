"""An ImageNet classifier as people serve it: an ONNX file that takes 224x224 normalised by mean and deviation."""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from arn_purify import models

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of each channel on [0, 1], as torchvision's classifiers have it; here the network's first step undoes it."""

GATEWAY = ("--input-mean", ",".join(map(str, MEAN)), "--input-std", ",".join(map(str, STD)))
"""The flags that tell the gateway."""


class _Normalised(nn.Module):
    """A classifier of images in [0, 1] as one of normalised images."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x * self.std + self.mean)
        return logits


def add_to_triton(folder: Path, classifier: nn.Module | None = None) -> None:
    """Let the Triton that is started in ``folder`` serve a classifier ``(N, 3, 224, 224)`` to logits as ``photos``.

    ``classifier`` takes images in [0, 1]; by default it is EfficientNet-Lite0.
    """
    target = folder / "models" / "photos"
    shutil.copytree(Path(__file__).parent / "onnx" / "photos", target)
    model = _Normalised(classifier or models.load("photo-efficientnet-lite0")).eval().requires_grad_(False)
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # torchvision is missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, (torch.rand(2, 3, 224, 224),), dynamo=True, input_names=["input"], output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
        )  # fmt: skip
    assert program is not None
    program.save(target / "1" / "model.onnx", external_data=False)
