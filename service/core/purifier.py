"""The heart of every request: select a model, decode, queue, and describe the answer. Knows no HTTP and no gRPC."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ParamSpec, Protocol, Self, TypeVar

from arn_purify.models import Card

from ..errors import ClientGone, DeadlineExceeded, TooManyPixels
from ..settings import Settings
from . import codec
from .attack import Attack
from .batcher import Batcher
from .codec import Images
from .decoder import Decoder
from .engine import Engine, Purified, Work, stacked
from .entry import Answer
from .fit import Fit
from .lifecycle import Lifecycle
from .limits import Reservation
from .selection import Selection, takes

P = ParamSpec("P")
T = TypeVar("T")

# As many bytes of a body are read, or numbers of a tensor converted, in the time that one pixel is decoded.
BYTES_PER_PIXEL = 64
# Decoding and encoding less than this is quicker than handing it to a thread or another process.
_INLINE_PIXELS, _INLINE_BYTES = 128 * 128, 64 * 2**10
# Names of PNG chunks that grow a thousandfold as a header is read: a small file with one of them is not small.
_COMPRESSED = (b"zTXt", b"iTXt", b"iCCP")


class Observer(Protocol):
    """Receives the numbers of each request; implemented by the service's metrics."""

    def observe_stage(self, stage: str, seconds: float) -> None:
        """A request spent so long in a stage."""

    def observe_residuals(self, model: str, linf: Sequence[float], l2: Sequence[float]) -> None:
        """How far ``model`` moved each image, on [0, 1]."""


class Timings(dict[str, float]):
    """Seconds of each stage of one request.

    Args:
        on_stage: called with a stage's name, start and end; the service makes a span of it.
        observe: called with each stage's name and seconds at the end of a ``with`` block, however that ends.
        lifecycle: counts the request until then, where it is given.
    """

    def __init__(
        self,
        on_stage: Callable[[str, float, float], object] = lambda *_: None,
        observe: Callable[[str, float], object] = lambda *_: None,
        lifecycle: Lifecycle | None = None,
    ) -> None:
        super().__init__()
        self._on_stage, self._observe, self._lifecycle = on_stage, observe, lifecycle

    def __enter__(self) -> Self:
        if self._lifecycle:
            self._lifecycle.in_flight += 1
        return self

    def __exit__(self, *_: object) -> None:
        if self._lifecycle:
            self._lifecycle.in_flight -= 1
        for stage, seconds in self.items():
            self._observe(stage, seconds)

    def stage(self, name: str, started: float, ended: float | None = None) -> None:
        """Note a stage by ``time.perf_counter``; of several side by side the longest counts."""
        ended = time.perf_counter() if ended is None else ended
        self[name] = max(self.get(name, 0.0), ended - started)
        self._on_stage(name, started, ended)

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Note a ``with`` block as a stage, however it ends: a refused request has reached it too."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stage(name, started)


@dataclasses.dataclass(frozen=True)
class Item:
    """Images that travel together, the model they go to, and their result once there is one.

    ``channels`` are those that an encoded image came with, which may not be those of its model; 0 of a tensor.
    """

    filename: str | None
    model: str
    images: Images
    result: Purified | None = None
    channels: int = 0

    @property
    def purified(self) -> Purified:
        """The result; there is one once the queue has answered."""
        assert self.result is not None
        return self.result

    def with_result(self, result: Purified) -> Item:
        """A copy that has its result; by hand, which takes a tenth of the time of ``dataclasses.replace``."""
        return Item(self.filename, self.model, self.images, result, self.channels)


def _alike(items: Sequence[Item]) -> Iterable[list[Item]]:
    """The items in groups of one model, dtype and shape, each of which may travel as one entry."""
    if len(items) == 1:
        return [[items[0]]]
    groups: dict[tuple[object, ...], list[Item]] = {}
    for item in items:
        groups.setdefault((item.model, item.images.dtype, item.images.shape[1:]), []).append(item)
    return groups.values()


