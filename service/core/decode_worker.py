"""The process in which clients' images are decoded; :class:`arn_purify.service.core.decoder.Decoder` starts it.

It may die at any time without harm: its address space is limited (not on macOS), and the kernel's alarm ends a decode
that takes too long. It imports Pillow and numpy but not torch, so that it is small and starts fast.

The protocol, for each file:

1. in: the number of bytes as a line, then the bytes;
2. out: the header as a line of JSON, with ``size`` and ``channels``;
3. in: a line of JSON, ``[colour, grey]``: how to decode an image that has colours, and one that has none where that
   differs, each ``[channels, resize_to, fit]`` or null; or ``null`` to stop here;
4. out: a line of JSON with ``has_colour``, then the pixels, unless ``colour`` applies and is null.

Instead of 2 or 4 it may answer a line with the ``code`` and ``error`` of a refusal.
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

    def answer_with(**answer: Any) -> None:
        channel.sendall(json.dumps(answer).encode() + b"\n")

    def decode(size: int, stream: BinaryIO) -> tuple[bool, NDArray[np.uint8] | None] | None:
        opened = open_image(stream.read(size), max_pixels)
        answer_with(size=opened.size, channels=opened.channels)
        ways = json.loads(stream.readline())
        if not ways:
            return None
        has_colour = ways[1] is None or opened.has_colour()
        way = ways[0 if has_colour else 1]
        return has_colour, opened.decode(*way) if way else None

    while line := stream.readline():
        decoded = None
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            decoded = decode(int(line), stream)
        except ServiceError as error:
            answer_with(code=error.code, error=str(error))
        except MemoryError:
            answer_with(code=BrokenImage.code, error="the image takes more memory than its decoder has")
        signal.setitimer(signal.ITIMER_REAL, 0)
        if decoded is not None:
            has_colour, pixels = decoded
            answer_with(has_colour=has_colour)
            if pixels is not None:
                channel.sendall(pixels.data)


def main() -> None:
    """``python -m arn_purify.service.core.decode_worker FD BYTES MAX_PIXELS SECONDS``: serve on an inherited socket."""
    descriptor, address_space, max_pixels, seconds = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group, while a drain still needs it
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with contextlib.suppress(OSError):  # when memory runs out, Linux ends this process first
        Path("/proc/self/oom_score_adj").write_text("1000")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = int(address_space) if hard == resource.RLIM_INFINITY else min(int(address_space), hard)
    with contextlib.suppress(ValueError):  # macOS sets no such limit; the alarm remains
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    serve(socket.socket(fileno=int(descriptor)), int(max_pixels), float(seconds))


if __name__ == "__main__":
    main()
