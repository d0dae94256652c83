"""What every way in shares: which model takes an image, the queue, and the evidence that goes with the answer."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

import numpy as np

from arn_purify.models import Card, any_size

from ..errors import DeadlineExceeded, TooManyPixels, UnknownModel, WrongSize
from ..telemetry import tracing
from . import codec
from .batcher import Answer
from .codec import Images
from .decoder import Plan
from .engine import Attack, Purified, Work

if TYPE_CHECKING:
    from ..app import Service

Sizes = Literal["evaluated", "any"]

P = ParamSpec("P")
T = TypeVar("T")

# Decoding and encoding less than this is quicker than handing it to a thread or another process.
_INLINE_PIXELS, _INLINE_BYTES = 128 * 128, 64 * 2**10
# Names of PNG chunks that grow by a thousand as a header is read: a small file with one of them is not small.
_COMPRESSED = (b"zTXt", b"iTXt", b"iCCP")


class Timings(dict[str, float]):
    """Seconds of each stage of one request; where it is traced, each is a span too."""

    def stage(self, name: str, started: float, ended: float | None = None) -> None:
        """Note a stage by ``time.perf_counter``; of several side by side the longest counts."""
        ended = time.perf_counter() if ended is None else ended
        self[name] = max(self.get(name, 0.0), ended - started)
        tracing.stage(name, started, ended)


@contextmanager
def timed(service: Service) -> Iterator[Timings]:
    """A request's timings, which are observed however it ends."""
    timings = Timings()
    try:
        yield timings
    finally:
        for stage, seconds in timings.items():
            service.metrics.stage.labels(stage).observe(seconds)


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


