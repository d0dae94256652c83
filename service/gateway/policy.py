"""What becomes of a request to the model server, once for HTTP and gRPC: purified, bypassed, compared, shadowed.

A request goes find -> find_images -> to_purifier -> queue -> from_purifier -> replace_images -> ask, and the server's
answer comes back beside our headers. A transport reads the request and asks the server; it decides nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from types import ModuleType
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from ..core import codec
from ..core.background import Background
from ..core.lifecycle import Lifecycle
from ..core.limits import Limits, Reservation
from ..core.purifier import BYTES_PER_PIXEL, Item, Purifier, Timings, run_off_loop, server_timing
from ..edge.inflate import inflate
from ..errors import (
    BYPASSABLE,
    BodiesFull,
    BodyTooLarge,
    BrokenImage,
    DownstreamError,
    Draining,
    NoImage,
    ServiceError,
    TooManyImages,
    shown,
)
from ..settings import Settings
from ..telemetry.metrics import Metrics
from .downstream import Downstream, DownstreamAnswer
from .preprocessing import Image, Preprocessing, PurifierInput
from .protocols import Message, ParsedRequest, Reserve, Slot, Value, v2
from .protocols.json_text import begins_as_json

logger = logging.getLogger("service.gateway")

_ANSWER_BYTES_PER_PIXEL = 8  # of JSON, whose labels take longer to read than a body does
_MOST_ANSWER_BYTES = 2**23  # of which labels are read; Python's parser gives other threads no turn
_PIXELS_A_VALUE = 64  # that take as long to work on as one value takes to look at

COMPARE = "x-arn-compare"
"""The header, or metadata, in which a client asks for both labels."""
_UNPRINTABLE = re.compile(r"[^ -~]")
_COMPARED = ("X-ARN-Label", "X-ARN-Unpurified-Label", "X-ARN-Label-Flipped")

Answer = TypeVar("Answer", bound=DownstreamAnswer, covariant=True)


@dataclasses.dataclass
class Gateway:
    """What the gateway stands on."""

    settings: Settings
    purifier: Purifier
    lifecycle: Lifecycle
    limits: Limits
    metrics: Metrics
    background: Background
    preprocessing: Preprocessing
    downstream: Downstream | None = None


class Transport(Protocol[Answer]):
    """One request of a client, and the way to the model server."""

    @property
    def id(self) -> str:
        """The request's id."""

    @property
    def protocol(self) -> ModuleType:
        """The module that finds values in its body, and labels in the answer."""

    @property
    def model(self) -> str:
        """The server's model that it is for; empty where none is named, or its body names it."""

    @property
    def body(self) -> bytes | bytearray:
        """The request as it came."""

    @property
    def memory(self) -> Reservation:
        """Grows by what the request is decoded to."""

    @property
    def wants_compare(self) -> bool:
        """Whether the client asked for both labels."""

    @property
    def no_answer(self) -> tuple[type[Exception], ...]:
        """The errors of :meth:`ask` where the server gave no answer."""

    async def message(self) -> Message:
        """The request as the protocol's parser takes it; raises as :func:`inflate` does."""

    async def ask(self, purified: Message | None, timings: Timings) -> Answer:
        """The server's answer to the purified request; to the request as it came for None."""


@dataclasses.dataclass(frozen=True)
class Outcome(Generic[Answer]):
    """The server's answer, and the headers that we add to it."""

    answer: Answer
    headers: dict[str, str]


async def infer(gateway: Gateway, transport: Transport[Answer], timings: Timings) -> Outcome[Answer]:
    """Purify the images of one request and ask the server, as the settings say.

    Raises:
        ServiceError: the request is refused, or the server does not answer.
    """
    settings = gateway.settings
    if random.random() >= settings.purify_share:
        return await _bypass(gateway, transport, timings)
    try:
        message = dataclasses.replace(await transport.message(), reserve=partial(_reserve, gateway, transport))
        pixels = len(message.body) // BYTES_PER_PIXEL + _PIXELS_A_VALUE * _texts(transport.protocol, message)
        request = await run_off_loop(pixels, transport.protocol.find, message)
        model = request.model or transport.model
        purified, items = await purify(gateway, request, message, timings, transport.memory, model)
    except BYPASSABLE as error:
        if settings.on_failure == "reject" or isinstance(error, Draining):
            raise
        return await _bypass(gateway, transport, timings, error)

    async def as_it_came() -> DownstreamAnswer | None:
        with suppress(*transport.no_answer):
            return await transport.ask(None, Timings())
        return None

    compare = settings.compare and transport.wants_compare
    other = asyncio.create_task(as_it_came()) if compare else None
    try:
        answer = await transport.ask(purified, timings)
        unpurified = await other if other else None
    finally:
        if other:
            other.cancel()
    headers = gateway.purifier.answer_headers(items, timings)
    if compare:
        memory = transport.memory
        try:
            memory.add(len(answer.body))
            headers |= await compared(gateway, transport.protocol, items[0].model, memory, answer, unpurified)
        except BodiesFull:  # the answer is there, and needs no labels
            gateway.metrics.shadowed.labels("dropped").inc()
    elif random.random() < settings.shadow_share:
        model = items[0].model  # and not the items: their pixels are not counted while the server is asked

        async def shadow(memory: Reservation) -> None:
            await compared(gateway, transport.protocol, model, memory, answer, await as_it_came())

        gateway.background.start(shadow, len(transport.body) + len(answer.body))
    return Outcome(answer, headers)


