"""What passes between client, purifier and server besides images: headers, deadlines, refusals, and the documented
examples of TensorFlow Serving, which has no package to run here."""

import argparse
import base64
import contextlib
import gzip
import io
import json
import select
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import aiohttp
import numpy as np
import pytest
from PIL import Image

from arn_purify.service.core import codec
from arn_purify.service.errors import DownstreamOpen, DownstreamUnreachable
from arn_purify.service.gateway.downstream import Breaker, Downstream
from arn_purify.service.gateway.preprocessing import Preprocessing
from arn_purify.service.gateway.protocols import v2
from arn_purify.service.gateway.rest import mismatch, verbatim
from arn_purify.service.settings import Settings, add_flags, add_transformer_flags, from_flags

from ..conftest import running

PNG = (Path(__file__).parents[2] / "examples" / "adversarial_3.png").read_bytes()
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


@pytest.fixture(scope="module")
def upstream():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def asked():
    Upstream.asked.clear()
    return Upstream.asked


@pytest.fixture(scope="module")
def gateway(upstream):
    models = "mnist-transparent,identity"
    with running(downstream_url=upstream, downstream_protocol="any", models=models, queue_images=64) as client:
        yield client


def sample(client, line):
    found = [row for row in client.get("/metrics").text.splitlines() if row.startswith(line + " ")]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


# -- TensorFlow Serving's documented requests (its REST API page), with images where it has them -------------------


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


# -- headers ------------------------------------------------------------------------------------------------------


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
    what = _HEAD + b"X-Utf8: " + utf8 + b"\r\nX-Latin1: " + latin1 + b"\r\nX-Tab: a\tb\r\n"
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


def test_what_a_body_grows_to_needs_room_too(upstream):
    limits = {"max_body_bytes": 2**20, "bodies_bytes": 2**20}
    with running(downstream_url=upstream, downstream_protocol="v1", **limits) as client:
        large, small = b" " * (2**20 - 50), b" " * 2**19
        for body, coding, status, code in [
            (gzip.compress(large), "gzip", 429, "bodies_full"),
            (gzip.compress(small), "gzip", 400, "broken_body"),
            (large, "identity", 400, "broken_body"),
        ]:
            answer = client.post("/v1/models/m:predict", content=body, headers={"Content-Encoding": coding})
            assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert sample(client, "arn_body_bytes") == 0


def test_what_images_grow_to_needs_room_too_and_an_end(upstream):
    large = io.BytesIO()
    Image.new("L", (1000, 1000)).save(large, "PNG")
    rows = [{"b64": base64.b64encode(large.getvalue()).decode()}] * 3
    limits = {"models": "identity", "downstream_url": upstream, "downstream_protocol": "v1", "max_body_bytes": 2**20}
    for bodies_bytes, status, code in [(2**21, 422, "too_many_pixels"), (2**23, 200, None)]:
        with running(bodies_bytes=bodies_bytes, **limits) as client:
            answer = client.post("/v1/models/m:predict", content=json.dumps({"instances": rows}))
            assert (answer.status_code, answer.json().get("code")) == (status, code)
            assert sample(client, "arn_body_bytes") == 0
    with running(deadline_seconds=1e-9, **limits) as client:
        answer = client.post("/v1/models/m:predict", content=json.dumps({"instances": rows}))
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


