"""The HTTP contract, in process: bodies, negotiation, headers, errors, metrics."""

import base64
import email
import io
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from arn_purify.service.core import codec
from arn_purify.service.errors import DeadlineExceeded, QueueFull
from tests.conftest import running
from tests.service.images import PIXELS, PNG, picture, pixels, post


def test_a_png_comes_back_purified_with_its_evidence(client, expected):
    answer = post(client, PNG)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert abs(pixels(answer).astype(int) - expected[0]).max() <= 1
    residual = (pixels(answer).astype(np.float32) - PIXELS[0]) / 255
    assert float(answer.headers["x-arn-residual-linf"]) == pytest.approx(abs(residual).max(), abs=1e-5)
    assert float(answer.headers["x-arn-residual-l2"]) == pytest.approx(np.linalg.norm(residual), abs=1e-4)
    assert answer.headers["x-arn-model"] == "mnist-transparent@fp32"
    assert answer.headers["x-arn-model-sha256"] == client.get("/models").json()["purifiers"][0]["sha256"]
    assert answer.headers["x-arn-profile"] == "transparent"
    assert answer.headers["x-arn-purified"] == "true"
    assert answer.headers["vary"] == "Accept"
    stages = dict(re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"]))
    assert list(stages) == ["decode", "queue", "infer", "encode"]
    assert float(stages["infer"]) > 0


def test_the_request_id_is_taken_or_made(client):
    assert post(client, PNG, **{"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = {post(client, PNG, **{"X-Request-ID": "no spaces"}).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    assert all(re.fullmatch(r"[0-9a-f]{32}", name) for name in made)


@pytest.mark.parametrize("batch", [1, 7, 32])
def test_an_image_is_the_same_whatever_batch_it_travels_in(client, expected, batch):
    stack = np.resize(PIXELS, (batch, 28, 28, 1))
    answer = post(client, codec.encode_npy(stack), codec.NPY_TYPE)
    assert answer.headers["content-type"] == codec.NPY_TYPE
    back = np.load(io.BytesIO(answer.content))
    assert back.dtype == np.uint8
    assert abs(back.astype(int) - np.resize(expected, back.shape)).max() <= 1


def test_a_float_tensor_keeps_dtype_and_layout(client, expected):
    stack = (PIXELS / np.float32(255)).transpose(0, 3, 1, 2)
    back = np.load(io.BytesIO(post(client, codec.encode_npy(stack), codec.NPY_TYPE).content))
    assert (back.dtype, back.shape) == (np.float32, (7, 1, 28, 28))
    assert abs(back.transpose(0, 2, 3, 1) * 255 - expected).max() <= 1


@pytest.mark.parametrize("content_type", ["", "application/octet-stream", "application/x-www-form-urlencoded"])
def test_curls_default_types_are_recognised_by_their_bytes(client, content_type):
    assert post(client, PNG, content_type).headers["content-type"] == "image/png"
    assert post(client, codec.encode_npy(PIXELS), content_type).headers["content-type"] == codec.NPY_TYPE


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP"])
def test_other_formats_are_read(client, kind):
    assert post(client, picture(kind=kind), f"image/{kind.lower()}").status_code == 200


@pytest.mark.parametrize("accept", ["image/png", "image/webp", "application/x-npy", "application/json"])
def test_one_image_comes_back_as_asked(client, accept, expected):
    answer = post(client, PNG, Accept=accept)
    assert answer.headers["content-type"] == accept
    if accept == "application/json":
        (image,) = answer.json()["images"]
        back = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["png"]))))[..., None]
        assert image["shape"] == [28, 28, 1]
        assert set(image["residual"]) == {"linf", "l2"}
    elif accept == "application/x-npy":
        back = np.load(io.BytesIO(answer.content))[0]
    else:
        back = pixels(answer)[..., :1]
    assert abs(back.astype(int) - expected[0]).max() <= 1


