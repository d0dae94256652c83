"""Remove adversarial noise from images.

``load`` returns a purifier or a classifier as a module; ``purify`` purifies images in one call.

The folders ``models``, ``service`` and ``training`` of the repository are this package's parts.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arn_purify.models import available, load, purify

__all__ = ["__version__", "available", "load", "purify"]

__version__ = version("arn-purify")


def __getattr__(name: str) -> Any:
    # Imported at first use: processes that only decode images must not pay for PyTorch.
    if name in ("available", "load", "purify"):
        return getattr(import_module("arn_purify.models"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