def _texts(protocol: ModuleType, message: Message) -> int:
    """About how many strings the JSON of a body holds: they take long to look at, however short."""
    if not begins_as_json(message.body):
        return 0
    declared = message.headers.get(v2.HEADER, "") if protocol is v2 else ""  # tensors may follow the JSON
    end = int(declared) if declared.isdecimal() and len(declared) < 12 else len(message.body)
    return message.body.count(b'"', 0, end) // 2


def _reserve(gateway: Gateway, transport: Transport[Answer], size: int) -> None:
    """Reserve so many bytes for what a body is parsed to.

    Raises:
        BodyTooLarge: the request alone takes more than there is for all.
        BodiesFull: it takes more than there is now.
    """
    most, memory = gateway.limits.memory.max_bytes, transport.memory
    if len(transport.body) + memory.size + size > most:
        reason = "send tensors in binary, or fewer at once"
        raise BodyTooLarge(f"parsed, the body takes more than the {most} bytes that there are for all: {reason}")
    memory.add(size)


async def _bypass(
    gateway: Gateway, transport: Transport[Answer], timings: Timings, error: ServiceError | None = None
) -> Outcome[Answer]:
    """The request as it came, marked; counted and logged unless the server certainly got nothing of it.

    ``error`` is why it is not purified; None for the canary.
    """
    reason, sent = error.code if error else "canary", True
    try:
        answer = await transport.ask(None, timings)
        sent = answer.sent
    except DownstreamError as failure:
        sent = failure.sent
        raise
    finally:
        if sent:
            gateway.metrics.bypassed.labels(reason).inc()
            if error:
                logger.warning("%s forwarded unpurified: %s", transport.id, error)
    headers = {"X-ARN-Purified": "false", "X-ARN-Bypass": reason, "Server-Timing": server_timing(timings)}
    return Outcome(answer, headers)


# -- purify -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Entered:
    """An image on its way: ``tensor`` where it came as numbers."""

    image: Image
    tensor: PurifierInput | None = None


async def purify(
    gateway: Gateway, request: ParsedRequest, message: Message, timings: Timings, memory: Reservation, model: str
) -> tuple[Message, list[Item]]:
    """The request to the server's ``model``, which ``message`` was parsed to, with its images purified.

    ``memory`` grows by what is decoded; the message's ``reserve`` is told what tensors take.

    Raises:
        NoImage: there is none.
        TooManyImages: more than the whole queue holds.
        ServiceError: an image that cannot be decoded, or does not fit the declaration; the queue's refusals.
    """
    with timings.during("decode"):
        work = _size(request.slots) // BYTES_PER_PIXEL + _PIXELS_A_VALUE * len(request.slots)
        images = await run_off_loop(work, _find, gateway, request)
        items, entered = await _decode(gateway, request.slots, images, memory, message.reserve, model)
    items = await gateway.purifier.purify(items, timings)
    with timings.during("encode"):
        work = len(message.body) // BYTES_PER_PIXEL  # all of it is written anew
        work += sum(
            item.images.size // (BYTES_PER_PIXEL if one.tensor else 1) for item, one in zip(items, entered, strict=True)
        )
        written = await run_off_loop(work, _write, request, items, entered)
    return written, items


def _size(slots: Sequence[Slot]) -> int:
    """Characters, bytes and numbers to look at."""
    values = [slot.value for slot in slots if slot.value is not None]
    return sum(value.size if isinstance(value, np.ndarray) else len(value) for value in values)


def _find(gateway: Gateway, request: ParsedRequest) -> list[Image]:
    preprocessing, purifier = gateway.preprocessing, gateway.purifier
    images = preprocessing.find_images(request.slots, purifier.takes_as_evaluated, purifier.takes)
    if not images:
        wanted = (
            f"as input {preprocessing.input!r}" if preprocessing.input else "of a shape that a loaded purifier takes"
        )
        tensors = ((slot.name, slot.value) for slot in request.slots if isinstance(slot.value, np.ndarray))
        seen = [
            f"{shown(name or 'instances')} is {value.dtype} {list(value.shape)}" for name, value in islice(tensors, 4)
        ]
        raise NoImage(f"no image in the request {wanted}" + (f": {'; '.join(seen)}" if seen else ""))
    count = sum(max(1, len(image.encoded.files)) if image.encoded else 1 for image in images)
    if count > gateway.settings.queue_images:
        raise TooManyImages(f"{count} images in one request; the queue holds {gateway.settings.queue_images}")
    return images


