"""The HTTP routes: bytes to arrays, arrays to the queue, results to bytes. Each step times itself once."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter
from fastapi.routing import APIRoute
from numpy.typing import NDArray
from prometheus_client import generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from arn_purify.models import Card, card_of

from ..core import codec
from ..core import purifier as pipeline
from ..core.codec import Images
from ..core.engine import Attack
from ..core.purifier import Item, Timings
from ..edge import negotiate
from ..edge.http import read_body, read_multipart, stopping_when_client_leaves
from ..errors import BadParameter, BrokenBody, ServiceError, UnsupportedMedia, WrongSize
from ..gateway import rest as gateway
from . import page as demo
from . import schemas

if TYPE_CHECKING:
    from ..app import Service


class _DirectRoute(APIRoute):
    """FastAPI's documentation of a route without its dependency injection: each endpoint maps Request to Response."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


router = APIRouter(route_class=_DirectRoute)

_MULTIPART = "multipart/form-data"
_UNTYPED = ("", "application/x-www-form-urlencoded", "application/octet-stream")  # curl's defaults: look at the bytes
_NPY_MAGIC = b"\x93NUMPY"


@dataclasses.dataclass(frozen=True)
class Upload:
    """What a request brought: images of one body, by file, or one tensor. ``kind`` is the body's media type."""

    kind: str
    files: Sequence[tuple[str | None, bytes | bytearray]] = ()
    tensor: Images | None = None


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


# -- in -----------------------------------------------------------------------------------------------------------


