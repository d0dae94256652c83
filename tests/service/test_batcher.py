"""The queue: nobody's images get lost, mixed up or run for nothing."""

import asyncio
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arn_purify.service.core.batcher import Batcher
from arn_purify.service.core.engine import Engine, Purified, Work
from arn_purify.service.errors import DeadlineExceeded, Draining, EngineFailure, OutOfMemory, QueueFull, TooManyImages

WORK = Work("m")


class Device:
    """A run function that negates, remembers its calls, and can be held shut."""

    def __init__(self):
        self.calls = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def __call__(self, work, images, requests=1):
        self.entered.set()
        self.open.wait(10)
        self.calls.append((work, images.copy()))
        norms = images.reshape(len(images), -1).astype(np.float32).max(1)
        return Purified(255 - images, norms, norms)

    @property
    def seen(self):
        return sorted(int(image.flat[0]) for _, images in self.calls for image in images)


@pytest.fixture
def device():
    return Device()


def images(*values, side=2):
    return np.array(values, np.uint8).repeat(side * side).reshape(len(values), side, side, 1)


def batcher(device, **settings):
    queue = Batcher(device, **{"max_batch_images": 4, "queue_images": 16, **settings})
    queue.start()
    return queue


async def held(queue, device):
    """Keep the device busy with one image, so that what follows has to wait."""
    device.open.clear()
    device.entered.clear()
    task = asyncio.create_task(queue.submit(WORK, images(0), 30))
    await asyncio.to_thread(device.entered.wait, 5)
    return task


async def submit(queue, *values, work=WORK, deadline=30.0, side=2):
    return await queue.submit(work, images(*values, side=side), deadline)


async def test_the_device_sees_exactly_what_was_submitted_in_full_batches(device):
    queue = batcher(device)
    first = await held(queue, device)
    tasks = [asyncio.create_task(submit(queue, value)) for value in range(1, 10)]
    await asyncio.sleep(0.01)
    device.open.set()
    answers = await asyncio.gather(first, *tasks)
    assert [int(answer.result.images.flat[0]) for answer in answers] == [255 - value for value in range(10)]
    assert [len(batch) for _, batch in device.calls] == [1, 4, 4, 1]
    assert all(answer.queue_seconds >= 0 and answer.infer_seconds > 0 for answer in answers)
    queue.close(5)


async def test_half_of_a_crowd_stays_for_the_next_batch_so_that_answering_and_inference_overlap(device):
    queue = batcher(device, max_batch_images=64, queue_images=100)
    first = await held(queue, device)
    rest = [asyncio.create_task(submit(queue, value)) for value in range(40)]
    await asyncio.sleep(0.01)
    device.open.set()
    await asyncio.gather(first, *rest)
    assert [len(batch) for _, batch in device.calls] == [1, 20, 10, 5, 4, 1]
    queue.close(5)


async def test_only_equals_share_a_batch(device):
    queue = batcher(device)
    first = await held(queue, device)
    others = [submit(queue, 1), submit(queue, 2, side=3), submit(queue, 3, work=Work("other")), submit(queue, 4)]
    tasks = [asyncio.create_task(other) for other in others]
    await asyncio.sleep(0.01)
    device.open.set()
    await asyncio.gather(first, *tasks)
    assert sorted((work.model, batch.shape) for work, batch in device.calls[1:]) == [
        ("m", (1, 3, 3, 1)), ("m", (2, 2, 2, 1)), ("other", (1, 2, 2, 1)),
    ]  # fmt: skip
    queue.close(5)


async def test_a_wait_collects_company_and_a_full_batch_does_not_wait(device):
    queue = batcher(device, max_wait_seconds=0.5)
    await asyncio.gather(*(submit(queue, value) for value in range(4)))
    await asyncio.gather(submit(queue, 1), submit(queue, 2))
    assert [len(batch) for _, batch in device.calls] == [4, 2]
    queue.close(5)


async def test_a_large_entry_is_run_in_pieces_and_put_together(device):
    queue = batcher(device)
    answer = await submit(queue, *range(10))
    assert [len(batch) for _, batch in device.calls] == [4, 4, 2]
    assert np.array_equal(answer.result.images, 255 - images(*range(10)))
    assert answer.result.linf.tolist() == list(range(10))
    queue.close(5)


