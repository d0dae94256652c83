"""In front of a model server: its own routes, its own wire formats, purified images.

A request goes route -> protocol.find -> contract.enter -> queue -> contract.leave -> put_back -> downstream, and the
server's answer comes back verbatim. Only the paths below are passed on, built from their checked parts, so that no
other spelling of a path leads past the purifier.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import random
import re
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

from multidict import CIMultiDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..core import codec
from ..core.background import Background
from ..core.lifecycle import Lifecycle
from ..core.limits import Limits, Reservation
from ..core.purifier import BYTES_PER_PIXEL, Item, Purifier, Timings, run_off_loop, server_timing
from ..edge.http import read_body, stopping_when_client_leaves
from ..edge.inflate import inflate
from ..errors import (
    Busy,
    DeadlineExceeded,
    DownstreamError,
    Draining,
    EngineFailure,
    NoImage,
    ServiceError,
    TooManyImages,
    UnknownModel,
    WrongSize,
)
from ..settings import Settings
from ..telemetry import tracing
from ..telemetry.metrics import Metrics
from .downstream import Downstream, DownstreamAnswer
from .preprocessing import Contract, Entered
from .protocols import Found, Images, Wire, torchserve, v1, v2

logger = logging.getLogger("service.gateway")

# What `bypass` forgives: our own troubles, and images that no purifier here takes. Never a body that cannot be read, or
# a broken one would be the way past the purifier.
FORGIVEN = (Busy, DeadlineExceeded, EngineFailure, NoImage, TooManyImages, WrongSize)
_SEGMENT = re.compile(r"[\w .@~-]+", re.ASCII)
# What a client's headers say of the bytes that it sent, which are others now.
_OF_THE_BODY = frozenset({"content-encoding", "content-md5", "content-digest", "repr-digest", "digest"})
_SAID_HERE = ("date", "server")  # of the server's headers; uvicorn writes its own
_UNPRINTABLE = re.compile(r"[^ -~]")
_TRACED = ("X-ARN-Label", "X-ARN-Unpurified-Label", "X-ARN-Label-Flipped")


@dataclasses.dataclass
class Gateway:
    """What the gateway stands on."""

    settings: Settings
    purifier: Purifier
    lifecycle: Lifecycle
    limits: Limits
    metrics: Metrics
    background: Background
    contract: Contract
    downstream: Downstream | None = None


# -- the server behind us -----------------------------------------------------------------------------------------


def client_headers(request: Request) -> dict[str, str]:
    """The client's headers by lower-case name, one line each (RFC 9110 section 5.3), with the request's id."""
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return {**headers, "x-request-id": request.scope["state"]["request_id"]}


async def ask(
    service: Gateway,
    timings: Timings,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes | bytearray = b"",
) -> DownstreamAnswer:
    """Ask the server, within the rest of the client's own deadline where it sent one; counted and timed."""
    if service.downstream is None:
        raise UnknownModel("no server is configured behind us: ARN_DOWNSTREAM_URL")
    started = time.perf_counter()
    try:
        with tracing.asking(headers.items()) as passed_on:
            left = seconds_left(headers, timings)
            answer = await service.downstream.ask(method, path, dict(passed_on), body, left)
    except DownstreamError as error:
        service.metrics.downstream_requests.labels(error.code).inc()
        raise
    finally:
        timings["downstream"] = time.perf_counter() - started
    service.metrics.downstream_requests.labels(str(answer.status)).inc()
    return answer


def of_another_body(headers: Mapping[str, str]) -> dict[str, str]:
    """A client's headers without what they say of the bytes that it sent."""
    return {name: value for name, value in headers.items() if name not in _OF_THE_BODY}


def seconds_left(headers: Mapping[str, str], timings: Timings) -> float | None:
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


async def infer(request: Request, service: Gateway, protocol: ModuleType, path: str) -> Response:
    """Purify the images of one request and pass it on; whatever the policies say besides."""
    with service.purifier.timed() as timings:
        return await _infer(request, service, protocol, path, timings)


