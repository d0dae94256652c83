"""Batches of a few fixed sizes, which a device can record once and then replay without launching kernel by kernel.

A batch is padded to the next power of two. It passes three queues of the device, which work side by side: its bytes
arrive, the network computes, the answer leaves. Two slots of memory take turns, so that one batch is copied while
another is computed. Nothing here knows CUDA: :mod:`.cuda` has its queues, memory and graphs, and :class:`Host` does the
same on a CPU, at once and without a recording.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .codec import Images

logger = logging.getLogger(__name__)

Compute = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images to their answers, of the same shape and dtype, and float32 ``(N, numbers)`` about each."""
Landed = tuple[Images, NDArray[np.float32]]
"""The answers of a batch and the numbers about each image."""

# Two slots hold so many bytes of images in each direction, on the device and in locked memory of the host. Larger
# batches are run one after the other, which at this size costs nothing.
_STAGED_BYTES = 64 * 2**20
_FLOAT_BYTES = 4


class Event(Protocol):
    """A place in a queue."""

    def synchronize(self) -> object:
        """Wait until all that was put before it is done."""


class Queue(Protocol):
    """Does what it is given in order, perhaps later."""

    def put(self, operation: Callable[[], object]) -> None:
        """Do this after all that was put before."""

    def mark(self) -> Any:
        """An :class:`Event` after all that was put before."""

    def wait(self, event: Any) -> None:
        """Do nothing that is put from now on before ``event`` of another queue has come."""


class Backend(Protocol):
    """What a device needs to have; ``computing`` is the only queue that a recording runs in."""

    arriving: Queue
    computing: Queue
    leaving: Queue

    def memory(self, size: int) -> Tensor:
        """So many bytes, uint8, of the device."""

    def staging(self, size: int) -> Tensor:
        """So many bytes, uint8, of the host, which the device's queues copy by themselves."""

    def record(self, operation: Callable[[], object]) -> Callable[[], object]:
        """What does ``operation`` again, on the same memory, as often as it is put into ``computing``.

        Raises:
            RuntimeError: it cannot be recorded.
            MemoryError: the device's memory does not hold what it needs.
        """


class _Done:
    def synchronize(self) -> None:
        pass


class _AtOnce:
    def put(self, operation: Callable[[], object]) -> None:
        operation()

    def mark(self) -> Any:
        return _Done()

    def wait(self, event: Any) -> None:
        pass


class Host:
    """A CPU in a device's place: plain memory, and everything is done when it is put."""

    def __init__(self) -> None:
        self.arriving: Queue = _AtOnce()
        self.computing: Queue = _AtOnce()
        self.leaving: Queue = _AtOnce()

    def memory(self, size: int) -> Tensor:
        """See :class:`Backend`."""
        return torch.empty(size, dtype=torch.uint8)

    staging = memory

    def record(self, operation: Callable[[], object]) -> Callable[[], object]:
        """See :class:`Backend`; the operation itself."""
        operation()
        return operation


def bucket_of(count: int) -> int:
    """The least power of two that is not below ``count``, which is at least 1."""
    return 1 << (count - 1).bit_length()


