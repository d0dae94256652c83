"""What passes between client, purifier and server besides images: headers, deadlines, refusals, and the documented
examples of TensorFlow Serving, which has no package to run here."""

import asyncio
import base64
import gzip
import io
import json
import socket
import time

import numpy as np
import pytest
from PIL import Image

from arn_purify.service.core import codec
from arn_purify.service.gateway.downstream import Downstream
from arn_purify.service.gateway.protocols import v2
from arn_purify.service.gateway.rest import verbatim

from ...conftest import running
from .helpers import GOOD, HEAD, PNG, ROWS, Says, Upstream, sample, v2_body


@pytest.mark.parametrize(
    "body",
    [
        '{"instances": ROWS}',
        '{"signature_name": "serving_default", "instances": ROWS}',
        '{"instances": [{"tag": "foo", "signal": ROW, "sensor": [[1, 2], [3, 4]]}]}',
        '{"instances": [{"image": {"b64": "PNG"}, "caption": "seaside"}]}',
        '{"instances": [{"b64": "PNG"}, {"b64": "PNG"}]}',
        '{"inputs": {"tag": ["foo"], "signal": ROWS, "sensor": [[[1, 2], [3, 4]]]}}',
        '{"inputs": ROWS, "signature_name": "x", "threshold": NaN}',
    ],
)
@pytest.mark.parametrize(
    "path",
    ["/v1/models/half_plus_two:predict", "/v1/models/m/versions/2:predict", "/v1/models/m/labels/stable:predict"],
)
def test_tensorflow_servings_documented_requests_are_purified(gateway, asked, body, path):
    for name, image in {
        "ROWS": json.dumps(ROWS),
        "ROW": json.dumps(ROWS[0]),
        "PNG": base64.b64encode(PNG).decode(),
    }.items():
        body = body.replace(name, image)
    answer = gateway.post(path, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.content) == (200, b'{"predictions": [[0.1, 0.9]]}')
    assert answer.headers["x-arn-purified"] == "true"
    assert float(answer.headers["x-arn-residual-l2"]) > 0
    ((method, asked_path, _, sent),) = asked
    assert (method, asked_path) == ("POST", path)
    assert sent != body.encode()
    for kept in ('"foo"', "[[1, 2], [3, 4]]", '"seaside"', '"signature_name": "', '"threshold": NaN'):
        assert (kept in body) == (kept in sent.decode())


def test_health_and_metadata_pass_with_their_query(gateway, asked):
    for path in ["/v1/models", "/v1/models/m", "/v1/models/m/metadata", "/v1/models/m/versions/1?x=1", "/ping", "/v2"]:
        assert gateway.get(path).status_code == 200
    assert [path for _, path, _, _ in asked] == [
        "/v1/models", "/v1/models/m", "/v1/models/m/metadata", "/v1/models/m/versions/1?x=1", "/ping", "/v2",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["m:predict", "m:explain", "m/versions/2:predict", "m/labels/stable:predict"])
def test_a_route_that_takes_images_is_no_model_of_that_name(gateway, asked, path):
    answer = gateway.get(f"/v1/models/{path}")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["code"] == "method_not_allowed"
    assert gateway.get(f"/v1/models/{path}ion").status_code == 404
    assert not asked


def test_what_concerns_the_server_is_passed_on_and_nothing_else(gateway, asked):
    headers = {
        "Authorization": "Bearer t", "traceparent": "00-1-2-01", "X-Request-ID": "r-1", "X-API-Key": "ours",
        "Connection": "keep-alive, X-Hop", "X-Hop": "1", "TE": "trailers", "Accept-Encoding": "gzip",
        "x-envoy-expected-rq-timeout-ms": "5000", "Content-Encoding": "gzip", "X-Custom": "kept",
    }  # fmt: skip
    body = json.dumps({"instances": ROWS}).encode()
    answer = gateway.post("/v1/models/m:predict?a=b%20c", content=gzip.compress(body), headers=headers)
    assert answer.status_code == 200
    ((_, path, sent, received),) = asked
    assert path == "/v1/models/m:predict?a=b%20c"
    for name in ("Authorization", "traceparent", "X-Request-ID", "X-Custom", "Accept-Encoding"):
        assert sent[name.lower()] == headers[name]
    assert not {"x-api-key", "x-hop", "te", "content-encoding"} & set(sent)
    assert 1 <= int(sent["x-envoy-expected-rq-timeout-ms"]) < 5000
    assert int(sent["content-length"]) == len(received)
    assert json.loads(received)["instances"]


NAMED = {"Connection": "close, Content-Type, X-Request-ID, Inference-Header-Content-Length, X-Own", "X-Own": "1"}


