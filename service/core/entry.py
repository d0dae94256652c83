"""One request's place in the queue, and how its caller gets the outcome."""

from __future__ import annotations

import asyncio
import dataclasses

from ..errors import ServiceError
from .codec import Images
from .engine import Purified, Work


@dataclasses.dataclass(frozen=True)
class Answer:
    """A result with its own timings, which are recorded in one place: where the answer is sent."""

    result: Purified
    queue_seconds: float
    infer_seconds: float
    submitted: float


@dataclasses.dataclass(eq=False)
class Entry:
    """Images to be worked on; ``deadline`` and ``submitted`` are times of ``time.perf_counter``.

    Only entries of equal ``key`` share a batch. ``taken`` says that a batch has it, so that it is about to be answered.
    """

    work: Work
    images: Images
    future: asyncio.Future[Answer]
    deadline: float
    submitted: float
    taken: bool = False

    def __post_init__(self) -> None:
        self.key: tuple[object, ...] = (self.work, self.images.dtype, self.images.shape[1:])


Outcomes = list[tuple[Entry, Answer | ServiceError]]


def deliver(outcomes: Outcomes, loop: asyncio.AbstractEventLoop | None) -> None:
    """Resolve futures on their own ``loop``, all in one call to it; nothing where it is gone."""

    def resolve() -> None:
        for entry, outcome in outcomes:
            if entry.future.done():  # the client left, or the deadline passed, while the device worked
                continue
            if isinstance(outcome, Answer):
                entry.future.set_result(outcome)
            else:
                entry.future.set_exception(outcome)

    if outcomes and loop is not None and not loop.is_closed():
        loop.call_soon_threadsafe(resolve)
