"""The model server's own HTTP routes, with purified images.

Only the paths below are passed on, built from their checked parts, so that no other spelling of a path leads past the
purifier.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from collections.abc import Mapping
from types import ModuleType
from typing import ClassVar
from urllib.parse import parse_qsl

from multidict import CIMultiDict
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..core.limits import Reservation
from ..core.purifier import Timings
from ..edge.http import read_body, stopping_when_client_leaves
from ..edge.inflate import inflate
from ..errors import BrokenBody, BrokenImage, DownstreamError, ServiceError, UnknownModel, shown
from ..telemetry import tracing
from .downstream import DownstreamAnswer, named_by_connection
from .policy import COMPARE, infer
from .policy import Gateway as Gateway
from .protocols import Message, torchserve, v1, v2
from .protocols.spelling import read
from .startup import check as check

_SEGMENT = re.compile(r"[\w .@~-]+", re.ASCII)
# What a client's headers say of the bytes that it sent, which are others now.
_OF_THE_BODY = frozenset({"content-encoding", "content-md5", "content-digest", "repr-digest", "digest"})
_SAID_HERE = ("date", "server")  # of the server's headers; uvicorn writes its own
_MAX_PASSED_BYTES = 64 * 2**10


# -- the model server -----------------------------------------------------------------------------------------


def client_headers(request: Request) -> dict[str, str]:
    """The client's headers by lower-case name, one line each (RFC 9110 section 5.3), with the request's id.

    Without those that its ``Connection`` names: what we put in their place is for the server.
    """
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    dropped = named_by_connection(headers.get("connection", ""))
    kept = {name: value for name, value in headers.items() if name not in dropped}
    return {**kept, "x-request-id": request.scope["state"]["request_id"]}


async def ask(
    gateway: Gateway,
    timings: Timings,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes | bytearray = b"",
) -> DownstreamAnswer:
    """Ask the server for an inference, within the rest of the client's deadline where it sent one; counted and timed.

    Nothing else is counted: a failed probe is no failed inference, and many good ones would hide those.
    """
    started = time.perf_counter()
    try:
        answer = await _pass_on(gateway, method, path, headers, body, seconds_left(headers, timings))
    except DownstreamError as error:
        gateway.metrics.downstream_requests.labels(error.code).inc()
        raise
    finally:
        timings["downstream"] = time.perf_counter() - started
    gateway.metrics.downstream_requests.labels(str(answer.status)).inc()
    return answer


async def _pass_on(
    gateway: Gateway, method: str, path: str, headers: Mapping[str, str], body: bytes | bytearray, left: float | None
) -> DownstreamAnswer:
    if gateway.downstream is None:
        raise UnknownModel("no model server is configured: ARN_DOWNSTREAM_URL")
    with tracing.asking(headers.items()) as passed_on:
        return await gateway.downstream.ask(method, path, dict(passed_on), body, left)


def of_another_body(headers: Mapping[str, str]) -> dict[str, str]:
    """A client's headers without what they say of the bytes that it sent."""
    return {name: value for name, value in headers.items() if name not in _OF_THE_BODY}


def seconds_left(headers: Mapping[str, str], timings: Mapping[str, float]) -> float | None:
    """What remains of the deadline that the client declared; None where it declared none."""
    declared = headers.get("x-envoy-expected-rq-timeout-ms", "")
    return max(0.001, int(declared[:9]) / 1000 - sum(timings.values())) if declared.isdecimal() else None


def verbatim(answer: DownstreamAnswer, ours: Mapping[str, str]) -> Response:
    """The server's status, headers and body, beside our evidence."""
    response = Response(answer.body, answer.status)
    headers = CIMultiDict((k, v) for k, v in answer.headers.items() if k.lower() not in _SAID_HERE)
    for name, value in ours.items():
        if name == "Server-Timing" and name in headers:
            headers[name] = f"{value}, {headers[name]}"
        else:
            headers[name] = value
    if answer.status >= 400:
        headers["X-ARN-Refused-By"] = "downstream"
    if answer.body or (answer.status not in (204, 304) and "Content-Length" not in headers):
        headers["Content-Length"] = str(len(answer.body))
    # aiohttp reads the bytes of a header so, and so they go out again.
    response.raw_headers = [(k.lower().encode(), v.encode("utf-8", "surrogateescape")) for k, v in headers.items()]
    return response


# -- one inference ------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _HttpRequest:
    """A request over HTTP, as the policy's transport."""

    gateway: Gateway
    protocol: ModuleType
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | bytearray
    memory: Reservation
    model: str
    no_answer: ClassVar[tuple[type[Exception], ...]] = (ServiceError,)

    @property
    def id(self) -> str:
        return self.headers["x-request-id"]

    @property
    def wants_compare(self) -> bool:
        return self.headers.get(COMPARE, "").lower() in ("true", "1")

    async def message(self) -> Message:
        """The body decoded; a small one may be a large one."""
        _refuse_images_in_query(self.target)
        body, encoding = self.body, self.headers.get("content-encoding", "")
        if encoding:
            body = await asyncio.to_thread(inflate, body, encoding, self.gateway.settings.max_body_bytes)
            if body is not self.body:
                self.memory.add(len(body))
        return Message(body, self.headers)

    async def ask(self, purified: Message | None, timings: Timings) -> DownstreamAnswer:
        """The server's answer, whatever its status."""
        if purified is None:
            return await ask(self.gateway, timings, self.method, self.target, self.headers, self.body)
        headers = of_another_body(purified.headers)
        return await ask(self.gateway, timings, self.method, self.target, headers, purified.body)


