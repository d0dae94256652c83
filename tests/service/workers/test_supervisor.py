"""The ports that are opened for the workers."""

import contextlib
import socket

import pytest

from arn_purify.service.settings import Settings
from arn_purify.service.workers.supervisor import _open, _reserve
from tests.service.edge.test_server import has_ipv6


@pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")
def test_all_addresses_are_those_of_both_families():
    with contextlib.ExitStack() as ports:
        (listening,) = _open("::", 0, ports)
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, listening.getsockname()[1])):
                listening.accept()[0].close()


def test_a_name_is_every_address_that_it_has():
    with contextlib.ExitStack() as ports:
        found = {listening.getsockname()[0] for listening in _open("localhost", 0, ports)}
    assert found == {info[4][0] for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}


def test_a_port_that_is_taken_is_an_error():
    with contextlib.ExitStack() as ports:
        (listening,) = _open("127.0.0.1", 0, ports)
        port = listening.getsockname()[1]
        with pytest.raises(OSError, match="already in use"):
            _open("127.0.0.1", port, ports)
        with pytest.raises(OSError, match="already in use"):
            _reserve(Settings(grpc_port=port), ports)


def test_a_reserved_port_is_free_for_the_workers_alone():
    with contextlib.ExitStack() as ports:
        port = _reserve(Settings(grpc_port=0), ports)
        with pytest.raises(OSError, match="already in use"):
            socket.create_server(("127.0.0.1", port)).close()
        with socket.create_server(("127.0.0.1", port), reuse_port=True), socket.create_connection(("127.0.0.1", port)):
            pass
