"""What the page at ``/`` needs: its files, and, only where asked for, an attack to show.

The attack is the PGD that the purifiers are measured with (Madry et al., ICLR 2018): sign steps up the summed
cross-entropy from a random start.
"""

from __future__ import annotations

import functools
import hashlib
import mimetypes
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STATIC = Path(__file__).parents[1] / "static"
STEPS = 40
STEP = 0.01

# Everything comes from here; nothing is inlined, framed or sent elsewhere.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class File(NamedTuple):
    """A file of the page, as it is sent."""

    content: bytes
    media_type: str
    etag: str


@functools.cache
def files() -> dict[str, File]:
    """The page's files by their path below ``/static/``. They are small and live in memory."""
    return {
        path.relative_to(STATIC).as_posix(): File(
            content := path.read_bytes(),
            mimetypes.guess_type(path.name)[0] or "application/octet-stream",
            f'"{hashlib.sha256(content).hexdigest()[:16]}"',
        )
        for path in sorted(STATIC.rglob("*"))
        if path.is_file()
    }


def pgd(
    target: nn.Module, images: Tensor, labels: Tensor, eps: float, steps: int = STEPS, step: float = STEP, seed: int = 0
) -> Tensor:
    """Untargeted l-inf PGD on ``target``, images ``(N, C, H, W)`` in [0, 1] to logits, away from ``labels`` ``(N,)``.

    ``eps`` is the budget on [0, 1]; the random start of a ``seed`` is the same on every device.
    """
    start = torch.empty(images.shape).uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))
    delta = (images + eps * start.to(images)).clamp(0, 1) - images
    for _ in range(steps):
        delta.requires_grad_(True)
        loss = F.cross_entropy(target(images + delta), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, delta)
        delta = (delta.detach() + step * gradient.sign()).clamp(-eps, eps)
        delta = (images + delta).clamp(0, 1) - images
    return (images + delta).detach()
