"""PNGs read the short way and by Pillow alone: the same pixels or the same refusal.

``python -m tests.fuzz_png`` generates as many as it takes for 20,000 to be plain, damages half of them, and writes
``results/fuzz-png.json``. They differ, too, where Pillow does not read the same pixels from what was written again.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import platform
import random
import struct
import sys
import zlib
from collections import Counter
from itertools import pairwise

import numpy as np
import PIL
from PIL import Image

from arn_purify.service.core import codec, png
from arn_purify.service.errors import ServiceError

from . import fuzz
from .fuzz import MAX_PIXELS, damaged, png_chunk

RECORD = fuzz.RECORD.with_name("fuzz-png.json")
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ANCILLARY = (
    (b"gAMA", struct.pack(">I", 45455)), (b"pHYs", struct.pack(">IIB", 2835, 2835, 1)), (b"sRGB", b"\0"),
    (b"tEXt", b"Software\0x"), (b"zTXt", b"k\0\0" + zlib.compress(b"x" * 99)), (b"tRNS", bytes(6)),
    (b"PLTE", bytes(768)), (b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
    (b"acTL", struct.pack(">II", 2, 0)), (b"abCd", b"x"), (b"gAMA", b""), (b"tRNS", b"\0"),
)  # fmt: skip


def generated(rng: random.Random) -> bytes:
    """A PNG: most are plain and whole, each part of some is unusual or wrong."""
    seldom = rng.random() < 0.5 and rng.random  # every second file has nothing unusual

    def unusual(share: float) -> bool:
        return bool(seldom and seldom() < share)

    colour = rng.choice((0, 2, 2, 4, 6)) if not unusual(0.1) else rng.choice((3, 3, 1, 7))
    bits = 8 if not unusual(0.2) else rng.choice(_DEPTHS.get(colour, (8,)))
    most = 200 if rng.random() < 0.02 else 40
    width, height = rng.randint(1, most), rng.randint(1, most)
    interlaced = unusual(0.1)
    stream = _compressed(_rows(width, height, bits * _CHANNELS.get(colour, 1), rng, unusual), rng, unusual)
    if unusual(0.05):
        width, height = rng.choice(((0, height), (2**31, 1), (3000, 5000), (2**16, 2**16), (width + 1, height)))
    header = struct.pack(">IIBBBBB", width, height, bits, colour, int(unusual(0.05)), int(unusual(0.05)), interlaced)
    cuts = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.randint(1, 3))) if unusual(0.2) else []
    chunks = [(b"IHDR", header)]
    if colour == 3:
        chunks.append((b"PLTE", rng.randbytes(3 * rng.choice((2, 16, 256)))))
    chunks += [rng.choice(_ANCILLARY)] if unusual(0.2) else []
    chunks += [(b"IDAT", stream[start:end]) for start, end in pairwise([0, *cuts, len(stream)])]
    chunks += [rng.choice(_ANCILLARY)] if unusual(0.1) else []
    chunks += [(b"IEND", b"x" if unusual(0.05) else b"")] if not unusual(0.05) else []
    parts = [png_chunk(*chunk) for chunk in chunks]
    if unusual(0.1):
        wrong = rng.randrange(len(parts))
        parts[wrong] = parts[wrong][:-4] + rng.randbytes(4)
    return png.SIGNATURE + b"".join(parts) + (rng.randbytes(rng.choice((1, 4, 99))) if unusual(0.1) else b"")


def _rows(width, height, bits, rng, unusual):
    """Filtered rows of noise, of few levels or of one, of which the last may be missing or have others behind them."""
    length = (width * bits + 7) // 8
    if unusual(0.1):
        height = max(0, height + rng.choice((-height, -1, 1, 50)))
    kind = rng.choice(("noise", "few", "one"))
    levels = rng.randbytes({"noise": 256, "few": 3, "one": 1}[kind])
    filters = (rng.randrange(5),) if rng.random() < 0.3 else range(5)
    filters = (*filters, 5, 255) if unusual(0.05) else filters
    return b"".join(bytes((rng.choice(filters), *rng.choices(levels, k=length))) for _ in range(height))


def _compressed(rows, rng, unusual):
    """A zlib stream by whatever settings, that may be of another kind, cut, wrong at its end or not the last thing."""
    wbits = rng.choice((9, 10, 15, 15)) if not unusual(0.05) else rng.choice((-15, 31))
    strategy = rng.choice((zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_RLE, zlib.Z_HUFFMAN_ONLY, zlib.Z_FIXED))
    given = {"zdict": b"dictionary"} if wbits > 0 and wbits < 16 and unusual(0.03) else {}
    compressor = zlib.compressobj(rng.randrange(10), zlib.DEFLATED, wbits, rng.randint(1, 9), strategy, **given)
    at = rng.randrange(len(rows) + 1)
    stream = compressor.compress(rows[:at])
    if unusual(0.1):
        stream += compressor.flush(rng.choice((zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH)))
    stream += compressor.compress(rows[at:]) + (compressor.flush() if not unusual(0.03) else b"")
    if unusual(0.1):
        stream = stream[: -rng.choice((1, 2, 3, 4, 5, 9))]
    if unusual(0.05):
        stream = stream[:-4] + rng.randbytes(4)
    if unusual(0.2):
        at = rng.randrange(len(stream) + 1)
        stream = stream[:at] + rng.randbytes(rng.choice((1, 1, 9))) + stream[at + rng.choice((0, 1, 1)) :]
    return stream + (rng.randbytes(rng.choice((1, 4, 99))) if unusual(0.1) else b"")


def outcome(open_image, data):
    """Everything that the service asks of an image, or the refusal; and the pixels where there are some."""
    try:
        opened = open_image(data, MAX_PIXELS)
        colour, grey = opened.decode(3), opened.decode(1)
        seen = opened.size, opened.channels, opened.oriented, opened.has_colour(), opened.decode(3, (9, 7)).tobytes()
    except ServiceError as error:
        return (type(error).__name__, error.code), None
    return (*seen, colour.tobytes(), grey.tobytes()), (colour[0], grey[0])


def run(count: int, seed: int) -> dict[str, object]:
    """Read PNGs until so many were plain: what became of each, by the way that it took; and those that differ."""
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    different, kept = [], [generated(rng) for _ in range(20)]
    while count:
        data = generated(rng)
        if rng.random() < 0.5:
            data = damaged(data, kept, rng)
        ours, pictures = outcome(codec.open_image, data)
        theirs, _ = outcome(codec.open_by_pillow, data)
        way = "plain" if png.open_plain(data) else "not plain"
        count -= way == "plain"
        outcomes[f"{way}, {'read' if pictures else ours[1]}"] += 1
        written = [codec.encode_image(picture) for picture in pictures or ()]
        again = [np.atleast_3d(Image.open(io.BytesIO(one))) for one in written]
        if ours != theirs or not all(map(np.array_equal, again, pictures or ())):
            different.append(base64.b64encode(data).decode())
    return {"inputs": outcomes.total(), "outcomes": dict(sorted(outcomes.items())), "different": different}


def main() -> int:
    """Run, write the record, and say whether anything differed."""
    parser = argparse.ArgumentParser("tests.fuzz_png")
    parser.add_argument("--count", type=int, default=20_000, help="plain PNGs")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    record = {
        "command": f"python -m tests.fuzz_png --count {arguments.count} --seed {arguments.seed}",
        "versions": {"python": platform.python_version(), "pillow": PIL.__version__, "numpy": np.__version__},
        **run(arguments.count, arguments.seed),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    sys.stdout.write(f"{RECORD.name}: {record['outcomes']}, {len(record['different'])} different\n")
    return bool(record["different"])


if __name__ == "__main__":
    sys.exit(main())
