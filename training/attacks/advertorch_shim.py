"""Import advertorch 0.2.3 on today's torch, without torchvision.

Its last release (2020) imports ``zero_gradients``, gone from ``torch.autograd.gradcheck`` since torch 1.9, and
``torchvision.transforms`` for a JPEG defence that is not used here. Both are put in place before the import, and
nothing that is installed is replaced. Import advertorch through this module only.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any

import torch.autograd.gradcheck  # noqa: F401  (the module must be loaded: its name in torch.autograd is a function)
from torch import Tensor

_gradcheck: Any = sys.modules["torch.autograd.gradcheck"]


def _zero_gradients(x: Tensor) -> None:
    if x.grad is not None:
        x.grad.detach_().zero_()


if not hasattr(_gradcheck, "zero_gradients"):
    _gradcheck.zero_gradients = _zero_gradients

_stand_in = importlib.util.find_spec("torchvision") is None and "torchvision" not in sys.modules
if _stand_in:
    torchvision: Any = types.ModuleType("torchvision")
    torchvision.transforms = types.ModuleType("torchvision.transforms")
    torchvision.transforms.ToTensor = torchvision.transforms.ToPILImage = object
    sys.modules["torchvision"] = torchvision
    sys.modules["torchvision.transforms"] = torchvision.transforms

from advertorch import attacks  # noqa: E402
from advertorch.bpda import BPDAWrapper  # noqa: E402

if _stand_in:  # nobody else should take the stand-in for the library
    del sys.modules["torchvision"], sys.modules["torchvision.transforms"]

__all__ = ["BPDAWrapper", "attacks"]
