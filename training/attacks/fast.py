"""Crafting that a GPU does not wait for: bf16 search, and a CUDA graph for the gradient of a deep classifier.

ResNet-110 is hundreds of small kernels; launched one by one they take longer than they run. A graph replays all of a
forward and backward pass at once. Elsewhere than on CUDA everything here runs as it is written.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

logger = logging.getLogger(__name__)

# Of logits and labels; each image's gradient is its own.
Loss = Callable[[Tensor, Tensor], Tensor]


class MixedPrecision(nn.Module):
    """A classifier under bf16 autocast with float32 logits: for crafting in training, never for testing."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``, float32."""
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.classifier(x.contiguous(memory_format=torch.channels_last))
        return logits.float()


def searched(classifier: nn.Module, mixed_precision: bool) -> nn.Module:
    """What an attack in training looks at."""
    return MixedPrecision(classifier) if mixed_precision else classifier


def exact(classifier: nn.Module) -> nn.Module:
    """The classifier in float32, by which a search in bf16 is judged."""
    return classifier.classifier if isinstance(classifier, MixedPrecision) else classifier


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss that PGD climbs: each image's gradient is its own."""
    return F.cross_entropy(logits.float(), labels, reduction="sum")


def pgd(
    classifier: nn.Module, images: Tensor, labels: Tensor, eps: float, step: float, iterations: int, targeted: bool,
    loss: Loss = summed_cross_entropy,
) -> Tensor:  # fmt: skip
    """l-infinity PGD from a random start, as advertorch does it, without a launch a kernel."""
    gradient = _gradient(classifier, images, labels, loss)
    start = torch.empty_like(images).uniform_(-1, 1).mul_(eps)
    x, towards = (images + start).clamp_(0, 1), -step if targeted else step
    lowest, highest = (images - eps).clamp_(min=0), (images + eps).clamp_(max=1)
    for _ in range(iterations):
        x = torch.minimum(torch.maximum(x + towards * gradient(x).sign(), lowest), highest)
    return x


def _gradient(
    classifier: nn.Module, images: Tensor, labels: Tensor, loss: Loss = summed_cross_entropy
) -> Callable[[Tensor], Tensor]:
    """What maps images to the gradient of their summed loss."""
    if images.is_cuda:
        try:
            graph = _graph(classifier, tuple(images.shape), images.device, loss)
        except RuntimeError:  # something on the way cannot be captured
            logger.warning("no CUDA graph of %s: it runs kernel by kernel", type(classifier).__name__, exc_info=True)
        else:
            graph.labels.copy_(labels)
            return graph
    return lambda x: _eager(classifier, x.detach().requires_grad_(True), labels, loss)


def _eager(classifier: nn.Module, x: Tensor, labels: Tensor, loss: Loss = summed_cross_entropy) -> Tensor:
    (gradient,) = torch.autograd.grad(loss(classifier(x), labels), x)
    return gradient


class _Graph:
    """One forward and backward pass, recorded. It reads the weights where they lie: an optimiser may move them."""

    def __init__(self, classifier: nn.Module, shape: tuple[int, ...], device: torch.device, loss: Loss) -> None:
        self.x = torch.rand(shape, device=device).contiguous(memory_format=torch.channels_last).requires_grad_(True)
        self.labels = torch.zeros(shape[0], dtype=torch.long, device=device)
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(3):  # libraries choose their kernels before the recording
                _eager(classifier, self.x, self.labels, loss)
        torch.cuda.current_stream(device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        # The stream says which device is recorded: it need not be the current one.
        with torch.cuda.device(device), torch.cuda.graph(self.graph, stream=side):
            self.gradient = _eager(classifier, self.x, self.labels, loss)

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.x.copy_(x)
        with torch.cuda.device(self.x.device):
            self.graph.replay()
        return self.gradient


@functools.lru_cache(maxsize=6)
def _graph(classifier: nn.Module, shape: tuple[int, ...], device: torch.device, loss: Loss) -> _Graph:
    return _Graph(classifier, shape, device, loss)
