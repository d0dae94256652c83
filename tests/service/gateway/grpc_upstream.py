"""A gRPC server behind the gateway, in this process, that keeps what it is asked."""

from concurrent import futures
from contextlib import contextmanager

import grpc

from arn_purify.service.gateway.protocols import v2_grpc

INFER = f"/{v2_grpc.SERVICE}/ModelInfer"


class GrpcUpstream(grpc.GenericRpcHandler):
    """``asked`` are (method, metadata, request); ``answer(request, context)`` gives the bytes to answer with."""

    def __init__(self):
        self.asked = []
        self.answer = lambda request, context: b""

    def service(self, details):
        def handle(request, context):
            self.asked.append((details.method, dict(context.invocation_metadata()), request))
            return self.answer(request, context)

        return grpc.unary_unary_rpc_method_handler(handle)


@contextmanager
def grpc_upstream(port=0):
    """The server and its address."""
    server, handler = grpc.server(futures.ThreadPoolExecutor(4)), GrpcUpstream()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield handler, f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def asking(client):
    """How to call the gateway's ``ModelInfer``; gives the answer and the call."""
    with grpc.insecure_channel(f"127.0.0.1:{client.app.state.service.grpc.port}") as channel:
        ask = channel.unary_unary(INFER)
        yield lambda request, *metadata: ask.with_call(request, metadata=metadata, timeout=60)
