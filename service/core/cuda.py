"""CUDA as a :class:`.buckets.Backend`: streams, locked host memory, and graphs that share one pool of memory."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from .buckets import Queue
from .memory import raising_memory_errors

# A library may choose its kernels, and allocate for them, at a first call or two.
_CALLS_BEFORE_CAPTURE = 3
# A process may capture one graph at a time; a model that is swapped in is warmed up on a thread of its own.
_capturing = threading.Lock()


class Stream:
    """A :class:`.buckets.Queue`: one stream. What is put must not wait for the device."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()

    def put(self, operation: Callable[[], object]) -> None:
        """Launch what ``operation`` launches."""
        with torch.cuda.stream(self.stream):
            operation()

    def mark(self) -> torch.cuda.Event:
        """An event after what was launched so far."""
        event = torch.cuda.Event()
        event.record(self.stream)
        return event

    def wait(self, event: torch.cuda.Event) -> None:
        """Launch nothing more before ``event``."""
        self.stream.wait_event(event)


class Cuda:
    """The current CUDA device."""

    def __init__(self) -> None:
        self._computing = Stream()
        self.arriving: Queue = Stream()
        self.computing: Queue = self._computing
        self.leaving: Queue = Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def memory(self, size: int) -> Tensor:
        """See :class:`.buckets.Backend`."""
        return torch.empty(size, dtype=torch.uint8, device="cuda")

    def staging(self, size: int) -> Tensor:
        """See :class:`.buckets.Backend`; page-locked."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    @raising_memory_errors()
    def record(self, operation: Callable[[], object]) -> Callable[[], object]:
        """See :class:`.buckets.Backend`; a CUDA graph.

        Its intermediate values lie in the pool of all this device's graphs, which is safe because they run in turn and
        leave nothing there that is read later.
        """
        side = self._computing.stream
        side.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        # The outer block makes the stream of before current again, which torch does not where a capture fails.
        with _capturing, torch.cuda.stream(side):
            for _ in range(_CALLS_BEFORE_CAPTURE):
                operation()
            side.synchronize()
            # Thread-local: another thread may allocate and launch meanwhile, for the model that serves.
            with torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
                operation()
        return graph.replay