@pytest.mark.parametrize(
    ("protocol", "path", "body"),
    [
        ("raw", "/classify", PNG),
        ("torchserve", "/predictions/m", PNG),
        ("v1", "/v1/models/m:predict", json.dumps({"instances": ROWS}).encode()),
        ("v2", "/v2/models/m", b""),
    ],
)
def test_a_client_takes_away_its_own_headers_only(upstream, asked, protocol, path, body):
    """``Connection`` names what is for the next hop, which we are; what we send the server is for the server."""
    with running(downstream_url=upstream, downstream_protocol=protocol) as client:
        headers = {**NAMED, "Content-Type": "image/png", "X-Request-ID": "r-1"}
        answer = client.request("POST" if body else "GET", path, content=body, headers=headers)
    assert answer.status_code == 200
    ((_, _, sent, _),) = asked
    assert sent["x-request-id"] == answer.headers["x-request-id"] == "r-1"
    assert "x-own" not in sent
    assert sent.get("content-type") == ("image/png" if protocol == "raw" else None)


def test_a_body_without_its_declared_length_is_refused(upstream, asked):
    message = v2_body(GOOD)
    with running(downstream_url=upstream, downstream_protocol="v2") as client:
        answer = client.post("/v2/models/m/infer", content=message.body, headers={**message.headers, **NAMED})
    assert (answer.status_code, answer.json()["code"]) == (400, "broken_body")
    assert not asked


def test_status_headers_and_compressed_body_of_the_server_come_back_as_they_are(gateway, asked, monkeypatch):
    packed = gzip.compress(b'{"error": "busy"}')
    told = {"Content-Type": "application/json", "Content-Encoding": "gzip", "Retry-After": "17", "X-Theirs": "1",
            "Server-Timing": "net;dur=1", "Connection": "close"}  # fmt: skip
    monkeypatch.setattr(Upstream, "answers", staticmethod(lambda path: (503, told, packed)))
    answer = gateway.post("/v1/models/m:predict", content=json.dumps({"instances": ROWS}))
    assert (answer.status_code, answer.json()) == (503, {"error": "busy"})
    assert (answer.headers["retry-after"], answer.headers["x-theirs"]) == ("17", "1")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["server-timing"].endswith(", net;dur=1")
    assert answer.headers["x-arn-refused-by"] == "downstream"
    assert not {"date", "server"} & answer.headers.keys()  # uvicorn adds its own
    assert sample(gateway, 'arn_downstream_requests_total{status="503"}') >= 1


def test_a_cookie_of_one_client_is_not_sent_with_anothers_request(upstream, asked, monkeypatch):
    told = {"Set-Cookie": "session=secret"}
    monkeypatch.setattr(Upstream, "answers", staticmethod(lambda path: (200, told, b"{}")))
    with running(downstream_url=upstream.replace("127.0.0.1", "localhost"), downstream_protocol="v1") as client:
        assert client.get("/v1/models").headers["set-cookie"] == "session=secret"
        client.cookies.clear()
        client.get("/v1/models")
    assert ["cookie" in sent for _, _, sent, _ in asked] == [False, False]


async def test_headers_go_through_byte_for_byte(says, gateway, asked, monkeypatch):
    utf8, latin1 = "猫".encode(), "café".encode("latin-1")
    what = HEAD + b"X-Utf8: " + utf8 + b"\r\nX-Latin1: " + latin1 + b"\r\nX-Tab: a\tb\r\n"
    hops = b"Connection: keep-alive\r\nConnection: X-Other, X-Hop\r\nX-Hop: 1\r\n"
    monkeypatch.setattr(Says, "what", what + hops + b"Content-Length: 2\r\n\r\n{}")
    downstream = Downstream(says, 5.0)
    raw = dict(verbatim(await downstream.ask("POST", "/", {}), {}).raw_headers)
    await downstream.close()
    assert (raw[b"x-utf8"], raw[b"x-latin1"], raw[b"x-tab"]) == (utf8, latin1, b"a\tb")
    assert b"x-hop" not in raw
    gateway.get("/v1/models", headers=[(b"X-Name", utf8)])
    assert asked[0][2]["x-name"].encode("latin-1") == utf8


def test_what_has_no_body_keeps_the_length_of_what_it_is_about(gateway, asked):
    length = gateway.get("/v1/models").headers["content-length"]
    assert int(length) > 0
    assert gateway.head("/v1/models").headers["content-length"] == length


