"""One request's place in the queue, and how its caller gets the outcome."""

from __future__ import annotations

import asyncio
import dataclasses
import time

from ..errors import ServiceError
from .codec import Images
from .engine import Purified, Work


@dataclasses.dataclass(frozen=True)
class Answer:
    """A result with its own timings, which are recorded in one place: where the answer is sent.

    ``infer_seconds`` are those of all its batches, ``queue_seconds`` those before and between them.
    """

    result: Purified
    queue_seconds: float
    infer_seconds: float
    submitted: float


@dataclasses.dataclass(eq=False)
class Entry:
    """Images to be worked on; ``deadline`` and ``submitted`` are times of ``time.perf_counter``.

    Only entries of equal ``key`` share a batch. One that is larger than a batch is worked on in parts, in order;
    ``taken`` counts the images that batches have had so far.
    """

    work: Work
    images: Images
    future: asyncio.Future[Answer]
    deadline: float
    submitted: float
    taken: int = 0

    def __post_init__(self) -> None:
        self.key: tuple[object, ...] = (self.work, self.images.dtype, self.images.shape[1:])
        self._results: list[Purified] = []
        self._seconds = 0.0
        self._settled = False

    @property
    def left(self) -> int:
        """Images that no batch has had yet."""
        return len(self.images) - self.taken

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be done: it has its outcome, its client left, or its deadline passed."""
        return self._settled or self.future.done()

    def take(self, most: int) -> Part:
        """The next images, ``most`` at most."""
        start, self.taken = self.taken, min(self.taken + most, len(self.images))
        return Part(self, self.images[start : self.taken])

    def outcome(self, result: Purified | ServiceError, seconds: float) -> Answer | ServiceError | None:
        """Add a part's result, which took so long; what the caller gets, or None while that depends on other parts."""
        if self._settled:
            return None
        if isinstance(result, ServiceError):
            self._settled = True
            return result
        self._results.append(result)
        self._seconds += seconds
        if sum(map(len, self._results)) < len(self.images):
            return None
        self._settled = True
        passed = time.perf_counter() - self.submitted
        infer = min(self._seconds, passed)  # parts may overlap
        return Answer(Purified.join(self._results), passed - infer, infer, self.submitted)


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Images of an entry that one batch has: usually all of them."""

    entry: Entry
    images: Images


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
