"""The HTTP routes: bytes to arrays, arrays to the queue, results to bytes. Each step times itself once."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter
from fastapi.routing import APIRoute
from numpy.typing import NDArray
from prometheus_client import generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from models import Card

from . import codec, negotiate, schemas
from .batcher import Answer
from .codec import Images
from .downstream import DownstreamAnswer
from .engine import Purified, Work
from .errors import BadParameter, BrokenBody, DownstreamError, ServiceError, UnknownModel, UnsupportedMedia, WrongSize
from .http import read_body, read_multipart, stopping_when_client_leaves

if TYPE_CHECKING:
    from .app import Service

P = ParamSpec("P")
T = TypeVar("T")


class _DirectRoute(APIRoute):
    """FastAPI's documentation of a route without its dependency injection: each endpoint maps Request to Response."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


router = APIRouter(route_class=_DirectRoute)

# Decoding and encoding less than this is quicker than handing it to a thread.
_INLINE_PIXELS = 128 * 128
_MULTIPART = "multipart/form-data"
_UNTYPED = ("", "application/x-www-form-urlencoded", "application/octet-stream")  # curl's defaults: look at the bytes
_NPY_MAGIC = b"\x93NUMPY"

Timings = dict[str, float]
"""Seconds of each stage of one request."""


@dataclasses.dataclass(frozen=True)
class Upload:
    """What a request brought: images of one body, by file, or one tensor. ``kind`` is the body's media type."""

    kind: str
    files: Sequence[tuple[str | None, bytes | bytearray]] = ()
    tensor: Images | None = None


@dataclasses.dataclass(frozen=True)
class Item:
    """Images that travel together, the model they go to, and what came of them."""

    filename: str | None
    model: str
    images: Images
    result: Purified | None = None

    @property
    def purified(self) -> Purified:
        """The result; there is one once the queue has answered."""
        assert self.result is not None
        return self.result


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


# -- in -----------------------------------------------------------------------------------------------------------


async def _upload(request: Request, service: Service) -> Upload:
    service.ready_batcher()  # before a byte of the body is taken
    settings = service.settings
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (*_UNTYPED, *codec.IMAGE_TYPES, codec.NPY_TYPE, _MULTIPART):
        raise UnsupportedMedia(
            f"content type {kind!r} is not read here: send {', '.join(codec.IMAGE_TYPES[:4])}, "
            f"{codec.NPY_TYPE} or {_MULTIPART}"
        )
    body = await read_body(request, settings.max_body_bytes)
    if not body:
        raise BrokenBody("the body is empty")
    if kind == _MULTIPART:
        return Upload(kind, await read_multipart(content_type, body, settings.queue_images))
    if kind == codec.NPY_TYPE or (kind in _UNTYPED and body.startswith(_NPY_MAGIC)):
        return Upload(codec.NPY_TYPE, tensor=codec.decode_npy(body))
    return Upload("image", [(None, body)])


async def _items(request: Request, service: Service, upload: Upload) -> list[Item]:
    """Decode every image for the model that takes it."""
    wanted = request.query_params.get("model")
    resize = _flag(request, "resize")
    if upload.tensor is not None:
        if resize:
            raise BadParameter("resize works on images, not on tensors")
        array = upload.tensor
        channels_last = array.dtype == np.uint8
        shape = (array.shape[3], *array.shape[1:3]) if channels_last else tuple(array.shape[1:])
        return [Item(None, _choose(service, wanted, shape[1:], channels=shape[0]).name, array)]
    items = []
    for filename, data in upload.files:
        try:
            opened = codec.open_image(data, service.settings.max_pixels)
            card = _choose(service, wanted, opened.size, resize=resize)
            channels, height, width = card.input_shape
            resize_to = (height, width) if resize and height else None
            small = math.prod(opened.size) <= _INLINE_PIXELS
            pixels = await _pooled(small, opened.decode, channels or opened.channels, resize_to)
        except ServiceError as error:
            if filename is not None:
                error.args = (f"{filename}: {error}",)
            raise
        items.append(Item(filename, card.name, pixels))
    return items