async def pooled(pixels: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function``, which works on so many pixels, in a thread, or here where that is quicker."""
    return function(*args, **kwargs) if pixels <= _INLINE_PIXELS else await asyncio.to_thread(function, *args, **kwargs)


def choose(
    service: Service, wanted: str | None, size: tuple[int, ...], channels: int | None = None, resample_to: int = 0
) -> Card:
    """The card of the model asked for, or of the first that takes (height, width); ``channels`` where they are fixed.

    ``resample_to``: an image that none takes may be resampled, best for a model of so many channels.

    Raises:
        UnknownModel: ``wanted`` names none that is loaded.
        WrongSize: naming the sizes that are taken.
    """
    cards = list(service.engine.cards())
    if wanted is not None:
        cards = [card for card in cards if card.name == wanted]
        if not cards:
            loaded = ", ".join(card.name for card in service.engine.cards())
            raise UnknownModel(f"no model {wanted!r} is loaded: {loaded}")
    for card in cards:
        if takes(card, size, channels):
            return card
    if resample_to:
        return next((card for card in cards if card.input_shape[0] == resample_to), cards[0])
    for card in cards:
        if takes(card, size, channels, service.settings.sizes):
            return card
    sizes = ", ".join(
        f"{c.name} {c.input_shape[2]}x{c.input_shape[1]} with {c.input_shape[0]} channel(s)" for c in cards
    )
    given = f"{size[1]}x{size[0]}" + (f" with {channels} channel(s)" if channels is not None else "")
    hint = "" if channels is not None else "; ?resize=true resamples"
    raise WrongSize(f"no model takes {given}: {sizes}{hint}")


def takes(card: Card, size: tuple[int, ...], channels: int | None = None, sizes: Sizes = "evaluated") -> bool:
    """Whether a purifier takes images of (height, width), and of so many channels where they are fixed.

    ``sizes`` tells whether another size than the evaluated one will do, where the network can take it.
    """
    if not any(card.input_shape):
        return True
    fits = tuple(size) == card.input_shape[1:] or (sizes == "any" and any_size(card))
    return fits and channels in (None, card.input_shape[0])


class Decoding:
    """One request's images, decoded one after another: others get their turn between two, and all keep to limits.

    Args:
        service: whose settings are the limits.
        keep: finds room for so many bytes more until the request ends.
    """

    def __init__(self, service: Service, keep: Callable[[int], None]) -> None:
        self._service, self._keep = service, keep
        self._ends = time.monotonic() + service.settings.deadline_seconds
        self._bytes = 0

    async def decode(
        self,
        data: bytes | bytearray,
        wanted: str | None = None,
        resize: bool = False,
        channels: Mapping[tuple[int, int], int] | None = None,
    ) -> Item:
        """The next one, as :func:`decode` says.

        Raises:
            DeadlineExceeded: those before it took as long as a request may wait.
            TooManyPixels: with those before it it takes more memory than there is for all requests.
            BodiesFull: it takes more than there is now.
        """
        if self._bytes:
            await asyncio.sleep(0)
            if time.monotonic() > self._ends:
                raise DeadlineExceeded(f"not all images were decoded in {self._service.settings.deadline_seconds:g} s")
        item = await decode(self._service, data, wanted, resize, channels)
        self._bytes += item.images.nbytes
        if self._bytes > self._service.settings.bodies_bytes:
            raise TooManyPixels(f"decoded, the images take more than {self._service.settings.bodies_bytes} bytes")
        self._keep(item.images.nbytes)
        return item


async def decode(
    service: Service,
    data: bytes | bytearray,
    wanted: str | None = None,
    resize: bool = False,
    channels: Mapping[tuple[int, int], int] | None = None,
) -> Item:
    """An encoded image as pixels for the model that takes it.

    ``channels``, by (height, width), where that model takes any number of them.

    Small ones are decoded here, all others in a process that can be killed.

    Raises:
        BrokenImage: not decodable.
        TooManyPixels: told from the header.
        DecodeTimeout: not decoded in time.
        DeadlineExceeded: no decoder was free in time.
        UnknownModel, WrongSize: as :func:`choose` says.
    """

    def plan(size: tuple[int, int], enough: int) -> Plan:
        card = choose(service, wanted, size, resample_to=enough if resize else 0)
        fixed, height, width = card.input_shape
        asked = channels.get(size) if channels else None
        return Plan(card.name, fixed or asked or enough, (height, width) if resize and height else None)

    if len(data) <= _INLINE_BYTES and not any(name in data for name in _COMPRESSED):
        opened = codec.open_image(data, service.settings.max_pixels)
        planned = plan(opened.size, opened.channels)
        if math.prod(opened.size) <= _INLINE_PIXELS:
            return Item(None, planned.model, opened.decode(planned.channels, planned.resize_to))
    planned, pixels = await service.decoder.decode(data, plan)
    return Item(None, planned.model, pixels)


async def purify(
    service: Service,
    items: Sequence[Item],
    timings: Timings,
    classify: bool = False,
    compare: bool = False,
    attack: Attack | None = None,
) -> list[Item]:
    """Queue, infer, and write down how far the images moved. Images that are alike travel as one entry.

    Raises:
        ServiceError: whatever :meth:`arn_purify.service.core.batcher.Batcher.submit` does; all items or none.
    """
    batcher, deadline, started = service.warm_batcher(), service.settings.deadline_seconds, time.perf_counter()
    alike: dict[tuple[object, ...], list[Item]] = {}
    for item in items:
        alike.setdefault((item.model, item.images.dtype, item.images.shape[1:]), []).append(item)
    jobs = [
        (
            Work(group[0].model, classify, compare, attack),
            group[0].images if len(group) == 1 else np.concatenate([item.images for item in group]),
        )
        for group in alike.values()
    ]
    try:
        if len(jobs) == 1:
            await asyncio.sleep(0)  # whoever came meanwhile is company for a batch
            here = service.in_flight <= 1 and service.engine.quick(*jobs[0])
            answers: list[Answer] = [await batcher.submit(*jobs[0], deadline, here)]
        else:
            calls = [batcher.submit(*job, deadline) for job in jobs]
            try:
                async with asyncio.TaskGroup() as tasks:
                    running = [tasks.create_task(call) for call in calls]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
            answers = [task.result() for task in running]
    except DeadlineExceeded:
        timings.stage("queue", started)
        raise
    for answer in answers:
        begun = answer.submitted + answer.queue_seconds
        timings.stage("queue", answer.submitted, begun)
        timings.stage("infer", begun, begun + answer.infer_seconds)
    results: dict[int, Purified] = {}
    for group, answer in zip(alike.values(), answers, strict=True):
        start = 0
        for item in group:
            results[id(item)] = answer.result.part(start, start + len(item.images))
            start += len(item.images)
        if attack:
            continue  # no purification to write down
        linf, l2 = (
            metric.labels(group[0].model) for metric in (service.metrics.residual_linf, service.metrics.residual_l2)
        )
        for largest, euclidean in zip(answer.result.linf.tolist(), answer.result.l2.tolist(), strict=True):
            linf.observe(largest)
            l2.observe(euclidean)
    return [dataclasses.replace(item, result=results[id(item)]) for item in items]


def evidence(service: Service, items: Sequence[Item], timings: Timings) -> dict[str, str]:
    """The headers of a purified answer; of several images the largest norms."""
    models = list(dict.fromkeys((item.model, item.purified.sha256, item.purified.profile) for item in items))
    return {
        "X-ARN-Model": ", ".join(f"{name}@{service.engine.precision}" for name, _, _ in models),
        "X-ARN-Model-SHA256": ", ".join(sha256 for _, sha256, _ in models),
        "X-ARN-Profile": ", ".join(profile or "none" for _, _, profile in models),
        "X-ARN-Residual-Linf": f"{max(float(item.purified.linf.max()) for item in items):.6f}",
        "X-ARN-Residual-L2": f"{max(float(item.purified.l2.max()) for item in items):.6f}",
        "X-ARN-Purified": "true",
        "Server-Timing": server_timing(timings),
    }


def server_timing(timings: Timings) -> str:
    """The stages of a request as ``Server-Timing`` tells them (W3C Server Timing)."""
    return ", ".join(f"{stage};dur={1000 * seconds:.3f}" for stage, seconds in timings.items())
