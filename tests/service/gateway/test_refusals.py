"""Refusals of ours, in each protocol's form, and the limits of memory."""

import base64
import gc
import gzip
import io
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from arn_purify.service.core.purifier import Item
from arn_purify.service.gateway.protocols import v2

from ...conftest import running
from .helpers import PNG, ROWS, Upstream, sample

UNREAD = '{"inputs": [{"name": "image", "datatype": "TYPE", "shape": [1], "data": [7]}, GOOD]}'
HALF_A_PAIR = UNREAD.replace("TYPE", "\\ud800").replace(", GOOD", "").encode()


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
        ("/v2/models/m/infer", HALF_A_PAIR, {}, 400, "broken_body"),
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


NAME = "\x7f" * 100_000
ENTRY = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
LONG = {
    "a member of V1": ("/v1/models/m:predict", {"instances": [{NAME: [[1, 2]]}]}),
    "a file under it": ("/v1/models/m:predict", {"instances": [{NAME: "R0lGODlhAAAAAAAAAAAAAAAA"}]}),
    "a member twice": ("/v1/models/m:predict", f'{{"instances": [1], "{NAME}": 1, "{NAME}": 2}}'),
    "a member twice below": ("/v1/models/m:predict", f'{{"instances": [[1, {{"{NAME}": 1, "{NAME}": 2}}]]}}'),
    "an input of V2": ("/v2/models/m/infer", {"inputs": [{**ENTRY, "name": NAME, "data": [1, 2]}]}),
    "its data": ("/v2/models/m/infer", {"inputs": [{**ENTRY, "name": NAME, "data": [1]}]}),
    "its shape": ("/v2/models/m/infer", {"inputs": [{**ENTRY, "name": NAME, "shape": [-1]}]}),
    "its length": ("/v2/models/m/infer", {"inputs": [{**ENTRY, "parameters": {"binary_data_size": [0] * 100_000}}]}),
    "its length as text": ("/v2/models/m/infer", {"inputs": [{**ENTRY, "parameters": {"binary_data_size": NAME}}]}),
    "a parameter": ("/v2/models/m/infer", {"inputs": [], "parameters": {NAME: "R0lGODlhAAAAAAAAAAAAAAAA"}}),
    "a field": (
        "/predictions/m", f'--b\r\nContent-Disposition: form-data; name="{NAME[:9999]}"\r\n\r\nR0lGODlh\r\n--b--'
    ),
    "a file's name": (
        "/purify", f'--b\r\nContent-Disposition: form-data; name="a"; filename="{NAME[:9999]}"\r\n\r\nx\r\n--b--\r\n'
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LONG)
def test_a_long_name_or_value_is_not_sent_back(gateway, asked, what):
    path, body = LONG[what]
    kind = "multipart/form-data; boundary=b" if "--b" in body else "application/json"
    body = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    answer = gateway.post(path, content=body.encode(), headers={"Content-Type": kind})
    assert answer.status_code in (400, 422)
    assert len(answer.content) < 1000
    assert not asked


def test_nor_is_it_written_to_the_log_where_the_request_is_bypassed(upstream, asked, caplog):
    caplog.set_level("WARNING", logger="service.gateway")
    body = json.dumps({"instances": [{"a" * 1000 + str(i): [[1, 2]] for i in range(9)}]})
    with running(downstream_url=upstream, downstream_protocol="v1", on_failure="bypass") as client:
        assert client.post("/v1/models/m:predict", content=body).headers["x-arn-bypass"] == "no_image"
    (line,) = [record.getMessage() for record in caplog.records if "forwarded unpurified" in record.getMessage()]
    assert len(line) < 1000


DECOYS = [
    ("v1", "/v1/models/m:predict", '{"instances": [{"image": {"b64": "PNG", "x": 0}}, {"image": {"b64": "PNG"}}]}'),
    ("v2", "/v2/models/m/infer", UNREAD.replace("TYPE", "BOOL")),
    ("v2", "/v2/models/m/infer", UNREAD.replace("TYPE", "BYTES")),
]


@pytest.mark.parametrize(("protocol", "path", "body"), DECOYS)
def test_nothing_unread_passes_under_the_declared_name(upstream, asked, protocol, path, body):
    good = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["PNG"]}
    body = body.replace("GOOD", json.dumps(good)).replace("PNG", base64.b64encode(PNG).decode())
    with running(downstream_url=upstream, downstream_protocol=protocol, input_name="image") as client:
        answer = client.post(path, content=body)
    assert answer.status_code in (400, 422)
    assert answer.headers["x-arn-refused-by"] == "purifier"
    assert not asked


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
        memory = client.app.state.service.limits.memory
        assert client.post("/v1/models/m:predict", content=rows).status_code == 200
        while memory.reserved_bytes:  # the first one's shadow
            time.sleep(0.01)
        with memory.reserve(2**14 - 3 * len(rows) // 2 - 2 * 28 * 28 * 4):
            assert client.post("/v1/models/m:predict", content=rows).status_code == 200
            while not sample(client, 'arn_shadowed_total{outcome="dropped"}'):
                time.sleep(0.01)
        while sample(client, "arn_body_bytes"):
            time.sleep(0.01)


def test_a_waiting_shadow_holds_no_pixels(upstream, asked, monkeypatch):
    """Its body is counted, its pixels are not, and a slow server may let many wait."""
    answers, waits, go_on = Upstream.answers, threading.Event(), threading.Event()

    def slowly(path):
        if len(asked) > 1:
            waits.set()
            go_on.wait(60)
        return answers(path)

    monkeypatch.setattr(Upstream, "answers", staticmethod(slowly))
    with running(downstream_url=upstream, downstream_protocol="v1", shadow_share=1) as client:
        assert client.post("/v1/models/m:predict", content=json.dumps({"instances": ROWS})).status_code == 200
        assert waits.wait(60)
        while any(isinstance(held, Item) for held in gc.get_objects()):  # until the request itself has ended
            time.sleep(0.01)
        go_on.set()


def test_a_channel_count_that_the_declaration_does_not_fit_is_told(upstream, asked):
    with running(
        downstream_url=upstream, downstream_protocol="v1", input_mean="0.5,0.5,0.5", input_std="1,1,1"
    ) as client:
        answer = client.post("/v1/models/m:predict", content=json.dumps({"instances": ROWS}))
        assert (answer.status_code, answer.json()["code"]) == (422, "wrong_size")
        assert not asked