async def _pooled(small: bool, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function`` in a thread, or here where that is quicker."""
    return function(*args, **kwargs) if small else await asyncio.to_thread(function, *args, **kwargs)


def _choose(
    service: Service, wanted: str | None, size: tuple[int, ...], channels: int | None = None, resize: bool = False
) -> Card:
    """The card of the model asked for, or of the first that takes (height, width); ``channels`` where they are fixed.

    Raises:
        UnknownModel: ``?model=`` names none that is loaded.
        WrongSize: naming the sizes that are taken.
    """
    cards = list(service.engine.cards())
    if wanted is not None:
        cards = [card for card in cards if card.name == wanted]
        if not cards:
            loaded = ", ".join(card.name for card in service.engine.cards())
            raise UnknownModel(f"no model {wanted!r} is loaded: {loaded}")

    def takes(card: Card) -> bool:
        if not any(card.input_shape):
            return True
        return tuple(size) == card.input_shape[1:] and channels in (None, card.input_shape[0])

    for card in cards:
        if takes(card):
            return card
    if resize:
        return cards[0]
    sizes = ", ".join(
        f"{c.name} {c.input_shape[2]}x{c.input_shape[1]} with {c.input_shape[0]} channel(s)" for c in cards
    )
    given = f"{size[1]}x{size[0]}" + (f" with {channels} channel(s)" if channels is not None else "")
    hint = "" if channels is not None else "; ?resize=true resamples"
    raise WrongSize(f"no model takes {given}: {sizes}{hint}")


def _flag(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "false").lower()
    if value not in ("true", "1", "false", "0", ""):
        raise BadParameter(f"{name} is true or false, not {value!r}")
    return value in ("true", "1", "")


# -- through ------------------------------------------------------------------------------------------------------


async def _purified(
    request: Request, service: Service, upload: Upload, timings: Timings, classify: bool = False, compare: bool = False
) -> list[Item]:
    """The common way of every request: decode, queue, infer."""
    started = time.perf_counter()
    items = await _items(request, service, upload)
    timings["decode"] = time.perf_counter() - started
    if classify:
        _check_classifier(service, items)
    alike: dict[tuple[object, ...], list[Item]] = {}
    for item in items:
        alike.setdefault((item.model, item.images.shape[1:]), []).append(item)
    answers = await _answers(request, service, list(alike.values()), classify, compare)
    timings["queue"] = max(answer.queue_seconds for answer in answers)
    timings["infer"] = max(answer.infer_seconds for answer in answers)
    results: dict[int, Purified] = {}
    for group, answer in zip(alike.values(), answers, strict=True):
        start = 0
        for item in group:
            results[id(item)] = answer.result.part(start, start + len(item.images))
            start += len(item.images)
        for linf, l2 in zip(answer.result.linf.tolist(), answer.result.l2.tolist(), strict=True):
            service.metrics.residual_linf.labels(group[0].model).observe(linf)
            service.metrics.residual_l2.labels(group[0].model).observe(l2)
    return [dataclasses.replace(item, result=results[id(item)]) for item in items]


async def _answers(
    request: Request, service: Service, groups: Sequence[Sequence[Item]], classify: bool, compare: bool
) -> list[Answer]:
    """One entry of the queue for each group of images that are alike; all of them or none."""
    batcher, deadline = service.ready_batcher(), service.settings.deadline_seconds
    calls = [
        batcher.submit(
            Work(group[0].model, classify, compare),
            group[0].images if len(group) == 1 else np.concatenate([item.images for item in group]),
            deadline,
        )
        for group in groups
    ]
    async with stopping_when_client_leaves(request):
        if len(calls) == 1:
            return [await calls[0]]
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(call) for call in calls]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in running]


def _check_classifier(service: Service, items: Sequence[Item]) -> None:
    classifier = service.engine.classifier_card
    if classifier is None:
        raise BadParameter("no classifier is embedded, and ARN_DOWNSTREAM_URL is not set")
    for item in items:
        shape = item.images.shape[1:]
        channels_first = (shape[2], *shape[:2]) if item.images.dtype == np.uint8 else tuple(shape)
        if channels_first != classifier.input_shape:
            raise WrongSize(f"the classifier takes {classifier.input_shape} (C, H, W), the images are {channels_first}")


# -- out ----------------------------------------------------------------------------------------------------------


def _headers(service: Service, items: Sequence[Item], timings: Timings) -> dict[str, str]:
    """What every purified answer carries; of several images the largest norms."""
    for stage, seconds in timings.items():
        service.metrics.stage.labels(stage).observe(seconds)
    names = list(dict.fromkeys(item.model for item in items))
    return {
        "X-ARN-Model": ", ".join(f"{name}@{service.engine.precision}" for name in names),
        "X-ARN-Model-SHA256": ", ".join(service.engine.card(name).sha256 for name in names),
        "X-ARN-Residual-Linf": f"{max(float(item.purified.linf.max()) for item in items):.6f}",
        "X-ARN-Residual-L2": f"{max(float(item.purified.l2.max()) for item in items):.6f}",
        "X-ARN-Purified": "true",
        "Server-Timing": ", ".join(f"{stage};dur={1000 * seconds:.3f}" for stage, seconds in timings.items()),
        "Vary": "Accept",
    }


def _pictures(item: Item) -> list[NDArray[np.uint8]]:
    """The purified images of an item as uint8 ``(H, W, C)``."""
    images = item.purified.images
    if images.dtype != np.uint8:
        images = np.round(images * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return list(images)


def _json_images(items: Sequence[Item]) -> bytes:
    answer = schemas.PurifyAnswer(
        images=[
            schemas.PurifiedImage(
                filename=item.filename,
                model=item.model,
                shape=picture.shape,
                png=codec.encode_base64(codec.encode_image(picture)),
                residual=_residual(item, index),
            )
            for item in items
            for index, picture in enumerate(_pictures(item))
        ]
    )
    return answer.model_dump_json().encode()


def _residual(item: Item, index: int) -> schemas.Residual:
    return schemas.Residual(linf=float(item.purified.linf[index]), l2=float(item.purified.l2[index]))


def _multipart(items: Sequence[Item]) -> tuple[bytes, str]:
    """RFC 2046 multipart/mixed, one PNG a part, each with its own evidence."""
    boundary = secrets.token_hex(16)
    out = io.BytesIO()
    number = 0
    for item in items:
        for index, picture in enumerate(_pictures(item)):
            number += 1
            stem = (item.filename or f"image-{number}").rpartition("/")[2].rpartition(".")
            filename = f"{stem[0] or stem[2]}.png"
            out.write(
                f"--{boundary}\r\nContent-Type: image/png\r\n"
                f"Content-Disposition: attachment; filename*=UTF-8''{quote(filename)}\r\n"
                f"X-ARN-Model: {item.model}\r\n"
                f"X-ARN-Residual-Linf: {item.purified.linf[index]:.6f}\r\n"
                f"X-ARN-Residual-L2: {item.purified.l2[index]:.6f}\r\n\r\n".encode()
            )
            out.write(codec.encode_image(picture))
            out.write(b"\r\n")
    out.write(f"--{boundary}--\r\n".encode())
    return out.getvalue(), f"multipart/mixed; boundary={boundary}"


def _encode(items: Sequence[Item], media_type: str) -> tuple[bytes, str]:
    if media_type == "application/json":
        return _json_images(items), media_type
    if media_type == codec.NPY_TYPE:
        return codec.encode_npy(items[0].purified.images), media_type
    if media_type == "multipart/mixed":
        return _multipart(items)
    kind = "webp" if media_type == "image/webp" else "png"
    return codec.encode_image(_pictures(items[0])[0], kind), media_type  # type: ignore[arg-type]


def _offers(upload: Upload) -> tuple[str, ...]:
    """Media types that can answer an upload, the default first."""
    if upload.tensor is not None:
        single = ("image/png", "image/webp") if len(upload.tensor) == 1 else ()
        return (codec.NPY_TYPE, "application/json", "multipart/mixed", *single)
    if len(upload.files) > 1:
        return ("multipart/mixed", "application/json")
    return ("image/png", "image/webp", codec.NPY_TYPE, "application/json")


_QUERY = [
    {"name": "model", "in": "query", "schema": {"type": "string"}, "description": "a loaded purifier; see /models"},
    {"name": "resize", "in": "query", "schema": {"type": "boolean"}, "description": "resample to the model's size"},
]
_COMPARE = {"name": "compare", "in": "query", "schema": {"type": "boolean"}, "description": "the unpurified label too"}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "required": True,
    "content": {
        **dict.fromkeys((*codec.IMAGE_TYPES[:4], codec.NPY_TYPE), _BINARY),
        _MULTIPART: {"schema": {"type": "object", "additionalProperties": {"type": "string", "format": "binary"}}},
    },
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorAnswer, "description": description}
    for status, description in {
        400: "a broken image or body",
        404: "no such model",
        406: "nothing acceptable",
        413: "too many bytes or images",
        415: "a content type that is not read",
        422: "a size, a number of pixels or a parameter that is not taken",
        429: "the queue is full; Retry-After says when to come back",
        503: "warming up or shutting down",
        504: "the deadline passed",
    }.items()
}


@router.post(
    "/purify",
    summary="Purify one image, many, or a tensor",
    responses={
        200: {
            "content": {
                "image/png": _BINARY,
                "image/webp": _BINARY,
                codec.NPY_TYPE: _BINARY,
                "multipart/mixed": _BINARY,
            },
            "model": schemas.PurifyAnswer,
        },
        **_ERRORS,
    },
    openapi_extra={"parameters": _QUERY, "requestBody": _BODY},
)
async def purify(request: Request) -> Response:
    """Purify: G(E(x)). Answers in kind, or in what ``Accept`` asks for."""
    return await _counted(request, _purify)


async def _purify(request: Request, service: Service) -> Response:
    timings: Timings = {}
    upload = await _upload(request, service)
    media_type = negotiate.choose(request.headers.get("accept"), _offers(upload))
    items = await _purified(request, service, upload, timings)
    started = time.perf_counter()
    small = sum(math.prod(item.images.shape) for item in items) <= _INLINE_PIXELS
    body, content_type = await _pooled(small, _encode, items, media_type)
    timings["encode"] = time.perf_counter() - started
    return Response(body, headers={**_headers(service, items, timings), "Content-Type": content_type})


@router.post(
    "/classify",
    summary="Purify, then classify",
    responses={
        200: {"model": schemas.Classification | schemas.ClassifyAnswer},
        **_ERRORS,
        502: {"model": schemas.ErrorAnswer, "description": "the classifier behind us cannot be reached"},
    },
    openapi_extra={"parameters": [*_QUERY, _COMPARE], "requestBody": _BODY},
)
async def classify(request: Request) -> Response:
    """The embedded classifier's word on the purified image or, with ``ARN_DOWNSTREAM_URL``, its answer."""
    return await _counted(request, _forward if _service(request).downstream else _classify)


async def _classify(request: Request, service: Service) -> Response:
    timings: Timings = {}
    compare = _flag(request, "compare")
    negotiate.choose(request.headers.get("accept"), ("application/json",))
    upload = await _upload(request, service)
    items = await _purified(request, service, upload, timings, classify=True, compare=compare)
    results = [_classification(service, item, index) for item in items for index in range(len(item.purified))]
    several = upload.tensor is not None or len(upload.files) > 1
    answer = schemas.ClassifyAnswer(results=results) if several else results[0]
    headers = _headers(service, items, timings)
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json", headers=headers)


def _classification(service: Service, item: Item, index: int) -> schemas.Classification:
    card = service.engine.classifier_card
    assert card is not None
    assert item.purified.probabilities is not None
    unpurified = item.purified.unpurified
    return schemas.Classification(
        **_prediction(card, item.purified.probabilities[index]).model_dump(),
        model=item.model,
        classifier=card.name,
        residual=_residual(item, index),
        unpurified=None if unpurified is None else _prediction(card, unpurified[index]),
    )


def _prediction(card: Card, probabilities: NDArray[np.float32]) -> schemas.Prediction:
    label = int(probabilities.argmax())
    class_name = card.class_names[label] if card.class_names else None
    return schemas.Prediction(label=label, class_name=class_name, probabilities=probabilities.tolist())


async def _forward(request: Request, service: Service) -> Response:
    """Purify one image and pass it on as PNG; the classifier's answer comes back as it is."""
    if _flag(request, "compare"):
        raise BadParameter("compare works with the embedded classifier only")
    timings: Timings = {}
    items = await _purified(request, service, await _upload(request, service), timings)
    if len(items) > 1 or len(items[0].purified) > 1:
        raise BadParameter("one image a request is forwarded")
    started = time.perf_counter()
    body = codec.encode_image(_pictures(items[0])[0])
    timings["encode"] = time.perf_counter() - started
    answer = await _downstream(request, service, body)
    timings["downstream"] = time.perf_counter() - started - timings["encode"]
    return Response(answer.body, answer.status, {**answer.headers, **_headers(service, items, timings)})


async def _downstream(request: Request, service: Service, body: bytes) -> DownstreamAnswer:
    assert service.downstream is not None
    headers = {**request.headers, "x-request-id": request.scope["state"]["request_id"]}
    try:
        async with stopping_when_client_leaves(request):
            answer = await service.downstream.forward(body, "image/png", headers)
    except DownstreamError as error:
        service.metrics.downstream_requests.labels(error.code).inc()
        raise
    service.metrics.downstream_requests.labels(str(answer.status)).inc()
    return answer


async def _counted(request: Request, handler: Callable[[Request, Service], Awaitable[Response]]) -> Response:
    """Run a handler as one of the accepted requests that a shutdown waits for."""
    service = _service(request)
    service.in_flight += 1
    try:
        return await handler(request, service)
    finally:
        service.in_flight -= 1


# -- about the service --------------------------------------------------------------------------------------------


@router.get("/", include_in_schema=False)
async def root(request: Request) -> Response:
    """The documentation for a browser, a sign of life for everything else."""
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("docs")
    return JSONResponse({"status": "alive", "service": "arn-purify", "docs": "/docs"})


@router.get("/health/live", summary="200 while the process can still serve")
async def live(request: Request) -> Response:
    """503 once the device's thread is gone: only a restart helps then."""
    service = _service(request)
    alive = service.draining or service.batcher is None or service.batcher.alive
    return JSONResponse({"status": "alive" if alive else "dead"}, 200 if alive else 503)


@router.get("/health/ready", summary="200 when requests are taken; 503 while warming and draining", responses=_ERRORS)
async def ready(request: Request) -> Response:
    """For load balancers."""
    try:
        _service(request).ready_batcher()
    except ServiceError as error:
        return JSONResponse({"status": error.code}, 503)
    return JSONResponse({"status": "ready"})


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Prometheus text format."""
    text = generate_latest(_service(request).metrics.registry)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/models", summary="The loaded purifiers", response_model=schemas.ModelsAnswer)
async def models(request: Request) -> Response:
    """Cards of the loaded purifiers, in the order in which they are tried."""
    engine = _service(request).engine
    purifiers = [
        {
            **{name: getattr(card, name) for name in schemas.ModelInfo.model_fields if hasattr(card, name)},
            "precision": engine.precision,
            "device": engine.device,
        }
        for card in engine.cards()
    ]
    classifier = engine.classifier_card
    answer = schemas.ModelsAnswer.model_validate(
        {"purifiers": purifiers, "classifier": classifier.name if classifier else None}
    )
    return JSONResponse(json.loads(answer.model_dump_json()))
