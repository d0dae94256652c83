"""Where images hide: requests that ordinary clients send, and what becomes of them."""

import io
import json
from urllib.parse import quote

import grpc
import numpy as np
import pytest
from PIL import Image

from arn_purify.service.gateway.grpc import _CHANNEL_OPTIONS
from arn_purify.service.gateway.protocols import v2_grpc

from ...conftest import running
from .grpc_upstream import asking, grpc_upstream
from .helpers import PNG, ROWS, Upstream
from .spellings import b64, picture

V1, V2, TS = "/v1/models/m:predict", "/v2/models/m/infer", "/predictions/m"
JSON = {"Content-Type": "application/json"}
TEXT, FIELDS = {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}
DIGIT = (picture(PNG) / 255).tolist()
NUMBERS = list(PNG)


def v2(*inputs, **others):
    return {"inputs": [{"name": f"x{i}", **entry} for i, entry in enumerate(inputs)], **others}


def nested(value, levels):
    for _ in range(levels):
        value = {"k": value}
    return value


TEXTS = {"datatype": "BYTES", "shape": [1], "data": [b64(PNG)]}
READ = {
    "TorchServe's JSON": (TS, {"data": b64(PNG)}, JSON),
    "a bare list": (TS, [b64(PNG)], JSON),
    "a bare string": (TS, b64(PNG), JSON),
    "JSON of another content type": (TS, {"data": b64(PNG)}, FIELDS),
    "JSON of no content type": (TS, {"body": [{"data": b64(PNG)}]}, {}),
    "base64 as the body": (TS, b64(PNG).encode() + b"\n", TEXT),
    "a file as a form": (TS, PNG, FIELDS),
    "pluses not encoded": (TS, f"key=1&data={b64(PNG)}".encode(), FIELDS),
    "numbers of a file": (TS, {"data": NUMBERS}, JSON),
    "text for BYTES instead of a list": (V2, v2({**TEXTS, "data": b64(PNG)}), JSON),
    "numbers for BYTES": (V2, v2({**TEXTS, "data": NUMBERS}), JSON),
    "an unknown datatype of text": (V2, v2({**TEXTS, "datatype": "STRING"}), JSON),
    "a parameter of the request": (V1, {"instances": ROWS, "parameters": {"mask": b64(PNG)}}, JSON),
    "a parameter of an input": (V2, v2({**TEXTS, "parameters": {"mask": b64(PNG)}}), JSON),
    "contents in JSON": (V2, v2(TEXTS, {**TEXTS, "contents": {"bytes_contents": [b64(PNG)]}}), JSON),
    "frames": (V1, {"instances": [[[DIGIT]], [[DIGIT]]]}, JSON),
}
REFUSED = {
    "text among numbers": (V1, {"instances": [{"a": DIGIT, "b": [0, b64(PNG)]}]}, "stands in a list of other values"),
    "below eight levels": (V1, {"instances": [{"a": DIGIT, "b": nested(b64(PNG), 9)}]}, "list of other values"),
    "a file's numbers in uneven lists": (V1, {"instances": [{"a": DIGIT, "b": [[1], NUMBERS]}]}, "other values"),
    "quoted numbers": (V1, {"instances": [{"a": DIGIT, "b": [[str(x) for x in row] for row in DIGIT]}]}, "in quotes"),
    "an uneven image": (V1, {"instances": [{"a": DIGIT, "b": [*DIGIT[:-1], [0]]}]}, "different lengths"),
    "booleans": (V1, {"instances": [{"a": DIGIT, "b": [[x > 0.5 for x in row] for row in DIGIT]}]}, "no number"),
    "BOOL": (V2, v2(TEXTS, {"datatype": "BOOL", "shape": [1, 784], "data": [True] * 784}), "datatype BOOL is not read"),
    "an unknown datatype": (V2, v2(TEXTS, {"datatype": "FP8", "shape": [784], "data": [0] * 784}), "datatype FP8"),
    "text around an image": (V1, {"instances": [{"a": DIGIT, "b": f'<img src="x:{b64(PNG)}">'}]}, "other text stands"),
    "a file in another multipart type": (
        TS,
        b"--b\r\nContent-Type: image/png; name=" + b"x" * 64 + b"\r\n\r\n" + PNG,
        "around those of an image",
    ),
    "a form in quoted-printable": (
        TS,
        b'--b\r\nContent-Disposition: form-data; name="x"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n--b--',
        "Content-Transfer-Encoding",
    ),
    "a cut file": (V1, {"instances": [{"a": DIGIT, "b": b64(PNG)[:80]}]}, "cannot be decoded"),
}


