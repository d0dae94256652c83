"""The queue before a device that works beside it: the next batch is begun before the one under way is waited for."""

import asyncio
import threading

import numpy as np
import pytest

from arn_purify.service.core.engine import Purified
from arn_purify.service.errors import EngineFailure
from tests.service.core.device import WORK, Device, batcher, images, submit


class Beside(Device):
    """Begins batches too, and waits for them when ``open``; notes what happened in which order."""

    def __init__(self):
        super().__init__()
        self.events = []
        self.broken = set()
        self.waited_for = threading.Event()

    def begin(self, work, batch):
        first = int(batch.flat[0])
        if work != WORK:
            return None
        self.events.append(("begun", first, len(batch)))
        norms = batch.reshape(len(batch), -1).astype(np.float32).max(1)
        result = Purified(255 - batch, norms, norms)

        def finish():
            self.waited_for.set()
            self.open.wait(60)
            self.events.append(("finished", first, len(batch)))
            if first in self.broken:
                raise RuntimeError("the device failed")
            return result

        return finish

    def __call__(self, work, batch, requests=1):
        self.events.append(("run", int(batch.flat[0]), len(batch)))
        return super().__call__(work, batch, requests)


def queue_before(device, **settings):
    return batcher(device, begin=device.begin, **settings)


async def test_the_next_batch_is_begun_before_the_answers_are_waited_for():
    device = Beside()
    queue = queue_before(device)
    device.open.clear()
    tasks = [asyncio.create_task(submit(queue, *range(10, 14)))]
    await asyncio.to_thread(device.waited_for.wait, 60)
    tasks += [asyncio.create_task(submit(queue, *range(ten, ten + 4))) for ten in (20, 30, 40)]
    while queue.waiting_images < 12:
        await asyncio.sleep(0.001)
    device.open.set()
    for ten, answer in zip((10, 20, 30, 40), await asyncio.gather(*tasks), strict=True):
        assert np.array_equal(answer.result.images, 255 - images(*range(ten, ten + 4)))
    assert [(kind, first) for kind, first, _ in device.events] == [
        ("begun", 10), ("finished", 10),
        ("begun", 20), ("begun", 30), ("finished", 20), ("begun", 40), ("finished", 30), ("finished", 40),
    ]  # fmt: skip
    queue.close(5)


async def test_a_large_entry_is_begun_in_pieces_and_put_together():
    device, counted = Beside(), []
    queue = queue_before(device, on_batch=counted.append)
    answer = await submit(queue, *range(10))
    assert np.array_equal(answer.result.images, 255 - images(*range(10)))
    assert [count for kind, _, count in device.events if kind == "begun"] == counted == [4, 4, 2]
    queue.close(5)


async def test_what_cannot_be_begun_is_run_after_what_is_under_way():
    device = Beside()
    queue = queue_before(device)
    other = type(WORK)("other")
    answers = await asyncio.gather(submit(queue, 1), submit(queue, 2, work=other), submit(queue, 3))
    assert [int(answer.result.images.flat[0]) for answer in answers] == [254, 253, 252]
    assert ("run", 2, 1) in device.events
    queue.close(5)


async def test_a_batch_that_fails_on_the_way_is_run_again_and_harms_no_other():
    device = Beside()
    device.broken = {1}
    queue = queue_before(device)
    answers = await asyncio.gather(submit(queue, 1), submit(queue, 2))
    assert [int(answer.result.images.flat[0]) for answer in answers] == [254, 253]
    assert ("run", 1, 1) in device.events or ("run", 1, 2) in device.events
    queue.close(5)


async def test_a_begun_batch_that_answers_too_few_images_is_run_again():
    device = Beside()

    def short(work, batch):
        return lambda: device(work, batch).part(0, len(batch) - 1)

    queue = batcher(device, begin=short)
    answer = await submit(queue, 1, 2, 3)
    assert np.array_equal(answer.result.images, 255 - images(1, 2, 3))
    queue.close(5)


async def test_a_batch_that_fails_both_ways_fails():
    def fail(*_):
        raise RuntimeError("the device failed")

    queue = batcher(fail, begin=fail)
    with pytest.raises(EngineFailure):
        await submit(queue, 1)
    queue.close(5)


async def test_closing_answers_what_is_under_way():
    device = Beside()
    queue = queue_before(device)
    device.open.clear()
    task = asyncio.create_task(submit(queue, 1))
    await asyncio.to_thread(device.waited_for.wait, 60)
    closing = asyncio.create_task(asyncio.to_thread(queue.close, 60))
    await asyncio.sleep(0)
    device.open.set()
    assert (await task).result.images.flat[0] == 254
    await closing
    assert queue.ended