async def _upload(request: Request, service: Service) -> Upload:
    service.ready_batcher().admit()  # before a byte of the body is taken
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
        tensor = await pipeline.pooled(len(body) // gateway.BYTES_A_PIXEL, codec.decode_npy, body)
        return Upload(codec.NPY_TYPE, tensor=tensor)
    return Upload("image", [(None, body)])


async def _items(request: Request, service: Service, upload: Upload, classify: bool = False) -> list[Item]:
    """Decode every image for the model that takes it, and for the classifier that is to see it."""
    classifiers = service.engine.classifiers if classify else ()
    channels = {(height, width): channels for channels, height, width in classifiers}
    wanted = request.query_params.get("model")
    resize = _flag(request, "resize")
    if upload.tensor is not None:
        if resize:
            raise BadParameter("resize works on images, not on tensors")
        shape = _channels_first(upload.tensor)
        item = Item(None, pipeline.choose(service, wanted, shape[1:], channels=shape[0]).name, upload.tensor)
        if classify:
            _check_classifier(service, item)
        return [item]
    items: list[Item] = []
    decoding = pipeline.Decoding(service, request.scope["state"]["keep"])
    for filename, data in upload.files:
        try:
            item = await decoding.decode(data, wanted, resize, channels)
            if classify:
                _check_classifier(service, item)
            items.append(dataclasses.replace(item, filename=filename))
        except ServiceError as error:
            if filename is not None:
                error.args = (f"{filename}: {error}",)
            raise
    return items


async def _purified(
    request: Request,
    service: Service,
    upload: Upload,
    timings: Timings,
    classify: bool = False,
    compare: bool = False,
    attack: Attack | None = None,
) -> list[Item]:
    """The common way of every request: decode, queue, infer."""
    started = time.perf_counter()
    async with stopping_when_client_leaves(request):
        items = await _items(request, service, upload, classify)
        timings.stage("decode", started)
        return await pipeline.purify(service, items, timings, classify, compare, attack)


def _accept(request: Request) -> str | None:
    """What the client takes, on however many lines it said so."""
    return ", ".join(request.headers.getlist("accept")) or None


def _flag(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "false").lower()
    if value not in ("true", "1", "false", "0", ""):
        raise BadParameter(f"{name} is true or false, not {value!r}")
    return value in ("true", "1", "")


def _check_classifier(service: Service, item: Item) -> None:
    taken, shape = service.engine.classifiers, _channels_first(item.images)
    if not taken:
        raise BadParameter("no classifier is embedded, and ARN_DOWNSTREAM_URL is not set")
    if shape not in taken:
        known = " or ".join(map(str, taken))
        raise WrongSize(f"the embedded classifiers take {known} (C, H, W), the images are {shape}")


def _channels_first(images: Images) -> tuple[int, int, int]:
    """(C, H, W) of the images."""
    first, second, third = images.shape[1:]
    return (third, first, second) if images.dtype == np.uint8 else (first, second, third)


# -- out ----------------------------------------------------------------------------------------------------------


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
    if upload.tensor is not None and _channels_first(upload.tensor)[0] not in (1, 3):
        return (codec.NPY_TYPE,)  # no picture
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
        401: "no key in X-API-Key, where one is asked for",
        404: "no such model",
        406: "nothing acceptable",
        408: "the body was not whole in time",
        413: "too many bytes or images",
        415: "a content type that is not read",
        422: "a size, a number of pixels or a parameter that is not taken",
        429: "the queue, the client's share or the memory for bodies is full; Retry-After says when to come back",
        500: "the network failed on the batch",
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


async def _purify(request: Request, service: Service, timings: Timings) -> Response:
    upload = await _upload(request, service)
    media_type = negotiate.choose(_accept(request), _offers(upload))
    items = await _purified(request, service, upload, timings)
    started = time.perf_counter()
    pixels = sum(math.prod(item.images.shape) for item in items)
    body, content_type = await pipeline.pooled(pixels, _encode, items, media_type)
    timings.stage("encode", started)
    headers = {**pipeline.evidence(service, items, timings), "Content-Type": content_type, "Vary": "Accept"}
    return Response(body, headers=headers)


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
    """The embedded classifiers' word on the purified image or, with ``ARN_DOWNSTREAM_URL``, its answer."""
    settings = _service(request).settings
    forwarded = settings.downstream_url and settings.downstream_protocol == "raw"
    return await _counted(request, _forward if forwarded else _classify)


async def _classify(request: Request, service: Service, timings: Timings) -> Response:
    compare = _flag(request, "compare")
    negotiate.choose(_accept(request), ("application/json",))
    upload = await _upload(request, service)
    items = await _purified(request, service, upload, timings, classify=True, compare=compare)
    results = [_classification(service, item, index) for item in items for index in range(len(item.purified))]
    several = upload.tensor is not None or len(upload.files) > 1
    answer = schemas.ClassifyAnswer(results=results) if several else results[0]
    headers = pipeline.evidence(service, items, timings)
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json", headers=headers)


def _classification(service: Service, item: Item, index: int) -> schemas.Classification:
    card = card_of(service.engine.classifiers[_channels_first(item.images)])
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


async def _forward(request: Request, service: Service, timings: Timings) -> Response:
    """Purify one image and pass it on as PNG; the classifier's answer comes back as it is."""
    if _flag(request, "compare"):
        raise BadParameter("compare works with the embedded classifier only")
    items = await _purified(request, service, await _upload(request, service), timings)
    if len(items) > 1 or len(items[0].purified) > 1:
        raise BadParameter("one image a request is forwarded")
    if (channels := _channels_first(items[0].images)[0]) not in (1, 3):
        raise WrongSize(f"an image of {channels} channels cannot be forwarded as PNG")
    started = time.perf_counter()
    body = codec.encode_image(_pictures(items[0])[0])
    timings.stage("encode", started)
    headers = {**gateway.of_another_body(gateway.client_headers(request)), "content-type": "image/png"}
    async with stopping_when_client_leaves(request):
        answer = await gateway.ask(service, timings, "POST", "", headers, body)
    return gateway.verbatim(answer, pipeline.evidence(service, items, timings))


async def _counted(request: Request, handler: Callable[[Request, Service, Timings], Awaitable[Response]]) -> Response:
    """Run a handler, timed, as one of the accepted requests that a shutdown waits for."""
    service = _service(request)
    service.in_flight += 1
    try:
        with pipeline.timed(service) as timings:
            return await handler(request, service, timings)
    finally:
        service.in_flight -= 1


# -- about the service --------------------------------------------------------------------------------------------


@router.get("/", include_in_schema=False)
async def root(request: Request) -> Response:
    """The page for a browser, a sign of life for everything else."""
    if "text/html" in request.headers.get("accept", ""):
        return _static(request, "index.html")
    docs = {"docs": "/docs"} if _service(request).settings.docs else {}
    return JSONResponse({"status": "alive", "service": "arn-purify", **docs}, headers={"Vary": "Accept"})


@router.get("/static/{path:path}", include_in_schema=False)
async def static(request: Request) -> Response:
    """A file of the page."""
    return _static(request, request.path_params["path"])


def _static(request: Request, path: str) -> Response:
    file = demo.files().get(path)
    if file is None:
        raise HTTPException(404)
    headers = {
        "ETag": file.etag, "Cache-Control": "no-cache", "Content-Security-Policy": demo.CONTENT_SECURITY_POLICY,
        "Referrer-Policy": "no-referrer", "Vary": "Accept",
    }  # fmt: skip
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


@router.post("/demo/attack", include_in_schema=False)
async def attack(request: Request) -> Response:
    """PGD on the embedded classifier, to show; only with ``ARN_DEMO_ATTACKS``."""
    if not _service(request).settings.demo_attacks:
        raise HTTPException(404)
    return await _counted(request, _attack)


async def _attack(request: Request, service: Service, timings: Timings) -> Response:
    try:
        eps = float(request.query_params.get("eps", "0.3"))
    except ValueError:
        eps = math.nan
    if not 0 <= eps <= 1:
        raise BadParameter("eps is a number from 0 to 1")
    through = _flag(request, "through_purifier")
    upload = await _upload(request, service)
    if upload.tensor is not None or len(upload.files) != 1:
        raise BadParameter("one image a request is attacked")
    (item,) = await _purified(request, service, upload, timings, classify=True, attack=Attack(eps, through))
    timings["attack"] = timings.pop("infer")
    body = await pipeline.pooled(item.images.size, codec.encode_image, item.purified.images[0])
    headers = {
        "X-ARN-Purified": "false", "X-ARN-Residual-Linf": f"{float(item.purified.linf[0]):.6f}",
        "X-ARN-Residual-L2": f"{float(item.purified.l2[0]):.6f}",
        "Server-Timing": pipeline.server_timing(timings),
    }  # fmt: skip
    return Response(body, media_type="image/png", headers=headers)


@router.get(
    "/health/live",
    summary="200 while the process can still serve",
    responses={503: {"description": "the device's thread is gone"}},
)
async def live(request: Request) -> Response:
    """503 once the device's thread is gone: only a restart helps then."""
    service = _service(request)
    alive = service.draining or service.batcher is None or service.batcher.alive
    return JSONResponse({"status": "alive" if alive else "dead"}, 200 if alive else 503)


@router.get(
    "/health/ready",
    summary="200 when requests are taken",
    responses={503: {"description": "warming up or shutting down"}},
)
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


@router.get("/models", summary="The loaded purifiers and the embedded classifiers", response_model=schemas.ModelsAnswer)
async def models(request: Request) -> Response:
    """Cards of the loaded purifiers, in the order in which they are tried, and of the classifiers."""
    engine = _service(request).engine
    purifiers = [
        {
            **{name: getattr(card, name) for name in schemas.ModelInfo.model_fields if hasattr(card, name)},
            "precision": engine.precision,
            "device": engine.device,
        }
        for card in engine.cards()
    ]
    classifiers = [
        {name: getattr(card, name) for name in schemas.ClassifierInfo.model_fields}
        for card in engine.classifier_cards()
    ]
    attacks = _service(request).settings.demo_attacks and bool(classifiers)
    answer = schemas.ModelsAnswer.model_validate(
        {"purifiers": purifiers, "classifiers": classifiers, "demo_attacks": attacks}
    )
    return JSONResponse(json.loads(answer.model_dump_json()))
