"""Image files of a folder: which of them are read, how they are decoded, how they are brought to one size."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps

from arn_purify.models.files import is_hidden

from .splits import DataError

Fit = Literal["crop", "fit"]
FITS: tuple[Fit, ...] = get_args(Fit)


@dataclasses.dataclass(frozen=True)
class TargetSize:
    """The height and width in ``pixels`` that images are brought to, and how: the ``fit`` of :func:`fit_image`."""

    pixels: int = 28
    fit: Fit = "crop"


def visible(folder: Path) -> Iterator[Path]:
    """The files and folders directly in ``folder``, sorted, without hidden ones and what tools leave behind.

    Raises:
        DataError: a name is not UTF-8.
    """
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name):
            continue
        try:
            path.name.encode()
        except UnicodeEncodeError as error:
            shown = os.fsencode(path).decode(errors="backslashreplace")
            raise DataError(f"{shown}: the name is not UTF-8; rename it") from error
        yield path


def visible_files(folder: Path) -> list[Path]:
    """Every file below ``folder``, sorted, of which no part of the path below it is hidden.

    Raises:
        DataError: a name is not UTF-8.
    """
    found: list[Path] = []
    for path in visible(folder):
        if path.is_file():
            found.append(path)
        elif path.is_dir() and not path.is_symlink():
            found += visible_files(path)
    return sorted(found)


def read_image(path: Path, side: int | None = None) -> Image.Image:
    """An image file as the service reads an upload: upright, RGB, 16 bits rounded to 8, alpha composited over black.

    Of a JPEG that is shrunk afterwards, to at least ``side`` pixels a side, a fraction of the pixels is decoded.

    Raises:
        DataError: it is no image, or a broken one.
    """
    try:
        with Image.open(path) as image:
            if side:
                image.draft("RGB", (side, side))
            if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
                return image.convert("RGB")  # its writer left the fourth byte unset, and every viewer shows it
            return _eight_bits(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's decoders raise nearly anything on broken bytes
        raise DataError(f"{path} is not an image that can be read ({error})") from error


def fit_image(image: Image.Image, size: tuple[int, int], fit: Fit = "crop") -> Image.Image:
    """An image at ``size`` (height, width), its proportions kept, as training and the service prepare it.

    The order of operations decides the pixels. (1) The image is turned upright as EXIF says, (2) has 8 bits a channel,
    alpha composited over black, and (3) the channels of the model: this function takes it as it is then. (4) ``crop``
    chooses the largest centred box of the target's aspect ratio, its edges not rounded to whole pixels, and Pillow's
    bicubic filter resamples it to the size in one step, averaging where it shrinks. ``fit`` resamples the whole image
    in the same way to the largest whole number of pixels that the size holds, each side rounded and at least 1, and
    puts it into the middle of black, half a pixel further up and to the left where it does not divide. An image of
    that size stays as it is.
    """
    height, width = size
    if fit == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    scale = min(width / image.width, height / image.height)
    inner_width, inner_height = (max(1, round(side * scale)) for side in image.size)
    framed = Image.new(image.mode, (width, height))
    inside = image.resize((inner_width, inner_height), Image.Resampling.BICUBIC)
    framed.paste(inside, ((width - inner_width) // 2, (height - inner_height) // 2))
    return framed


def _eight_bits(image: Image.Image) -> Image.Image:
    """RGB without alpha."""
    if image.mode.startswith("I"):
        image = Image.fromarray(np.round(np.asarray(image).astype(np.float64) / 257).clip(0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("RGB")