def test_many_files_come_back_as_multipart_or_json(client, expected):
    files = [("file", (f"digits/{i}.bmp", codec.encode_image(image), "image/png")) for i, image in enumerate(PIXELS)]
    answer = client.post("/purify", files=files)
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    parts = email.message_from_bytes(head + answer.content).get_payload()
    assert [part.get_filename() for part in parts] == [f"{i}.png" for i in range(7)]
    for part, image in zip(parts, expected, strict=True):
        back = np.asarray(Image.open(io.BytesIO(part.get_payload(decode=True))))[..., None]
        assert abs(back.astype(int) - image).max() <= 1
        assert float(part["X-ARN-Residual-Linf"]) > 0
    as_json = client.post("/purify", files=files, headers={"Accept": "application/json"}).json()
    assert [image["filename"] for image in as_json["images"]] == [f"digits/{i}.bmp" for i in range(7)]
    alone = client.post("/purify", files=files[:1])
    assert alone.headers["content-type"] == "image/png"


def test_files_of_different_sizes_go_to_the_models_that_take_them(client, monkeypatch):
    files = [("f", ("a.png", PNG)), ("f", ("b.png", picture(size=(33, 17)))), ("f", ("c.png", PNG))]
    answer = client.post("/purify", files=files, headers={"Accept": "application/json"})
    assert [image["model"] for image in answer.json()["images"]] == [
        "mnist-transparent",
        "identity",
        "mnist-transparent",
    ]
    assert [image["shape"] for image in answer.json()["images"]] == [[28, 28, 1], [17, 33, 1], [28, 28, 1]]
    assert answer.headers["x-arn-model"] == "mnist-transparent@fp32, identity@fp32"

    async def full(*_):
        raise QueueFull("full", retry_after=2)

    monkeypatch.setattr(client.app.state.service.batcher, "submit", full)
    refused = client.post("/purify", files=files)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")


def test_a_model_can_be_chosen_and_the_identity_changes_nothing(client):
    colour = np.random.default_rng(1).integers(0, 256, (33, 17, 3), dtype=np.uint8)
    answer = post(client, codec.encode_image(colour), path="/purify?model=identity")
    assert np.array_equal(pixels(answer), colour)
    assert answer.headers["x-arn-residual-linf"] == "0.000000"
    assert post(client, codec.encode_image(colour)).headers["x-arn-model"] == "identity@fp32", "the first that takes it"


def test_colour_becomes_grey_for_a_grey_model(client):
    answer = post(client, picture("RGB", colour=(90, 90, 90)))
    assert pixels(answer).shape == (28, 28, 1)
    assert np.array_equal(pixels(answer), pixels(post(client, picture("L"))))


def test_resize_resamples_to_the_models_size(client):
    answer = post(client, picture(size=(50, 40)), path="/purify?model=mnist-transparent&resize=true")
    assert pixels(answer).shape == (28, 28, 1)


# -- refusals -----------------------------------------------------------------------------------------------------


REFUSALS = [
    (b"", "image/png", "/purify", 400, "broken_body"),
    (b"no image", "image/png", "/purify", 400, "broken_image"),
    (PNG[:100], "image/png", "/purify", 400, "broken_image"),
    (b"junk", "multipart/form-data; boundary=x", "/purify", 400, "broken_body"),
    (b"junk", "multipart/form-data", "/purify", 400, "broken_body"),
    (codec.encode_npy(PIXELS)[:-1], codec.NPY_TYPE, "/purify", 400, "broken_body"),
    (PNG, "image/png", "/purify?model=nobody", 404, "unknown_model"),
    (b"x" * 200_001, "image/png", "/purify", 413, "body_too_large"),
    (codec.encode_npy(np.zeros((65, 28, 28, 1), np.uint8)), codec.NPY_TYPE, "/purify", 413, "too_many_images"),
    (b"hello", "text/plain", "/purify", 415, "unsupported_media_type"),
    (picture(kind="GIF"), "image/gif", "/purify", 415, "unsupported_media_type"),
    (picture(size=(30, 28)), "image/png", "/purify", 422, "wrong_size"),
    (codec.encode_npy(np.zeros((1, 28, 28, 3), np.uint8)), codec.NPY_TYPE, "/purify", 422, "wrong_size"),
    (codec.encode_npy(np.zeros((1, 1, 28, 28))), codec.NPY_TYPE, "/purify", 422, "bad_parameter"),
    (
        codec.encode_npy(PIXELS[:1]).replace(b"(1,", b"(True,").replace(b"   \n", b"\n"),
        codec.NPY_TYPE,
        "/purify",
        422,
        "bad_parameter",
    ),
    (PNG, "image/png", "/purify?resize=maybe", 422, "bad_parameter"),
    (codec.encode_npy(PIXELS), codec.NPY_TYPE, "/purify?resize=true", 422, "bad_parameter"),
    (picture(size=(200, 200)), "image/png", "/purify", 422, "too_many_pixels"),
]


