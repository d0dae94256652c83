"""The short way to the routes that are asked often answers as the long way through FastAPI does."""

import gzip
import json
import logging
import random
import re
import zlib

import numpy as np
import pytest

from arn_purify.service.core import codec
from arn_purify.service.edge.hot import HotRoutes
from tests.conftest import running
from tests.service.gateway.conftest import gateway, upstream  # noqa: F401 (fixtures)
from tests.service.gateway.helpers import ROWS, Upstream
from tests.service.images import PIXELS, PNG, picture

NPY = codec.encode_npy(PIXELS)
FORM = b"".join(
    b'--b\r\nContent-Disposition: form-data; name="%s"; filename="%d.png"\r\n\r\n%s\r\n' % (b"f", number, PNG)
    for number in range(2)
)
MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}
TYPED = {"Content-Type": "image/png"}
KEY = {"X-API-Key": "k"}


def chunks(body, size):
    """A body without an announced length."""
    return lambda: (body[start : start + size] for start in range(0, len(body), size))


def requests():
    """Method, path, body and headers: what is taken, what is refused, and what is at a limit."""
    broken, large = bytearray(PNG), bytes(2**16 + 1)
    broken[40:60] = bytes(20)
    for body, headers in [
        (PNG, TYPED), (PNG, {}), (PNG, {"Content-Type": "text/plain"}), (b"junk", TYPED), (b"junk", {}),
        (b"", TYPED), (PNG[:-9], TYPED), (bytes(broken), TYPED), (PNG + b"x", TYPED), (large, TYPED), (large[1:], {}),
        (picture("RGB", kind="JPEG"), {}), (picture("RGB", (30, 40)), TYPED), (picture("RGB", (200, 200)), TYPED),
        (picture("RGBA", kind="WEBP"), {}), (picture("P", kind="BMP"), {}), (picture("I;16"), TYPED),
        (NPY, {"Content-Type": codec.NPY_TYPE}), (NPY, {}), (NPY[:-1], {}),
        (NPY[:20], {"Content-Type": codec.NPY_TYPE}), (codec.encode_npy(np.zeros((1, 1, 28, 28), np.float32)), {}),
        (FORM + b"--b--", MULTIPART),
        (b"--b--", MULTIPART), (PNG, MULTIPART), (PNG, {"Content-Type": "multipart/form-data"}),
        (gzip.compress(PNG), {"Content-Encoding": "gzip"}), (zlib.compress(PNG), {"Content-Encoding": "deflate"}),
        (PNG, {"Content-Encoding": "gzip"}), (PNG, {"Content-Encoding": "br"}), (PNG, {"Content-Encoding": "Identity"}),
        (gzip.compress(bytes(10**6)), {"Content-Encoding": "gzip"}), (chunks(PNG, 7), TYPED), (chunks(PNG, 10**6), {}),
        (chunks(large, 1000), TYPED), (chunks(b"", 1), TYPED), (PNG, {"X-API-Key": "wrong"}), (PNG, {"X-API-Key": ""}),
    ]:  # fmt: skip
        for path in ("/purify", "/classify"):
            yield "POST", path, body, headers
    for accept in ("*/*", "image/webp", "image/*;q=0.5, application/json", "text/html", "application/x-npy",
                   "image/png;q=0", "nonsense", ";;", "multipart/mixed", "application/json, */*;q=0.1"):  # fmt: skip
        for path in ("/purify", "/classify"):
            yield "POST", path, PNG, {"Accept": accept}
            yield "POST", path, NPY, {"Accept": accept}
    for query in ("model=identity", "model=none", "model=identity&model=mnist-transparent", "resize=crop", "resize=fit",
                  "resize=no", "resize", "compare=true", "compare=maybe", "unknown=1", "%6dodel=identity", "model=%FF",
                  "&&", "model=identity&model=identity", "a=b&c"):  # fmt: skip
        for path in ("/purify", "/classify"):
            yield "POST", f"{path}?{query}", PNG, TYPED
            yield "POST", f"{path}?{query}", picture("RGB", (30, 40)), TYPED
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "BREW"):
        for path in ("/purify", "/classify", "/", "/models"):
            yield method, path, PNG if method in ("PUT", "PATCH") else b"", {}
    for path in ("/purify/", "//purify", "/Purify", "/%70urify", "/purify;a=b", "/pre/purify", "/pre/pre/purify",
                 "/pre", "/prepurify", "/v2/models/m/infer", "/demo/attack", "/health/ready", "/nowhere"):  # fmt: skip
        yield "POST", path, PNG, TYPED
    for path in ("/v1/purify", "/v1/classify", "/pre/v1/purify"):
        yield "POST", path, PNG, TYPED
        yield "POST", path, b"junk", {}
        yield "GET", path, b"", {}
    for headers in (
        {"X-Request-ID": "mine-1"}, {"X-Request-ID": "no spaces"}, {"X-Request-ID": "a" * 129},
        {"X-Request-ID": b"\xe9"}, {"Origin": "https://a.example"}, {"Origin": "https://other.example"},
        {"Expect": "100-continue"},
        {"Content-Length": "9" * 30}, {"Content-Length": "0"}, {"Content-Length": "x"}, {"Content-Type": b"\xe9"},
        {"Content-Type": "IMAGE/PNG ; a=b"}, {"Authorization": "Bearer k"}, {"X-Forwarded-Prefix": "/a"},
        {"Traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}, {"Accept-Encoding": "gzip"}, {"Range": "bytes=0-1"},
        {"Origin": "https://a.example", "X-API-Key": "wrong"}, {"Cookie": "a=b"}, {"Transfer-Encoding": "chunked"},
    ):  # fmt: skip
        yield "POST", "/purify", PNG, TYPED | headers
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    yield "OPTIONS", "/purify", b"", preflight
    yield "OPTIONS", "/purify", b"", preflight | {"Access-Control-Request-Headers": "x-api-key"}


def gateway_requests():
    """The same for the routes of the model server."""
    rows, images = json.dumps({"instances": ROWS}).encode(), json.dumps({"instances": [{"b64": "AAAA"}]}).encode()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1, 28, 28], "data": [0.5] * 784}
    infer = json.dumps({"inputs": [tensor]}).encode()
    for path in ("/v1/models/m:predict", "/v1/models/m:explain", "/v1/models/m/versions/2:predict", "/v1/models/m",
                 "/v1/models/m/labels/x:predict", "/v1/models/..:predict", "/v1/models/a%2Fb:predict",
                 "/v1/models/:predict", "/v1/models/a%20b:predict?x=1", "/v1/models/m:other", "/v2/models/m/infer",
                 "/v2/models/m/versions/1/infer", "/v2/models/m/infer?x=%41", "/v2/models/m/infer/",
                 "/v2/repository/index", "/v2/models/m", "/predictions/m", "/predictions/m/1.0",
                 "/predictions/m/1/2", "/predictions", "/ping"):  # fmt: skip
        for body in (rows, images, infer, PNG, b"", b"{", b"[]"):
            for method in ("POST", "PUT") if "predictions" in path else ("POST",):
                yield method, path, body, {"Content-Type": "application/json"}
        yield "GET", path, b"", {}
    yield "POST", "/v1/models/m:predict", rows, {"X-Request-ID": "mine-1", "Accept": "a", "X-ARN-Compare": "true"}
    yield "POST", "/v1/models/m:predict", gzip.compress(rows), {"Content-Encoding": "gzip"}
    yield "POST", "/v1/models/m:predict", chunks(rows, 100), {}


