"""A gRPC server that is away for long: how soon the gateway answers once it is back."""

import contextlib
import socketserver
import threading
import time

import grpc
import numpy as np
import pytest

from arn_purify.service.gateway.downstream import LONGEST_PAUSE_SECONDS
from arn_purify.service.gateway.protocols import v2_grpc

from ...conftest import PATIENCE, running
from .grpc_upstream import asking, grpc_upstream

_ATTEMPTS = 10  # after so many gRPC's own back-off waits 69 seconds, give or take a fifth
_JITTER = 1.2


class _Hanging(socketserver.ThreadingTCPServer):
    """What stands at the server's address meanwhile: hangs up, and counts how often it was called."""

    allow_reuse_address, daemon_threads = True, True

    def __init__(self, port):
        self.calls = threading.Semaphore(0)
        super().__init__(("127.0.0.1", port), socketserver.BaseRequestHandler)

    def finish_request(self, request, client_address):
        self.calls.release()


@contextlib.contextmanager
def hanging_up(port):
    with _Hanging(port) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def digit():
    request = v2_grpc.parse("ModelInferRequest", b"")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 1, 28, 28])
    request.raw_input_contents.append(np.full(784, 0.5, "<f4").tobytes())
    return request.SerializeToString()


@pytest.mark.slow
def test_after_a_long_outage_the_server_is_asked_again_within_the_longest_pause():
    with contextlib.ExitStack() as stack:
        with grpc_upstream() as (behind, address):
            client = stack.enter_context(running(downstream_grpc=address, grpc_port=0, models="mnist-transparent"))
            ask = stack.enter_context(asking(client))
            ask(digit())
            assert len(behind.asked) == 1
        port = int(address.rpartition(":")[2])
        with hanging_up(port) as hanging:
            for _ in range(_ATTEMPTS):
                with pytest.raises(grpc.RpcError) as refused:
                    ask(digit())
                assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
                assert hanging.calls.acquire(timeout=PATIENCE)
        behind, _ = stack.enter_context(
            grpc_upstream(port)
        )  # right after an attempt: the next comes after a full pause
        back, answered = time.monotonic(), False
        while not answered:
            with contextlib.suppress(grpc.RpcError):
                ask(digit())
                answered = True
            # Thrice the pause, for slow machines, is still less than gRPC's own.
            assert time.monotonic() - back < 3 * LONGEST_PAUSE_SECONDS * _JITTER
            time.sleep(0.05)
        assert len(behind.asked) == 1
