"""Contact sheets: a column for each image; four named rows, from the natural images to the purified ones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from arn_purify.models.files import write_atomically


def contact_sheet(
    x_natural: Tensor, x_adv: Tensor, x_purified: Tensor, attack: str = "attacked", scale: int = 3
) -> Tensor:
    """Four named rows of N columns as one uint8 ``(C, H, W)`` picture; grey noise is mid-grey at zero.

    ``attack`` names the row of attacked images, and ``scale`` is the side of an image's pixel in the picture.
    """
    noise = ((x_adv - x_natural) * 10 / 2 + 0.5).clamp(0, 1)
    rows = [torch.cat(list(images), dim=2) for images in (x_natural, x_adv, noise, x_purified)]
    sheet = torch.cat(rows, dim=1).mul(255).round().byte().cpu()
    sheet = sheet.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return torch.cat([_margin(("natural", attack, "noise x10", "purified"), sheet), sheet], dim=2)


def _margin(names: Sequence[str], sheet: Tensor) -> Tensor:
    """White, as high as ``sheet`` ``(C, H, W)``, with a name beside each of its rows."""
    font, height = ImageFont.load_default(size=16), sheet.shape[1] // len(names)
    width = int(max(font.getlength(name) for name in names)) + 16
    margin = Image.new("L", (width, sheet.shape[1]), 255)
    draw = ImageDraw.Draw(margin)
    for row, name in enumerate(names):
        draw.text((width - 8, (row + 0.5) * height), name, fill=32, font=font, anchor="rm")
    return torch.from_numpy(np.array(margin))[None].expand(sheet.shape[0], -1, -1)


def save_png(picture: Tensor, path: Path, made_from: str = "") -> None:
    """Write a uint8 ``(C, H, W)`` picture, C 1 or 3, as PNG, with the hash of what it was made from in its metadata."""
    metadata = PngInfo()
    if made_from:
        metadata.add_text("made-from", made_from)
    array = picture.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(buffer, "PNG", pnginfo=metadata)
    write_atomically(path, buffer.getvalue())
