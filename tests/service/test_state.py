"""Starting and stopping the parts of the service."""

import contextlib
import socket

import pytest
from starlette.testclient import TestClient

from arn_purify.service import serve
from arn_purify.service.app import create_app
from arn_purify.service.settings import Settings
from arn_purify.service.workers import ports
from tests.conftest import running


def test_where_a_part_cannot_start_the_devices_thread_ends():
    with socket.create_server(("127.0.0.1", 0)) as other:
        app = create_app(
            Settings(
                models="identity", downstream_grpc="127.0.0.1:9", grpc_port=other.getsockname()[1], drain_seconds=0
            )
        )
        with pytest.raises(OSError, match=r"gRPC cannot listen on 127.0.0.1:\d+"), TestClient(app):
            pass
    assert not app.state.service.batcher._thread.is_alive(), "an interpreter that ends under it may crash"


def test_what_a_part_says_is_what_the_command_says(monkeypatch):
    monkeypatch.setattr(serve, "check_grpc", lambda _: None)  # as if another process were quicker
    monkeypatch.setattr(serve, "configure", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings = {"port": 0, "downstream_grpc": "127.0.0.1:9", "grpc_port": other.getsockname()[1]}
        with pytest.raises(OSError, match=r"^gRPC cannot listen on 127.0.0.1:\d+"):
            serve.serve(Settings(models="identity", **settings))


def test_a_certificate_that_is_none_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(serve, "configure", lambda *_: None)
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    settings = Settings(models="identity", port=0, tls_cert=str(broken), tls_key=str(broken))
    with (
        contextlib.ExitStack() as opened,
        pytest.raises(OSError, match=r"broken.pem \(ARN_TLS_CERT\) and .*broken.pem \(ARN_TLS_KEY\) cannot be used"),
    ):
        serve._serve(settings, None, ports.listen(settings, opened))


def test_grpc_takes_bodies_of_two_gigabytes_at_most():
    with running(
        models="identity", downstream_grpc="127.0.0.1:9", grpc_port=0, max_body_bytes=2**32, bodies_bytes=2**33
    ):
        pass
