"""What the tests of the gateway share: images, a server that keeps what it is asked, and one that answers nonsense."""

import contextlib
import io
import json
import math
import select
import socketserver
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from arn_purify.service.core import codec
from arn_purify.service.gateway.preprocessing import Preprocessing
from arn_purify.service.gateway.protocols import Message, v2

DIGIT = (1, 28, 28)


@contextlib.contextmanager
def traced():
    """How many bytes Python and numpy have held at most since the block began, as a call."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def digit(channels, height, width):
    return (channels, height, width) == DIGIT


def anything(channels, height, width):
    return True


def png(pixels):
    return codec.encode_image(np.asarray(pixels, np.uint8).reshape(*np.shape(pixels)[:2], -1))


UNDECLARED = Preprocessing()


def entered(preprocessing, slot, fixed, takes=None):
    """A tensor as the purifier takes it that is found for it."""
    (image,) = preprocessing.find_images([slot], fixed, takes or fixed)
    return preprocessing.to_purifier(slot, image)


def through(protocol, message, preprocessing=UNDECLARED, takes=anything):
    """Find every image, decode it and put it back, unchanged."""
    request = protocol.find(message)
    new = {}
    images = preprocessing.find_images(request.slots, takes, takes)
    for image in images:
        slot = request.slots[image.index]
        if image.encoded:
            opened = [codec.open_image(data, 10**6) for data in image.encoded.files]
            new[image.index] = image.encoded.write([codec.encode_image(one.decode(one.channels)[0]) for one in opened])
        else:
            tensor = preprocessing.to_purifier(slot, image)
            assert tensor.images.dtype in (np.uint8, np.float32)
            new[image.index] = tensor.from_purifier(tensor.images)
    return request.replace_images(new), len(images)


sides = st.integers(1, 6)


@st.composite
def tensors(draw, dtype):
    shape = draw(st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), sides, sides))
    size = math.prod(shape)
    if np.dtype(dtype).kind == "u":
        return np.array(draw(st.lists(st.integers(0, 255), min_size=size, max_size=size)), dtype).reshape(shape)
    width = np.dtype(dtype).itemsize * 8
    values = draw(st.lists(st.floats(0, 1, width=width), min_size=size, max_size=size))
    return np.array(values, dtype).reshape(shape)


DATATYPES = {"FP32": np.float32, "FP16": np.float16, "UINT8": np.uint8, "FP64": np.float64}


pictures = st.tuples(sides, sides, st.sampled_from([1, 3])).flatmap(
    lambda shape: st.binary(min_size=math.prod(shape), max_size=math.prod(shape)).map(
        lambda raw: np.frombuffer(raw, np.uint8).reshape(shape)
    )
)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def same(encoded, image):
    return np.array_equal(pixels(encoded), image.squeeze(2) if image.shape[2] == 1 else image)


FORM = {"content-type": "multipart/form-data; boundary=b"}


GOOD = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}


def v2_body(described, blob=b"12345678"):
    head = json.dumps({"inputs": [described]}).encode()
    return Message(head + blob, {v2.HEADER: str(len(head))})


PNG = (Path(__file__).parents[3] / "examples" / "adversarial_3.png").read_bytes()


ROWS = [[[0.5] * 28] * 28]


class Upstream(BaseHTTPRequestHandler):
    """Keeps what it was asked and answers what it is told to."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list] = []
    answers = staticmethod(lambda path: (200, {"Content-Type": "application/json"}, b'{"predictions": [[0.1, 0.9]]}'))
    left = threading.Event()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        if "slow" in self.path:
            readable, _, _ = select.select([self.connection], [], [], 5)
            if readable:  # nothing but the end can come now
                self.left.set()
                self.close_connection = True
                return
        status, headers, answer = self.answers(self.path)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_PUT = do_GET = do_HEAD = do_POST  # noqa: N815

    def log_message(self, *_):
        pass


def sample(client, line):
    found = [row for row in client.get("/metrics").text.splitlines() if row.startswith(line + " ")]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


SOUND = HEAD + b"Content-Length: 2\r\n\r\n{}"


GARBAGE = {
    "nothing": b"",
    "nonsense": bytes(range(128, 256)) * 9,
    "another protocol": b"220 mail.example ESMTP\r\n",
    "half a head": HEAD,
    "half a body": HEAD + b"Content-Length: 100\r\n\r\n{",
    "half a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    "no chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a length in words": HEAD + b"Content-Length: many\r\n\r\n{}",
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n{}",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a header without end": HEAD + b"X: " + b"a" * 2**20,
    "a header without a colon": HEAD + b"\x00no colon\r\nContent-Length: 2\r\n\r\n{}",
    "a status of four digits": b"HTTP/1.1 9000 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status beyond the last": b"HTTP/1.1 600 Odd\r\nContent-Length: 2\r\n\r\n{}",
    "a status far beyond": b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\n{}",
    "a control character in a header": HEAD + b"X: a\x01b\r\nContent-Length: 2\r\n\r\n{}",
    "another": HEAD + b"X: a\x7f\r\nContent-Length: 2\r\n\r\n{}",
}


class Says(socketserver.StreamRequestHandler):
    """Reads a request, says what it is told to, and hangs up unless told to stay."""

    what: ClassVar[bytes] = SOUND
    stays: ClassVar[bool] = False

    def handle(self):
        while (head := self.rfile.readline()).strip():
            length = 0
            while (line := self.rfile.readline()).strip():
                length = int(line.split()[1]) if line.lower().startswith(b"content-length") else length
            assert head.startswith(b"POST /")
            self.rfile.read(length)
            with contextlib.suppress(ConnectionError):  # who is told nonsense may leave before its end
                self.wfile.write(self.what)
            if not self.stays:
                break
