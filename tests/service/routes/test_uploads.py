"""What clients send: types of any name, coded bodies, forms with empty inputs, images in colour and in grey."""

import gzip
import io
import zlib

import numpy as np
import pytest
from PIL import Image

from arn_purify.service.core import codec
from tests.conftest import running
from tests.service.images import PIXELS, PNG, picture, pixels, post

TYPES = ["image/jpg", "image/pjpeg", "image/x-png", "binary/octet-stream", "image/gif", "text/plain", "image/*", "x"]


@pytest.mark.parametrize("content_type", TYPES)
def test_the_bytes_decide_whatever_the_type_says(client, content_type):
    for body in (PNG, picture(kind="JPEG"), picture(kind="BMP"), picture(kind="WEBP")):
        assert post(client, body, content_type).status_code == 200
    assert post(client, codec.encode_npy(PIXELS), content_type).headers["content-type"] == codec.NPY_TYPE
    assert post(client, PNG, codec.NPY_TYPE).headers["content-type"] == "image/png"
    refused = post(client, b"hello", content_type)
    assert refused.status_code == (400 if content_type in TYPES[:4] else 415)


# -- coded bodies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/purify", "/classify"])
@pytest.mark.parametrize(
    ("coding", "code"), [("gzip", gzip.compress), ("X-GZIP", gzip.compress), ("deflate", zlib.compress)]
)
def test_coded_bodies_are_decoded(client, path, coding, code):
    plain = post(client, PNG, path=path)
    assert post(client, code(PNG), path=path, **{"Content-Encoding": coding}).content == plain.content
    assert post(client, PNG, path=path, **{"Content-Encoding": "identity"}).content == plain.content


@pytest.mark.parametrize(
    ("coding", "body", "status", "code"),
    [
        ("br", PNG, 415, "unsupported_media_type"),
        ("gzip, gzip", gzip.compress(gzip.compress(PNG)), 415, "unsupported_media_type"),
        ("gzip", PNG, 400, "broken_body"),
        ("gzip", gzip.compress(PNG)[:-9], 400, "broken_body"),
        ("deflate", zlib.compress(PNG) + b"x", 400, "broken_body"),
        ("gzip", gzip.compress(bytes(10**6)), 413, "body_too_large"),
    ],
)
def test_coded_bodies_that_cannot_be_taken_are_refused(coding, body, status, code):
    with running(models="mnist-transparent", max_body_bytes=100_000) as client:
        answer = post(client, body, **{"Content-Encoding": coding})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers.get("accept-encoding") == ("gzip, deflate" if status == 415 else None)


def test_what_a_body_grows_to_counts_against_the_memory_for_bodies():
    body = gzip.compress(codec.encode_npy(np.zeros((100, 28, 28, 1), np.uint8)))
    with running(models="mnist-transparent", max_body_bytes=100_000, bodies_bytes=100_000) as client:
        service = client.app.state.service
        assert post(client, body, codec.NPY_TYPE, **{"Content-Encoding": "gzip"}).status_code == 200
        with service.limits.memory.reserve(50_000):
            refused = post(client, body, codec.NPY_TYPE, **{"Content-Encoding": "gzip"})
        assert (refused.status_code, refused.json()["code"]) == (429, "bodies_full")
        assert service.limits.memory.reserved_bytes == 0


# -- forms --------------------------------------------------------------------------------------------------------


def form(*parts):
    lines = [
        f'--b\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\n'
        f"Content-Type: application/octet-stream\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in parts
    ]
    return b"".join(lines) + b"--b--\r\n"


def test_a_file_input_that_was_left_empty_is_no_file(client):
    kind = "multipart/form-data; boundary=b"
    alone = post(client, form(("a.png", PNG)), kind)
    for parts in ([("", b""), ("a.png", PNG)], [("a.png", PNG), ("", b""), ("", b"")]):
        answer = post(client, form(*parts), kind)
        assert (answer.status_code, answer.content) == (200, alone.content)
    assert post(client, form(("", PNG)), kind).content == alone.content, "bytes without a name are a file"
    for parts in ([("", b"")], [("a.png", b"")]):
        assert post(client, form(*parts), kind).status_code == 400


# -- colours ------------------------------------------------------------------------------------------------------


def photograph(size, kind="PNG"):
    buffer = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("sizes", ["evaluated", "any"])
@pytest.mark.parametrize("query", ["", "?resize=true"])
@pytest.mark.parametrize("size", [(28, 28), (224, 224)])
def test_a_colour_image_never_comes_back_grey_unless_a_grey_model_is_named(sizes, query, size):
    with running(models="mnist-transparent", sizes=sizes) as client:
        refused = post(client, photograph(size), path=f"/purify{query}")
        assert (refused.status_code, refused.json()["code"]) == (422, "wrong_size")
        grey = post(client, picture("RGB", size, colour=(90, 90, 90)), path=f"/purify{query}")
        taken = size == (28, 28) or sizes == "any" or query
        assert grey.status_code == (200 if taken else 422), "saved in colour, it shows none"
        if taken:
            assert "?model=mnist-transparent" in refused.json()["error"]
            assert pixels(grey).shape[2] == 1
            named = post(client, photograph(size), path=f"/purify{query or '?'}&model=mnist-transparent")
            assert pixels(named).shape[2] == 1


def test_beside_a_colour_model_each_image_goes_where_it_keeps_its_colours():
    with running(models="mnist-transparent,cifar10-transparent", sizes="any") as client:
        for body, model, channels in [
            (photograph((224, 224)), "cifar10-transparent", 3),
            (photograph((60, 50), "JPEG"), "cifar10-transparent", 3),
            (picture("RGB", (60, 50), colour=(9, 9, 9)), "mnist-transparent", 1),
            (picture("L", (224, 224)), "mnist-transparent", 1),
            (picture("L", (32, 32)), "cifar10-transparent", 3),
        ]:
            answer = post(client, body)
            assert answer.headers["x-arn-model"] == f"{model}@fp32"
            assert pixels(answer).shape[2] == channels
