"""Files and requests made to break the parsers, and what became of them.

``python -m tests.fuzz`` gives every parser 10,000 of them, each format in a child whose address space is limited as a
decoder's is, and writes ``results/fuzz.json``.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import platform
import random
import re
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from arn_purify.service.core import codec
from arn_purify.service.core.decoder import address_space
from arn_purify.service.errors import ServiceError
from arn_purify.service.gateway.preprocessing import Preprocessing
from arn_purify.service.gateway.protocols import Message, torchserve, v1, v2, v2_grpc
from arn_purify.service.settings import Settings

RECORD = Path(__file__).parents[1] / "results" / "fuzz.json"
IMAGES = ("PNG", "JPEG", "WEBP", "BMP", "npy")
REQUESTS = ("V1", "V2", "V2 binary", "V2 gRPC", "TorchServe")
MAX_PIXELS, MAX_BYTES = (Settings.model_fields[name].default for name in ("max_pixels", "max_body_bytes"))

# -- files --------------------------------------------------------------------------------------------------------


def png_chunk(name, data=b""):
    """A chunk of a PNG, with its checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def slow_png(chunks, size=(200, 300)):
    """A PNG of which each chunk is a kilobyte that Pillow inflates to a megabyte, for milliseconds, in the header."""
    data = saved(Image.new("L", size, 90), "PNG")
    return data[:33] + chunks * png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20 - 1), 9)) + data[33:]


