"""How an image gets a model's size: the one way of the service, and for ``crop`` that of training too."""

from __future__ import annotations

from typing import Literal, get_args

from PIL import Image, ImageOps

Fit = Literal["crop", "fit"]
FITS: tuple[Fit, ...] = get_args(Fit)


def fit_image(image: Image.Image, size: tuple[int, int], fit: Fit = "crop") -> Image.Image:
    """An image at ``size`` (height, width), its proportions kept, as training prepares a folder of images.

    It is upright, of eight bits and of the model's channels already: the order of operations decides the pixels.
    ``crop`` takes the largest centred box of the target's proportions, its edges not rounded, and resamples it once
    (Pillow's bicubic filter). ``fit`` resamples the whole image so to the largest number of pixels that the size
    holds, each side rounded and at least 1, and puts it into the middle of black, the odd pixel below and right.
    """
    height, width = size
    if fit == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    scale = min(width / image.width, height / image.height)
    inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    whole = Image.new(image.mode, (width, height))
    whole.paste(image.resize(inner, Image.Resampling.BICUBIC), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return whole
