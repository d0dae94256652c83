"""Canary, bypass, shadow and compare: one suite, over HTTP and over gRPC."""

import asyncio
import contextlib
import gzip
import json
import logging
import time

import grpc
import numpy as np
import pytest

from arn_purify.service.gateway import policy
from arn_purify.service.gateway.policy import _MOST_ANSWER_BYTES
from arn_purify.service.gateway.protocols import v1, v2_grpc

from ...conftest import running
from .grpc_upstream import asking, grpc_upstream
from .helpers import ROWS, Upstream, sample

DIGIT = np.full((1, 1, 28, 28), 0.5, "<f4")
FEW = {"queue_images": 8, "on_failure": "bypass"}


def brightness(values):
    """What the server behind answers: scores by which the purified image and the one as it came have other labels."""
    mean = float(np.mean(values))
    return [0.1, 0.9] if mean == 0.5 else [0.9, 0.1]


class OverHttp:
    """The gateway asked over V2's REST; the server's answers and what it was asked."""

    def __init__(self, client):
        self.client = client

    def ask(self, images, compare=False, note=""):
        """The answer's headers, and its scores; a refusal's code and None."""
        entry = {"name": "x", "datatype": "FP32", "shape": images.shape, "data": images.reshape(-1).tolist()}
        headers = {"X-ARN-Compare": "true"} if compare else {}
        body = json.dumps({"inputs": [entry], "parameters": {"note": note}})
        answer = self.client.post("/v2/models/m/infer", content=body, headers=headers)
        if answer.headers.get("x-arn-refused-by") == "purifier":
            return {"code": answer.json()["code"]}, None
        return answer.headers, answer.json()["outputs"][0]["data"]

    @property
    def asked(self):
        """The images that the server behind was asked about, with the metadata."""
        bodies = [(json.loads(body)["inputs"][0]["data"], headers) for _, _, headers, body in Upstream.asked]
        return [(np.array(values, np.float32), headers) for values, headers in bodies]


class OverGrpc:
    def __init__(self, client, ask, behind):
        self.client, self._ask, self._behind = client, ask, behind

    def ask(self, images, compare=False, note=""):
        request = v2_grpc.parse("ModelInferRequest", b"")
        request.parameters["note"].string_param = note
        request.inputs.add(name="x", datatype="FP32", shape=images.shape)
        request.raw_input_contents.append(images.astype("<f4").tobytes())
        metadata = [("x-arn-compare", "true")] if compare else []
        try:
            answer, call = self._ask(request.SerializeToString(), *metadata)
        except grpc.RpcError as error:
            return {"code": dict(error.trailing_metadata())["x-arn-code"]}, None
        response = v2_grpc.parse("ModelInferResponse", answer)
        headers = {**dict(call.initial_metadata()), **dict(call.trailing_metadata())}
        return headers, list(response.outputs[0].contents.fp32_contents)

    @property
    def asked(self):
        requests = [(v2_grpc.parse("ModelInferRequest", body), headers) for _, headers, body in self._behind.asked]
        return [(np.frombuffer(request.raw_input_contents[0], "<f4"), headers) for request, headers in requests]


def answer_http(values):
    scores = [brightness(image) for image in np.reshape(values, (-1, 784))]
    output = {"name": "y", "datatype": "FP32", "shape": np.shape(scores), "data": np.ravel(scores).tolist()}
    return json.dumps({"model_name": "m", "outputs": [output]}).encode()


def answer_grpc(request, context):
    values = np.frombuffer(v2_grpc.parse("ModelInferRequest", request).raw_input_contents[0], "<f4")
    scores = np.array([brightness(image) for image in values.reshape(-1, 784)])
    response = v2_grpc.parse("ModelInferResponse", b"")
    output = response.outputs.add(name="y", datatype="FP32", shape=scores.shape)
    output.contents.fp32_contents.extend(scores.reshape(-1).tolist())
    return response.SerializeToString()


