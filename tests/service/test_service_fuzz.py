"""What was made to break the parsers ends as a refusal, in bounded time and memory. See :mod:`tests.fuzz`."""

import gzip
import io
import json
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from arn_purify.service.core import codec
from arn_purify.service.errors import BrokenBody
from arn_purify.service.gateway.protocols import MAX_PLACES, Message, torchserve, v1, v2, v2_grpc

from ..conftest import running
from ..fuzz import IMAGES, REQUESTS, in_child, png_chunk, run, saved

PNG = saved(Image.new("L", (28, 28), 90), "PNG")


@pytest.mark.parametrize("kind", [*IMAGES, *REQUESTS])
def test_damage_is_read_or_refused(kind):
    outcome = run(kind, 200, seed=1)
    assert not outcome["wrong"]
    assert outcome["outcomes"].get("read", 0) > 5, "the damage must not be such that nothing gets in"
    assert len(outcome["outcomes"]) > 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*IMAGES, *REQUESTS])
def test_much_damage_is_read_or_refused_in_bounded_time_and_memory(kind):
    outcome = in_child(kind, 10_000, seed=2)
    assert not outcome["wrong"]
    assert not outcome["slow"]
    assert outcome["peak_rss_bytes"] < 2**30


# -- whole files --------------------------------------------------------------------------------------------------


def png(width, height, data=b"", colour=0, interlaced=0, extra=b""):
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", data) + png_chunk(b"IEND")


