"""V2 over gRPC: ``ModelInfer`` is purified, health and metadata are passed on, nothing else is."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from urllib.parse import unquote

import grpc
import grpc.aio
from multidict import CIMultiDict

from ..core.limits import Reservation
from ..core.purifier import Timings
from ..errors import BodyTooLarge, OutOfMemory, ServiceError, Unauthorized
from ..telemetry import tracing
from ..telemetry.log import REQUEST_ID, access, request_id
from .downstream import LONGEST_PAUSE_SECONDS, DownstreamAnswer
from .policy import COMPARE, Gateway, infer
from .protocols import Message, v2_grpc

logger = logging.getLogger("service.gateway")

_LIVE, _INFER = f"/{v2_grpc.SERVICE}/ServerLive", f"/{v2_grpc.SERVICE}/ModelInfer"
_LIVE_ANSWER = {True: b"\x08\x01", False: b""}  # a ServerLiveResponse
# What is passed on, and whether it asks for readiness.
_PASSED = {
    f"/{v2_grpc.SERVICE}/{name}": name in ("ServerReady", "ModelReady")
    for name in (
        "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics",
        "RepositoryIndex",
    )
} | {"/grpc.health.v1.Health/Check": True}  # fmt: skip
_MOST_PASSED_BYTES = 64 * 2**10  # as over HTTP
_MOST_BYTES = 2**31 - 1  # gRPC's own limit of a message
# As over HTTP, probes need no key.
_OPEN = (_LIVE, f"/{v2_grpc.SERVICE}/ServerReady", "/grpc.health.v1.Health/Check")
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
# What the channel says where it had no connection, so that nothing was sent.
_NOT_CONNECTED = ("failed to connect to all addresses", "DNS resolution failed")
_OUR_FAULTS = ("UNKNOWN", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED")
# gRPC's own, which the channel sets anew; and ours.
_OWN_METADATA = re.compile(r"grpc-.*|:.*|user-agent|content-type|te|x-admin-token|x-api-key|" + COMPARE)
# As HTTP's client does, it ignores the proxies that the environment names, and asks a server that was away again within
# the breaker's longest pause; gRPC's own default is two minutes.
_CHANNEL_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", int(1000 * LONGEST_PAUSE_SECONDS)),
]


class GrpcGateway(grpc.GenericRpcHandler):  # type: ignore[misc] # grpcio's base class has no types
    """The server at ``grpc_port`` and the channel to ``downstream_grpc``.

    Args:
        gateway: what becomes of a call.
        shares_port: whether other workers listen at the port too; gRPC takes no socket that is open already.
    """

    def __init__(self, gateway: Gateway, shares_port: bool = False) -> None:
        settings = gateway.settings
        receive, send = "grpc.max_receive_message_length", ("grpc.max_send_message_length", -1)
        self._gateway = gateway
        self._channel = grpc.aio.insecure_channel(settings.downstream_grpc, [(receive, -1), send, *_CHANNEL_OPTIONS])
        self._server = grpc.aio.server(
            options=[
                (receive, min(settings.max_body_bytes, _MOST_BYTES)),
                send,
                ("grpc.so_reuseport", int(shares_port)),
            ],
            maximum_concurrent_rpcs=settings.connections,
        )
        self._server.add_generic_rpc_handlers((self,))
        self.port = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        settings = self._gateway.settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            address = f"{host}:{settings.grpc_port}"
            if settings.tls_cert:
                pair = (Path(settings.tls_key).read_bytes(), Path(settings.tls_cert).read_bytes())
                self.port = self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
            else:
                self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on {host}:{settings.grpc_port}") from error
        await self._server.start()
        logger.info("gRPC on %s:%d", host, self.port)

    async def stop(self) -> None:
        """Let running calls end, then close; the service has refused new ones since its drain began."""
        await self._server.stop(grace=1.0)
        await self._channel.close()

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a method; None is UNIMPLEMENTED."""
        method = handler_call_details.method
        if method == _INFER:
            handler: Callable[..., Awaitable[bytes]] = self._infer
        elif method == _LIVE:
            handler = self._live
        elif method in _PASSED:

            async def handler(request: bytes, call: _Call) -> bytes:
                if len(request) > _MOST_PASSED_BYTES:
                    raise BodyTooLarge(f"the message has {len(request)} bytes, more than {_MOST_PASSED_BYTES}")
                if _PASSED[method]:
                    self._gateway.lifecycle.check_all_ready()  # ready only when both are
                return await call.pass_on(await self.ask(method, request, call, Timings()), {})
        else:
            return None
        if method in _OPEN:

            async def probed(request: Any, call: _Call) -> bytes:  # noqa: ARG001 (a handler's signature)
                return await handler(b"", call)

            # Of a stream no message is read unless asked for.
            return grpc.stream_unary_rpc_method_handler(self._guarded(method, probed))
        limits = self._gateway.limits
        try:
            limits.authorise(str(dict(handler_call_details.invocation_metadata).get("x-api-key", "")).encode())
        except Unauthorized as error:
            refused = error

            async def refuse(request: Any, call: _Call) -> bytes:  # noqa: ARG001 (a handler's signature)
                raise refused

            return grpc.stream_unary_rpc_method_handler(self._guarded(method, refuse))

        async def admitted(request: bytes, call: _Call) -> bytes:
            with limits.client(_address(call.context.peer())), limits.memory.reserve(len(request)) as memory:
                return await handler(request, dataclasses.replace(call, memory=memory))

        return grpc.unary_unary_rpc_method_handler(self._guarded(method, admitted))

    def _guarded(self, method: str, handler: Callable[..., Awaitable[bytes]]) -> Callable[..., Awaitable[bytes]]:
        """Count, log, trace, and turn refusals and the server's own errors into statuses."""
        route = method.rpartition("/")[2]

        async def call(request: bytes, context: Any) -> bytes:
            gateway, started, status, code = self._gateway, time.perf_counter(), "UNKNOWN", ""
            gateway.lifecycle.in_flight += 1
            arrived = _Call.of(context)
            REQUEST_ID.set(arrived.id)
            tracing.note(arrived.id)
            try:
                answer = await handler(request, arrived)
                status = "OK"
                return answer
            except asyncio.CancelledError:
                status = "CANCELLED" if time.monotonic() < arrived.deadline else "DEADLINE_EXCEEDED"
                raise
            except grpc.aio.AioRpcError as error:  # the server's word, or the channel's for it
                status = error.code().name
                ours = {**arrived.headers, "x-arn-refused-by": "downstream", "x-request-id": arrived.id}
                trailing = _beside(_foreign(error.trailing_metadata()), ours)
                await context.abort(error.code(), error.details() or "", trailing)
                raise AssertionError from error
            except Exception as caught:
                refusal = _refusal(caught)
                code = refusal.code
                status = _CODES.get(refusal.status, grpc.StatusCode.INTERNAL).name
                gateway.metrics.rejected.labels(refusal.code).inc()
                headers = {name.lower(): value for name, value in refusal.headers.items()}
                headers.pop("connection", None)  # HTTP/2 has none
                headers |= {"x-arn-code": code, "x-request-id": arrived.id}
                await context.abort(grpc.StatusCode[status], str(refusal), tuple(headers.items()))
                raise AssertionError from caught  # abort raises
            finally:
                gateway.lifecycle.in_flight -= 1
                seconds = time.perf_counter() - started
                gateway.metrics.answered(f"grpc:{route}", status, seconds)
                level = logging.DEBUG if method in _OPEN else logging.INFO  # probes
                access(level, arrived.id, "gRPC", route, status, seconds, _address(context.peer()), code)
                tracing.outcome(status, status in _OUR_FAULTS)

        async def traced(request: bytes, context: Any) -> bytes:
            with tracing.called(method.lstrip("/"), dict(context.invocation_metadata() or ())):
                return await call(request, context)

        return traced

    async def _infer(self, request: bytes, call: _Call) -> bytes:
        assert call.memory is not None  # it was admitted
        self._gateway.lifecycle.check_accepting()
        with self._gateway.purifier.timed() as timings:
            outcome = await infer(self._gateway, _GrpcRequest(self, call, request, call.memory), timings)
        answer = outcome.answer
        ours = {name.lower(): value for name, value in outcome.headers.items()}
        if answer.error:
            call.headers.update(ours)
            raise answer.error
        timing = (("server-timing", ours.pop("server-timing")),)
        return await call.pass_on(answer, ours, timing)

    async def _live(self, request: bytes, call: _Call) -> bytes:  # noqa: ARG002 (a handler's signature)
        """Whether this process can still serve. The server is not asked: a restart here would not bring it back."""
        answer = _LIVE_ANSWER[self._gateway.lifecycle.alive]
        return await call.pass_on(_Answer(200, CIMultiDict(), answer), {})

    async def ask(self, method: str, request: bytes, call: _Call, timings: Timings) -> _Answer:
        """The server's answer, within what is left of the client's deadline and of ours; of inferences counted."""
        started = time.perf_counter()
        seconds = min(self._gateway.settings.downstream_timeout_seconds, max(0.001, call.deadline - time.monotonic()))
        outcome = "CANCELLED"
        try:
            with tracing.asking(call.metadata) as passed_on:
                ask = self._channel.unary_unary(method)(request, timeout=seconds, metadata=tuple(passed_on))
                body = await ask
                initial, trailing = await ask.initial_metadata(), await ask.trailing_metadata()
                answer = _Answer(200, CIMultiDict(), body, _foreign(initial), _foreign(trailing))
                outcome = "OK"
        except grpc.aio.AioRpcError as error:
            outcome = error.code().name
            raise
        finally:
            timings["downstream"] = time.perf_counter() - started
            if method == _INFER:
                self._gateway.metrics.downstream_requests.labels(outcome).inc()
        return answer


