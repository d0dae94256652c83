"""Entries that are larger than a batch take turns with the others, and still are one request each."""

import asyncio
import threading
import time

import numpy as np
import pytest

from arn_purify.service.core.engine import Work
from arn_purify.service.errors import Draining, EngineFailure, QueueFull
from tests.service.core.device import WORK, Device, batcher, images


class Stepwise(Device):
    """Runs a batch whenever a test lets it, and can be told to fail at an image."""

    def __init__(self):
        super().__init__()
        self.steps, self.started = threading.Semaphore(0), threading.Semaphore(0)
        self.poison = -1
        self.version = 1

    def __call__(self, work, batch, requests=1):
        self.started.release()
        assert self.steps.acquire(timeout=60)
        if (batch == self.poison).any():
            raise ValueError("poison")
        result = super().__call__(work, batch)
        return type(result)(result.images, result.linf, np.full(len(batch), self.version, np.float32))

    async def begun(self):
        """A batch is at the device."""
        assert await asyncio.to_thread(self.started.acquire, timeout=60)

    def run(self, batches=1000):
        self.steps.release(batches)

    @property
    def firsts(self):
        """First image and size of each batch."""
        return [(int(batch.flat[0]), len(batch)) for _, batch in self.calls]


@pytest.fixture
def device():
    return Stepwise()


async def queued(queue, *values, deadline=30.0, **options):
    """A request in the queue: begun at once where the device is free, otherwise behind the others."""
    task = asyncio.create_task(queue.submit(options.pop("work", WORK), images(*values, **options), deadline))
    await asyncio.sleep(0)
    return task


async def begun(queue, device, *values, **options):
    """A request that has come to a free device: the first batch of it is there."""
    task = await queued(queue, *values, **options)
    await device.begun()
    return task


def is_answered(task, *values, side=2):
    return np.array_equal(task.result().result.images, 255 - images(*values, side=side))


async def test_a_small_entry_waits_for_one_batch_of_each_large_one(device):
    queue = batcher(device, queue_images=100)
    large = await begun(queue, device, *range(10, 20))
    other = await queued(queue, *range(20, 31))
    small = await queued(queue, 1, side=3)
    device.run(3)
    await small
    assert device.firsts == [(10, 4), (20, 4), (1, 1)], "not the ten and eleven images first"
    device.run()
    await asyncio.gather(large, other)
    assert device.firsts[3:] == [(14, 4), (24, 4), (18, 2), (28, 3)]
    assert is_answered(small, 1, side=3)
    assert is_answered(large, *range(10, 20)), "in order"
    assert is_answered(other, *range(20, 31))
    assert large.result().result.linf.tolist() == list(range(10, 20))
    await asyncio.to_thread(queue.close, 60)


async def test_the_rest_of_a_large_entry_shares_its_batch(device):
    queue = batcher(device, queue_images=100)
    large = await begun(queue, device, *range(10, 16))
    small = await queued(queue, 1)
    device.run()
    await asyncio.gather(large, small)
    assert device.firsts == [(10, 4), (1, 3)]
    assert is_answered(small, 1)
    assert is_answered(large, *range(10, 16))
    await asyncio.to_thread(queue.close, 60)


async def test_its_timings_are_those_of_all_its_batches_and_of_the_waits_between(device, monkeypatch):
    now = 100.0
    monkeypatch.setattr("arn_purify.service.core.batcher.time.perf_counter", lambda: now)
    queue = batcher(device, queue_images=100)
    large = await begun(queue, device, *range(10, 16))
    small = await queued(queue, 1, side=3)
    for _ in range(2):
        now += 1
        device.run(1)
        await device.begun()
    now += 1
    device.run()
    answers = await asyncio.gather(large, small)
    assert [(answer.queue_seconds, answer.infer_seconds) for answer in answers] == [(1, 2), (1, 1)]
    await asyncio.to_thread(queue.close, 60)


async def test_the_queue_counts_all_but_the_rest_of_the_large_entry_that_was_begun_first(device):
    queue = batcher(device)
    large = await begun(queue, device, *range(16))
    assert queue.waiting_images == 0, "one large upload must not close the queue to all others"
    second = await queued(queue, *range(20, 35))
    small = await queued(queue, 40, side=3)
    assert queue.waiting_images == 16
    with pytest.raises(QueueFull):
        await queue.submit(WORK, images(1), 30)
    device.run(1)
    await device.begun()
    assert queue.waiting_images == 12, "four images of the second are at the device"
    large.cancel()
    await asyncio.sleep(0)
    device.run(1)
    await device.begun()
    assert queue.waiting_images == 0, "now the second is the one that was begun first"
    device.run()
    await asyncio.gather(second, small)
    assert queue.waiting_images == 0
    await asyncio.to_thread(queue.close, 60)


async def test_of_a_large_entry_whose_client_left_no_further_batch_is_run(device):
    queue = batcher(device)
    large = await begun(queue, device, *range(10, 20))
    small = await queued(queue, 1, side=3)
    large.cancel()
    device.run()
    await small
    assert device.firsts == [(10, 4), (1, 1)]
    assert queue.waiting_images == 0
    await asyncio.to_thread(queue.close, 60)


