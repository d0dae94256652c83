"""EfficientNet-Lite0 (Tan & Le, ICML 2019; TensorFlow's Lite variant): a small ImageNet classifier without BatchNorm.

Its published weights have BatchNorm layers; here each of them is a part of the convolution before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from .classifiers import Classifier

# Expansion, kernel, stride, channels and number of the blocks of each stage.
_STAGES = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)  # fmt: skip
# After how many blocks the maps are taken: the last ones at strides 4, 8, 16 (twice) and 32.
_TAPS = (3, 5, 8, 11, 15)
_EPSILON = 1e-3  # of every BatchNorm


class _Conv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding, which is one-sided where a stride asks for it."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            sides = []
            for length in (x.shape[3], x.shape[2]):
                total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
                sides += [total // 2, total - total // 2]
            x = F.pad(x, sides)
        return super().forward(x)


def _conv(i: int, o: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> _Conv:
    return _Conv(i, o, kernel, stride, 0 if stride > 1 else kernel // 2, groups=groups)


class _Block(nn.Module):
    def __init__(self, i: int, o: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = i * expansion
        self.expand = _conv(i, wide) if expansion > 1 else None
        self.depthwise = _conv(wide, wide, kernel, stride, wide)
        self.project = _conv(wide, o)
        self.residual = stride == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        out = x if self.expand is None else F.relu6(self.expand(x))
        out = self.project(F.relu6(self.depthwise(out)))
        added: Tensor = x + out if self.residual else out
        return added


@dataclasses.dataclass(frozen=True)
class EfficientNetLiteConfig:
    """What rebuilds an :class:`EfficientNetLite`."""

    classes: int = 1000


class EfficientNetLite(Classifier):
    """``(N, 3, H, W)`` in [0, 1] to the logits of ImageNet's 1,000 classes; made for 224x224."""

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = _conv(3, 32, 3, 2)
        self.blocks, i = nn.ModuleList(), 32
        for expansion, kernel, stride, o, count in _STAGES:
            for index in range(count):
                self.blocks.append(_Block(i, o, expansion, kernel, 1 if index else stride))
                i = o
        self.head = _conv(i, 1280)
        self.linear = nn.Linear(1280, config.classes)

    def stages(self, x: Tensor) -> list[Tensor]:
        """Five maps, at strides 4, 8, 16, 16 and 32, and the pooled features ``(N, 1280)``."""
        x = F.relu6(self.stem((255 * x - 127) / 128))
        found = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index + 1 in _TAPS:
                found.append(x)
        return [*found, F.relu6(self.head(x)).mean((2, 3))]

    def all_answers(self, x: Tensor) -> list[Tensor]:
        """What :meth:`stages` gives, and last the logits ``(N, classes)``, in one pass."""
        found = self.stages(x)
        return [*found, self.linear(found[-1])]

    def features(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, 1280)``."""
        return self.stages(x)[-1]


def folded_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's entries as a state dict of :class:`EfficientNetLite`, each BatchNorm inside its convolution."""

    def pair(ours: str, conv: str, norm: str) -> dict[str, Tensor]:
        scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + _EPSILON).sqrt()
        bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
        return {f"{ours}.weight": weights[f"{conv}.weight"] * scale[:, None, None, None], f"{ours}.bias": bias}

    found = pair("stem", "_conv_stem", "_bn0") | pair("head", "_conv_head", "_bn1")
    for index in range(sum(count for *_, count in _STAGES)):
        for number, part in enumerate(("expand", "depthwise", "project")):
            theirs = f"_blocks.{index}._{part}_conv"
            if f"{theirs}.weight" in weights:
                found |= pair(f"blocks.{index}.{part}", theirs, f"_blocks.{index}._bn{number}")
    return found | {"linear.weight": weights["_fc.weight"], "linear.bias": weights["_fc.bias"]}