async def _infer(request: Request, service: Gateway, protocol: ModuleType, path: str, timings: Timings) -> Response:
    settings = service.settings
    service.lifecycle.check_accepting()
    headers = client_headers(request)
    memory: Reservation = request.scope["state"]["memory"]
    came = await read_body(request, settings.max_body_bytes)

    async with stopping_when_client_leaves(request):
        if random.random() >= settings.purify_share:
            return await bypass(request, service, timings, path, came, "canary")
        try:
            body: bytes | bytearray = came
            if encoding := headers.get("content-encoding", ""):  # a small body may be a large one
                body = await asyncio.to_thread(inflate, came, encoding, settings.max_body_bytes)
                if body is not came:
                    memory.add(len(body))
            found = await run_off_loop(len(body) // BYTES_PER_PIXEL, protocol.find, Wire(body, headers))
            model = request.path_params.get("model", "")
            purified, items = await purify(service, found, timings, memory, model)
        except FORGIVEN as error:
            if settings.on_failure == "reject" or isinstance(error, Draining):
                raise
            logger.warning("%s forwarded unpurified: %s", headers["x-request-id"], error)
            return await bypass(request, service, timings, path, came, error.code)
        passed_on = of_another_body(purified.headers)
        target = path + (f"?{request.url.query}" if request.url.query else "")
        compare = settings.compare and headers.get("x-arn-compare", "").lower() in ("true", "1")

        async def as_it_came() -> DownstreamAnswer | None:
            with suppress(ServiceError):
                return await ask(service, Timings(), request.method, target, headers, came)
            return None

        other = asyncio.create_task(as_it_came()) if compare else None
        try:
            answer = await ask(service, timings, request.method, target, passed_on, purified.body)
            unpurified = await other if other else None
        finally:
            if other:
                other.cancel()
    evidence = service.purifier.answer_headers(items, timings)
    if compare:
        evidence |= compared(service, protocol, items, answer, unpurified)
    elif random.random() < settings.shadow_share:

        async def shadow() -> None:
            compared(service, protocol, items, answer, await as_it_came())

        service.background.start(shadow, len(came))
    return verbatim(answer, evidence)


async def purify(
    service: Gateway, found: Found, timings: Timings, memory: Reservation, model: str
) -> tuple[Wire, list[Item]]:
    """The request to the server's ``model`` with its images purified; ``memory`` grows by what is decoded.

    Raises:
        NoImage: none that the declared contract or a purifier's shape tells.
        TooManyImages: more than the whole queue holds.
        ServiceError: an image that cannot be decoded, or does not fit the contract; the queue's refusals.
    """
    started = time.perf_counter()
    contract, purifier = service.contract, service.purifier
    # A purifier of any size would see an image in every matrix: it is asked only where none of a fixed size sees one.
    chosen = contract.choose(found.slots, purifier.takes_as_evaluated)
    chosen = chosen or contract.choose(found.slots, purifier.takes)
    if not chosen:
        wanted = f"as input {contract.input!r}" if contract.input else "of a shape that a loaded purifier takes"
        raise NoImage(f"no image in the request {wanted}")
    if len(chosen) > service.settings.queue_images:
        raise TooManyImages(f"{len(chosen)} images in one request; the queue holds {service.settings.queue_images}")
    items: list[Item] = []
    entered: list[Entered | None] = []
    decoding = purifier.decoding(memory)
    for index in chosen:
        slot = found.slots[index]
        selection = purifier.selection_for(model, slot.name)
        if isinstance(slot.images, bytes):
            items.append(await decoding.decode(slot.images, selection))
            entered.append(None)
        else:
            size = 0 if slot.images is None else slot.images.size
            tensor = await run_off_loop(size // BYTES_PER_PIXEL, contract.enter, slot, purifier.takes)
            card = selection.choose(tensor.size, tensor.channels)
            items.append(Item(slot.name, card.name, tensor.images))
            entered.append(tensor)
    timings.stage("decode", started)
    items = await purifier.purify(items, timings)
    started = time.perf_counter()

    def write() -> Wire:
        new: dict[int, Images] = {}
        for index, item, tensor in zip(chosen, items, entered, strict=True):
            new[index] = (
                codec.encode_image(item.purified.images[0]) if tensor is None else tensor.leave(item.purified.images)
            )
        return found.put_back(new)

    work = sum(i.images.size // (1 if t is None else BYTES_PER_PIXEL) for i, t in zip(items, entered, strict=True))
    wire = await run_off_loop(work, write)
    timings.stage("encode", started)
    return wire, items


async def bypass(
    request: Request, service: Gateway, timings: Timings, path: str, body: bytes | bytearray, reason: str
) -> Response:
    """The request as it came, marked and counted."""
    service.metrics.bypassed.labels(reason).inc()
    target = path + (f"?{request.url.query}" if request.url.query else "")
    answer = await ask(service, timings, request.method, target, client_headers(request), body)
    timing = server_timing(timings)
    return verbatim(answer, {"X-ARN-Purified": "false", "X-ARN-Bypass": reason, "Server-Timing": timing})


# -- both images --------------------------------------------------------------------------------------------------


def compared(
    service: Gateway, protocol: ModuleType, items: Sequence[Item], purified: DownstreamAnswer,
    unpurified: DownstreamAnswer | None,
) -> dict[str, str]:  # fmt: skip
    """Count and log whether the server calls both images the same, and tell it as headers."""
    model = items[0].model
    if unpurified is None or purified.status >= 400 or unpurified.status >= 400:
        service.metrics.shadowed.labels("error").inc()
        return {}
    ours, theirs = (_labels(protocol, answer, service.settings.max_body_bytes) for answer in (purified, unpurified))
    if ours is None or theirs is None or len(ours) != len(theirs):
        service.metrics.shadowed.labels("unreadable").inc()
        return {}
    flips = sum(a != b for a, b in zip(ours, theirs, strict=True))
    service.metrics.shadowed.labels("disagree" if flips else "agree").inc()
    service.metrics.label_flips.labels(model).inc(flips)
    if flips:
        logger.info("%d of %d labels differ: purified %.100s, as it came %.100s", flips, len(ours), ours, theirs)
    values = (_listed(ours), _listed(theirs), str(bool(flips)).lower())
    return dict(zip(_TRACED, values, strict=True))


def _labels(protocol: ModuleType, answer: DownstreamAnswer, max_bytes: int) -> list[Any] | None:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    try:
        body = inflate(answer.body, headers.get("content-encoding", ""), max_bytes)
    except ServiceError:
        return None
    labels: list[Any] | None = protocol.labels(body, headers)
    return labels


def _listed(labels: Sequence[Any]) -> str:
    return _UNPRINTABLE.sub("?", ",".join(str(label)[:64] for label in labels[:64]))


# -- the routes of each protocol ----------------------------------------------------------------------------------


def routes(protocol: str, service: Gateway) -> list[Route]:
    """The routes that stand in for a server of ``v1``, ``v2`` or ``torchserve``; ``any`` for all three."""
    table: dict[str, list[tuple[str, list[str], ModuleType | None, bool]]] = {
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
            ("/v2/health/live", ["GET"], None, False),
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
    chosen = [row for name, rows in table.items() if protocol in (name, "any") for row in rows]
    # A template without a colon must not swallow `model:predict`: the more particular ones are tried first.
    chosen.sort(key=lambda row: (":" not in row[0], "{" in row[0]))
    return [_route(service, *row) for row in chosen]


def _route(service: Gateway, template: str, methods: list[str], module: ModuleType | None, health: bool) -> Route:
    async def endpoint(request: Request) -> Response:
        request.scope["route"] = route  # whose template is the metrics' label
        with service.lifecycle.request():
            path = template
            for name, value in request.path_params.items():
                if not _SEGMENT.fullmatch(value) or value.strip(".") == "":
                    raise UnknownModel(f"{name} {value[:64]!r} is no name of a model or version")
                path = path.replace("{" + name + "}", value.replace(" ", "%20"))
            if module is not None:
                return await infer(request, service, module, path)
            return await _pass_through(request, service, path, health)

    route = Route(template, endpoint, methods=methods)
    return route


async def _pass_through(request: Request, service: Gateway, path: str, health: bool) -> Response:
    if health:
        service.lifecycle.check_ready()  # ready only when both are
    body = bytes(await read_body(request, 64 * 2**10))
    target = path + (f"?{request.url.query}" if request.url.query else "")
    timings = Timings()
    async with stopping_when_client_leaves(request):
        answer = await ask(service, timings, request.method, target, client_headers(request), body)
    return verbatim(answer, {})


# -- at start -----------------------------------------------------------------------------------------------------


def check(service: Gateway) -> None:
    """Hold the declared contract against the V2 metadata of the model behind us, where there is one to ask.

    Raises:
        ValueError: they cannot go together. A server that is not up yet is only a warning.
    """
    settings = service.settings
    if not settings.downstream_model or settings.downstream_protocol not in ("v2", "any"):
        return
    url = f"{settings.downstream_url.rstrip('/')}/v2/models/{settings.downstream_model}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (the operator's own address)
            metadata = json.loads(answer.read())
    except (OSError, ValueError) as error:
        logger.warning("the contract is not checked: %s does not answer (%s)", url, error)
        return
    reason = mismatch(service.contract, metadata, service.purifier.takes)
    if reason:
        raise ValueError(f"the model {settings.downstream_model!r} behind us does not fit: {reason}")


def mismatch(contract: Contract, metadata: Mapping[str, Any], takes: Callable[[int, int, int], bool]) -> str | None:
    """Why V2 model metadata do not fit the declared contract and the loaded purifiers; None where they may."""
    inputs = {entry.get("name"): entry for entry in metadata.get("inputs") or []}
    if not inputs:
        logger.warning("the contract is not checked: the model behind us tells no inputs")
        return None
    if contract.input and contract.input not in inputs:
        return f"it has no input {contract.input!r}: {', '.join(map(repr, inputs))}"
    reasons = []
    for name, entry in inputs.items():
        if contract.input and name != contract.input:
            continue
        if entry.get("datatype") == "BYTES":
            return None  # encoded images, or text: only a request tells
        if entry.get("datatype") not in v2.DTYPES:
            reasons.append(f"{name!r} is {entry.get('datatype')}, no type that images have")
        elif not entry.get("shape") or contract.fits([int(extent) for extent in entry["shape"]], takes):
            return None
        else:
            reasons.append(f"{name!r} has the shape {entry.get('shape')}")
    return f"no input is an image that a loaded purifier takes: {'; '.join(reasons)}"