def jpeg(width, height):
    data = saved(Image.new("L", (16, 16)), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def bmp(width, height, compression=0):
    data = bytearray(saved(Image.new("L", (16, 16)), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    data[30:34] = struct.pack("<I", compression)
    return bytes(data)


def webp(width, height):
    data = saved(Image.new("RGBA", (16, 16)), "WEBP", lossless=True, xmp=b"<x/>")
    at = data.index(b"VP8X") + 12
    return data[:at] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + data[at + 6 :]


def animated(kind):
    frames = [Image.new("RGB", (28, 28), (i, 0, 0)) for i in range(300)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


def with_archive(data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.html", "<script>")
    return data + buffer.getvalue()


GIANTS = [png(60_000, 60_000), png(2**31 - 1, 2**31 - 1), jpeg(65_500, 65_500), bmp(2**31 - 1, 1), bmp(9999, -9999, 1),
          webp(16_383, 16_383), png(9999, 9999, interlaced=1)]  # fmt: skip
BOMB = zlib.compress(bytes(50 * 2**20), 9)
FILES = {
    **{f"giant {i}": (giant, {400, 422}) for i, giant in enumerate(GIANTS)},
    "a bomb behind the last pixel": (png(28, 28, BOMB), {200}),
    "half an image": (png(2000, 2000, BOMB[:2000]), {400}),
    "a bomb in the text": (png(28, 28, BOMB, extra=200 * png_chunk(b"zTXt", b"k\0\0" + BOMB[:1500])), {200, 400}),
    "a million chunks": (png(28, 28, BOMB, extra=10**6 * png_chunk(b"abCd")), {200, 422}),
    "an animated PNG": (animated("PNG"), {400}),
    "an animated WebP": (animated("WEBP"), {400}),
    "two frames, one said": (animated("PNG").replace(b"\0\0\x01\x2c\0\0\0\0", b"\0\0\0\1\0\0\0\0"), {400}),
    "PNG and ZIP": (with_archive(PNG), {200}),
    "JPEG and HTML": (saved(Image.new("L", (28, 28)), "JPEG") + b"<html><script>", {200}),
    "ZIP": (with_archive(b""), {400}),
}  # fmt: skip


@pytest.fixture(scope="module")
def client():
    with running(models="identity", classifier="", decode_seconds=2) as client:
        yield client


@pytest.mark.parametrize("name", FILES)
def test_whole_files_made_to_harm(client, name):
    data, expected = FILES[name]
    answer = client.post("/purify", content=data, headers={"Content-Type": "image/png"})
    assert answer.status_code in expected, answer.text
    large = codec.encode_image(np.full((200, 200, 1), 7, np.uint8))
    assert client.post("/purify", content=large).status_code == 200, "a decoder is there for the next"


# -- whole requests -----------------------------------------------------------------------------------------------


def v2_binary(described, blob=b"", length=None):
    head = json.dumps({"inputs": described}).encode()
    return head + blob, {"Inference-Header-Content-Length": str(len(head) if length is None else length)}


def tensor(size, **others):
    return {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": size}, **others}


JSON = {"Content-Type": "application/json"}
V1, V2, TF, TS = "/v1/models/m:predict", "/v2/models/m/infer", "/v1/models/m/versions/1:predict", "/predictions/m"
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
REQUESTS_TO_REFUSE = {
    **{f"depth {path}": (path, b'{"instances": ' + b"[" * 10**6, JSON) for path in (V1, V2, TF, TS)},
    **{f"objects {path}": (path, b'{"inputs": ' + b'{"a":' * 10**5, JSON) for path in (V1, V2, TF, TS)},
    **{f"gzip {path}": (path, gzip.compress(bytes(10**8)), {**JSON, "Content-Encoding": "gzip"}) for path in (V1, V2)},
    "length negative": (V2, *v2_binary([tensor(8)], bytes(8), -1)),
    "length huge": (V2, *v2_binary([tensor(8)], bytes(8), 2**64)),
    "length beyond": (V2, *v2_binary([tensor(8)], bytes(8), 10**6)),
    "length short": (V2, *v2_binary([tensor(8)], bytes(8), 9)),
    "size negative": (V2, *v2_binary([tensor(-8)], bytes(8))),
    "size huge": (V2, *v2_binary([tensor(2**63)], bytes(8))),
    "size too small": (V2, *v2_binary([tensor(4)], bytes(8))),
    "overlapping": (V2, *v2_binary([tensor(8), tensor(8)], bytes(8))),
    "shape huge": (V2, *v2_binary([tensor(8, shape=[2**40, 2**40])], bytes(8))),
    "axes": (V2, *v2_binary([tensor(8, shape=[9] * 200_000)], bytes(8))),
    "axes beyond numpy's": (V2, *v2_binary([tensor(8, shape=[1] * 65)], bytes(8))),
    "quotes without end": (TS, b"x", {"Content-Type": 'multipart/form-data; a="' + ";" * 60_000}),
    "many fields": (
        "/purify", b'--b\r\nContent-Disposition: form-data; name="k"\r\n\r\nv\r\n' * 5000 + b"--b--\r\n", FORM
    ),
    "many headers": ("/purify", b"--b\r\n" + b"k: v\r\n" * 10**5 + b"\r\n\r\n--b--\r\n", FORM),
}  # fmt: skip


@pytest.fixture(scope="module")
def gateway():
    nobody = "http://127.0.0.1:9/"  # to whom nothing below may get: that would be a 502
    with running(models="mnist-transparent", downstream_url=nobody, downstream_protocol="any") as client:
        yield client


@pytest.mark.parametrize("name", REQUESTS_TO_REFUSE)
def test_whole_requests_made_to_harm(gateway, name):
    path, body, headers = REQUESTS_TO_REFUSE[name]
    answer = gateway.post(path, content=body, headers=headers)
    assert 400 <= answer.status_code < 500, answer.text


PART = b'\r\nContent-Disposition: form-data; name="k"\r\n\r\n\r\n--b'
MANY = [
    (v1, b'{"instances": [' + b'"",' * MAX_PLACES + b'""]}', {}),
    (v1, b'{"instances": [{' + b",".join(b'"%d":0' % i for i in range(MAX_PLACES)) + b"}]}", {}),
    (v2, *v2_binary([tensor(4 * MAX_PLACES + 4, datatype="BYTES")], bytes(4 * MAX_PLACES + 4))),
    (v2_grpc, b"\x2a\x00" * (MAX_PLACES + 1), {}),
    (torchserve, b"--b" + PART * (MAX_PLACES + 1) + b"--", FORM),
]


@pytest.mark.parametrize(("protocol", "body", "headers"), MANY)
def test_what_is_looked_at_one_by_one_is_counted(protocol, body, headers):
    wire = Message(body, {name.lower(): value for name, value in headers.items()})
    with pytest.raises(BrokenBody, match=f"more than {MAX_PLACES}"):
        protocol.find(wire)


# -- answers of the server behind us ------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["predictions", "outputs", "shape", "datatype", "data", "parameters", "binary_data_size"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
shapes = st.lists(st.integers(-2, 3), max_size=3)
outputs = st.fixed_dictionaries(
    {"shape": shapes | values, "datatype": st.sampled_from([*v2.DTYPES, "BYTES"]) | values},
    optional={"data": values, "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-9, 99) | values})},
)
bodies = st.binary(max_size=50) | (values | st.fixed_dictionaries({"outputs": st.lists(outputs, max_size=2)})).map(
    lambda value: json.dumps(value).encode()
)


@settings(max_examples=600)
@given(st.sampled_from([v1, v2, v2_grpc, torchserve]), bodies, st.sampled_from([None, "0", "20", "x", "9" * 5000]))
@example(v1, b"[" * 100_000, None)
@example(v2, b"[" * 100_000, None)
@example(torchserve, b"[" * 100_000, None)
@example(v2, b'{"outputs": [{"shape": [], "datatype": "FP16", "data": 65520}]}', None)
def test_any_answer_tells_labels_or_none(protocol, body, length):
    told = protocol.labels(body, {v2.HEADER: length} if length else {})
    assert told is None or isinstance(told, list)
