"""Work that no answer waits for is bounded in number and in memory."""

import asyncio

from arn_purify.service.core.background import _MAX_TASKS, Background
from arn_purify.service.core.limits import MemoryBudget


async def test_what_does_not_fit_is_dropped_and_the_rest_is_done_and_given_back():
    memory, dropped, done, may = MemoryBudget(100), [], [], asyncio.Event()
    background = Background(memory, lambda: dropped.append(1))

    async def work(_):
        await may.wait()
        done.append(memory.reserved_bytes)

    for size in (60, 60, 40):
        background.start(work, size)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (len(dropped), memory.reserved_bytes) == (1, 100)
    for _ in range(_MAX_TASKS):
        background.start(work, 0)
    assert len(dropped) == 1 + 2
    may.set()
    while memory.reserved_bytes or len(done) < _MAX_TASKS:
        await asyncio.sleep(0.001)
    background.start(work, 100)
    await asyncio.sleep(0.01)
    assert len(done) == _MAX_TASKS + 1


async def test_work_that_grows_beyond_the_room_is_dropped():
    memory, dropped, done = MemoryBudget(100), [], []
    background = Background(memory, lambda: dropped.append(1))

    async def work(reserved):
        reserved.add(40)
        done.append(memory.reserved_bytes)
        await asyncio.sleep(0.01)

    for _ in range(2):
        background.start(work, 20)
    await asyncio.sleep(0)
    while memory.reserved_bytes:
        await asyncio.sleep(0.001)
    assert (done, dropped) == ([60], [1])


async def test_what_is_under_way_can_be_ended():
    memory = MemoryBudget(100)
    background = Background(memory, lambda: None)
    background.start(lambda _: asyncio.Event().wait(), 60)
    await asyncio.sleep(0)
    assert memory.reserved_bytes == 60
    background.cancel()
    while memory.reserved_bytes:
        await asyncio.sleep(0.001)