@pytest.fixture(params=["HTTP", "gRPC"])
def serve(request, upstream, asked, monkeypatch):
    """A gateway with these settings, asked over one of the two."""

    @contextlib.contextmanager
    def serving(**settings):
        with contextlib.ExitStack() as stack:
            settings |= {"downstream_url": upstream, "downstream_protocol": "v2", "models": "mnist-transparent"}
            if request.param == "gRPC":
                behind, address = stack.enter_context(grpc_upstream())
                behind.answer = answer_grpc
                client = stack.enter_context(running(downstream_grpc=address, grpc_port=0, **settings))
                yield OverGrpc(client, stack.enter_context(asking(client)), behind)
            else:
                yield OverHttp(stack.enter_context(running(**settings)))

    def answers(path):
        values = json.loads(Upstream.asked[-1][3])["inputs"][0]["data"]
        return 200, {"Content-Type": "application/json"}, answer_http(values)

    monkeypatch.setattr(Upstream, "answers", staticmethod(answers))
    return serving


def waiting_for(gateway, line, value=1.0):
    deadline = time.monotonic() + 30
    while sample(gateway.client, line) != value:
        assert time.monotonic() < deadline, gateway.client.get("/metrics").text
        time.sleep(0.01)


def test_a_purified_answer_says_so_and_how_long_it_took(serve):
    with serve() as gateway:
        headers, scores = gateway.ask(DIGIT)
    assert headers["x-arn-purified"] == "true"
    assert float(headers["x-arn-residual-l2"]) > 0
    for stage in ("decode", "queue", "infer", "encode", "downstream"):
        assert f"{stage};dur=" in headers["server-timing"]
    assert np.allclose(scores, [0.9, 0.1])
    assert not np.array_equal(gateway.asked[0][0], DIGIT.reshape(-1))


def test_a_canary_share_of_nothing_purifies_nothing(serve):
    with serve(purify_share=0) as gateway:
        headers, scores = gateway.ask(DIGIT)
        assert sample(gateway.client, 'arn_bypassed_total{reason="canary"}') == 1
    assert (headers["x-arn-purified"], headers["x-arn-bypass"]) == ("false", "canary")
    assert "downstream;dur=" in headers["server-timing"]
    assert np.allclose(scores, [0.1, 0.9])
    assert np.array_equal(gateway.asked[0][0], DIGIT.reshape(-1))


@pytest.mark.parametrize(
    ("images", "code"), [(np.repeat(DIGIT, 9, 0), "too_many_images"), (DIGIT[..., :14], "no_image")]
)
def test_what_cannot_be_purified_is_refused_or_bypassed_as_declared(serve, caplog, images, code):
    with serve(queue_images=8) as gateway:
        assert gateway.ask(images) == ({"code": code}, None)
        assert not gateway.asked
    if images.size % 784:  # the server behind reads whole digits
        images = np.concatenate([images, images])
    caplog.set_level(logging.WARNING, logger="service.gateway")
    with serve(**FEW) as gateway:
        headers, scores = gateway.ask(images)
        assert (headers["x-arn-purified"], headers["x-arn-bypass"]) == ("false", code)
        assert "downstream;dur=" in headers["server-timing"]
        assert sample(gateway.client, f'arn_bypassed_total{{reason="{code}"}}') == 1
        assert np.array_equal(gateway.asked[0][0], images.reshape(-1))
    assert scores
    assert any("forwarded unpurified" in record.message for record in caplog.records)


def test_what_is_broken_is_refused_even_where_failures_are_bypassed(serve):
    with serve(**FEW) as gateway:
        assert gateway.ask(DIGIT * np.nan)[0]["code"] == "bad_parameter"
        assert not gateway.asked


def test_a_shadow_counts_the_labels_that_differ_and_changes_no_answer(serve):
    with serve(shadow_share=1) as gateway:
        headers, scores = gateway.ask(np.repeat(DIGIT, 2, 0))
        waiting_for(gateway, 'arn_shadowed_total{outcome="disagree"}')
        waiting_for(gateway, 'arn_label_flips_total{model="mnist-transparent"}', 2.0)
    assert np.allclose(scores, [0.9, 0.1] * 2)
    assert "x-arn-label" not in headers
    assert len(gateway.asked) == 2


@pytest.mark.parametrize("allowed", [False, True])
def test_both_labels_come_back_only_where_that_is_allowed_and_asked_for(serve, allowed):
    with serve(compare=allowed) as gateway:
        headers, _ = gateway.ask(DIGIT, compare=True)
        found = {name: headers.get(f"x-arn-{name}") for name in ("label", "unpurified-label", "label-flipped")}
        expected = ("0", "1", "true") if allowed else (None, None, None)
        assert tuple(found.values()) == expected
        assert "x-arn-label" not in gateway.ask(DIGIT)[0]
        assert sample(gateway.client, 'arn_shadowed_total{outcome="disagree"}') == allowed
    assert len(gateway.asked) == 2 + allowed
    assert not any("x-arn-compare" in headers for _, headers in gateway.asked)


