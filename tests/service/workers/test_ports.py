"""The ports, opened before any model is loaded."""

import contextlib
import socket

import pytest

from arn_purify.service import serve
from arn_purify.service.settings import Settings
from arn_purify.service.workers.ports import check_grpc, listen, reserve_grpc
from tests.service.edge.test_server import has_ipv6


@pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")
def test_all_addresses_are_those_of_both_families():
    with contextlib.ExitStack() as ports:
        (listening,) = listen(Settings(host="::", port=0), ports)
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, listening.getsockname()[1])):
                listening.accept()[0].close()


def test_a_name_is_every_address_that_it_has():
    with contextlib.ExitStack() as ports:
        found = {listening.getsockname()[0] for listening in listen(Settings(host="localhost", port=0), ports)}
    assert found == {info[4][0] for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}


def test_a_port_that_is_taken_is_an_error_that_names_it():
    with contextlib.ExitStack() as ports:
        (listening,) = listen(Settings(port=0), ports)
        port = listening.getsockname()[1]
        with pytest.raises(OSError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: .*already in use"):
            listen(Settings(port=port), ports)
        for take in (check_grpc, lambda settings: reserve_grpc(settings, ports)):
            with pytest.raises(OSError, match=rf"^gRPC cannot listen on 127\.0\.0\.1:{port}: .*already in use"):
                take(Settings(grpc_port=port))
    with pytest.raises(OSError, match=r"^cannot listen on nowhere\.invalid:1: "):
        listen(Settings(host="nowhere.invalid", port=1), ports)


def test_a_reserved_port_is_free_for_the_workers_alone():
    with contextlib.ExitStack() as ports:
        port = reserve_grpc(Settings(grpc_port=0), ports)
        with pytest.raises(OSError, match="already in use"):
            socket.create_server(("127.0.0.1", port)).close()
        with socket.create_server(("127.0.0.1", port), reuse_port=True), socket.create_connection(("127.0.0.1", port)):
            pass


@pytest.mark.parametrize(("taken", "said"), [("port", "cannot"), ("grpc_port", "gRPC cannot")])
def test_a_taken_port_ends_the_start_before_a_model_is_loaded(taken, said, monkeypatch):
    monkeypatch.setattr(serve, "create_app", lambda *_: pytest.fail("the models are loaded first"))
    monkeypatch.setattr(serve, "configure", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings = {"port": 0, "downstream_grpc": "127.0.0.1:9", taken: other.getsockname()[1]}
        with pytest.raises(OSError, match=f"^{said} listen on 127.0.0.1:"):
            serve.serve(Settings(**settings))