@pytest.fixture(scope="module")
def digits(upstream):
    with running(models="mnist-transparent", downstream_url=upstream, downstream_protocol="any") as client:
        yield client


def content(body):
    return body if isinstance(body, bytes) else json.dumps(body).encode()


@pytest.mark.parametrize("name", READ)
def test_what_can_be_read_is_purified(digits, asked, name):
    path, body, headers = READ[name]
    answer = digits.post(path, content=content(body), headers=headers)
    assert (answer.status_code, answer.headers["x-arn-purified"]) == (200, "true"), answer.text
    ((_, _, _, sent),) = asked
    assert sent != content(body)
    for original in (b64(PNG).encode(), PNG, json.dumps(NUMBERS).encode(), json.dumps(DIGIT).encode()):
        assert original not in sent


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_the_reason(digits, asked, name):
    path, body, reason = REFUSED[name]
    kind = (
        "multipart/form-data; boundary=b" if "form" in name else "multipart/mixed" if path == TS else "application/json"
    )
    answer = digits.post(path, content=content(body), headers={"Content-Type": kind})
    assert answer.status_code in (400, 422)
    assert reason in (answer.json().get("error") or answer.json()["message"])
    assert not asked


@pytest.mark.parametrize("value", [b64(PNG), quote(b64(PNG)), f"data:image/png;base64,{b64(PNG)}"])
def test_an_image_in_the_query_is_refused(digits, asked, value):
    answer = digits.post(f"{TS}?key=1&data={quote(value, safe='')}", content=PNG)
    assert answer.status_code == 400
    assert "the query's 'data'" in answer.json()["message"]
    assert digits.post(f"{TS}?{'a=1&' * 1001}", content=PNG).status_code == 400
    assert digits.post(f"{TS}?key=1", content=PNG).status_code == 200
    assert len(asked) == 1


def test_a_tensor_that_no_purifier_takes_is_named(digits):
    body = v2({"datatype": "FP32", "shape": [1, 9, 9], "data": [0] * 81})
    assert "'x0' is float32 [1, 9, 9]" in digits.post(V2, content=content(body)).json()["error"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"abc", "a value is expected at character 0"),
        (b'{"inputs": None}', "a value is expected at character 11"),
        (b'\xef\xbb\xbf{"inputs": []}', "a value is expected at character 0, not a byte-order mark"),
        (b'{"inputs": [1, ', "a value is expected at character 15, where the body ends"),
        (b'{"inputs": ' + b"[" * 100_000, "it is nested too deeply"),
        (b'{"inputs"', "it ends too early"),
    ],
)
@pytest.mark.parametrize("path", [V1, V2])
def test_json_that_is_none_is_refused_with_the_place(digits, path, body, reason):
    assert reason in digits.post(path, content=body).json()["error"]