@pytest.fixture(scope="module")
def small():
    with running(queue_images=64, max_body_bytes=200_000, max_pixels=30_000) as client:
        yield client


@pytest.mark.parametrize(("body", "content_type", "path", "status", "code"), REFUSALS)
def test_every_refusal_has_its_status_and_sentence(small, body, content_type, path, status, code):
    answer = post(small, body, content_type, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert len(answer.json()["error"]) > 10
    assert answer.headers["x-arn-refused-by"] == "purifier"


def test_a_wrong_size_is_told_the_sizes_that_are_taken(small):
    assert "mnist-transparent 28x28" in post(small, picture(size=(30, 28))).json()["error"]
    files = [("f", ("ok.png", PNG)), ("f", ("bad.png", b"junk"))]
    assert small.post("/purify", files=files).json()["error"].startswith("bad.png: ")


def test_more_files_than_the_queue_holds_are_413(small):
    answer = small.post("/purify", files=[("f", ("a.png", PNG))] * 65)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_images")


@pytest.mark.parametrize("charset", ["utf-7", "punycode", "utf-16", "hex", "none-such", "latin-1"])
def test_a_form_is_read_as_utf_8_whatever_charset_it_declares(client, charset):
    """RFC 7578 has no such parameter, and some charsets take hours to decode."""
    part = '--b\r\nContent-Disposition: form-data; name="f"; filename="+2AA-é.png"\r\n\r\n'.encode()
    answer = post(client, part + b"junk\r\n--b--\r\n", f"multipart/form-data; charset={charset}; boundary=b")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("+2AA-é.png: ")


@pytest.mark.parametrize("boundary", ["", "; boundary=", '; boundary="a\\"b"', "; boundary=" + "b" * 300])
def test_a_boundary_that_is_none_is_told(client, boundary):
    answer = post(client, b"--b\r\n\r\n\r\n--b--\r\n", "multipart/form-data" + boundary)
    assert (answer.status_code, answer.json()["code"]) == (400, "broken_body")


def test_no_picture_is_offered_that_cannot_be(client):
    five = codec.encode_npy(np.zeros((1, 8, 8, 5), np.uint8))
    assert post(client, five, codec.NPY_TYPE, "/purify?model=identity").status_code == 200
    for accept in ("image/png", "application/json", "multipart/mixed"):
        assert post(client, five, codec.NPY_TYPE, "/purify?model=identity", Accept=accept).status_code == 406
    wide = picture(size=(20_000, 2))
    assert post(client, wide, path="/purify?model=identity", Accept="image/webp").status_code == 406


def test_nothing_acceptable_is_406(client):
    assert post(client, PNG, Accept="text/html").status_code == 406
    assert post(client, PNG, path="/classify", Accept="image/png").status_code == 406


def test_what_is_accepted_may_stand_on_several_lines(client):
    headers = [("Content-Type", "image/png"), ("Accept", "text/html"), ("Accept", "image/png")]
    assert client.post("/purify", content=PNG, headers=headers).headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    ("error", "status"),
    [(QueueFull("full", retry_after=3), 429), (DeadlineExceeded("late"), 504), (OSError("bug"), 500)],
)
def test_trouble_behind_the_door_has_its_status_and_no_traceback(client, monkeypatch, error, status):
    async def fail(*_):
        raise error

    monkeypatch.setattr(client.app.state.service.batcher, "submit", fail)
    answer = post(client, PNG)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "code"}
    assert "Traceback" not in answer.text
    assert answer.headers["x-request-id"]
    assert answer.headers["x-arn-refused-by"] == "purifier"
    if status == 429:
        assert answer.headers["retry-after"] == "3"


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.binary(max_size=64), st.integers(1, len(PNG)).map(lambda n: PNG[:n])),
    st.sampled_from(["image/png", "", "application/x-npy", "multipart/form-data; boundary=b", "image/webp"]),
    st.sampled_from(["/purify", "/classify", "/purify?resize=1", "/purify?model=identity"]),
)
def test_no_upload_is_a_500(client, body, content_type, path):
    assert post(client, body, content_type, path).status_code in (200, 400, 413, 415, 422)
