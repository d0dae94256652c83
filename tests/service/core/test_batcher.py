"""The queue: nobody's images get lost, mixed up or run for nothing."""

import asyncio
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arn_purify.service.core.engine import Work
from arn_purify.service.errors import DeadlineExceeded, Draining, EngineFailure, QueueFull, TooManyImages
from tests.service.core.device import WORK, Device, batcher, held, images, submit


@pytest.fixture
def device():
    return Device()


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


async def test_a_batch_takes_all_that_wait_while_as_many_are_being_read_or_answered(device):
    queue = batcher(device, max_batch_images=64, queue_images=100, under_way=lambda: 40)
    first = await held(queue, device)
    rest = [asyncio.create_task(submit(queue, value)) for value in range(25)]
    await asyncio.sleep(0.01)
    device.open.set()
    await asyncio.gather(first, *rest)
    assert [len(batch) for _, batch in device.calls] == [1, 20, 5]
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


@settings(max_examples=40)
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
