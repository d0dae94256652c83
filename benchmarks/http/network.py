"""What every peer does alike: the network of the environment on images of one size, in eager torch, bf16 if asked."""

import io
import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from arn_purify import models

Pixels = NDArray[np.uint8]
"""``(H, W)`` or ``(H, W, 3)``."""


def load() -> nn.Module:
    torch.set_num_threads(int(os.environ["BENCH_THREADS"]))
    return models.load(os.environ["BENCH_NETWORK"])


def decode(png: bytes) -> Pixels:
    return np.array(Image.open(io.BytesIO(png)))


def purify(model: nn.Module, images: Sequence[Pixels]) -> list[Pixels]:
    given = torch.from_numpy(np.stack(images))
    x = given[:, None] if given.ndim == 3 else given.permute(0, 3, 1, 2)
    bf16 = os.environ["BENCH_PRECISION"] == "bf16"
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        purified = model(x.float() / 255).float().mul(255).round().byte()
    return list((purified[:, 0] if given.ndim == 3 else purified.permute(0, 2, 3, 1)).numpy())


def encode(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
