"""Images decoded in processes that may be killed: a pool of them, and the way of an image there and back.

Neither :mod:`multiprocessing` nor a library on top of it: their children import the parent's main module, here torch
and hundreds of megabytes, and a decoder that an image has taken over would have its answers unpickled.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BrokenImage, DeadlineExceeded, DecodeTimeout, OutOfMemory, ServiceError, TooManyPixels
from .selection import DecodePlan, Selection

logger = logging.getLogger(__name__)

# Where a container reads how much memory it may have: cgroup v2, v1.
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
# A process that has closed its channel is about to end; how it does tells why. One that a file took over may not end.
_WORKER = "arn_purify.service.core.decode_worker"
_SECONDS_TO_END = 1.0
_REFUSALS = {kind.code: kind for kind in (BrokenImage, TooManyPixels)}


def address_space(max_pixels: int, max_bytes: int) -> int:
    """The limit of a process in bytes: what it has before the first image, copies of a file, and more for a pixel than
    any took on its way through Pillow (16-bit grey, 30).
    """
    return 256 * 2**20 + 3 * max_bytes + 48 * max_pixels


def memory(max_pixels: int, max_bytes: int) -> int:
    """The most that a process fills, in bytes: what it has before the first image, two copies of a file, and more for a
    pixel than any took (16-bit grey and WebP, 30).
    """
    return 40 * 2**20 + 2 * max_bytes + 32 * max_pixels


def processes(max_pixels: int, max_bytes: int) -> int:
    """How many there may be at once: as many as processors, two to eight, if half of a container's memory holds them;
    the other half is the service's. One at least.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = min(8, max(2, cores))
    for path in _MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            most = min(most, int(path.read_text()) // 2 // memory(max_pixels, max_bytes))
    return max(1, most)


Decoded = tuple[DecodePlan, NDArray[np.uint8]]
"""How an image was decoded, and its pixels ``(1, H, W, C)``."""


class _Worker:
    """A process, and our end of the channel to it."""

    def __init__(self, *limits: float) -> None:
        self._channel, theirs = socket.socketpair()
        self._stream = self._channel.makefile("rb")
        environment = {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OPENBLAS_NUM_THREADS": "1",  # each thread's buffers would be most of the address space
            "MALLOC_TRIM_THRESHOLD_": str(32 * 2**20),  # glibc: after a large image the rest goes back
        }
        with theirs, contextlib.ExitStack() as undone:
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
        """End the process, whatever it is at; returns how it ended by itself, if it did within ``seconds``."""
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
        self._channel.sendall(json.dumps((plan.channels, plan.resize_to)).encode() + b"\n")
        self._answer()
        pixels = np.empty((1, *(plan.resize_to or header["size"]), plan.channels), np.uint8)
        if self._stream.readinto(pixels.data) < pixels.size:
            raise EOFError
        return plan, pixels

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
    """A pool of processes, each started once there is an image that none of the others is free for.

    Args:
        seconds: longest decode.
        wait_seconds: longest wait for a free process.
        max_pixels: largest image, width times height.
        max_bytes: largest file.
    """

    def __init__(self, seconds: float, wait_seconds: float, max_pixels: int, max_bytes: int) -> None:
        self._seconds, self._wait_seconds = seconds, wait_seconds
        self._limits = (address_space(max_pixels, max_bytes), max_pixels, seconds)
        # One thread at each process that is busy.
        self._threads = ThreadPoolExecutor(processes(max_pixels, max_bytes), "decode")
        self._idle: list[_Worker] = []

    async def decode(self, data: bytes | bytearray, selection: Selection) -> Decoded:
        """Pixels as uint8 ``(1, H, W, channels)``, and the plan that ``selection`` made once the header was read.

        Raises:
            BrokenImage: not decodable, or its process died of it.
            TooManyPixels: read from the header.
            DecodeTimeout: not decoded in time; its process was killed.
            DeadlineExceeded: no process was free in time.
            OutOfMemory: none can be started, or Linux ended it, as it does where memory runs out.
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
            with contextlib.suppress(_Died):  # perhaps while it was idle, and not of this image: a new one will tell
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
            if ended == -signal.SIGKILL:  # not ours: the kernel's, for want of memory
                logger.warning("a decoder was ended by the system, in the middle of an image of %d bytes", len(data))
                raise OutOfMemory("the image's decoder was ended, as it is where memory runs out") from None
            raise _Died(ended) from error
        except BaseException:
            worker.close()
            raise
        self._idle.append(worker)
        return decoded

    def _free(self) -> _Worker | None:
        """The process that was busy last and lives."""
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
