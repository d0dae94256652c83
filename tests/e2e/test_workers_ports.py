"""The ports that several processes share: TLS and gRPC; and what is asked of others once."""

import json
import re
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from arn_purify.service.gateway.protocols import v2_grpc

from ..conftest import PATIENCE
from ..upstreams import Handler, listening
from .conftest import serving, until
from .test_doors import certificate  # noqa: F401 (a fixture)
from .test_workers import EXAMPLES, ONE_MODEL, start

METADATA = f"/{v2_grpc.SERVICE}/ModelMetadata"


@contextmanager
def model_server(shape):
    """A model server's V2 metadata; gives its address and a list of the paths that were asked for."""
    asked = []

    class Metadata(Handler):
        def reply(self):
            asked.append(self.path)
            self.answer(json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": shape}]}).encode())

    with listening(Metadata) as server:
        yield server.url, asked


@contextmanager
def grpc_server():
    """A gRPC server that answers every call with nothing."""

    class Behind(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Behind()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


def test_tls_and_grpc_and_one_check_of_the_model_server(tmp_path, certificate):  # noqa: F811
    cert, key = map(str, certificate)
    trusted = ssl.create_default_context(cafile=cert)
    with model_server([-1, 1, 28, 28]) as (url, asked), grpc_server() as behind:
        flags = ("--downstream-url", url, "--downstream-protocol", "v2", "--downstream-model", "m", *ONE_MODEL)
        flags += ("--downstream-grpc", behind, "--grpc-port", "0", "--tls-cert", cert, "--tls-key", key)
        with serving(tmp_path, "--workers", "2", *flags, trusted=trusted) as served:
            assert asked == ["/v2/models/m"], "once, not by each"
            assert served.url.startswith("https://")
            assert served.client.post("/purify", content=EXAMPLES[0]).status_code == 200
            (port,) = set(re.findall(r"gRPC on \S+:(\d+)", served.said))
            roots = grpc.ssl_channel_credentials(certificate[0].read_bytes())

            def workers_that_answered():
                own = [("grpc.use_local_subchannel_pool", 1)]  # or all channels would share a connection
                with grpc.secure_channel(f"127.0.0.1:{port}", roots, own) as channel:
                    assert channel.unary_unary(METADATA)(b"", timeout=PATIENCE) == b""
                return set(re.findall(r"\[worker (\d)\] service.access: \S+ gRPC ModelMetadata OK", served.said))

            until(lambda: workers_that_answered() == {"1", "2"})
            taken = start("--downstream-grpc", behind, "--grpc-port", port, *flags[:2], *ONE_MODEL)
            assert taken.returncode == 2
            assert "Address already in use" in taken.stderr, "though gRPC's sockets would share the port"
            assert served.stop() == 0
        assert "Traceback" not in served.said


def test_a_model_server_that_does_not_fit_ends_the_start(tmp_path):
    with model_server([-1, 5, 5]) as (url, asked):
        finished = start("--downstream-url", url, "--downstream-protocol", "v2", "--downstream-model", "m", *ONE_MODEL)
        assert asked == ["/v2/models/m"]
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1].startswith("arn: the served model 'm' does not fit: ")