def test_a_shadow_s_body_needs_room_too(upstream):
    limits = {"max_body_bytes": 2**14, "bodies_bytes": 2**14, "shadow_share": 1}
    rows = json.dumps({"instances": ROWS}).encode()
    with running(downstream_url=upstream, downstream_protocol="v1", **limits) as client:
        doors = client.app.state.service.doors
        assert client.post("/v1/models/m:predict", content=rows).status_code == 200
        with doors.room(2**14 - 3 * len(rows) // 2 - 28 * 28 * 4):
            assert client.post("/v1/models/m:predict", content=rows).status_code == 200
            while not sample(client, 'arn_shadowed_total{outcome="dropped"}'):
                time.sleep(0.01)
        while sample(client, "arn_body_bytes"):
            time.sleep(0.01)


def test_both_images_are_compared_only_where_that_is_allowed(upstream, asked):
    rows = json.dumps({"instances": ROWS})
    for allowed in (False, True):
        with running(downstream_url=upstream, downstream_protocol="v1", compare=allowed) as client:
            answer = client.post("/v1/models/m:predict", content=rows, headers={"X-ARN-Compare": "true"})
            assert ("x-arn-unpurified-label" in answer.headers) == allowed
    assert sum(body == rows.encode() for _, _, _, body in asked) == 1


def test_the_stages_of_a_request_that_fails_are_observed():
    with running(downstream_url="http://127.0.0.1:9", downstream_protocol="v1") as client:
        assert client.post("/v1/models/m:predict", content=json.dumps({"instances": ROWS})).status_code == 502
        for stage in ("decode", "queue", "infer", "downstream"):
            assert sample(client, f'arn_stage_seconds_count{{stage="{stage}"}}') == 1


def test_what_is_no_picture_is_not_forwarded_as_one(upstream, asked):
    body = codec.encode_npy(np.zeros((1, 8, 8, 5), np.uint8))
    with running(downstream_url=upstream, models="identity") as client:
        answer = client.post("/classify", content=body, headers={"Content-Type": codec.NPY_TYPE})
        assert (answer.status_code, answer.json()["code"]) == (422, "wrong_size")
    assert not asked


UNREAD = '{"inputs": [{"name": "image", "datatype": "TYPE", "shape": [1], "data": [7]}, GOOD]}'
DECOYS = [
    ("v1", "/v1/models/m:predict", '{"instances": [{"image": {"b64": "PNG", "x": 0}}, {"image": {"b64": "PNG"}}]}'),
    ("v2", "/v2/models/m/infer", UNREAD.replace("TYPE", "BF16")),
    ("v2", "/v2/models/m/infer", UNREAD.replace("TYPE", "BYTES")),
]


@pytest.mark.parametrize(("protocol", "path", "body"), DECOYS)
def test_nothing_unread_passes_under_the_declared_name(upstream, asked, protocol, path, body):
    good = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["PNG"]}
    body = body.replace("GOOD", json.dumps(good)).replace("PNG", base64.b64encode(PNG).decode())
    with running(downstream_url=upstream, downstream_protocol=protocol, input_name="image") as client:
        answer = client.post(path, content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "broken_body")
    assert not asked