async def test_a_large_entry_is_not_overtaken_for_ever(device):
    queue = batcher(device)
    first = await held(queue, device)
    order = []

    async def note(name, *values):
        await submit(queue, *values)
        order.append(name)

    tasks = [asyncio.create_task(note("a", 1))]
    tasks += [asyncio.create_task(note("large", 2, 3, 4, 5)), asyncio.create_task(note("b", 6))]
    await asyncio.sleep(0.01)
    device.open.set()
    await asyncio.gather(first, *tasks)
    assert order == ["a", "large", "b"]
    queue.close(5)


async def test_a_cancelled_entry_never_reaches_the_device(device):
    queue = batcher(device)
    first = await held(queue, device)
    tasks = [asyncio.create_task(submit(queue, value)) for value in (1, 2, 3)]
    await asyncio.sleep(0.01)
    tasks[1].cancel()
    await asyncio.sleep(0.01)
    device.open.set()
    await asyncio.gather(first, tasks[0], tasks[2])
    assert device.seen == [0, 1, 3]
    assert queue.waiting_images == 0
    queue.close(5)


async def test_an_expired_entry_is_told_so_and_never_run(device):
    queue = batcher(device)
    first = await held(queue, device)
    with pytest.raises(DeadlineExceeded):
        await submit(queue, 1, deadline=0.02)
    device.open.set()
    await first
    await submit(queue, 2)
    assert device.seen == [0, 2]
    queue.close(5)


async def test_a_full_queue_refuses_and_says_when_to_come_back(device):
    queue = batcher(device)
    first = await held(queue, device)
    waiting = asyncio.create_task(submit(queue, *range(1, 17)))
    await asyncio.sleep(0.01)
    with pytest.raises(QueueFull) as refusal:
        await submit(queue, 99)
    assert refusal.value.retry_after >= 1
    with pytest.raises(TooManyImages):
        await submit(queue, *range(17))
    device.open.set()
    await asyncio.gather(first, waiting)
    assert 99 not in device.seen
    queue.close(5)


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


def _allocates():
    torch.empty(2**50, dtype=torch.uint8)


def _cuda():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("fail", [_allocates, _cuda])
async def test_the_networks_ways_to_run_out_of_memory_are_known(fail, monkeypatch):
    engine = Engine(("identity",), (), "cpu", "fp32")
    monkeypatch.setattr(engine.purifiers["identity"], "forward", lambda x: fail() if len(x) > 2 else x)
    queue = batcher(engine.run)
    answer = await submit(queue, *range(4), work=Work("identity"))
    assert np.array_equal(answer.result.images, images(*range(4)))
    queue.close(5)


async def test_a_change_is_made_between_batches_and_never_within_an_entry(device):
    queue = batcher(device)
    first = await held(queue, device)
    large = asyncio.create_task(submit(queue, *range(1, 11)))
    await asyncio.sleep(0.01)
    made = []
    change = asyncio.create_task(queue.between_batches(lambda: made.append(len(device.calls))))
    given_up = asyncio.create_task(queue.between_batches(lambda: made.append("never")))
    await asyncio.sleep(0.01)
    assert not made
    given_up.cancel()
    await asyncio.sleep(0.01)
    device.open.set()
    await asyncio.gather(first, large, change)
    assert made == [1]
    assert [len(batch) for _, batch in device.calls] == [1, 4, 4, 2]

    device.open.clear()
    device.entered.clear()
    large = asyncio.create_task(submit(queue, *range(1, 11)))
    await asyncio.to_thread(device.entered.wait, 5)
    change = asyncio.create_task(queue.between_batches(lambda: made.append(len(device.calls))))
    await asyncio.sleep(0.01)
    device.open.set()
    await asyncio.gather(large, change)
    assert made == [1, 7]

    def slip():
        raise ValueError("slip")

    with pytest.raises(ValueError, match="slip"):
        await queue.between_batches(slip)
    assert not queue.ended
    await asyncio.to_thread(queue.close, 5)
    with pytest.raises(Draining):
        await queue.between_batches(slip)