@dataclasses.dataclass
class Lane:
    """One kind of work.

    Args:
        compute: what is done; it must treat each image alone.
        shape: of one image.
        dtype: of the images and their answers.
        numbers: how many come with each image.
    """

    compute: Compute
    shape: tuple[int, ...]
    dtype: torch.dtype
    numbers: int
    replays: dict[int, Callable[[], object]] = dataclasses.field(default_factory=dict)

    @property
    def largest(self) -> int:
        """Images of the largest bucket that was recorded; 0: none was."""
        return max(self.replays, default=0)

    @property
    def image_bytes(self) -> int:
        """Of one image, and of its answer."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def answer_bytes(self) -> int:
        """Of one image's answer with its numbers."""
        return self.image_bytes + _FLOAT_BYTES * self.numbers

    def buckets(self, most: int) -> list[int]:
        """The sizes for batches of up to ``most`` images, largest first."""
        fitting = max(1, _STAGED_BYTES // self.answer_bytes).bit_length() - 1
        return [1 << power for power in range(min(bucket_of(most).bit_length() - 1, fitting), -1, -1)]


class _Slot:
    """Memory of a batch: ``staged`` by the host, ``given`` to the device, its ``answer``, and that ``taken`` back."""

    def __init__(self, backend: Backend, given: int, answer: int) -> None:
        self.staged, self.given = backend.staging(given), backend.memory(given)
        self.answer, self.taken = backend.memory(answer), backend.staging(answer)
        self.flight: _Flight | None = None


class _Flight:
    """A batch under way in a slot. Its ``owner`` lives until then, whose memory the device still uses."""

    def __init__(self, owner: Buckets, slot: _Slot, done: Event, read: Callable[[NDArray[np.uint8]], Landed]) -> None:
        self._owner: Buckets | None = owner
        self._slot: _Slot | None = slot
        self._done, self._read = done, read
        self._landed: Landed | None = None
        self._error: Exception | None = None
        slot.flight = self

    def land(self) -> None:
        """Wait for it, copy its answer out and free its slot; :meth:`result` raises what was wrong."""
        if self._slot is None:
            return
        slot, self._slot = self._slot, None
        slot.flight = None
        try:
            self._done.synchronize()
            self._landed = self._read(slot.taken.numpy())
        except Exception as error:
            self._error = error
        self._owner = None

    def result(self) -> Landed:
        """Wait for the answer; raises what the device did."""
        self.land()
        if self._landed is None:
            raise self._error or RuntimeError("the batch has no answer")
        return self._landed


class Buckets:
    """The lanes of one purifier, recorded. All but the constructor runs on the thread that owns the device.

    Args:
        backend: the device; no other ``Buckets`` may use it, since recordings share its memory and run in turn.
        lanes: by any key, each without recordings so far.
        max_images: the largest batch that will come, if ``_STAGED_BYTES`` allows it.

    Raises:
        RuntimeError, MemoryError: nothing could be recorded.
    """

    def __init__(self, backend: Backend, lanes: Mapping[Hashable, Lane], max_images: int) -> None:
        self._backend, self.lanes = backend, dict(lanes)
        sizes = {key: lane.buckets(max_images) for key, lane in lanes.items()}
        given = max(sizes[key][0] * lane.image_bytes for key, lane in lanes.items())
        answer = max(sizes[key][0] * lane.answer_bytes for key, lane in lanes.items())
        self._given, self._answer = backend.memory(given), backend.memory(answer)
        self._given.zero_()
        self._slots = [_Slot(backend, given, answer) for _ in range(2)]
        self._turn = 0
        left_out = [_record(backend, lane, sizes[key], self._given, self._answer) for key, lane in self.lanes.items()]
        if not any(lane.replays for lane in self.lanes.values()):
            raise MemoryError("the device's memory holds no recording at all")
        if any(left_out):
            few = min(lane.largest for lane in self.lanes.values() if lane.largest)
            logger.warning("the device's memory does not hold every recording: batches are of %d images at most", few)

    @property
    def largest(self) -> int:
        """Images of the largest batch that was recorded for any lane."""
        return max(lane.largest for lane in self.lanes.values())

    def takes(self, key: Hashable, images: Images) -> bool:
        """Whether batches like this were recorded; there may be more images than :attr:`Lane.largest`."""
        lane = self.lanes.get(key)
        return lane is not None and lane.largest > 0 and images.shape[1:] == lane.shape and len(images) > 0

    @torch.inference_mode()
    def begin(self, key: Hashable, images: Images) -> Callable[[], Landed]:
        """Start a batch of up to :attr:`Lane.largest` images, which are copied; the answer is a call that waits."""
        lane, device = self.lanes[key], self._backend
        count, bucket = len(images), min(size for size in lane.replays if size >= len(images))
        slot = self._free_slot()
        arriving, leaving = images.nbytes, bucket * lane.answer_bytes
        np.copyto(slot.staged.numpy()[:arriving].view(images.dtype).reshape(images.shape), images)
        device.arriving.put(lambda: slot.given[:arriving].copy_(slot.staged[:arriving], non_blocking=True))
        device.computing.wait(device.arriving.mark())
        static_given, static_answer, replay = self._given, self._answer, lane.replays[bucket]

        def compute() -> None:
            static_given[:arriving].copy_(slot.given[:arriving], non_blocking=True)
            if count < bucket:  # no image of an earlier batch stays there
                static_given[arriving : bucket * lane.image_bytes].zero_()
            replay()
            slot.answer[:leaving].copy_(static_answer[:leaving], non_blocking=True)

        device.computing.put(compute)
        device.leaving.wait(device.computing.mark())
        device.leaving.put(lambda: slot.taken[:leaving].copy_(slot.answer[:leaving], non_blocking=True))

        def read(taken: NDArray[np.uint8]) -> Landed:
            numbers = taken[: (start := _FLOAT_BYTES * lane.numbers * bucket)].view(np.float32)
            answer = taken[start:leaving].view(images.dtype).reshape(bucket, *lane.shape)
            return answer[:count].copy(), numbers.reshape(bucket, lane.numbers)[:count].copy()

        return _Flight(self, slot, device.leaving.mark(), read).result

    def _free_slot(self) -> _Slot:
        """The slot whose turn it is, after the batch that may still be in it."""
        slot = self._slots[self._turn]
        self._turn = (self._turn + 1) % len(self._slots)
        if slot.flight:
            slot.flight.land()
        return slot


def _record(backend: Backend, lane: Lane, sizes: list[int], given: Tensor, answer: Tensor) -> int:
    """Record a lane at each size; how many were left out, which are too large for the device's memory.

    A function, so that no recording refers to its ``Buckets``: a swap frees them at once, without a garbage collector.
    """
    for bucket in sizes:
        with contextlib.suppress(MemoryError):
            lane.replays[bucket] = backend.record(_operation(lane, bucket, given, answer))
    return len(sizes) - len(lane.replays)


def _operation(lane: Lane, bucket: int, given: Tensor, answer: Tensor) -> Callable[[], None]:
    """What is recorded: from the images' bytes to those of their numbers and answers, each in one piece."""
    compute, start = lane.compute, _FLOAT_BYTES * lane.numbers * bucket
    images = given[: bucket * lane.image_bytes].view(lane.dtype).view(bucket, *lane.shape)
    numbers = answer[:start].view(torch.float32).view(bucket, lane.numbers)
    answers = answer[start : bucket * lane.answer_bytes].view(lane.dtype).view(bucket, *lane.shape)

    @torch.inference_mode()
    def operation() -> None:
        found, about = compute(images)
        answers.copy_(found)
        numbers.copy_(about)

    return operation
