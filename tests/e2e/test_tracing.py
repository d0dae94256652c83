"""The running service tells a real OTLP receiver what it did, and the server behind it whose child it is."""

import asyncio
import base64
import itertools
import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import grpc.aio
import pytest

from arn_purify.service.gateway.protocols import v2_grpc

from ..conftest import PATIENCE
from ..upstreams import Handler, listening
from .conftest import behind_grpc, serving

trace_service = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="the extra otel is not installed"
)

PNG = (Path(__file__).parents[2] / "examples" / "adversarial_3.png").read_bytes()
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CLIENTS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
SERVER, CLIENT, ERROR = 2, 3, 2


class Kept(Handler):
    """Keeps every request's path, headers and body, and answers an empty JSON object."""

    protocol_version = "HTTP/1.1"

    def reply(self):
        self.server.kept.append((self.path, {k.lower(): v for k, v in self.headers.items()}, self.asked()))
        self.answer(b"{}")


@contextmanager
def keeping():
    with listening(Kept) as server:
        server.kept = []
        yield server


@pytest.fixture
def receiver():
    with keeping() as server:
        yield server


@pytest.fixture
def behind():
    with keeping() as server:
        yield server


def traced(tmp_path, url, *flags, **variables):
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": url, **variables}
    return serving(tmp_path, "--log-format", "json", *flags, env=environment)


def received(receiver):
    """The resource, and every span."""
    requests = [trace_service.ExportTraceServiceRequest.FromString(body) for _, _, body in receiver.kept]
    assert {path for path, _, _ in receiver.kept} == {"/v1/traces"}
    groups = [group for request in requests for group in request.resource_spans]
    spans = [span for group in groups for scope in group.scope_spans for span in scope.spans]
    return attributes(groups[0].resource), spans


def attributes(holder):
    return {a.key: a.value.string_value or a.value.int_value for a in holder.attributes}