def counts(client):
    """Every counter, and how often each histogram was given something."""
    samples = (one for family in client.app.state.service.metrics.registry.collect() for one in family.samples)
    return {
        (one.name, *sorted(one.labels.items())): one.value for one in samples if one.name.endswith(("_total", "_count"))
    }


def ask(client, caplog, method, path, body, headers):
    """Everything that an answer is and leaves behind, without what differs from one request to the next."""
    before = counts(client)
    caplog.clear()
    Upstream.asked.clear()
    content = body() if callable(body) else body
    answer = client.request(method, path, content=content, headers=headers)
    shown = sorted(answer.headers.multi_items())
    told = [record.getMessage() for record in caplog.records if record.name == "service.access"]
    assert len(told) == 1
    asked = [
        (verb, target, {k: v for k, v in given.items() if k != "x-request-id" or v in headers.values()}, sent)
        for verb, target, given, sent in Upstream.asked
    ]
    after = counts(client)
    grown = {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}
    grown.pop(("process_cpu_seconds_total",), None)

    def constant(text):
        text = re.sub(r"\b[0-9a-f]{32}\b", "ID", text)
        return re.sub(r"dur=[\d.]+|\d+\.\d+ms", "TIME", text)

    boundary = re.search(rb"boundary=(\w+)", answer.headers.get("content-type", "").encode())
    content = answer.content.replace(boundary[1], b"BOUNDARY") if boundary else answer.content
    headers = [(name, constant(value)) for name, value in shown]
    return answer.status_code, headers, content, [constant(line) for line in told], grown, asked