def _refusal(error: Exception) -> ServiceError:
    """The error for the client; what it does not concern goes to the log."""
    if isinstance(error, ServiceError):
        return error
    logger.error("a call failed", exc_info=error)
    if isinstance(error, MemoryError):
        return OutOfMemory("no memory for this request now")
    return ServiceError("an internal error; the log has it")


_Metadata = tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class _Answer(DownstreamAnswer):
    """The server's answer with the metadata around it, or its ``error``; ``status`` is 200 or 500."""

    initial: _Metadata = ()
    trailing: _Metadata = ()
    error: grpc.aio.AioRpcError | None = None


@dataclasses.dataclass(frozen=True)
class _GrpcRequest:
    """A ``ModelInfer`` call, as the policy's transport."""

    server: GrpcGateway
    call: _Call
    body: bytes
    memory: Reservation
    protocol: ClassVar[ModuleType] = v2_grpc
    model: ClassVar[str] = ""  # the message names it
    no_answer: ClassVar[tuple[type[Exception], ...]] = ()

    @property
    def id(self) -> str:
        return self.call.id

    @property
    def wants_compare(self) -> bool:
        return self.call.wants_compare

    async def message(self) -> Message:
        return Message(self.body, {})

    async def ask(self, purified: Message | None, timings: Timings) -> _Answer:
        """The server's answer, or its error in place of one."""
        try:
            return await self.server.ask(_INFER, bytes(purified.body) if purified else self.body, self.call, timings)
        except grpc.aio.AioRpcError as error:
            sent = not (error.details() or "").startswith(_NOT_CONNECTED)
            return _Answer(500, CIMultiDict(), b"", error=error, sent=sent)