def saved(image, kind, **options):
    """An image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _seeds(kind):
    """Files of a format in its varieties."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    pixels[10:30] //= 64
    colour = Image.fromarray(pixels)
    modes = {mode: colour.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")}
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    frames = {"save_all": True, "append_images": [modes["RGB"].rotate(90)]}
    varieties = {
        "PNG": [
            *((mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")), ("P", {"transparency": 3}),
            ("RGB", {"exif": exif, "icc_profile": b"profile" * 9}), ("RGB", frames),
        ],
        "JPEG": [
            *((mode, {}) for mode in ("L", "RGB", "CMYK")), ("RGB", {"progressive": True, "quality": 95}),
            ("RGB", {"exif": exif, "subsampling": 0, "comment": b"c", "icc_profile": b"profile" * 9}),
        ],
        "MPO": [("RGB", frames)],
        "WEBP": [
            ("RGB", {}), ("RGBA", {"lossless": True}), ("RGBA", {"quality": 30}), ("RGB", {"exif": exif, "xmp": b"x"}),
            ("RGB", frames),
        ],
        "BMP": [(mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")],
    }  # fmt: skip
    if kind == "npy":
        arrays = [np.ones((2, 5, 4, 1), np.uint8), np.ones((1, 3, 6, 6), np.float32), np.ones((1, 2, 2, 1), object)]
        files = []
        for array in (*arrays, np.asfortranarray(arrays[0])):
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=True)
            files.append(buffer.getvalue())
        return files
    files = [saved(modes[mode], kind, **options) for mode, options in varieties[kind]]
    if kind == "PNG":
        files += [saved(Image.fromarray(pixels[..., 0].astype(np.uint16) * 200), kind)]
        files += [files[0][:33] + png_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 999)) + files[0][33:]]
    return files + (_seeds("MPO") if kind == "JPEG" else [])


# -- requests -----------------------------------------------------------------------------------------------------


def _requests(kind):
    """Requests of a protocol that hold images."""
    digit = np.linspace(0, 1, 36, dtype=np.float32).reshape(1, 1, 6, 6)
    png = saved(Image.new("L", (6, 6), 9), "PNG")
    text = base64.b64encode(png).decode()
    tensor = {"name": "x", "datatype": "FP32", "shape": digit.shape}
    match kind:
        case "V1":
            rows = [{"image": {"b64": text}}], digit.tolist(), [{"image": digit[0].tolist(), "k": "text"}]
            bodies = [{"instances": row} for row in rows] + [{"inputs": {"image": digit.tolist()}}]
            return [(json.dumps(body).encode(), {}) for body in bodies]
        case "V2":
            inputs = (
                [{**tensor, "data": digit.tolist()}, {**tensor, "datatype": "INT8", "data": [1] * 36}],
                [{"name": "x", "datatype": "BYTES", "shape": [2], "data": [text, "text"]}],
            )
            return [(json.dumps({"id": "1", "inputs": each}).encode(), {}) for each in inputs]
        case "V2 binary":
            blob = struct.pack("<I", len(png)) + png + struct.pack("<I", 4) + b"text"
            requests = []
            for one, data in (
                (tensor, digit.tobytes()),
                ({"name": "x", "datatype": "BYTES", "shape": [2]}, blob),
            ):
                described = [{**one, "parameters": {"binary_data_size": len(data)}}] * 2
                head = json.dumps({"inputs": described}).encode()
                requests.append((head + data * 2, {v2.HEADER: str(len(head))}))
            return [*requests, (digit.tobytes(), {v2.HEADER: "0"}), (png, {v2.HEADER: "0"})]
        case "V2 gRPC":
            raw, typed = (v2_grpc.parse("ModelInferRequest", b"") for _ in range(2))
            for request in (raw, typed):
                request.inputs.add(name="x", datatype="FP32", shape=digit.shape)
                request.inputs.add(name="y", datatype="BYTES", shape=[1])
            raw.raw_input_contents.extend([digit.tobytes(), struct.pack("<I", len(png)) + png])
            typed.inputs[0].contents.fp32_contents.extend(digit.reshape(-1).tolist())
            typed.inputs[1].contents.bytes_contents.append(png)
            return [(request.SerializeToString(), {}) for request in (raw, typed)]
        case _:
            head = b'--b\r\nContent-Disposition: form-data; name="data"\r\nContent-Type: image/png\r\n\r\n'
            form = head + png + b"\r\n" + head + b"text\r\n--b--\r\n"
            envelope = json.dumps({"instances": [{"b64": text}]}).encode()
            return [
                (form, {"content-type": "multipart/form-data; boundary=b"}),
                (png, {"content-type": "image/png"}),
                (envelope, {"content-type": "application/json"}),
            ]


# -- damage -------------------------------------------------------------------------------------------------------

_EXTREMES = (0, 1, 2, 3, 4, 7, 127, 128, 255, 256, 32767, 32768, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_TEXT = (
    b"-1", b"0", b"2", b"0.5", b"1e999", b"NaN", b"9" * 30, b"[" * 2000, b'{"a":' * 500, b'"\\ud800"', b"null", b"[]",
    b"{}", b'"BYTES"', b'"UINT8"', b"[[0.5, 1], [0]]", b"4294967295", b"true", b'""', b"\0", b"(" * 99,
)  # fmt: skip


def segments(data):
    """Where the pieces of a file begin: a PNG's chunks, a JPEG's segments, a WebP's, else each 16 bytes."""
    starts = []
    if data.startswith(b"\x89PNG"):
        at, length = 8, lambda i: 12 + int.from_bytes(data[i : i + 4], "big")
    elif data.startswith(b"\xff\xd8"):
        at, length = 2, lambda i: 2 + int.from_bytes(data[i + 2 : i + 4], "big")
    elif data.startswith(b"RIFF"):
        at, length = 12, lambda i: 8 + (int.from_bytes(data[i + 4 : i + 8], "little") + 1) // 2 * 2
    else:
        at, length = 0, lambda i: 16
    while at < len(data):
        starts.append(at)
        at += length(at)
    return [*starts, len(data)]


def damaged(data, others, rng):
    """A file with one to three kinds of damage."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kinds = (_token,) if data.startswith(b"{") and rng.random() < 0.7 else _DAMAGE
        data = rng.choice(kinds)(data, others, rng)[:MAX_BYTES] or b"\0"
    return checksummed(data) if rng.random() < 0.5 else data


def _flip(data, _, rng):
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 32))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(data, _, rng):
    return data[: rng.randrange(len(data))]


def _lie(data, _, rng):
    """An extreme integer where there was another, most often where a segment begins."""
    number = struct.pack(rng.choice("<>") + "I", rng.choice(_EXTREMES))[-rng.choice((1, 2, 4)) :]
    at = rng.choice(segments(data)) + rng.randrange(12) if rng.random() < 0.6 else rng.randrange(len(data))
    return data[:at] + number + data[at + len(number) :]


def _repeat(data, _, rng):
    pieces = segments(data)
    start, end = sorted((rng.choice(pieces), rng.choice(pieces)))
    at = rng.choice(pieces)
    return data[:at] + data[start:end] * rng.choice((1, 1, 2, 50)) + data[at:]


def _drop(data, _, rng):
    pieces = segments(data)
    start, end = sorted((rng.choice(pieces), rng.choice(pieces)))
    return data[:start] + data[end:]


def _splice(data, others, rng):
    other = rng.choice(others)
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def _insert(data, _, rng):
    at = rng.randrange(len(data))
    return data[:at] + rng.choice((rng.randbytes(rng.randint(1, 64)), rng.choice(_TEXT))) + data[at:]


def _token(data, _, rng):
    """Another value, name or bracket in a JSON text."""
    found = rng.choice(list(re.finditer(rb'"[^"]*"|[-+.\w]+|[][{}:,]', data)) or [re.match(b"", data)])
    return data[: found.start()] + rng.choice((*_TEXT, found[0] * 2)) + data[found.end() :]


_DAMAGE = (_flip, _flip, _truncate, _lie, _lie, _repeat, _drop, _splice, _insert)


def checksummed(data):
    """A PNG whose checksums are right again, so that damage gets further in; other files as they are."""
    if not data.startswith(b"\x89PNG"):
        return data
    starts = segments(data)
    whole = [
        png_chunk(data[start + 4 : start + 8], data[start + 8 : end - 4])
        for start, end in pairwise(starts)
        if end - start >= 12
    ]
    return data[:8] + b"".join(whole)


# -- the parsers --------------------------------------------------------------------------------------------------


def read_image(data, rng):
    """What the service does with an image."""
    codec.open_image(data, MAX_PIXELS).decode(rng.choice((1, 3)), rng.choice((None, (28, 28))))


def read_npy(data, rng):
    """What the service does with a tensor."""
    assert codec.decode_npy(data).ndim == 4


def read_request(protocol, data, rng, headers):
    """What the gateway does with a request: find the images, enter them, put others in their place."""

    def takes(channels, height, width):
        return (channels, height, width) == (1, 6, 6)

    if v2.HEADER in headers and rng.random() < 0.3:
        lie = rng.choice(("-1", "1", str(len(data)), str(len(data) + 1), "9" * 5000, "x", ""))
        headers = {**headers, v2.HEADER: lie}
    preprocessing, found = Preprocessing(), protocol.find(Message(data, headers))
    new = {}
    for image in preprocessing.find_images(found.slots, takes, takes):
        if image.encoded:
            opened = [codec.open_image(data, MAX_PIXELS) for data in image.encoded.files]
            new[image.index] = image.encoded.write([codec.encode_image(one.decode(1)[0]) for one in opened])
        else:
            tensor = preprocessing.to_purifier(found.slots[image.index], image)
            new[image.index] = tensor.from_purifier(tensor.images)
    found.replace_images(new)


_PROTOCOLS = {"V1": v1, "V2": v2, "V2 binary": v2, "V2 gRPC": v2_grpc, "TorchServe": torchserve}


def _peak_rss():
    """Of this process, in bytes; getrusage would tell its parent's where that was larger."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def run(kind, count, seed):
    """Give a parser so many damaged inputs: the record of what became of them."""
    rng = random.Random(f"{kind} {seed}")
    if kind in IMAGES:
        read = read_npy if kind == "npy" else read_image
        readers = [(data, read) for data in _seeds(kind)]
    else:
        readers = [
            (data, partial(read_request, _PROTOCOLS[kind], headers=headers)) for data, headers in _requests(kind)
        ]
    others = [data for data, _ in readers] + [saved(Image.new("RGB", (9, 9)), k) for k in IMAGES[:4]]
    outcomes, wrong, slow, slowest = Counter(), [], [], 0.0
    for _ in range(count):
        seed_data, read = rng.choice(readers)
        data = damaged(seed_data, others, rng)
        started = time.perf_counter()
        try:
            read(data, rng)
            outcome = "read"
        except ServiceError as error:
            outcome = error.code
            if not 400 <= error.status < 500:
                wrong.append([repr(error), base64.b64encode(data).decode()])
        except Exception as error:
            outcome = type(error).__name__
            wrong.append([repr(error), base64.b64encode(data).decode()])
        seconds = time.perf_counter() - started
        outcomes[outcome] += 1
        slowest = max(slowest, seconds)
        if seconds > 1:
            slow.append([round(seconds, 2), base64.b64encode(data).decode()])
    return {
        "inputs": count, "seed": seed, "outcomes": dict(sorted(outcomes.items())), "wrong": wrong, "slow": slow,
        "slowest_seconds": round(slowest, 3),
        "peak_rss_bytes": _peak_rss(),
    }  # fmt: skip


def in_child(kind, count, seed=0):
    """:func:`run` in a process that may take as much address space as a decoder."""
    command = [sys.executable, "-m", "tests.fuzz", "--only", kind, "--count", str(count), "--seed", str(seed)]
    done = subprocess.run(command, cwd=RECORD.parents[1], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{kind}: the child ended with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


def main():
    """Run every format, or in this process one."""
    parser = argparse.ArgumentParser("tests.fuzz")
    parser.add_argument("--count", type=int, default=10_000, help="damaged inputs of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=(*IMAGES, *REQUESTS), help="one format, in this process, to standard output")
    arguments = parser.parse_args()
    limit = address_space(MAX_PIXELS, MAX_BYTES)
    if arguments.only:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        sys.stdout.write(json.dumps(run(arguments.only, arguments.count, arguments.seed)))
        return 0
    formats = {kind: in_child(kind, arguments.count, arguments.seed) for kind in (*IMAGES, *REQUESTS)}
    record = {
        "command": f"python -m tests.fuzz --count {arguments.count} --seed {arguments.seed}",
        "versions": {"python": platform.python_version(), "pillow": PIL.__version__, "numpy": np.__version__},
        "address_space_bytes": limit,
        "formats": formats,
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    failed = [kind for kind, outcome in formats.items() if outcome["wrong"] or outcome["slow"]]
    sys.stdout.write(f"{RECORD.name}: {', '.join(failed) or 'nothing'} wrong or slow\n")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