def compare(client, caplog, monkeypatch, table):
    """Each request both ways; returns how many went the short way, and the statuses."""
    caplog.set_level(logging.DEBUG, "service.access")
    short, find = [], HotRoutes.route

    def counted(self, scope):
        found = find(self, scope)
        short.append(found)
        return found

    statuses = []
    for request in table:
        monkeypatch.setattr(HotRoutes, "route", counted)
        quick = ask(client, caplog, *request)
        monkeypatch.setattr(HotRoutes, "route", lambda self, scope: None)
        slow = ask(client, caplog, *request)
        assert quick == slow, request
        statuses.append(quick[0])
    return sum(route is not None for route in short), statuses


@pytest.fixture(scope="module")
def limited():
    with running(
        models="mnist-transparent,identity", classifier="mnist-lenet5", api_key="k", cors_origins="https://a.example",
        root_path="/pre", max_body_bytes=2**16, max_pixels=150 * 150, client_requests=3,
    ) as client:  # fmt: skip
        yield client


def test_every_request_is_answered_alike(limited, caplog, monkeypatch):
    table = [(method, path, body, KEY | headers) for method, path, body, headers in requests()]
    random.Random(0).shuffle(table)  # so that none depends on what came before it
    short, statuses = compare(limited, caplog, monkeypatch, table)
    assert short > 150
    assert {200, 400, 401, 404, 405, 406, 413, 415, 422} <= set(statuses)


def test_every_request_to_the_model_server_too(gateway, caplog, monkeypatch):  # noqa: F811 (a fixture)
    short, statuses = compare(gateway, caplog, monkeypatch, list(gateway_requests()))
    assert short > 100
    assert {200, 400, 404, 405, 422} <= set(statuses)


def test_the_path_that_stays_goes_the_short_way_too(limited, caplog, monkeypatch):
    table = [("POST", path, PNG, KEY) for path in ("/purify", "/classify", "/v1/purify", "/v1/classify")]
    assert compare(limited, caplog, monkeypatch, table) == (4, [200] * 4)


@pytest.mark.parametrize("error", [MemoryError("none"), RuntimeError("a fault"), ValueError("another")])
def test_faults_too(limited, caplog, monkeypatch, error):
    async def fail(*_, **__):
        raise error

    monkeypatch.setattr(limited.app.state.service.batcher, "submit", fail)
    short, (status,) = compare(limited, caplog, monkeypatch, [("POST", "/purify", PNG, KEY)])
    assert (short, status) == (1, 503 if isinstance(error, MemoryError) else 500)