async def _decode(
    gateway: Gateway,
    slots: Sequence[Slot],
    images: Sequence[Image],
    memory: Reservation,
    reserve: Reserve,
    model: str,
) -> tuple[list[Item], list[_Entered]]:
    purifier, preprocessing = gateway.purifier, gateway.preprocessing
    decoding = purifier.decoding(memory)
    items: list[Item] = []
    entered: list[_Entered] = []
    for image in images:
        slot = slots[image.index]
        selection = purifier.selection_for(model, slot.name)
        for data in image.encoded.files if image.encoded else ():
            try:
                items.append(await decoding.decode(data, selection))
            except BrokenImage as error:
                raise BrokenImage(f"input {shown(slot.name or 'instances')}: {error}") from error
            entered.append(_Entered(image))
        if not image.encoded:
            tensor = await run_off_loop(_size([slot]) // BYTES_PER_PIXEL, preprocessing.to_purifier, slot, image)
            card = selection.choose(tensor.size, tensor.channels)
            reserve(2 * tensor.images.nbytes)  # its own, and those of what is written of it
            items.append(Item(slot.name, card.name, tensor.images))
            entered.append(_Entered(image, tensor))
    return items, entered


def _write(request: ParsedRequest, items: Sequence[Item], entered: Sequence[_Entered]) -> Message:
    new: dict[int, Value] = {}
    files: dict[int, list[bytes]] = {}
    for item, one in zip(items, entered, strict=True):
        purified = item.purified.images
        if one.tensor:
            new[one.image.index] = one.tensor.from_purifier(purified)
        else:
            pixels = with_channels(purified[0], item.channels)
            files.setdefault(one.image.index, []).append(codec.encode_image(pixels))
    encoded = {one.image.index: one.image.encoded for one in entered if one.image.encoded}
    new |= {index: encoded[index].write(pngs) for index, pngs in files.items()}
    return request.replace_images(new)


def with_channels(pixels: NDArray[Any], channels: int) -> NDArray[np.uint8]:
    """uint8 ``(H, W, C)`` with the channels that the image came with: a server that reads them must find them."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return np.asarray(Picture.fromarray(pixels).convert("L"))[..., None]


# -- both images --------------------------------------------------------------------------------------------------


async def compared(
    gateway: Gateway,
    protocol: ModuleType,
    model: str,
    memory: Reservation,
    purified: DownstreamAnswer,
    unpurified: DownstreamAnswer | None,
) -> dict[str, str]:
    """Count and log whether the server gives both images the same label; the headers that say so.

    ``memory``, where the purified answer is reserved already, grows by the other one.

    Raises:
        BodiesFull: there is no room for it.
    """
    metrics = gateway.metrics
    if unpurified is None or purified.status >= 400 or unpurified.status >= 400:
        metrics.shadowed.labels("error").inc()
        return {}
    memory.add(len(unpurified.body))
    work = sum(map(_most_bytes, (purified, unpurified))) // _ANSWER_BYTES_PER_PIXEL
    found = await run_off_loop(work, _compare, protocol, purified, unpurified)
    if found is None:
        metrics.shadowed.labels("unreadable").inc()
        return {}
    flips, count, ours, theirs = found
    metrics.shadowed.labels("disagree" if flips else "agree").inc()
    metrics.label_flips.labels(model).inc(flips)
    if flips:
        logger.info("%d of %d labels differ: purified %.100s, as it came %.100s", flips, count, ours, theirs)
    return dict(zip(_COMPARED, (ours, theirs, str(bool(flips)).lower()), strict=True))


def _most_bytes(answer: DownstreamAnswer) -> int:
    """How many bytes an answer may have once its content coding is undone."""
    return _MOST_ANSWER_BYTES if answer.headers.get("content-encoding") else len(answer.body)


def _compare(
    protocol: ModuleType, purified: DownstreamAnswer, unpurified: DownstreamAnswer
) -> tuple[int, int, str, str] | None:
    """How many labels differ, of how many, and those of both; None where they cannot be read."""
    ours, theirs = (_labels(protocol, answer) for answer in (purified, unpurified))
    if ours is None or theirs is None or len(ours) != len(theirs):
        return None
    return sum(a != b for a, b in zip(ours, theirs, strict=True)), len(ours), _listed(ours), _listed(theirs)


def _labels(protocol: ModuleType, answer: DownstreamAnswer) -> list[Any] | None:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    try:
        body = inflate(answer.body, headers.get("content-encoding", ""), _MOST_ANSWER_BYTES)
    except ServiceError:
        return None
    labels: list[Any] | None = protocol.labels(body, headers) if len(body) <= _MOST_ANSWER_BYTES else None
    return labels


def _listed(labels: Sequence[Any]) -> str:
    return _UNPRINTABLE.sub("?", ",".join(str(label)[:64] for label in labels[:64]))
