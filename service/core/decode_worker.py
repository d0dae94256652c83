"""The process in which clients' images are decoded; :class:`arn_purify.service.core.decoder.Decoder` starts it.

It may die at any time without harm: its address space has an end, and the kernel's alarm ends a decode that does not.
Imports Pillow and numpy but no torch, so that it is small and starts in a fraction of a second.

In comes the number of a file's bytes as a line, then the bytes; out goes the header as a line of JSON, ``size`` and
``channels``; in comes how to decode it, ``[channels, resize_to]``, or ``null`` for not at all; out goes ``{}`` as a
line, then the pixels. In the place of either answer there may be a line with the ``code`` and ``error`` of a refusal.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import BrokenImage, ServiceError
from .codec import open_image


def serve(channel: socket.socket, max_pixels: int, seconds: float) -> None:
    """Decode one image after another until the other end of the channel is closed."""
    stream = channel.makefile("rb")

    def tell(**answer: Any) -> None:
        channel.sendall(json.dumps(answer).encode() + b"\n")

    def decode(size: int, stream: BinaryIO) -> NDArray[np.uint8] | None:
        opened = open_image(stream.read(size), max_pixels)
        tell(size=opened.size, channels=opened.channels)
        how = json.loads(stream.readline())
        return opened.decode(*how) if how else None

    while line := stream.readline():
        pixels = None
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            pixels = decode(int(line), stream)
        except ServiceError as error:
            tell(code=error.code, error=str(error))
        except MemoryError:
            tell(code=BrokenImage.code, error="the image takes more memory than its decoder has")
        signal.setitimer(signal.ITIMER_REAL, 0)
        if pixels is not None:
            tell()
            channel.sendall(pixels.data)


def main() -> None:
    """``python -m arn_purify.service.core.decode_worker FD BYTES MAX_PIXELS SECONDS``: serve on an inherited socket."""
    descriptor, address_space, max_pixels, seconds = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; a drain still finishes what it accepted
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with contextlib.suppress(OSError):  # where memory runs out, Linux is to end this process and not the service
        Path("/proc/self/oom_score_adj").write_text("1000")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = int(address_space) if hard == resource.RLIM_INFINITY else min(int(address_space), hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    serve(socket.socket(fileno=int(descriptor)), int(max_pixels), float(seconds))


if __name__ == "__main__":
    main()