def test_a_request_is_one_span_with_its_stages_and_the_server_behind_is_its_child(tmp_path, receiver, behind):
    flags = ("--downstream-url", behind.url)
    with traced(tmp_path, receiver.url, *flags, OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test") as served:
        before = time.time_ns()
        answer = served.client.post("/classify", content=PNG, headers={**CLIENTS, "X-Request-ID": "r-1"})
        assert served.stop() == 0
    resource, spans = received(receiver)
    assert resource["service.name"] == "arn-purify"
    assert resource["service.version"]
    assert resource["deployment.environment"] == "test"
    (request,) = [span for span in spans if span.kind == SERVER]  # the probes of `serving` are none
    assert request.name == "POST /classify"
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(request).items() >= {
        "http.request.method": "POST", "http.route": "/classify", "url.path": "/classify",
        "http.response.status_code": 200, "arn.request_id": "r-1",
    }.items()  # fmt: skip
    assert request.status.code != ERROR
    stages = sorted((span for span in spans if span is not request), key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in stages] == ["decode", "queue", "infer", "encode", "downstream"]
    assert {span.parent_span_id for span in stages} == {request.span_id}
    told = dict(re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"]))
    tolerance = 1_000_000  # nanoseconds: two clocks
    for earlier, later in itertools.pairwise(stages):
        assert earlier.end_time_unix_nano <= later.start_time_unix_nano + tolerance
    for span in stages:
        assert before <= request.start_time_unix_nano <= span.start_time_unix_nano + tolerance
        assert span.end_time_unix_nano <= request.end_time_unix_nano + tolerance
        if span.name != "downstream":
            took = span.end_time_unix_nano - span.start_time_unix_nano
            assert abs(took - 1e6 * float(told[span.name])) < 1000  # of which the header tells thousandths
    ((_, headers, _),) = behind.kept
    assert stages[-1].kind == CLIENT
    assert headers["traceparent"] == f"00-{TRACE}-{stages[-1].span_id.hex()}-01"
    assert headers["tracestate"] == "vendor=1"
    lines = [json.loads(line) for line in served.said.splitlines()]
    (access,) = [line for line in lines if line.get("route") == "/classify"]
    assert (access["request_id"], access["trace_id"]) == ("r-1", TRACE)


def test_a_route_of_the_gateway_is_named_by_its_template(tmp_path, receiver, behind):
    body = {"instances": [{"b64": base64.b64encode(PNG).decode()}]}
    with traced(
        tmp_path, receiver.url, "--downstream-url", behind.url, "--downstream-protocol", "v1", "--compare", "true"
    ) as served:
        headers = {**CLIENTS, "X-ARN-Compare": "true"}
        assert served.client.post("/v1/models/m:predict", json=body, headers=headers).status_code == 200
        assert served.stop() == 0
    _, spans = received(receiver)
    (request,) = [span for span in spans if span.kind == SERVER]
    assert request.name == "POST /v1/models/{model}:predict"
    asked = [span for span in spans if span.kind == CLIENT]  # about both images
    assert {span.parent_span_id for span in asked} == {request.span_id}
    parents = [f"00-{TRACE}-{span.span_id.hex()}-01" for span in asked]
    assert sorted(headers["traceparent"] for _, headers, _ in behind.kept) == sorted(parents)


def test_failures_say_whose_they_are_and_a_broken_parent_is_none(tmp_path, receiver, behind):
    behind.server_close()  # nobody answers there
    with traced(tmp_path, receiver.url, "--downstream-url", behind.url) as served:
        assert served.client.post("/purify", content=b"no image").status_code == 400
        broken = {"traceparent": f"00-{'0' * 32}-{PARENT}-01", "tracestate": "vendor=1"}
        assert served.client.post("/classify", content=PNG, headers=broken).status_code == 502
        assert served.client.get("/no/such/path").status_code == 404
        assert served.stop() == 0
    _, spans = received(receiver)
    requests = {span.name: span for span in spans if span.kind == SERVER}
    assert {name: span.status.code == ERROR for name, span in requests.items()} == {
        "POST /purify": False, "POST /classify": True, "GET": False,
    }  # fmt: skip
    assert not requests["POST /classify"].parent_span_id
    assert requests["POST /classify"].trace_id != bytes(16)
    (downstream,) = [span for span in spans if span.kind == CLIENT]
    assert downstream.status.code == ERROR
    assert "DownstreamUnreachable" in downstream.status.message


async def test_a_call_over_grpc_is_traced_like_a_request(tmp_path, receiver):
    asked = []

    async def answer(request, context):
        asked.append(dict(context.invocation_metadata()))
        return b""

    def run(address):
        with traced(tmp_path, receiver.url, "--downstream-grpc", address, "--grpc-port", "0") as served:
            (port,) = re.findall(r"gRPC on [\d.]+:(\d+)", served.said)
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                ask = channel.unary_unary(f"/{v2_grpc.SERVICE}/ServerMetadata")
                assert ask(b"", metadata=tuple(CLIENTS.items()), timeout=PATIENCE) == b""
                with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
                    channel.unary_unary(f"/{v2_grpc.SERVICE}/ModelInfer")(b"", timeout=PATIENCE)
            assert served.stop() == 0

    async with behind_grpc(answer) as address:
        await asyncio.to_thread(run, address)
    _, spans = received(receiver)
    requests = {span.name: span for span in spans if span.kind == SERVER}
    metadata = requests[f"{v2_grpc.SERVICE}/ServerMetadata"]
    assert metadata.parent_span_id.hex() == PARENT
    assert attributes(metadata)["rpc.response.status_code"] == "OK"
    (downstream,) = [span for span in spans if span.kind == CLIENT]
    assert downstream.parent_span_id == metadata.span_id
    assert asked[0]["traceparent"] == f"00-{TRACE}-{downstream.span_id.hex()}-01"
    infer = requests[f"{v2_grpc.SERVICE}/ModelInfer"]
    assert attributes(infer)["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert infer.status.code != ERROR


def test_a_receiver_that_is_gone_costs_no_answer_and_no_shutdown(tmp_path, receiver):
    receiver.server_close()
    with traced(tmp_path, receiver.url) as served:
        assert served.client.post("/purify", content=PNG).status_code == 200
        started = time.monotonic()
        assert served.stop() == 0
    assert time.monotonic() - started < 25  # of 30 that OpenTelemetry would take


@pytest.mark.parametrize("variables", [{}, {"OTEL_SDK_DISABLED": "true"}])
def test_off_nothing_of_it_is_imported(variables):
    names = "[name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]"
    if variables:
        variables |= {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    script = (
        f"import sys; from arn_purify.service.app import create_app; assert create_app().state.service; print({names})"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")} | variables
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_without_the_extra_it_says_so_and_serves(tmp_path):
    program = "import sys; sys.modules['opentelemetry.sdk'] = None; from arn_purify.service.cli import main; main()"
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with serving(tmp_path, command=[sys.executable, "-c", program], env=environment) as served:
        assert served.client.post("/purify", content=PNG).status_code == 200
        assert "OTEL_EXPORTER_OTLP_ENDPOINT is set, but no traces are sent" in served.said