# -- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "code"),
    [
        ("/v1/models/m:predict", b"{", {}, 400, "broken_body"),
        ("/v1/models/m:predict", b'{"instances": []}', {}, 422, "no_image"),
        ("/v1/models/m:predict", json.dumps({"instances": [[[np.nan] * 28] * 28]}).encode(), {}, 422, "bad_parameter"),
        ("/v1/models/m:predict", json.dumps({"instances": ROWS * 100}).encode(), {}, 413, "too_many_images"),
        ("/v2/models/m/infer", b"{}", {v2.HEADER: "7"}, 400, "broken_body"),
        ("/v2/models/m/infer", gzip.compress(b"{}", mtime=0)[:-4], {"Content-Encoding": "gzip"}, 400, "broken_body"),
        ("/v2/models/m/infer", gzip.compress(bytes(2**27)), {"Content-Encoding": "gzip"}, 413, "body_too_large"),
        ("/v2/models/m/infer", b"{}", {"Content-Encoding": "br"}, 415, "unsupported_media_type"),
        ("/v2/models/a;b/infer", b"{}", {}, 404, "unknown_model"),
        ("/v2/models/%252e/infer", b"{}", {}, 404, "unknown_model"),
        ("/predictions/m", b"\x89PNG\r\n\x1a\nxx", {"Content-Type": "image/png"}, 400, 400),
        ("/predictions/m", b"text", {"Content-Type": "text/plain"}, 422, 422),
        ("/predictions/m", b"--b", {"Content-Type": "multipart/form-data; boundary=b"}, 400, 400),
    ],
)  # fmt: skip
def test_refusals_of_ours_come_in_the_protocols_form_and_reach_no_server(
    gateway, asked, path, body, headers, status, code
):
    answer = gateway.post(path, content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["x-arn-refused-by"] == "purifier"
    assert ("message" in answer.json()) == path.startswith("/predictions")
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


def test_a_server_that_is_down_or_slow_is_told_apart_and_left_alone_after_a_while(upstream):
    with running(downstream_url="http://127.0.0.1:9", downstream_protocol="v1") as client:
        answers = [client.post("/v1/models/m:predict", content=json.dumps({"instances": ROWS})) for _ in range(6)]
        assert [answer.status_code for answer in answers] == [502] * 5 + [503]
        assert answers[-1].json()["code"] == "downstream_open"
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert client.post("/predictions/m", content=PNG).status_code == 404  # another protocol than the one declared
    with running(downstream_url=upstream, downstream_protocol="v1", downstream_timeout_seconds=0.2) as client:
        answer = client.post("/v1/models/slow:predict", content=json.dumps({"instances": ROWS}))
        assert (answer.status_code, answer.json()["code"]) == (504, "downstream_timeout")


def test_a_clients_haste_is_no_failure_of_the_server(upstream):
    hasty = {"x-envoy-expected-rq-timeout-ms": "1"}
    with running(downstream_url=upstream, downstream_protocol="v1") as client:
        assert [client.get("/v1/models/slow", headers=hasty).status_code for _ in range(6)] == [504] * 6
        assert client.get("/v1/models/m").status_code == 200


async def test_a_server_that_takes_no_connection_is_asked_once_more_and_unreachable(monkeypatch):
    downstream = Downstream("http://127.0.0.1:9", 5.0)
    tried = []

    async def once(*_):
        tried.append(1)
        raise aiohttp.ConnectionTimeoutError

    monkeypatch.setattr(downstream, "_once", once)
    with pytest.raises(DownstreamUnreachable):
        await downstream.ask("GET", "/", {})
    await downstream.close()
    assert len(tried) == 2


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SOUND = _HEAD + b"Content-Length: 2\r\n\r\n{}"
GARBAGE = {
    "nothing": b"",
    "nonsense": bytes(range(128, 256)) * 9,
    "another protocol": b"220 mail.example ESMTP\r\n",
    "half a head": _HEAD,
    "half a body": _HEAD + b"Content-Length: 100\r\n\r\n{",
    "half a chunk": _HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    "no chunk": _HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a length in words": _HEAD + b"Content-Length: many\r\n\r\n{}",
    "a negative length": _HEAD + b"Content-Length: -1\r\n\r\n{}",
    "two lengths": _HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a header without end": _HEAD + b"X: " + b"a" * 2**20,
    "a header without a colon": _HEAD + b"\x00no colon\r\nContent-Length: 2\r\n\r\n{}",
    "a status of four digits": b"HTTP/1.1 9000 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status beyond the last": b"HTTP/1.1 600 Odd\r\nContent-Length: 2\r\n\r\n{}",
    "a status far beyond": b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\n{}",
    "a control character in a header": _HEAD + b"X: a\x01b\r\nContent-Length: 2\r\n\r\n{}",
    "another": _HEAD + b"X: a\x7f\r\nContent-Length: 2\r\n\r\n{}",
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


@pytest.fixture(scope="module")
def says():
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Says) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("protocol", "path", "body"),
    [
        ("raw", "/classify", PNG),
        ("v1", "/v1/models/m:predict", json.dumps({"instances": ROWS}).encode()),
        ("torchserve", "/predictions/m", PNG),
    ],
)
def test_a_server_that_answers_garbage_is_a_502_in_our_own_form(says, monkeypatch, protocol, path, body):
    with running(downstream_url=says, downstream_protocol=protocol) as client:
        for name, garbage in GARBAGE.items():
            monkeypatch.setattr(Says, "what", garbage)
            answer = client.post(path, content=body)
            assert answer.status_code == 502, name
            code = answer.json()["code"]
            assert code == ("downstream_unreachable" if protocol != "torchserve" else 502)
            assert answer.headers["x-arn-refused-by"] == "downstream"
            monkeypatch.setattr(Says, "what", SOUND)
            assert client.post(path, content=body).content == b"{}", f"after {name}"
        assert sample(client, 'arn_requests_total{route="' + path.replace("/m", "/{model}") + '",status="500"}') == 0


