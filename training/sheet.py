"""Contact sheets: a column for each image; natural, adversarial, ten times the noise, purified."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from arn_purify.models.files import write_atomically


def contact_sheet(x_natural: Tensor, x_adv: Tensor, x_purified: Tensor, scale: int = 3) -> Tensor:
    """Four rows of N columns as one uint8 ``(C, H, W)`` picture; grey noise is mid-grey at zero."""
    noise = ((x_adv - x_natural) * 10 / 2 + 0.5).clamp(0, 1)
    rows = [torch.cat(list(images), dim=2) for images in (x_natural, x_adv, noise, x_purified)]
    sheet = torch.cat(rows, dim=1).mul(255).round().byte().cpu()
    return sheet.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def save_png(picture: Tensor, path: Path, made_from: str = "") -> None:
    """Write a uint8 ``(C, H, W)`` picture, C 1 or 3, as PNG, with the hash of what it was made from in its metadata."""
    metadata = PngInfo()
    if made_from:
        metadata.add_text("made-from", made_from)
    array = picture.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(buffer, "PNG", pnginfo=metadata)
    write_atomically(path, buffer.getvalue())