async def run_off_loop(pixels: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function``, which works on so many pixels, in a thread; few pixels on the loop, where that is quicker.

    A caller that is cancelled waits for its end: until then it uses memory that the request has reserved.
    """
    if pixels <= _INLINE_PIXELS:
        return function(*args, **kwargs)
    cancelled = False

    def unless_cancelled() -> T:
        if cancelled:
            raise ClientGone("the client hung up before its turn")
        return function(*args, **kwargs)

    work = asyncio.ensure_future(asyncio.to_thread(unless_cancelled))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        cancelled = True
        await asyncio.gather(work, return_exceptions=True)
        raise


class Purifier:
    """The one way from images to purified images.

    Args:
        settings: the limits: sizes, deadline, pixels and bytes.
        engine: the networks.
        batcher: the queue in front of them.
        decoder: the processes that decode large images.
        lifecycle: knows whether requests are accepted and how many are under way.
        observer: receives stages and residuals.
        on_stage: called with the name, start and end of each stage of a request.

    Raises:
        ValueError: ``settings.purifiers`` names one that is not loaded.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        batcher: Batcher,
        decoder: Decoder,
        lifecycle: Lifecycle,
        observer: Observer,
        on_stage: Callable[[str, float, float], object] = lambda *_: None,
    ) -> None:
        self.engine = engine
        self._settings, self._batcher, self._decoder, self._lifecycle = settings, batcher, decoder, lifecycle
        self._observer, self._on_stage = observer, on_stage
        self._assigned = dict(settings.purifiers)
        for name in self._assigned.values():
            if name not in engine.purifiers:
                raise ValueError(f"ARN_PURIFIERS: {name!r} is not loaded: {', '.join(engine.purifiers)}")

    def admit(self) -> None:
        """Check that a request would be taken now, before its body is read.

        Raises:
            Draining, Warming, EngineFailure: as :meth:`Lifecycle.check_ready` says.
            QueueFull: the queue is full.
        """
        self._lifecycle.check_ready()
        self._batcher.admit()

    def timed(self) -> Timings:
        """A request's timings, which are observed however its ``with`` block ends."""
        return Timings(self._on_stage, self._observer.observe_stage)

    def request(self) -> Timings:
        """The same for one accepted request, which is counted for a shutdown that waits for it."""
        return Timings(self._on_stage, self._observer.observe_stage, self._lifecycle)

    # -- which model takes an image -----------------------------------------------------------------------------------

    def selection(
        self,
        wanted: str | None = None,
        fit: Fit | None = None,
        channels: Mapping[tuple[int, int], int] | None = None,
        hint: str = "",
        classified: Mapping[str, tuple[int, int]] | None = None,
    ) -> Selection:
        """How a request selects among the models that are loaded now; see :class:`Selection`."""
        cards = tuple(self.engine.cards())
        return Selection(cards, self._settings.sizes, wanted, fit, channels or {}, hint, classified or {})

    def selection_for(self, model: str, name: str) -> Selection:
        """How the gateway selects for an input called ``name`` of the server's ``model``, as ``ARN_PURIFIERS`` says."""
        return self.selection(self._assigned.get(name, self._assigned.get(model)))

    def choose(self, size: tuple[int, ...], wanted: str | None = None, channels: int | None = None) -> Card:
        """The card of the model that takes images of (height, width); raises as :meth:`Selection.choose` does."""
        return self.selection(wanted).choose(size, channels)

    def takes(self, channels: int, height: int, width: int) -> bool:
        """Whether a loaded purifier takes images of this shape."""
        return any(takes(card, (height, width), channels, self._settings.sizes) for card in self.engine.cards())

    def takes_as_evaluated(self, channels: int, height: int, width: int) -> bool:
        """Whether a loaded purifier of a fixed shape takes exactly this one."""
        return any(card.input_shape == (channels, height, width) for card in self.engine.cards())

    # -- in -----------------------------------------------------------------------------------------------------------

    def decoding(self, memory: Reservation) -> Decoding:
        """A decoder for the images of one request; ``memory`` is reserved until the request ends."""
        return Decoding(self, memory, self._settings.deadline_seconds, self._settings.bodies_bytes)

    async def decode(self, data: bytes | bytearray, selection: Selection) -> Item:
        """An encoded image as pixels for the model that takes it.

        Small ones are decoded on the event loop, all others in a process that can be killed.

        Raises:
            BrokenImage: not decodable.
            TooManyPixels: read from the header.
            DecodeTimeout: not decoded in time.
            DeadlineExceeded: no decoder was free in time.
            UnknownModel, WrongSize: as :meth:`Selection.choose` says.
        """
        if len(data) <= _INLINE_BYTES and not any(name in data for name in _COMPRESSED):
            opened = codec.open_image(data, self._settings.max_pixels)
            plan = selection.plan(opened.size, opened.channels)
            if math.prod(opened.size) <= _INLINE_PIXELS:
                target = plan.settled(plan.grey is None or opened.has_colour())
                return Item(None, target.model, opened.decode(*target[1:]), channels=opened.channels)
        target, pixels, channels = await self._decoder.decode(data, selection)
        return Item(None, target.model, pixels, channels=channels)

    # -- through the queue --------------------------------------------------------------------------------------------

    async def purify(
        self,
        items: Sequence[Item],
        timings: Timings,
        classify: bool = False,
        compare: bool = False,
        attack: Attack | None = None,
    ) -> list[Item]:
        """Queue, infer, and observe how far the images moved. Images that are alike travel as one entry.

        Raises:
            Warming, EngineFailure: as :meth:`Batcher.check_warm` says.
            ServiceError: whatever :meth:`Batcher.submit` does; all items or none.
        """
        self._batcher.check_warm()
        self._batcher.admit(sum(len(item.images) for item in items))  # all of them, before some of them wait
        started = time.perf_counter()
        groups = _alike(items)
        jobs = [
            (
                Work(group[0].model, classify, compare, attack),
                stacked([item.images for item in group]),
            )
            for group in groups
        ]
        try:
            answers = await self._submit(jobs)
        except (DeadlineExceeded, asyncio.CancelledError):  # it waited; the second is a client that hung up
            timings.stage("queue", started)
            raise
        results: dict[int, Purified] = {}
        for group, answer in zip(groups, answers, strict=True):
            begun = answer.submitted + answer.queue_seconds
            timings.stage("queue", answer.submitted, begun)
            timings.stage("infer", begun, begun + answer.infer_seconds)
            parts = answer.result.split(len(item.images) for item in group)
            results |= {id(item): part for item, part in zip(group, parts, strict=True)}
            if not attack:  # which is no purification
                linf, l2 = answer.result.linf.tolist(), answer.result.l2.tolist()
                self._observer.observe_residuals(group[0].model, linf, l2)
        return [item.with_result(results[id(item)]) for item in items]

    async def _submit(self, jobs: Sequence[tuple[Work, Images]]) -> list[Answer]:
        deadline = self._settings.deadline_seconds
        if len(jobs) == 1:
            await asyncio.sleep(0)  # lets waiting requests join this batch
            inline = self._lifecycle.in_flight <= 1 and self.engine.runs_inline(*jobs[0])
            return [await self._batcher.submit(*jobs[0], deadline, inline)]
        calls = [self._batcher.submit(*job, deadline) for job in jobs]
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(call) for call in calls]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in running]

    # -- out ----------------------------------------------------------------------------------------------------------

    def answer_headers(self, items: Sequence[Item], timings: Timings) -> dict[str, str]:
        """The headers of a purified answer; of several images the largest norms."""
        models = list(dict.fromkeys((item.model, item.purified.sha256, item.purified.profile) for item in items))
        return {
            "X-ARN-Model": ", ".join(f"{name}@{self.engine.precision}" for name, _, _ in models),
            "X-ARN-Model-SHA256": ", ".join(sha256 for _, sha256, _ in models),
            "X-ARN-Profile": ", ".join(profile or "none" for _, _, profile in models),
            "X-ARN-Residual-Linf": f"{max(max(item.purified.linf.tolist()) for item in items):.6f}",
            "X-ARN-Residual-L2": f"{max(max(item.purified.l2.tolist()) for item in items):.6f}",
            "X-ARN-Purified": "true",
            "Server-Timing": server_timing(timings),
        }


