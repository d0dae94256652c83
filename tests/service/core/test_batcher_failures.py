"""The queue when a batch fails: whom it reaches, and what is tried again."""

import asyncio
import threading
import time

import numpy as np
import pytest
import torch

from arn_purify.service.core.engine import Engine
from arn_purify.service.core.lifecycle import Lifecycle
from arn_purify.service.errors import EngineFailure, OutOfMemory
from tests.service.core.device import WORK, Device, batcher, held, images, submit


@pytest.fixture
def device():
    return Device()


@pytest.mark.parametrize("kind", ["raises", "miscounts"])
async def test_a_failure_reaches_the_whole_batch_and_only_it(kind, caplog):
    broken = threading.Event()
    broken.set()
    device = Device()

    def run(work, batch, requests):
        if broken.is_set() and kind == "raises":
            raise RuntimeError("out of memory")
        result = device(work, batch)
        return result.part(0, len(batch) - 1) if broken.is_set() else result

    queue = batcher(run, max_wait_seconds=0.2)
    outcomes = await asyncio.gather(*(submit(queue, value) for value in (1, 2)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [EngineFailure] * 2
    broken.clear()
    assert (await submit(queue, 3)).result.images.flat[0] == 252
    queue.close(5)


async def test_a_poisonous_request_fails_alone(device):
    def run(work, batch, requests):
        if (batch == 3).any():
            raise ValueError("poison")
        return device(work, batch)

    queue = batcher(run, max_wait_seconds=0.2)
    outcomes = await asyncio.gather(*(submit(queue, value) for value in (1, 2, 3, 4)), return_exceptions=True)
    assert isinstance(outcomes.pop(2), EngineFailure)
    assert [int(answer.result.images.flat[0]) for answer in outcomes] == [254, 253, 251]
    assert device.seen == [1, 2, 4]
    assert (await submit(queue, 5)).result.images.flat[0] == 250
    queue.close(5)


async def test_a_batch_beyond_memory_is_halved_and_the_size_that_works_is_remembered_for_a_while(
    device, monkeypatch, caplog
):
    tried = []

    def run(work, batch, requests):
        tried.append(len(batch))
        if len(batch) > 3:
            raise MemoryError
        return device(work, batch)

    halved = []
    queue = batcher(run, max_batch_images=16, on_halved=lambda: halved.append(1))
    answer = await submit(queue, *range(16))
    assert np.array_equal(answer.result.images, 255 - images(*range(16)))
    assert tried == [16, 8, 4, *[2] * 8]
    assert len(halved) == 3
    tried.clear()
    first = await held(queue, device)
    others = [asyncio.create_task(submit(queue, value)) for value in (1, 2, 3)]
    of_another_shape = asyncio.create_task(submit(queue, 4, 5, 6, side=3))
    await asyncio.sleep(0.01)
    device.open.set()
    await asyncio.gather(first, *others, of_another_shape)
    assert tried == [1, 2, 1, 3]
    assert caplog.text.count("smaller batches for a while") == 1
    tried.clear()
    now = time.monotonic()
    monkeypatch.setattr("arn_purify.service.core.batcher.time.monotonic", lambda: now + 61)
    await submit(queue, *range(4))
    assert tried == [4, 2, 2]
    queue.close(5)


async def test_an_image_beyond_memory_fails_alone(device):
    def run(work, batch, requests):
        if len(batch) > 1 or (batch == 2).any():
            raise MemoryError
        return device(work, batch)

    queue = batcher(run, max_wait_seconds=0.2)
    outcomes = await asyncio.gather(*(submit(queue, value) for value in (1, 2, 3, 4)), return_exceptions=True)
    assert isinstance(outcomes.pop(1), OutOfMemory)
    assert [int(answer.result.images.flat[0]) for answer in outcomes] == [254, 252, 251]
    queue.close(5)


class Breaking(Device):
    """A device that fails for good at its first image 13, as CUDA does after an illegal memory access."""

    lost = False

    def __call__(self, work, batch, requests=1):
        result = super().__call__(work, batch)
        self.lost = self.lost or bool((batch == 13).any())
        if self.lost:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return result

    def begin(self, work, batch):
        return lambda: self(work, batch)


@pytest.mark.parametrize("begins", [False, True])
async def test_a_lost_device_ends_its_thread_and_fails_whoever_waits(begins, caplog):
    device = Breaking()
    queue = batcher(device, is_lost=lambda: device.lost, begin=device.begin if begins else None)
    lifecycle = Lifecycle(queue, 0)
    assert (await submit(queue, 1)).result.images.flat[0] == 254
    first = await held(queue, device)
    waiting = [asyncio.create_task(submit(queue, 13, 14, 15, 16))]
    waiting += [asyncio.create_task(submit(queue, value, side=3)) for value in range(5)]
    await asyncio.sleep(0.01)
    change = asyncio.create_task(queue.between_batches(lambda: None))
    await asyncio.sleep(0)
    assert lifecycle.alive
    calls = len(device.calls)
    device.open.set()
    outcomes = await asyncio.wait_for(asyncio.gather(first, *waiting, return_exceptions=True), 60)
    assert [type(outcome) for outcome in outcomes[1:]] == [EngineFailure] * 6
    assert len(device.calls) <= calls + 5, "no batch is tried entry by entry"
    await change
    assert not lifecycle.alive, "/health/live has to answer 503"
    for refused in (submit(queue, 1), queue.between_batches(lambda: None)):
        with pytest.raises(EngineFailure, match="thread has stopped"):
            await refused
    queue._thread.join(60)
    assert not queue._thread.is_alive()
    assert queue.waiting_images == 0
    assert caplog.text.count("the device is lost") == 1


async def test_a_device_that_is_lost_on_the_event_loop_ends_its_thread():
    device = Breaking()
    queue = batcher(device, is_lost=lambda: device.lost)
    while not queue.warm:
        await asyncio.sleep(0.001)
    with pytest.raises(EngineFailure, match="AcceleratorError"):
        await queue.submit(WORK, images(13), 30, inline=True)
    assert queue.ended
    queue._thread.join(60)
    assert not queue._thread.is_alive()


def test_an_engine_is_lost_where_cuda_fails_for_good(monkeypatch):
    class Stream:
        def synchronize(self):
            if broken:
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    engine, broken = Engine(("identity",), (), "cpu", "fp32"), True
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    assert not engine.lost, "a CPU has nothing to lose"
    engine.device = "cuda"
    assert engine.lost
    broken = False
    assert not engine.lost


def test_memory_that_runs_out_loses_no_device():
    assert not issubclass(torch.OutOfMemoryError, torch.AcceleratorError)