def test_what_follows_an_answer_is_never_taken_for_the_next_one(says, monkeypatch):
    smuggled = _HEAD + b"Content-Length: 8\r\n\r\nsmuggled"
    monkeypatch.setattr(Says, "stays", True)
    with running(downstream_url=says) as client:
        for _ in range(3):
            monkeypatch.setattr(Says, "what", SOUND + smuggled)
            first = client.post("/classify", content=PNG)
            assert first.status_code == 502 or first.content == b"{}"
            monkeypatch.setattr(Says, "what", SOUND)
            assert client.post("/classify", content=PNG).content == b"{}"


@pytest.fixture
def now(monkeypatch):
    """The breaker's clock, to be moved."""
    clock = [100.0]
    monkeypatch.setattr("arn_purify.service.gateway.downstream.time.monotonic", lambda: clock[0])
    return clock


def test_the_breaker_lets_one_probe_through_a_pause_and_closes_at_the_first_answer(now):
    breaker = Breaker()
    for _ in range(5):
        breaker.admit()
        breaker.failed()
    with pytest.raises(DownstreamOpen):
        breaker.admit()
    now[0] += 0.6
    breaker.admit()  # the probe
    with pytest.raises(DownstreamOpen):
        breaker.admit()
    breaker.failed()
    now[0] += 0.6  # the pause has doubled
    with pytest.raises(DownstreamOpen):
        breaker.admit()
    now[0] += 0.5
    breaker.admit()
    breaker.succeeded()
    breaker.admit()


def test_a_probe_that_its_client_gave_up_leaves_its_turn_to_the_next(now):
    breaker = Breaker()
    for _ in range(5):
        breaker.failed()
    now[0] += 0.6
    breaker.admit()
    breaker.unsettled()
    breaker.admit()
    with pytest.raises(DownstreamOpen):
        breaker.admit()


def test_many_that_fail_at_once_open_the_breaker_for_one_pause(now):
    breaker = Breaker()
    for _ in range(16):
        breaker.admit()
    for _ in range(16):
        breaker.failed()
    now[0] += 0.6
    breaker.admit()


def test_a_full_queue_is_refused_or_bypassed_as_declared(upstream, asked):
    rows = json.dumps({"instances": ROWS * 9})
    for policy, status in [("reject", 413), ("bypass", 200)]:
        with running(downstream_url=upstream, downstream_protocol="v1", queue_images=8, on_failure=policy) as client:
            answer = client.post("/v1/models/m:predict", content=rows)
            assert answer.status_code == status
            bypassed = sample(client, 'arn_bypassed_total{reason="too_many_images"}')
            assert bypassed == (policy == "bypass")
    ((_, _, _, body),) = asked
    assert body == rows.encode()
    assert (answer.headers["x-arn-purified"], answer.headers["x-arn-bypass"]) == ("false", "too_many_images")


def test_a_canary_share_of_nothing_purifies_nothing(upstream, asked):
    with running(downstream_url=upstream, downstream_protocol="v1", purify_share=0) as client:
        body = gzip.compress(json.dumps({"instances": ROWS}).encode())
        answer = client.post("/v1/models/m:predict", content=body, headers={"Content-Encoding": "gzip"})
        assert answer.headers["x-arn-purified"] == "false"
        assert sample(client, 'arn_bypassed_total{reason="canary"}') == 1
    assert asked[0][3] == body
    assert asked[0][2]["content-encoding"] == "gzip"