@dataclasses.dataclass(frozen=True)
class _Call:
    """What outlives a call's context: its id, the metadata to pass on, and the client's deadline (monotonic).

    ``memory`` is reserved until the call ends, and grows by what it decodes. ``headers`` go with the server's error.
    """

    context: Any
    id: str
    metadata: _Metadata
    deadline: float
    wants_compare: bool = False
    memory: Reservation | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)

    @staticmethod
    def of(context: Any) -> _Call:
        given = dict(reversed(context.invocation_metadata() or ()))  # of several of one name the first
        call_id = request_id(str(given.get("x-request-id", "")))
        metadata = _beside(_foreign(context.invocation_metadata()), {"x-request-id": call_id})
        remaining = context.time_remaining()
        deadline = math.inf if remaining is None else time.monotonic() + remaining
        compare = str(given.get(COMPARE, "")).lower() in ("true", "1")
        return _Call(context, call_id, metadata, deadline, compare)

    async def pass_on(self, answer: _Answer, ours: Mapping[str, str], trailing: _Metadata = ()) -> bytes:
        """Send the metadata around the server's answer, with ``ours`` and our ``trailing``; returns the answer."""
        await self.context.send_initial_metadata(_beside(answer.initial, {**ours, "x-request-id": self.id}))
        self.context.set_trailing_metadata((*answer.trailing, *trailing))
        return answer.body


def _foreign(metadata: Any) -> _Metadata:
    """What of a message's metadata is for the other end."""
    return tuple((name, value) for name, value in metadata or () if not _OWN_METADATA.fullmatch(name))


def _beside(metadata: _Metadata, ours: Mapping[str, str]) -> _Metadata:
    """``ours`` beside what is not of the same names."""
    return (*(pair for pair in metadata if pair[0] not in ours), *ours.items())


def _address(peer: str) -> str:
    """The address in gRPC's ``ipv4:1.2.3.4:5`` or ``ipv6:%5B::1%5D:5``."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")