def on_loop():
    """Whether this is called on the event loop, and not in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's
@pytest.mark.parametrize("note", [10, 2**21])
def test_a_large_request_around_a_small_image_is_written_off_the_event_loop(serve, monkeypatch, note):
    written = []
    monkeypatch.setattr(policy, "_write", lambda *args, of=policy._write: written.append(on_loop()) or of(*args))
    with serve() as gateway:
        assert gateway.ask(DIGIT, note="a " * (note // 2))[0]["x-arn-purified"] == "true"
    assert written == [note < 2**20]
    assert len(gateway.asked) == 1


def predictions(size):
    """An answer of V1 with one row of scores, of about so many bytes."""
    return json.dumps({"predictions": [[0.5] * (size // 5)]}).encode()


@pytest.fixture(params=["shadow", "compare"])
def both(request, upstream, monkeypatch):
    """Asks a gateway that reads the labels of both answers; the answer's headers and what became of the comparison."""

    def ask(answer, coding=None, **settings):
        headers = {"Content-Type": "application/json"} | ({"Content-Encoding": coding} if coding else {})
        monkeypatch.setattr(Upstream, "answers", staticmethod(lambda path: (200, headers, answer)))
        settings |= {"shadow_share": 1} if request.param == "shadow" else {"compare": True}
        with running(downstream_url=upstream, downstream_protocol="v1", **settings) as client:
            body = json.dumps({"instances": ROWS})
            sent = client.post("/v1/models/m:predict", content=body, headers={"X-ARN-Compare": "true"})
            assert (sent.status_code, sent.headers["x-arn-purified"]) == (200, "true")
            outcomes = ("agree", "disagree", "error", "unreadable", "dropped")
            while not (found := [one for one in outcomes if sample(client, f'arn_shadowed_total{{outcome="{one}"}}')]):
                time.sleep(0.01)
            while client.app.state.service.limits.memory.reserved_bytes:
                time.sleep(0.01)
        return sent.headers, *found

    return ask


@pytest.mark.parametrize(
    ("size", "coding", "small"), [(10**3, None, True), (10**6, None, False), (10**6, "gzip", False)]
)
def test_labels_of_large_answers_are_read_off_the_event_loop(both, monkeypatch, size, coding, small):
    read = []

    def labels(answer, headers, of=v1.labels):
        read.append((len(answer), on_loop()))
        return of(answer, headers)

    monkeypatch.setattr(v1, "labels", labels)
    answer = predictions(size)
    _, outcome = both(gzip.compress(answer) if coding else answer, coding)
    assert outcome == "agree"
    assert read == [(len(answer), small)] * 2


@pytest.mark.parametrize("coding", [None, "gzip"])
def test_labels_of_an_answer_that_takes_long_to_read_are_not_read(both, monkeypatch, coding):
    monkeypatch.setattr(v1, "labels", lambda *_: pytest.fail("it was read"))
    answer = predictions(_MOST_ANSWER_BYTES + 100)
    headers, outcome = both(gzip.compress(answer) if coding else answer, coding)
    assert (outcome, headers.get("x-arn-label")) == ("unreadable", None)


def test_both_answers_need_room(both):
    limits = {"max_body_bytes": 2**14, "bodies_bytes": 2**16}
    assert both(predictions(2**12), **limits)[1] == "agree"
    headers, outcome = both(predictions(2**17), **limits)
    assert (outcome, headers.get("x-arn-label")) == ("dropped", None)


def test_a_bypassed_body_goes_on_as_it_came_compressed_or_not(upstream, asked):
    with running(downstream_url=upstream, downstream_protocol="v1", purify_share=0) as client:
        body = gzip.compress(json.dumps({"instances": ROWS}).encode())
        client.post("/v1/models/m:predict", content=body, headers={"Content-Encoding": "gzip"})
    assert asked[0][3] == body
    assert asked[0][2]["content-encoding"] == "gzip"
