"""The losses that attacks climb, their gradient, and the one loop of sign-gradient steps.

ResNet-110 is hundreds of small kernels, and launching them takes longer than running them. On CUDA a graph replays a
whole forward and backward pass at once. Elsewhere everything here runs eagerly.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

logger = logging.getLogger(__name__)

# Of logits and labels, summed over the images, so that each image's gradient depends on that image alone.
Loss = Callable[[Tensor, Tensor], Tensor]
Gradient = Callable[[Tensor], Tensor]


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of ``logits`` ``(N, classes)``, summed."""
    return F.cross_entropy(logits.float(), labels, reduction="sum")


def summed_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The best other logit less that of the label, summed: the objective of Carlini & Wagner (S&P 2017), no floor."""
    logits = logits.float()
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return (others - logits.gather(1, labels[:, None]).squeeze(1)).sum()


def sign_ascent(gradient: Gradient, x: Tensor, low: Tensor, high: Tensor, steps: Iterable[float]) -> Tensor:
    """``x`` after steps along the sign of ``gradient``, clipped to [``low``, ``high``] after each.

    ``steps`` are their lengths; a negative length descends.
    """
    for step in steps:
        x = torch.minimum(torch.maximum(x + step * gradient(x).sign(), low), high)
    return x


def with_momentum(gradient: Gradient, decay: float = 1.0) -> Gradient:
    """``gradient`` of one attack's steps, each added to ``decay`` times those before it (Dong et al., CVPR 2018).

    Each counts by its direction: it is divided by its mean absolute value, image by image.
    """
    momentum: Tensor | None = None

    def accumulated(x: Tensor) -> Tensor:
        nonlocal momentum
        found = gradient(x)
        found = found / found.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
        momentum = found if momentum is None else decay * momentum + found
        return momentum

    return accumulated


def gradient_of(loss: Callable[[Tensor], Tensor]) -> Gradient:
    """The gradient of ``loss``, a scalar function of images."""

    def gradient(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        (found,) = torch.autograd.grad(loss(x), x)
        return found

    return gradient


def input_gradient(classifier: nn.Module, images: Tensor, labels: Tensor, loss: Loss) -> Gradient:
    """The gradient of ``loss`` with respect to images like ``images``, by a CUDA graph where there is one."""
    if images.is_cuda:
        try:
            graph = _graph(classifier, tuple(images.shape), images.device, loss)
        except RuntimeError:
            logger.warning("no CUDA graph of %s: it runs kernel by kernel", type(classifier).__name__, exc_info=True)
        else:
            graph.labels.copy_(labels)
            return graph
    return gradient_of(lambda x: loss(classifier(x), labels))


class _Graph:
    """One forward and backward pass, recorded. It reads the weights where they lie: an optimiser may change them."""

    def __init__(self, classifier: nn.Module, shape: tuple[int, ...], device: torch.device, loss: Loss) -> None:
        self.x = torch.rand(shape, device=device).contiguous(memory_format=torch.channels_last).requires_grad_(True)
        self.labels = torch.zeros(shape[0], dtype=torch.long, device=device)

        def gradient() -> Tensor:
            (found,) = torch.autograd.grad(loss(classifier(self.x), self.labels), self.x)
            return found

        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(3):  # libraries choose their kernels before the recording
                gradient()
        torch.cuda.current_stream(device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        # The stream says which device is recorded: it need not be the current one.
        with torch.cuda.device(device), torch.cuda.graph(self.graph, stream=side):
            self.gradient = gradient()

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.x.copy_(x)
        with torch.cuda.device(self.x.device):
            self.graph.replay()
        return self.gradient


@functools.lru_cache(maxsize=6)
def _graph(classifier: nn.Module, shape: tuple[int, ...], device: torch.device, loss: Loss) -> _Graph:
    return _Graph(classifier, shape, device, loss)