async def test_a_large_entry_of_which_a_batch_fails_fails_and_is_not_run_further(device, caplog):
    queue = batcher(device)
    device.poison = 15
    large = await begun(queue, device, *range(10, 22))
    small = await queued(queue, 1, side=3)
    device.run()
    with pytest.raises(EngineFailure):
        await large
    await small
    assert is_answered(small, 1, side=3)
    await asyncio.to_thread(queue.close, 60)
    assert device.firsts == [(10, 4), (1, 1)]
    assert queue.waiting_images == 0


async def test_the_deadline_is_for_the_first_batch_and_what_is_begun_is_finished(device, monkeypatch):
    ahead, clock = 0.0, time.perf_counter
    monkeypatch.setattr("arn_purify.service.core.batcher.time.perf_counter", lambda: clock() + ahead)
    queue = batcher(device)
    large = await begun(queue, device, *range(10, 20), deadline=60.0)
    late = await queued(queue, *range(20, 25), deadline=60.0)
    ahead = 61.0
    device.run()
    await large
    assert is_answered(large, *range(10, 20))
    late.cancel()
    await asyncio.to_thread(queue.close, 60)
    assert device.firsts == [(10, 4), (14, 4), (18, 2)]


async def test_a_change_waits_for_the_large_entries_that_are_begun_and_holds_up_no_small_one(device):
    queue = batcher(device, queue_images=100)
    large = await begun(queue, device, *range(10, 20))
    other = await queued(queue, *range(20, 29), work=Work("other"))
    device.run(1)
    await device.begun()
    later = await queued(queue, *range(30, 36))
    small = await queued(queue, 1, side=3)
    change = asyncio.create_task(queue.between_batches(lambda: setattr(device, "version", 2)))
    await asyncio.sleep(0)
    last = await queued(queue, 2, side=3)
    device.run()
    await asyncio.gather(large, other, later, small, last, change)
    assert device.firsts == [
        (10, 4), (20, 4), (14, 4), (1, 2), (24, 4), (18, 2), (28, 1),
        (30, 4), (34, 2),
    ]  # fmt: skip
    versions = [set(task.result().result.l2.tolist()) for task in (large, other, later, small)]
    assert versions == [{1}, {1}, {2}, {1}], "one version throughout"
    await asyncio.to_thread(queue.close, 60)


async def test_closing_finishes_a_large_entry_that_is_begun(device):
    queue = batcher(device)
    large = await begun(queue, device, *range(10, 20))
    small = await queued(queue, 1, side=3)
    closing = asyncio.create_task(asyncio.to_thread(queue.close, 60))
    device.run()
    await asyncio.gather(large, small, closing)
    assert is_answered(large, *range(10, 20))
    assert queue.ended


async def test_a_large_entry_that_closing_leaves_unfinished_is_refused(device):
    queue = batcher(device)
    large = await begun(queue, device, *range(10, 20))
    await asyncio.to_thread(queue.close, 0)
    device.run()
    with pytest.raises(Draining):
        await large
    await asyncio.to_thread(queue.close, 60)
    assert device.firsts == [(10, 4)]
    assert queue.waiting_images == 0


async def test_the_rest_of_a_large_entry_does_not_wait_for_more_entries(device):
    queue = batcher(device, max_wait_seconds=3600.0, queue_images=100)
    large = await begun(queue, device, *range(10, 16))
    device.run(1)
    await device.begun()
    device.run()
    await large
    assert device.firsts == [(10, 4), (14, 2)]
    await asyncio.to_thread(queue.close, 60)


class Beside(Stepwise):
    """Begins batches too; ``finish`` is what a test lets go."""

    def begin(self, work, batch):
        self.begins.append(int(batch.flat[0]))
        return lambda: self(work, batch)

    def __init__(self):
        super().__init__()
        self.begins = []


async def test_large_entries_take_turns_where_the_next_batch_is_begun_early():
    device = Beside()
    queue = batcher(device, queue_images=100, begin=device.begin)
    large = await begun(queue, device, *range(10, 20))
    other = await queued(queue, *range(20, 26))
    small = await queued(queue, 1, side=3)
    device.run()
    await asyncio.gather(large, other, small)
    assert device.begins[:2] == [10, 14], "alone, its second batch is begun beside the first"
    assert device.begins[2:] == [20, 1, 18]
    assert device.firsts == [(first, size) for first, size in zip(device.begins, [4, 4, 4, 1, 4], strict=True)]
    assert is_answered(large, *range(10, 20))
    assert is_answered(other, *range(20, 26))
    await asyncio.to_thread(queue.close, 60)


async def test_a_change_waits_for_the_last_batch_of_a_large_entry_even_if_that_has_to_be_run_again(caplog):
    device = Beside()
    queue = batcher(device, begin=device.begin)
    large = await begun(
        queue, device, *range(10, 16)
    )  # the first batch is waited for, the second and last one is begun
    change = asyncio.create_task(queue.between_batches(lambda: setattr(device, "version", 2)))
    await asyncio.sleep(0)
    device.run(1)
    await device.begun()
    device.poison = 14  # so that the batch fails on its way
    device.run(1)
    await device.begun()
    device.poison = -1
    device.run()
    await asyncio.gather(large, change)
    assert is_answered(large, *range(10, 16))
    assert set(large.result().result.l2.tolist()) == {1}
    assert device.version == 2
    await asyncio.to_thread(queue.close, 60)
