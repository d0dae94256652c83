"""The batched request queue. Knows no HTTP and no network: entries in, results out, one thread at the device.

A batch forms whenever the device is free, from the entries that wait, oldest first; there is no timer by default.
A caller whose request is the only one may run its entry on its own thread, which saves two switches between threads.
Entries whose client left, or whose deadline passed, are dropped when the batch forms and never reach the device.
An entry that is larger than a batch is run in parts. After each the rest goes behind the others, so that a request
waits for one batch at most of each that came before it, however large those are.
A batch that does not fit into the device's memory is run in halves. One that fails otherwise is run entry by entry, so
that no request fails because of another. Where the device works beside this thread, the next batch is begun before the
answers of the one under way are waited for.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from ..errors import (
    DeadlineExceeded,
    Draining,
    EngineFailure,
    OutOfMemory,
    QueueFull,
    ServiceError,
    TooManyImages,
    Warming,
)
from .codec import Images
from .engine import Purified, Work, stacked
from .entry import Answer, Entry, Outcomes, Part, deliver
from .pieces import Pieces, checked

logger = logging.getLogger(__name__)

_GONE = "the device's thread has stopped"
# With this many images at once a network is nearly as fast per image as it gets.
_EFFICIENT_BATCH = 4


class Batcher:
    """Collects entries of the same work and shape into batches of at most ``max_batch_images``.

    Args:
        run: called on the device's thread with the work, the stacked images, and the number of requests.
        max_batch_images: most images in one call of ``run``; a larger entry is run in parts.
        max_wait_seconds: how long the oldest entry may wait for more entries; 0 never waits.
        queue_images: most images waiting, as :attr:`waiting_images` counts.
        on_batch: called with the number of images before every call of ``run``.
        on_halved: called for every batch that did not fit into memory, where ``run`` raises ``MemoryError``.
        warm_up: called on the thread before it takes its first entry.
        under_way: how many requests are being worked on in all, here and elsewhere.
        begin: called with work and images to start a batch that ``run`` would do; answers a call that waits for the
            result, or None where only ``run`` can do it.
        is_lost: called after a failure; whether the device will never work again.
    """

    def __init__(
        self,
        run: Callable[[Work, Images, int], Purified],
        max_batch_images: int,
        max_wait_seconds: float = 0.0,
        queue_images: int = 1024,
        on_batch: Callable[[int], object] = lambda _: None,
        on_halved: Callable[[], object] = lambda: None,
        warm_up: Callable[[], object] = lambda: None,
        under_way: Callable[[], int] = lambda: 0,
        begin: Callable[[Work, Images], Callable[[], Purified] | None] | None = None,
        is_lost: Callable[[], bool] = lambda: False,
    ) -> None:
        self._run, self._begin, self._on_batch, self._warm_up = run, begin, on_batch, warm_up
        self._under_way, self._pieces = under_way, Pieces(max_batch_images, on_halved)
        self._is_lost = is_lost
        self._warm = self._lost = False
        self._max_batch_images, self._max_wait_seconds = max_batch_images, max_wait_seconds
        self._queue_images = queue_images
        self._entries: deque[Entry] = deque()
        self._changes: deque[tuple[Callable[[], object], Future[object]]] = deque()
        self._divided: list[Entry] = []  # those of which some parts are done or under way, and not all are done
        self._again: Entry | None = None  # has a rest that goes behind all who come before the next batch forms
        self._waiting = 0
        self._images_a_second = 0.0
        self._closing = False
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._condition = threading.Condition()
        self._device = threading.Lock()  # held while something runs, on whichever thread
        self._thread = threading.Thread(target=self._loop, name="device", daemon=True)

    def start(self) -> None:
        """Start the device's thread, which warms up first."""
        self._thread.start()

    @property
    def waiting_images(self) -> int:
        """Images in the queue, cancelled ones included until a batch forms.

        Without the rest of the large entry that was begun first: its turn has come, and it must not close the queue.
        """
        begun = next(iter(self._divided), None)
        return max(0, self._waiting - (begun.left if begun else 0))

    @property
    def warm(self) -> bool:
        """Whether the warm-up is done."""
        return self._warm

    @property
    def ended(self) -> bool:
        """Whether nothing is worked on any more: after a failed warm-up, with the device lost, and after ``close``."""
        return self._lost or (self._thread.ident is not None and not self._thread.is_alive())

    def check_warm(self) -> None:
        """Check that entries are worked on.

        Raises:
            Warming: the models are not warm yet.
            EngineFailure: the device's thread is gone; only a restart helps.
        """
        if self.ended:
            raise EngineFailure(_GONE)
        if not self._warm:
            raise Warming("the models are being warmed up")

    async def submit(self, work: Work, images: Images, deadline_seconds: float, inline: bool = False) -> Answer:
        """Queue images and wait for their result; with ``inline`` run them on this thread if nothing waits or runs.

        Cancelling the call takes the entry out of the queue.

        Raises:
            TooManyImages: more than the whole queue holds.
            QueueFull: the queue is full; ``retry_after`` estimates when it will not be.
            Draining: the batcher is closing.
            DeadlineExceeded: not begun after ``deadline_seconds``; what is begun is finished.
            OutOfMemory: one of the images does not fit into the device's memory.
            EngineFailure: ``run`` raised, or answered another number of images; or the device's thread is gone.
        """
        loop = asyncio.get_running_loop()
        now = time.perf_counter()
        entry = Entry(work, images, loop.create_future(), now + deadline_seconds, now)
        with self._condition:
            self._event_loop = loop
            self.admit(len(images))
            run_inline = inline and self._warm and not self._entries and self._device.acquire(blocking=False)
            if not run_inline:
                self._entries.append(entry)
                self._waiting += len(images)
                self._condition.notify()
        if run_inline:
            try:
                [(_, outcome)] = self._outcomes([entry.take(len(images))])
            finally:
                self._device.release()
            if self._lost:
                with self._condition:
                    self._condition.notify()  # the device's thread ends too
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        timer = loop.call_later(deadline_seconds, self._expire, entry)
        try:
            return await entry.future
        finally:
            timer.cancel()

    async def between_batches(self, change: Callable[[], object]) -> None:
        """Call ``change`` on the device's thread, between two batches and never between two parts of an entry.

        Raises:
            Draining: the batcher is closing.
            EngineFailure: the device's thread is gone.
        """
        done: Future[object] = Future()
        with self._condition:
            self._check_running()
            self._changes.append((change, done))
            self._condition.notify()
        await asyncio.wrap_future(done)

    def admit(self, images: int = 1) -> None:
        """Check that so many images would be accepted now, before they are read and decoded.

        Raises:
            TooManyImages, QueueFull, Draining, EngineFailure: as :meth:`submit` says.
        """
        self._check_running()
        if images > self._queue_images:
            raise TooManyImages(f"{images} images in one request; the queue holds {self._queue_images}")
        if (waiting := self.waiting_images) + images > self._queue_images:
            seconds = self._waiting / self._images_a_second if self._images_a_second else 1.0
            raise QueueFull(f"{waiting} images are waiting already", retry_after=min(60, math.ceil(seconds) or 1))

    def _check_running(self) -> None:
        if self._closing:
            raise Draining("the service is shutting down")
        if self.ended:
            raise EngineFailure(_GONE)

    @staticmethod
    def _expire(entry: Entry) -> None:
        if not entry.taken and not entry.future.done():  # what is begun is finished: its work would be lost
            entry.future.set_exception(DeadlineExceeded("the request waited longer than its deadline"))

    def close(self, timeout_seconds: float | None) -> None:
        """Refuse new entries, finish those that wait, and stop the thread; entries left after a timeout fail."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._thread.ident is not None:  # it was started
            self._thread.join(timeout_seconds)
        self._fail_waiting(Draining("the service shut down before this request's turn"))

    def _fail_waiting(self, error: ServiceError) -> None:
        """Answer whatever waits for the device with ``error``."""
        with self._condition:
            self._queue_again()
            left, changes = list(self._entries), list(self._changes)
            self._entries.clear()
            self._changes.clear()
            self._divided.clear()
            self._waiting = 0
        deliver([(entry, error) for entry in left], self._event_loop)
        for _, done in changes:
            if done.set_running_or_notify_cancel():
                done.set_exception(error)

    # -- the thread that owns the device --------------------------------------------------------------------------

    def _loop(self) -> None:
        self._warm_up()
        self._warm = True
        finish: Callable[[], Outcomes] | None = None
        while (batch := self._collect(wait=finish is None)) or finish:
            with self._device:
                begun = self._begun(batch) if batch else None
                outcomes = finish() if finish else []
            finish = begun
            deliver(outcomes, self._event_loop)
            if batch and not begun:
                with self._device:
                    outcomes = self._outcomes(batch)
                deliver(outcomes, self._event_loop)
        if self._lost:
            self._fail_waiting(EngineFailure(_GONE))

    def _begun(self, batch: Sequence[Part]) -> Callable[[], Outcomes] | None:
        """Start a batch; a call that waits for its outcomes. What fails on the way is run from the start."""
        if self._begin is None:
            return None
        started, counts = time.perf_counter(), [len(part.images) for part in batch]
        try:
            images = stacked([part.images for part in batch])
            if not (wait := self._begin(batch[0].entry.work, images)):
                return None
            self._on_batch(len(images))
        except Exception:
            logger.warning("a batch of %d images could not be started and is run again", sum(counts), exc_info=True)
            return None

        def finish() -> Outcomes:
            try:
                results = checked(wait(), images).split(counts)
            except Exception:
                logger.warning("a batch of %d images failed and is run again", sum(counts), exc_info=True)
                return self._outcomes(batch)
            return self._answered(batch, results, started)

        return finish

    def _outcomes(self, batch: Sequence[Part]) -> Outcomes:
        started = time.perf_counter()
        return self._answered(batch, self._results(batch), started)

    def _answered(self, batch: Sequence[Part], results: Sequence[Purified | ServiceError], started: float) -> Outcomes:
        """The outcomes of the entries that a batch completes."""
        seconds = time.perf_counter() - started
        images = sum(len(result) for result in results if isinstance(result, Purified))
        if images:
            rate = images / seconds
            self._images_a_second = 0.9 * self._images_a_second + 0.1 * rate if self._images_a_second else rate
        outcomes = [
            (part.entry, part.entry.outcome(result, seconds)) for part, result in zip(batch, results, strict=True)
        ]
        return [(entry, outcome) for entry, outcome in outcomes if outcome is not None]

    def _collect(self, wait: bool) -> list[Part]:
        """The next batch; empty with the device lost, closed with nothing waiting, and if not to ``wait`` for one."""
        with self._condition:
            self._queue_again()
            while True:
                if self._lost:
                    return []
                self._drop_dead()
                if self._changes and not self._divided:
                    self._make_changes()
                    self._drop_dead()
                if first := next(filter(self._may_run, self._entries), None):
                    left = first.submitted + self._max_wait_seconds - time.perf_counter()
                    full = self._waiting >= self._max_batch_images
                    if left <= 0 or full or self._divided or self._closing:
                        return self._batch(first)
                    if not wait:
                        return []
                    self._condition.wait(left)
                elif self._closing or not wait:
                    return []
                else:
                    self._condition.wait()

    def _may_run(self, entry: Entry) -> bool:
        """Whether it may be in the next batch. While a change waits, nothing is begun that one batch does not hold."""
        return not self._changes or entry.taken > 0 or entry.left <= self._pieces.most(entry.key)

    def _batch(self, first: Entry) -> list[Part]:
        """Take a batch out of the queue: the ``first`` entry or a part of it, and others of its kind."""
        batch: list[Part] = []
        rest: deque[Entry] = deque()
        # Of many, leave half to the next batch and to the event loop, so that it and the device overlap. Otherwise
        # all clients are answered at once and ask again at once, and each of the two idles while the other works.
        half = max(self._waiting, self._under_way()) // 2
        most = self._pieces.most(first.key)
        room = min(most, max(_EFFICIENT_BATCH, half))
        for entry in self._entries:
            # The oldest entry is always taken, whatever its size. Once one of its kind does not fit, no later one
            # overtakes it, so that small entries never starve a large one.
            if entry.key != first.key or not self._may_run(entry):
                rest.append(entry)
            elif entry is first or entry.left <= room:
                part = entry.take(most)
                batch.append(part)
                room -= len(part.images)
            else:
                rest.append(entry)
                room = 0
        if first.left:
            self._again = first
            if first not in self._divided:
                self._divided.append(first)
        self._entries = rest
        self._waiting -= sum(len(part.images) for part in batch)
        return batch

    def _queue_again(self) -> None:
        if self._again:
            self._entries.append(self._again)
            self._again = None

    def _make_changes(self) -> None:
        while self._changes:
            change, done = self._changes.popleft()
            if done.set_running_or_notify_cancel():
                try:
                    with self._device:
                        done.set_result(change())
                except Exception as error:
                    done.set_exception(error)

    def _drop_dead(self) -> None:
        """Remove entries that have ended, and those whose deadline passed before they were begun."""
        now = time.perf_counter()
        alive = deque(entry for entry in self._entries if not entry.ended and (entry.taken or entry.deadline > now))
        if len(alive) < len(self._entries):
            self._entries = alive
            self._waiting = sum(entry.left for entry in alive)
        if self._divided:
            self._divided = [entry for entry in self._divided if not entry.ended]

    def _results(self, batch: Sequence[Part]) -> Sequence[Purified | ServiceError]:
        """Each part's result or error; the parts of a batch that fails are run one by one."""
        images = sum(len(part.images) for part in batch)
        failure: ServiceError
        try:
            return self._run_together(batch)
        except MemoryError as error:
            logger.error("a batch of %d images failed for want of memory: %s", images, error)
            failure = OutOfMemory("the device's memory does not hold this image now")
        except Exception as error:
            logger.exception("a batch of %d images failed", images)
            failure = EngineFailure(f"the network failed on this batch: {type(error).__name__}")
            if not self._lost and self._is_lost():
                logger.critical("the device is lost: only a restart of this process helps")
                self._lost = True
        if len(batch) == 1 or self._lost:
            return [failure for _ in batch]
        return [result for part in batch for result in self._results([part])]

    def _run_together(self, batch: Sequence[Part]) -> list[Purified]:
        first = batch[0].entry

        def run(images: Images) -> Purified:
            self._on_batch(len(images))
            return checked(self._run(first.work, images, len(batch)), images)

        images = stacked([part.images for part in batch])
        result = self._pieces.run(first.key, images, run, lambda: all(part.entry.future.done() for part in batch))
        return result.split([len(part.images) for part in batch])
