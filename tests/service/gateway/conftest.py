"""A server behind the gateway, and the gateway."""

import socketserver
import threading

import pytest

from ...conftest import running
from ...upstreams import listening
from .helpers import Says, Upstream


@pytest.fixture(scope="module")
def upstream():
    with listening(Upstream) as server:
        yield server.url


@pytest.fixture
def asked():
    Upstream.asked.clear()
    return Upstream.asked


@pytest.fixture(scope="module")
def gateway(upstream):
    models = "mnist-transparent,identity"
    with running(downstream_url=upstream, downstream_protocol="any", models=models, queue_images=64) as client:
        yield client


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