async def test_closing_finishes_what_was_accepted_and_refuses_the_rest(device):
    queue = batcher(device)
    first = await held(queue, device)
    accepted = asyncio.create_task(submit(queue, 1))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(asyncio.to_thread(queue.close, 5))
    await asyncio.sleep(0.05)
    with pytest.raises(Draining):
        await submit(queue, 2)
    device.open.set()
    await asyncio.gather(first, accepted, closing)
    assert device.seen == [0, 1]
    assert queue.ended


async def test_what_cannot_be_finished_in_time_is_told_so(device):
    queue = batcher(device)
    first = await held(queue, device)
    left = asyncio.create_task(submit(queue, 1))
    await asyncio.sleep(0.01)
    await asyncio.to_thread(queue.close, 0.05)
    with pytest.raises(Draining):
        await left
    device.open.set()
    await first
    assert device.seen == [0]


async def test_nothing_is_run_before_the_warm_up_is_done(device):
    release = threading.Event()
    queue = batcher(device, warm_up=lambda: release.wait(5))
    task = asyncio.create_task(submit(queue, 1))
    await asyncio.sleep(0.05)
    assert (queue.warm, device.calls) == (False, [])
    release.set()
    await task
    assert queue.warm
    queue.close(5)


async def test_alone_it_runs_on_the_callers_thread_and_in_company_it_queues(device):
    threads = []

    def run(work, batch, requests):
        threads.append(threading.current_thread())
        return device(work, batch)

    queue = batcher(run)
    while not queue.warm:
        await asyncio.sleep(0.001)
    alone = await queue.submit(WORK, images(1), 30, inline=True)
    assert (alone.result.images.flat[0], alone.queue_seconds < 1) == (254, True)
    first = await held(queue, device)
    second = asyncio.create_task(queue.submit(WORK, images(2), 30, inline=True))
    await asyncio.sleep(0.01)
    assert not second.done()
    device.open.set()
    await asyncio.gather(first, second)
    assert [thread is threading.current_thread() for thread in threads] == [True, False, False]
    queue.close(5)


async def test_a_failure_on_the_callers_thread_is_the_same_and_leaves_the_device_free():
    def run(work, batch, requests):
        raise ValueError("broken")

    queue = batcher(run)
    while not queue.warm:
        await asyncio.sleep(0.001)
    for inline in (True, True, False):
        with pytest.raises(EngineFailure):
            await queue.submit(WORK, images(1), 30, inline=inline)
    queue.close(5)


entries = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from(["a", "b"]), st.sampled_from([2, 3]), st.booleans()), max_size=20
)


@settings(max_examples=40, deadline=None)
@given(entries)
def test_every_caller_gets_its_own_answer(plan):
    async def scenario():
        device = Device()
        queue = batcher(device, queue_images=1000)
        tasks = []
        for number, (count, model, side, cancelled) in enumerate(plan):
            call = submit(queue, *[number] * count, work=Work(model), side=side)
            tasks.append((asyncio.create_task(call), cancelled, count, number))
        await asyncio.sleep(0)
        for task, cancelled, _, _ in tasks:
            if cancelled:
                task.cancel()
        for task, cancelled, count, number in tasks:
            if cancelled:
                continue
            answer = await task
            assert answer.result.images.shape[0] == count
            assert (answer.result.images == 255 - number).all()
        await asyncio.to_thread(queue.close, 5)
        assert all(len(batch) <= 4 for _, batch in device.calls)
        kept = sorted(number for _, cancelled, count, number in tasks for _ in range(count) if not cancelled)
        assert not [number for number in kept if number not in device.seen]

    asyncio.run(scenario())


def test_an_image_of_any_size_is_quick_only_where_it_is_small(monkeypatch):
    engine = Engine(("identity", "mnist-transparent"), (), "cpu", "fp32")
    monkeypatch.setattr(engine, "_inline", {"identity", "mnist-transparent"})
    for model, shape, quick in [
        ("identity", (1, 32, 32, 3), True),
        ("identity", (1, 4000, 4000, 3), False),
        ("mnist-transparent", (1, 28, 28, 1), True),
        ("mnist-transparent", (1, 32, 32, 1), False),
    ]:
        assert engine.runs_inline(Work(model), np.zeros(shape, np.uint8)) is quick