@pytest.mark.parametrize("base", ["/predict/", "/predict", ""])
def test_the_raw_address_is_asked_as_it_is_written(upstream, asked, base):
    with running(downstream_url=upstream + base) as client:
        client.post("/classify", content=PNG)
    assert [path for _, path, _, _ in asked] == [base or "/"]


def test_the_stages_of_a_request_that_fails_are_observed():
    with running(downstream_url="http://127.0.0.1:9", downstream_protocol="v1") as client:
        assert client.post("/v1/models/m:predict", content=json.dumps({"instances": ROWS})).status_code == 502
        for stage in ("decode", "queue", "infer", "downstream"):
            assert sample(client, f'arn_stage_seconds_count{{stage="{stage}"}}') == 1


@pytest.mark.parametrize("path", ["/classify", "/v1/models/m:predict"])
def test_a_refused_request_counts_in_the_stages_that_it_reached(upstream, path):
    cut = PNG[:200]
    rows = json.dumps({"instances": [{"b64": base64.b64encode(cut).decode()}]})
    protocol, body = ("raw", cut) if path == "/classify" else ("v1", rows)
    with running(downstream_url=upstream, downstream_protocol=protocol) as client:
        assert client.post(path, content=body).status_code == 400
        counts = [sample(client, f'arn_stage_seconds_count{{stage="{stage}"}}') for stage in ("decode", "queue")]
    assert counts == [1, 0]


def test_what_is_no_picture_is_not_forwarded_as_one(upstream, asked):
    body = codec.encode_npy(np.zeros((1, 8, 8, 5), np.uint8))
    with running(downstream_url=upstream, models="identity") as client:
        answer = client.post("/classify", content=body, headers={"Content-Type": codec.NPY_TYPE})
        assert (answer.status_code, answer.json()["code"]) == (422, "wrong_size")
    assert not asked


def test_torchserve_gets_a_png_by_post_and_put_and_a_jpeg_is_renamed(gateway, asked):
    jpeg = io.BytesIO()
    Image.new("L", (28, 28), 99).save(jpeg, "JPEG")
    for method, body, kind in [("POST", PNG, "image/png"), ("PUT", jpeg.getvalue(), "image/jpeg"), ("PUT", PNG, None)]:
        headers = {"Content-Type": kind} if kind else {}
        assert gateway.request(method, "/predictions/m/1.0", content=body, headers=headers).status_code == 200
    assert [(method, sent.get("content-type")) for method, _, sent, _ in asked] == [
        ("POST", "image/png"), ("PUT", "image/png"), ("PUT", None),
    ]  # fmt: skip
    for _, _, _, body in asked:
        assert Image.open(io.BytesIO(body)).format == "PNG"


def test_a_client_that_hangs_up_ends_the_call_to_the_server(upstream, tmp_path):

    from ...e2e.conftest import serving

    Upstream.left.clear()
    body = json.dumps({"instances": ROWS}).encode()
    with serving(tmp_path, "--downstream-url", upstream, "--downstream-protocol", "v1") as served:
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            head = f"POST /v1/models/slow:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            Upstream.asked.clear()
            client.sendall(head.encode() + body)
            while not Upstream.asked:
                time.sleep(0.01)
        assert Upstream.left.wait(4)
        while 'route="/v1/models/{model}:predict",status="499"} 1.0' not in served.client.get("/metrics").text:
            time.sleep(0.01)


def test_a_request_whose_body_is_still_coming_is_finished_when_the_service_drains(upstream, asked):
    with running(downstream_url=upstream, downstream_protocol="v1") as client:
        lifecycle = client.app.state.service.lifecycle
        body = json.dumps({"instances": ROWS}).encode()

        def in_two_pieces():
            yield body[:9]
            lifecycle.draining = True
            yield body[9:]

        answer = client.post("/v1/models/m:predict", content=in_two_pieces())
        assert (answer.status_code, answer.headers["x-arn-purified"]) == (200, "true")
        refused = client.post("/v1/models/m:predict", content=body)
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")


def test_many_short_texts_are_looked_at_beside_the_event_loop(gateway, asked, monkeypatch):
    beside = []
    to_thread = asyncio.to_thread
    monkeypatch.setattr(asyncio, "to_thread", lambda function: beside.append(function) or to_thread(function))
    few, many = (json.dumps({"instances": ["b'%25,%25'"] * count}).encode() for count in (3, 3000))
    assert gateway.post("/v1/models/m:predict", content=few).status_code == 422
    assert not beside
    for body, headers in ((many, {}), (b" " * 100 + many, {}), (many, {v2.HEADER: "0"})):
        beside.clear()
        assert gateway.post("/v1/models/m:predict", content=body, headers=headers).status_code == 422
        assert len(beside) == 2, "to find the values, and to look at them"
