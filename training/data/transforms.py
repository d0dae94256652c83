"""Shifts and mirror images, the random changes of a training image that keep its class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def shift_images(images: Tensor, offsets: Tensor, largest: int) -> Tensor:
    """Translate each image of ``(N, C, H, W)`` by its ``offsets`` ``(N, 2)`` in [0, 2 largest], filling with zeros."""
    if not largest:
        return images
    n, c, height, width = images.shape
    padded = F.pad(images, (largest,) * 4)
    top, left = offsets.to(images.device).unbind(1)
    rows = (top[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    batch = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(c, device=images.device)[None, :, None, None]
    return padded[batch, channel, rows, columns].contiguous(memory_format=torch.channels_last)


def flip_images(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror those of ``images`` ``(N, C, H, W)`` for which ``flipped`` ``(N,)`` bool says so."""
    return torch.where(flipped.to(images.device)[:, None, None, None], images.flip(3), images)


def augment(images: Tensor, largest: int, flip: bool, generator: torch.Generator) -> Tensor:
    """``(N, C, H, W)`` shifted at random by up to ``largest`` pixels, and with ``flip`` half of them mirrored."""
    images = shift_images(images, torch.randint(0, 2 * largest + 1, (len(images), 2), generator=generator), largest)
    return flip_images(images, torch.rand(len(images), generator=generator) < 0.5) if flip else images
