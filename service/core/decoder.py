"""A pool of processes that decode images and may be killed.

Not :mod:`multiprocessing` or a library on top of it: their children import the parent's main module, here torch with
hundreds of megabytes, and the parent would unpickle the answers of a decoder that an image has taken over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BrokenImage, DeadlineExceeded, DecodeTimeout, OutOfMemory, ServiceError, TooManyPixels
from .selection import Selection, Target

logger = logging.getLogger(__name__)

# Where a container's memory limit is read: cgroup v2, v1.
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
# A process that has closed its channel is about to end, and its exit status gives the reason. One that a file took over
# may not end.
_WORKER = "arn_purify.service.core.decode_worker"
_SECONDS_TO_END = 1.0
_REFUSALS = {kind.code: kind for kind in (BrokenImage, TooManyPixels)}


def address_space(max_pixels: int, max_bytes: int) -> int:
    """The limit of a process's address space in bytes: its start, three copies of a file, and 48 bytes a pixel.

    Pillow needs at most 30 bytes a pixel, for 16-bit grey.
    """
    return 256 * 2**20 + 3 * max_bytes + 48 * max_pixels


def memory(max_pixels: int, max_bytes: int) -> int:
    """The most memory that a process uses, in bytes: its start, two copies of a file, and 32 bytes a pixel.

    Pillow needs at most 30 bytes a pixel, for 16-bit grey and WebP.
    """
    return 40 * 2**20 + 2 * max_bytes + 32 * max_pixels


def processes(max_pixels: int, max_bytes: int) -> int:
    """The largest number of processes: one a processor, two to eight, but no more than fit into half of a container's
    memory; the other half is the service's. At least one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = min(8, max(2, cores))
    for path in _MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            most = min(most, int(path.read_text()) // 2 // memory(max_pixels, max_bytes))
    return max(1, most)


Decoded = tuple[Target, NDArray[np.uint8], int]
"""The model that an image was decoded for, its pixels ``(1, H, W, C)``, and the channels that it came with."""


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """For a process that is started: signals to the whole group may come before it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker:
    """A process, and the parent's end of the channel to it."""

    def __init__(self, *limits: float) -> None:
        self._channel, theirs = socket.socketpair()
        self._stream = self._channel.makefile("rb")
        environment = {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OPENBLAS_NUM_THREADS": "1",  # each thread's buffers would use up the address space
            "MALLOC_TRIM_THRESHOLD_": str(32 * 2**20),  # glibc: return memory after a large image
        }
        with theirs, contextlib.ExitStack() as undone, _signals_blocked():
            undone.callback(self._channel.close)
            undone.callback(self._stream.close)
            self._process = subprocess.Popen(  # noqa: S603 (our own module)
                [sys.executable, "-P", "-m", _WORKER, *map(str, (theirs.fileno(), *limits))],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
                pass_fds=[theirs.fileno()],
            )
            undone.pop_all()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self, seconds: float = 0) -> int | None:
        """End the process; returns its exit status if it ended by itself within ``seconds``."""
        ended = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            ended = self._process.wait(seconds)
        self._process.kill()
        self._stream.close()
        self._channel.close()
        self._process.wait()
        return ended

    def decode(self, data: bytes | bytearray, selection: Selection) -> Decoded:
        """As :meth:`Decoder.decode`; ``EOFError`` or ``OSError`` where the process is gone."""
        self._channel.sendall(b"%d\n" % len(data))
        self._channel.sendall(data)
        header = self._answer()
        try:
            plan = selection.plan(tuple(header["size"]), header["channels"])
        except ServiceError:
            self._channel.sendall(b"null\n")
            raise
        ways = [way and way[1:] for way in (plan.colour, plan.grey)]
        self._channel.sendall(json.dumps(ways).encode() + b"\n")
        target = plan.settled(self._answer()["has_colour"])
        pixels = np.empty((1, *(target.resize_to or header["size"]), target.channels), np.uint8)
        if self._stream.readinto(pixels.data) < pixels.size:
            raise EOFError
        return target, pixels, header["channels"]

    def _answer(self) -> Any:
        line = self._stream.readline()
        if not line:
            raise EOFError
        answer = json.loads(line)
        if "code" in answer:
            raise _REFUSALS[answer["code"]](answer["error"])
        return answer


