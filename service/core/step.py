"""One pass through a network on a device, from an array's bytes to the answer's, eager or as a traced graph."""

from __future__ import annotations

import logging
import warnings

import torch
from torch import Tensor, nn

from .buckets import Compute
from .onednn import onednn

logger = logging.getLogger(__name__)


class Step(nn.Module):
    """Everything between two arrays: scaling, the network, rounding, residual norms."""

    def __init__(self, purifier: nn.Module, integral: bool) -> None:
        super().__init__()
        self.purifier, self.integral = purifier, integral

    def scaled(self, given: Tensor) -> Tensor:
        """The network's input on [0, 1], of shape NCHW, in the memory format in which convolutions are fastest."""
        x = given.permute(0, 3, 1, 2).float() / 255 if self.integral else given
        return x.contiguous(memory_format=torch.channels_last)

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """uint8 NHWC or float32 NCHW to input, purified image (both NCHW on [0, 1]), answer, l-inf and l2 norms."""
        x = self.scaled(given)
        purified = self.purifier(x).float().clamp(0, 1)
        answer = purified.contiguous()
        if self.integral:  # the residual and the label are those of the rounded image that is sent
            levels = purified.mul(255).round()
            purified = levels / 255
            answer = levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        residual = (purified - x).flatten(1)
        return x, purified, answer, residual.abs().amax(1), torch.linalg.vector_norm(residual, 2, dim=1)


class _Graph(nn.Module):
    """A network as one graph that runs without Python, and so without the interpreter's lock.

    Its memory is let go with it. What ``torch.jit.trace`` returns stays in the process for ever, and with it every
    model that was swapped out.

    Args:
        network: to be traced; takes and gives tensors.
        example: its input, of any batch size.
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        from torch.jit._trace import _get_trace_graph, _unique_state_dict  # private: they may be missing

        super().__init__()
        graph, _ = _get_trace_graph(network, (example,))
        self._run = torch._C._create_function_from_graph("step", graph)
        # A trace of this kind takes the weights as further inputs.
        self._weights = list(_unique_state_dict(network).values())

    def forward(self, given: Tensor) -> tuple[Tensor, ...]:
        """What the network gives."""
        out: tuple[Tensor, ...] = self._run(given, *self._weights)
        return out


def traced(step: Step, example: Tensor) -> nn.Module:
    """The step as one graph: while it computes, the event loop has the interpreter.

    Returns the module itself where tracing fails or the graph disagrees with it on another batch size.
    """
    other = torch.rand(3, *example.shape[1:]).mul(255 if example.dtype == torch.uint8 else 1).to(example.dtype)
    try:
        fast = Step(onednn(step.purifier, step.scaled(example)), step.integral).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the shape checks of Arn.forward are the same for every batch
            graph = _Graph(fast, example)
        for ours, theirs in zip(graph(other), step(other), strict=True):
            level = 1 if ours.dtype == torch.uint8 else 1 / 255
            torch.testing.assert_close(ours.float(), theirs.float(), atol=1.01 * level, rtol=1e-3)
    except Exception:
        # Torch's private operators may change. And where warnings are errors, another thread may reset the filter
        # above, so that the tracer's warning is raised. The plain module gives the same answer more slowly.
        logger.warning("the network cannot be traced and runs eagerly", exc_info=True)
        return step
    return graph


def with_numbers(step: nn.Module, classifier: nn.Module | None, compare: bool) -> Compute:
    """A whole pass, the classifier included; the numbers of an image are its two norms, then the probabilities."""

    def compute(given: Tensor) -> tuple[Tensor, Tensor]:
        x, purified, answer, linf, l2 = step(given)
        numbers = [linf[:, None], l2[:, None]]
        if classifier:
            numbers += [classifier(image).softmax(1) for image in ((purified, x) if compare else (purified,))]
        return answer, torch.cat(numbers, 1)

    return compute