class Decoding:
    """One request's images, decoded one after another within limits; other requests may run between two of them.

    Args:
        purifier: decodes each image.
        memory: grows by each image's pixels.
        deadline_seconds: longest time for all of them.
        max_bytes: most bytes of pixels.
    """

    def __init__(self, purifier: Purifier, memory: Reservation, deadline_seconds: float, max_bytes: int) -> None:
        self._purifier, self._memory = purifier, memory
        self._deadline_seconds, self._max_bytes = deadline_seconds, max_bytes
        self._ends = time.monotonic() + deadline_seconds
        self._bytes = 0

    async def decode(self, data: bytes | bytearray, selection: Selection) -> Item:
        """The next one, as :meth:`Purifier.decode` says.

        Raises:
            DeadlineExceeded: those before it took as long as a request may wait.
            TooManyPixels: with those before it it takes more memory than there is for all requests.
            BodiesFull: it takes more than there is now.
        """
        if self._bytes:
            await asyncio.sleep(0)
            if time.monotonic() > self._ends:
                raise DeadlineExceeded(f"not all images were decoded in {self._deadline_seconds:g} s")
        item = await self._purifier.decode(data, selection)
        self._bytes += item.images.nbytes
        if self._bytes > self._max_bytes:
            raise TooManyPixels(f"decoded, the images take more than {self._max_bytes} bytes")
        self._memory.add(item.images.nbytes)
        return item


def server_timing(timings: Timings) -> str:
    """The stages of a request in the form of ``Server-Timing`` (W3C Server Timing)."""
    return ", ".join(f"{stage};dur={1000 * seconds:.3f}" for stage, seconds in timings.items())