class _Died(Exception):
    """A process ended in the middle of an image."""


class Decoder:
    """A pool of processes; one is started when an image arrives and no other is free.

    Args:
        seconds: longest decode.
        wait_seconds: longest wait for a free process.
        max_pixels: largest image, width times height.
        max_bytes: largest file.
        pools: how many such pools share the machine.
    """

    def __init__(self, seconds: float, wait_seconds: float, max_pixels: int, max_bytes: int, pools: int = 1) -> None:
        self._seconds, self._wait_seconds = seconds, wait_seconds
        self._limits = (address_space(max_pixels, max_bytes), max_pixels, seconds)
        # One thread for each busy process.
        self._threads = ThreadPoolExecutor(max(1, processes(max_pixels, max_bytes) // pools), "decode")
        self._idle: list[_Worker] = []

    async def decode(self, data: bytes | bytearray, selection: Selection) -> Decoded:
        """The model that ``selection`` has chosen, and the pixels for it; see :data:`Decoded`.

        Raises:
            BrokenImage: not decodable, or its process crashed on it.
            TooManyPixels: read from the header.
            DecodeTimeout: not decoded in time; its process was killed.
            DeadlineExceeded: no process was free in time.
            OutOfMemory: no process can be started, or Linux ended it for want of memory.
            UnknownModel, WrongSize: as :meth:`Selection.choose` says.
        """
        latest = time.monotonic() + self._wait_seconds
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._decode, data, selection, latest)
        except _Died as died:
            logger.warning("a decoder ended with %s in the middle of an image of %d bytes", died, len(data))
            raise BrokenImage("the image cannot be decoded: its decoder died of it") from None

    def _decode(self, data: bytes | bytearray, selection: Selection, latest: float) -> Decoded:
        if time.monotonic() > latest:
            raise DeadlineExceeded("no decoder was free before the request's deadline")
        worker = self._free()
        if worker is not None:
            with contextlib.suppress(_Died):  # perhaps while it was idle: try the image in a new one
                return self._decode_by(worker, data, selection)
        try:
            worker = _Worker(*self._limits)
        except OSError as error:
            raise OutOfMemory(f"no process to decode the image in can be started now: {error.strerror}") from error
        return self._decode_by(worker, data, selection)

    def _decode_by(self, worker: _Worker, data: bytes | bytearray, selection: Selection) -> Decoded:
        try:
            decoded = worker.decode(data, selection)
        except ServiceError:
            self._idle.append(worker)
            raise
        except (EOFError, OSError) as error:
            ended = worker.close(_SECONDS_TO_END)
            if ended == -signal.SIGALRM:
                raise DecodeTimeout(f"the image is not decoded after {self._seconds:g} seconds") from None
            if ended == -signal.SIGKILL:  # sent by the kernel, for want of memory
                logger.warning("a decoder was ended by the system, in the middle of an image of %d bytes", len(data))
                raise OutOfMemory("the image's decoder was ended, as it is where memory runs out") from None
            raise _Died(ended) from error
        except BaseException:
            worker.close()
            raise
        self._idle.append(worker)
        return decoded

    def _free(self) -> _Worker | None:
        """The process that was busy last and is still alive."""
        with contextlib.suppress(IndexError):
            while not (worker := self._idle.pop()).alive:
                worker.close()
            return worker
        return None

    def close(self) -> None:
        """Let those that are busy finish, at most ``seconds``, and end all of them."""
        self._threads.shutdown(cancel_futures=True)
        for worker in self._idle:
            worker.close()