def test_a_client_that_hangs_up_ends_the_call_to_the_server(upstream, tmp_path):
    import socket

    from ..e2e.conftest import serving

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


# -- the declaration ----------------------------------------------------------------------------------------------


def metadata(**inputs):
    return {
        "inputs": [{"name": name, "datatype": datatype, "shape": shape} for name, (datatype, shape) in inputs.items()]
    }


def digits(channels, height, width):
    return (channels, height, width) == (1, 28, 28)


@pytest.mark.parametrize(
    ("contract", "inputs", "reason"),
    [
        (Preprocessing(), {"x": ("FP32", [-1, 1, 28, 28])}, None),
        (Preprocessing(layout="nhwc"), {"x": ("FP32", [-1, 28, 28, 1])}, None),
        (Preprocessing(layout="nhwc"), {"x": ("FP32", [-1, 1, 28, 28])}, "has the shape"),
        (Preprocessing(input="y"), {"x": ("FP32", [-1, 1, 28, 28])}, "no input 'y'"),
        (Preprocessing(), {"x": ("FP32", [-1, 3, 32, 32])}, "has the shape"),
        (Preprocessing(), {"x": ("BOOL", [-1, 1, 28, 28])}, "no type that images have"),
        (Preprocessing(), {"x": ("BYTES", [-1])}, None),
        (Preprocessing(), {"x": ("FP32", [-1, 784]), "y": ("INT64", [-1])}, None),
        (Preprocessing(), {"x": ("FP32", [-1, -1, -1, -1])}, None),
    ],
)
def test_metadata_are_held_against_the_declaration(contract, inputs, reason):
    found = mismatch(contract, metadata(**inputs), digits)
    assert (found is None) if reason is None else (reason in found)


@pytest.mark.parametrize(
    "inputs", [None, [], [{"name": "x", "datatype": "FP32", "shape": None}], [{"name": "x", "datatype": "FP32"}]]
)
def test_metadata_that_tell_nothing_are_no_mismatch(inputs):
    assert mismatch(Preprocessing(), {"name": "m", "inputs": inputs}, digits) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input_mean": "0.5"}, "come together"),
        ({"input_mean": "0.5", "input_std": "0"}, "greater than 0"),
        ({"input_mean": "0.5,x", "input_std": "1,1"}, "unable to parse"),
        ({"input_mean": "0.5", "input_std": "0.5", "input_range": "0-1"}, "exclude each other"),
        ({"downstream_url": "http://user:secret@host"}, "holds a user"),
    ],
)
def test_declarations_that_contradict_themselves_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Settings(**values)


@pytest.mark.parametrize(
    ("host", "url", "grpc"),
    [("m.ns", "http://m.ns", "m.ns:80"), ("m.ns:8033", "http://m.ns:8033", "m.ns:8033")],
)
def test_kserves_flags_name_a_predictor_as_its_own_client_asks_it(host, url, grpc):
    parser = argparse.ArgumentParser()
    add_flags(parser)
    add_transformer_flags(parser)
    flags = ["--predictor_host", host, "--predictor_protocol", "grpc-v2"]
    settings = from_flags(parser.parse_args(flags))
    assert (settings.downstream_url, settings.downstream_grpc) == (url, grpc)
    with pytest.raises(ValueError, match="in plain text"):
        from_flags(parser.parse_args([*flags, "--predictor_use_ssl", "true"]))


def test_a_channel_count_that_the_declaration_does_not_fit_is_told(upstream, asked):
    with running(
        downstream_url=upstream, downstream_protocol="v1", input_mean="0.5,0.5,0.5", input_std="1,1,1"
    ) as client:
        answer = client.post("/v1/models/m:predict", content=json.dumps({"instances": ROWS}))
        assert (answer.status_code, answer.json()["code"]) == (422, "wrong_size")
        assert not asked