def encoded(mode, side, kind="PNG"):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    grey = Image.fromarray(pixels[..., 0])  # 28x28 in colour has no purifier here
    (grey if side == 28 else Image.fromarray(pixels)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(("mode", "side"), [("RGB", 28), ("L", 28), ("L", 32), ("RGB", 32)])
def test_an_image_goes_on_with_the_channels_that_it_came_with(upstream, asked, mode, side):
    models = "mnist-transparent,cifar10-transparent"
    with running(models=models, downstream_url=upstream, downstream_protocol="torchserve") as client:
        assert client.post(TS, content=encoded(mode, side)).headers["x-arn-purified"] == "true"
    assert Image.open(io.BytesIO(asked[0][3])).mode == mode


# -- gRPC ---------------------------------------------------------------------------------------------------------


def tensor(**contents):
    request = v2_grpc.parse("ModelInferRequest", b"")
    entry = request.inputs.add(name="x", datatype="BYTES", shape=[1])
    for field, values in contents.items():
        getattr(entry.contents, field).extend(values)
    return request, entry


def test_over_grpc_images_in_parameters_are_purified_and_contents_that_two_servers_read_differently_refused(asked):
    plain, _ = tensor(bytes_contents=[PNG])
    plain.inputs[0].parameters["mask"].string_param = b64(PNG)
    plain.parameters["note"].string_param = "kept"
    both, _ = tensor(bytes_contents=[PNG])
    both.raw_input_contents.append(bytes([3, 0, 0, 0]) + b"abc")
    other, _ = tensor(bytes_contents=[PNG], int_contents=[1])
    unread, entry = tensor(bytes_contents=[PNG])
    entry.datatype = "STRING"
    half, entry = tensor(bytes_contents=[PNG])
    half.inputs.add(name="y", datatype="FP16", shape=[28, 28]).contents.fp32_contents.extend([0.5] * 784)
    with grpc_upstream() as (behind, address):
        settings = {"models": "mnist-transparent", "downstream_grpc": address, "grpc_port": 0}
        with running(**settings) as client, asking(client) as ask:
            _, call = ask(plain.SerializeToString())
            for request, reason in [
                (both, "which is not its contents"),
                (other, "which is not its contents"),
                (unread, "its datatype STRING is not read here"),
                (half, "FP16 is read as raw contents only"),
            ]:
                with pytest.raises(grpc.RpcError, match=reason):
                    ask(request.SerializeToString())
    assert dict(call.initial_metadata())["x-arn-purified"] == "true"
    ((_, _, sent),) = behind.asked
    assert PNG not in sent
    assert b64(PNG).encode() not in sent
    assert v2_grpc.parse("ModelInferRequest", sent).parameters["note"].string_param == "kept"


@pytest.mark.parametrize("field", ["name", "datatype", "parameter"])
def test_over_grpc_a_long_name_is_not_sent_back(asked, field):
    request, entry = tensor(fp32_contents=[1])
    name = "\x7f" * 100_000
    if field == "parameter":
        entry.parameters[name].string_param = "R0lGODlhAAAAAAAAAAAAAAAA"
    else:
        entry.datatype = "FP32"
        setattr(entry, field, name)
    with grpc_upstream() as (behind, address):
        settings = {"models": "mnist-transparent", "downstream_grpc": address, "grpc_port": 0}
        with running(**settings) as client, asking(client) as ask, pytest.raises(grpc.RpcError) as told:
            ask(request.SerializeToString())
    assert told.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert 0 < len(told.value.details()) < 1000
    assert not behind.asked


def test_the_servers_grpc_error_comes_back_beside_our_evidence():
    request, _ = tensor(bytes_contents=[PNG])
    with grpc_upstream() as (behind, address):
        behind.answer = lambda request, context: context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        settings = {"models": "mnist-transparent", "downstream_grpc": address, "grpc_port": 0}
        with running(**settings) as client, asking(client) as ask, pytest.raises(grpc.RpcError) as told:
            ask(request.SerializeToString())
    trailing = dict(told.value.trailing_metadata())
    assert (told.value.code(), told.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such model")
    assert (trailing["x-arn-refused-by"], trailing["x-arn-purified"]) == ("downstream", "true")


def test_proxies_of_the_environment_are_ignored_by_http_grpc_and_the_check_at_start(upstream, asked, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    metadata = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 9, 9]}]}
    monkeypatch.setattr(Upstream, "answers", staticmethod(lambda path: (200, {}, json.dumps(metadata).encode())))
    from arn_purify.service.gateway.startup import check

    request, _ = tensor(bytes_contents=[PNG])
    with grpc_upstream() as (behind, address):
        settings = {"models": "mnist-transparent", "downstream_url": upstream, "downstream_protocol": "v2"}
        with running(**settings, downstream_model="m", downstream_grpc=address, grpc_port=0) as client:
            monkeypatch.setenv("no_grpc_proxy", "127.0.0.1")  # of the test's own channel
            with asking(client) as ask:
                ask(request.SerializeToString())
            assert client.post(V2, content=content(v2(TEXTS))).status_code == 200
            with pytest.raises(ValueError, match="has the shape"):
                check(client.app.state.service.gateway)
    assert len(behind.asked) == 1


def test_grpc_asks_a_server_that_was_away_again_as_soon_as_http_does():
    assert dict(_CHANNEL_OPTIONS)["grpc.max_reconnect_backoff_ms"] == 15_000
