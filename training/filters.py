"""What people use instead of a trained purifier, for comparisons: ``--purifier arn_purify.training.filters:jpeg_50``.

Each function gives a module from images ``(N, C, H, W)`` in [0, 1] to the same. An attacker who knows of them is not
stopped by them: gradients do not pass, which is no defence (Athalye et al., ICML 2018).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor, nn

Pixels = NDArray[np.uint8]


class Filter(nn.Module):
    """A function of one image's pixels, uint8 ``(H, W, C)``, on every image of a batch."""

    def __init__(self, function: Callable[[Pixels], Pixels]) -> None:
        super().__init__()
        self.function = function

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [0, 1], rounded to grey levels of 255, to the same."""
        pixels = (255 * x).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        found = np.stack([self.function(image) for image in pixels])
        return torch.from_numpy(found).to(x.device).permute(0, 3, 1, 2).float() / 255


def _jpeg(pixels: Pixels, quality: int) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _bits(pixels: Pixels, depth: int) -> Pixels:
    levels = 2**depth - 1
    rounded: Pixels = (np.round(pixels / 255 * levels) / levels * 255).round().astype(np.uint8)
    return rounded


def _median(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.MedianFilter(3)))


def _total_variation(pixels: Pixels, weight: float) -> Pixels:
    from skimage.restoration import denoise_tv_chambolle

    smooth: Pixels = (255 * denoise_tv_chambolle(pixels / 255, weight, channel_axis=-1)).round().astype(np.uint8)
    return smooth


def _with_scikit_image(weight: float) -> Filter:
    if find_spec("skimage") is None:
        raise ImportError("total variation needs scikit-image: pip install '.[filters]'")
    return Filter(partial(_total_variation, weight=weight))


def jpeg_75() -> Filter:
    """JPEG at quality 75, as Pillow writes it."""
    return Filter(partial(_jpeg, quality=75))


def jpeg_50() -> Filter:
    """JPEG at quality 50."""
    return Filter(partial(_jpeg, quality=50))


def jpeg_25() -> Filter:
    """JPEG at quality 25."""
    return Filter(partial(_jpeg, quality=25))


def bits_5() -> Filter:
    """Bit depth 5 (feature squeezing: Xu et al., NDSS 2018)."""
    return Filter(partial(_bits, depth=5))


def bits_4() -> Filter:
    """Bit depth 4."""
    return Filter(partial(_bits, depth=4))


def bits_3() -> Filter:
    """Bit depth 3."""
    return Filter(partial(_bits, depth=3))


def median_3() -> Filter:
    """The median of 3x3 pixels, each channel for itself."""
    return Filter(_median)


def tv_3() -> Filter:
    """Total variation of weight .03 (Chambolle 2004, by scikit-image; as a defence: Guo et al., ICLR 2018)."""
    return _with_scikit_image(0.03)


def tv_10() -> Filter:
    """Total variation of weight .1, scikit-image's default."""
    return _with_scikit_image(0.1)


class ResizeAndPad(nn.Module):
    """Scaled down at random by up to a tenth and put at a random place on grey (Xie et al., ICLR 2018).

    Theirs enlarges images of 299 to at most 331; here the size stays, since it is the classifier's. Draws are seeded by
    the image, so that a result can be repeated.
    """

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [0, 1] to the same."""
        return torch.cat([self._one(image) for image in x.split(1)])

    @staticmethod
    def _one(x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        rng = np.random.default_rng(int(1000 * float(x.sum())))
        columns = int(rng.integers(round(0.9 * width), width))
        rows = round(height * columns / width)
        small = F.interpolate(x, (rows, columns), mode="bilinear", antialias=True)
        top, left = (int(rng.integers(room + 1)) for room in (height - rows, width - columns))
        return F.pad(small, (left, width - columns - left, top, height - rows - top), value=0.5)


def resize_and_pad() -> ResizeAndPad:
    """Random resizing and padding."""
    return ResizeAndPad()