async def _infer(request: Request, gateway: Gateway, protocol: ModuleType, path: str) -> Response:
    gateway.lifecycle.check_accepting()
    with gateway.purifier.timed() as timings:
        body = await read_body(request, gateway.settings.max_body_bytes)
        memory = request.scope["state"]["memory"]
        headers, target = client_headers(request), _target(request, path)
        model = request.path_params.get("model", "")
        transport = _HttpRequest(gateway, protocol, request.method, target, headers, body, memory, model)
        with stopping_when_client_leaves(request):
            outcome = await infer(gateway, transport, timings)
    return verbatim(outcome.answer, outcome.headers)


def _refuse_images_in_query(target: str) -> None:
    """Refuse what is passed on as it is, but which some servers hand to the model."""
    try:
        pairs = parse_qsl(target.partition("?")[2], max_num_fields=1000)
    except ValueError as error:
        raise BrokenBody("the query has more than 1000 parameters") from error
    for name, value in pairs:
        if read(value):
            raise BrokenImage(f"the query's {shown(name)} holds an image, which is not read there: send it in the body")


def _target(request: Request, path: str) -> str:
    return path + (f"?{request.url.query}" if request.url.query else "")


# -- the routes of each protocol ----------------------------------------------------------------------------------


# protocol -> path, methods, the module that reads its body, whether it reports health
_ROUTES: dict[str, list[tuple[str, list[str], ModuleType | None, bool]]] = {
    "v1": [
        ("/v1/models", ["GET"], None, False),
        ("/v1/models/{model}", ["GET"], None, True),
        ("/v1/models/{model}/metadata", ["GET"], None, False),
        ("/v1/models/{model}/versions/{version}", ["GET"], None, True),
        ("/v1/models/{model}/versions/{version}/metadata", ["GET"], None, False),
        ("/v1/models/{model}/labels/{label}", ["GET"], None, True),
        ("/v1/models/{model}:predict", ["POST"], v1, False),
        ("/v1/models/{model}:explain", ["POST"], v1, False),
        ("/v1/models/{model}/versions/{version}:predict", ["POST"], v1, False),
        ("/v1/models/{model}/labels/{label}:predict", ["POST"], v1, False),
    ],
    "v2": [
        ("/v2", ["GET"], None, False),
        ("/v2/health/ready", ["GET"], None, True),
        ("/v2/models/stats", ["GET"], None, False),
        ("/v2/repository/index", ["POST"], None, False),
        ("/v2/models/{model}", ["GET"], None, False),
        ("/v2/models/{model}/ready", ["GET"], None, True),
        ("/v2/models/{model}/config", ["GET"], None, False),
        ("/v2/models/{model}/stats", ["GET"], None, False),
        ("/v2/models/{model}/infer", ["POST"], v2, False),
        ("/v2/models/{model}/versions/{version}", ["GET"], None, False),
        ("/v2/models/{model}/versions/{version}/ready", ["GET"], None, True),
        ("/v2/models/{model}/versions/{version}/config", ["GET"], None, False),
        ("/v2/models/{model}/versions/{version}/stats", ["GET"], None, False),
        ("/v2/models/{model}/versions/{version}/infer", ["POST"], v2, False),
    ],
    "torchserve": [
        ("/ping", ["GET"], None, True),
        ("/predictions/{model}", ["POST", "PUT"], torchserve, False),
        ("/predictions/{model}/{version}", ["POST", "PUT"], torchserve, False),
    ],
}  # fmt: skip

_POSTED = frozenset(
    path for rows in _ROUTES.values() for path, methods, *_ in rows if ":" in path and "POST" in methods
)


def routes(protocol: str, gateway: Gateway) -> list[Route]:
    """The routes that stand in for a server of ``v1``, ``v2`` or ``torchserve``; ``any`` for all three."""
    chosen = [row for name, rows in _ROUTES.items() if protocol in (name, "any") for row in rows]
    # A template without a colon must not swallow `model:predict`: the more particular ones are tried first.
    chosen.sort(key=lambda row: (":" not in row[0], "{" in row[0]))
    live = [_live_route(gateway)] if protocol in ("v2", "any") else []
    return [*live, *(_route(gateway, *row) for row in chosen)]


def _live_route(gateway: Gateway) -> Route:
    """Whether this process can still serve. The server is not asked: a restart here would not bring it back."""

    async def live(request: Request) -> Response:
        request.scope["route"] = route
        alive = gateway.lifecycle.alive
        return JSONResponse({"live": alive}, 200 if alive else 503)

    route = Route("/v2/health/live", live, methods=["GET"])
    return route


def _route(gateway: Gateway, template: str, methods: list[str], module: ModuleType | None, health: bool) -> Route:
    async def endpoint(request: Request) -> Response:
        request.scope["route"] = route  # whose template is the metrics' label
        with gateway.lifecycle.request():
            path = template
            for name, value in request.path_params.items():
                if f"{template}:{value.rpartition(':')[2]}" in _POSTED:
                    raise HTTPException(405, headers={"Allow": "POST"})
                if not _SEGMENT.fullmatch(value) or value.strip(".") == "":
                    raise UnknownModel(f"{name} {shown(value)} is no name of a model or version")
                path = path.replace("{" + name + "}", value.replace(" ", "%20"))
            if module is not None:
                return await _infer(request, gateway, module, path)
            return await _pass_through(request, gateway, path, health)

    route = Route(template, endpoint, methods=methods)
    return route


async def _pass_through(request: Request, gateway: Gateway, path: str, health: bool) -> Response:
    if health:
        gateway.lifecycle.check_all_ready()  # ready only when both are
    body, headers = bytes(await read_body(request, _MAX_PASSED_BYTES)), client_headers(request)
    with stopping_when_client_leaves(request):
        left = seconds_left(headers, {})
        answer = await _pass_on(gateway, request.method, _target(request, path), headers, body, left)
    return verbatim(answer, {})
