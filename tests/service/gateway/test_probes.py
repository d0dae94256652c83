"""Probes through the gateway: what they say of it and of the server, and that they count as no inference."""

import contextlib
import json

import grpc
import pytest

from arn_purify.service.core.batcher import Batcher
from arn_purify.service.gateway.protocols import v2_grpc

from ...conftest import PATIENCE, running
from .grpc_upstream import grpc_upstream
from .helpers import ROWS, Upstream

DOWN, DOWN_GRPC = "http://127.0.0.1:9", "127.0.0.1:9"
ALIVE, DEAD = b"\x08\x01", b""  # a ServerLiveResponse


@contextlib.contextmanager
def calling(client):
    """How to call a method of the gateway over gRPC, with an empty message."""
    with grpc.insecure_channel(f"127.0.0.1:{client.app.state.service.grpc.port}") as channel:
        yield lambda name: channel.unary_unary(f"/{name}")(b"", timeout=PATIENCE)


def counted(client):
    """Answers of the model server that are counted, by status."""
    rows = client.get("/metrics").text.splitlines()
    found = [
        row.split('"')[1::2] + row.split()[-1:] for row in rows if row.startswith("arn_downstream_requests_total{")
    ]
    return {status: float(value) for status, value in found if float(value)}


@pytest.mark.parametrize("protocol", ["v2", "any"])
def test_liveness_is_the_gateways_own(monkeypatch, protocol):
    with running(downstream_url=DOWN, downstream_protocol=protocol) as client:
        assert (client.get("/v2/health/live").status_code, client.get("/v2/health/ready").status_code) == (200, 502)
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.head("/v2/health/live").status_code == 200
        monkeypatch.setattr(Batcher, "ended", True)
        assert client.get("/v2/health/live").status_code == client.get("/health/live").status_code == 503
        assert 'route="/v2/health/live",status="503"' in client.get("/metrics").text


def test_liveness_over_grpc_is_the_gateways_own(monkeypatch):
    with running(downstream_grpc=DOWN_GRPC, grpc_port=0) as client, calling(client) as call:
        assert call(f"{v2_grpc.SERVICE}/ServerLive") == ALIVE
        for probe in (f"{v2_grpc.SERVICE}/ServerReady", "grpc.health.v1.Health/Check"):
            with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                call(probe)
        monkeypatch.setattr(Batcher, "ended", True)
        assert call(f"{v2_grpc.SERVICE}/ServerLive") == DEAD
        monkeypatch.undo()


def test_only_inferences_count_as_answers_of_the_server(upstream, monkeypatch):
    loading = staticmethod(lambda path: (503, {}, b"") if path.endswith(":predict") else (404, {}, b""))
    monkeypatch.setattr(Upstream, "answers", loading)
    with running(downstream_url=upstream, downstream_protocol="any") as client:
        for path in ("/v1/models", "/v1/models/m", "/v2/health/ready", "/v2/models/m/ready", "/v2/models/m", "/ping"):
            assert client.get(path).status_code == 404
        assert counted(client) == {}
        assert client.post("/v1/models/m:predict", content=json.dumps({"instances": ROWS})).status_code == 503
        assert counted(client) == {"503": 1}
    with running(downstream_url=DOWN, downstream_protocol="v2") as client:
        assert client.get("/v2/health/ready").status_code == 502
        assert counted(client) == {}


def test_only_inferences_count_as_answers_of_the_server_over_grpc():
    with grpc_upstream() as (behind, address), running(downstream_grpc=address, grpc_port=0) as client:
        with calling(client) as call:
            for name in ("ServerReady", "ModelReady", "ServerMetadata"):
                call(f"{v2_grpc.SERVICE}/{name}")
        assert len(behind.asked) == 3
        assert counted(client) == {}
