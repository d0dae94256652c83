"""The engine where batches are recorded, on a CPU: the same answers as without, and eager where nothing fits."""

import asyncio
import gc
import weakref

import numpy as np
import pytest

from arn_purify import models
from arn_purify.service.core.attack import Attack
from arn_purify.service.core.buckets import Host, bucket_of
from arn_purify.service.core.engine import Engine, Work
from tests.service.core.device import batcher
from tests.service.core.lagging import Lagging

MODEL, CLASSIFIER = "mnist-transparent", "mnist-lenet5"
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1), np.uint8)
FLOATS = np.random.default_rng(1).random((40, 1, 28, 28), np.float32)
MOST = 16


def engine(backend=None, names=(MODEL,)):
    made = Engine(names, (CLASSIFIER,), "cpu", "fp32", threads=1, backend=backend)
    if backend:
        made.warm_up(MOST)
    return made


@pytest.fixture(scope="module")
def plain():
    return engine()


@pytest.fixture(scope="module", params=[Host, Lagging])
def recorded(request):
    return engine(request.param)


def assert_alike(ours, theirs, within=0.0):
    """The same result; ``within`` of a grey level, for a library may add up in another order at another batch size."""
    for name in ("images", "linf", "l2", "probabilities", "unpurified"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert (mine is None) == (other is None), name
        if mine is not None:
            assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
            apart = abs(mine.astype(np.float64) - other).max()
            assert apart <= (within if mine.dtype == np.uint8 else within / 255), name
    assert (ours.sha256, ours.profile, ours.classifier) == (theirs.sha256, theirs.profile, theirs.classifier)


@pytest.mark.parametrize("images", [PIXELS, FLOATS], ids=["uint8", "float32"])
def test_every_batch_size_gives_what_the_engine_gives_without(recorded, plain, images):
    """Bit for bit what the same padded batch gives, and what the unpadded one does but for the order of additions."""
    assert recorded.recorded(MODEL) == MOST
    assert plain.recorded(MODEL) == 0
    for count in range(1, MOST + 1):
        batch = images[:count]
        answer = recorded.begin(Work(MODEL), batch)()
        padding = np.zeros((bucket_of(count) - count, *images.shape[1:]), images.dtype)
        assert_alike(answer, plain.run(Work(MODEL), np.concatenate([batch, padding])).part(0, count))
        assert_alike(answer, plain.run(Work(MODEL), batch), within=1)


@pytest.mark.parametrize("work", [Work(MODEL, classify=True), Work(MODEL, classify=True, compare=True)])
def test_the_classifier_is_part_of_the_recording(recorded, plain, work):
    answer = recorded.begin(work, PIXELS[:5])()
    assert_alike(answer, plain.run(work, PIXELS[:5]), within=1)
    assert answer.classifier == CLASSIFIER


def test_a_batch_beyond_the_largest_recording_is_run_in_turns(recorded, plain):
    assert_alike(recorded.run(Work(MODEL), PIXELS), plain.run(Work(MODEL), PIXELS), within=1)


def test_what_was_not_recorded_runs_eagerly(recorded, plain):
    odd = PIXELS[:3, :26, :24]
    assert recorded.begin(Work(MODEL), odd) is None
    assert_alike(recorded.run(Work(MODEL), odd), plain.run(Work(MODEL), odd))
    attack = Work(MODEL, attack=Attack(0.1))
    assert recorded.begin(attack, PIXELS[:1]) is None
    floats = Work(MODEL, classify=True)
    assert recorded.begin(floats, FLOATS[:2]) is None
    assert_alike(recorded.run(floats, FLOATS[:2]), plain.run(floats, FLOATS[:2]))


def test_two_models_under_way_at_once_keep_apart():
    both = engine(Lagging, (MODEL, "identity", "mnist-hardened"))
    colour = np.random.default_rng(2).integers(0, 256, (5, 32, 32, 3), np.uint8)
    work = [(MODEL, PIXELS[:3]), ("identity", colour), ("mnist-hardened", PIXELS[:3]), (MODEL, PIXELS[3:9])]
    started = [both.begin(Work(name), images) for name, images in work]
    answers = [finish() for finish in reversed(started)][::-1]
    assert np.array_equal(answers[1].images, colour)
    alone = engine(None, (MODEL, "mnist-hardened"))
    for which in (0, 2, 3):
        name, images = work[which]
        assert_alike(answers[which], alone.run(Work(name), images), within=1)
    assert answers[0].sha256 != answers[2].sha256


def test_a_swap_takes_the_candidates_recordings_and_frees_the_old_ones_at_once():
    serving = engine(Lagging, (MODEL, "identity"))
    old, other = weakref.ref(serving._buckets[MODEL]), serving._buckets["identity"]
    under_way = serving.begin(Work(MODEL), PIXELS[:2])
    candidate = serving.candidate(MODEL, models.ZOO / "mnist-hardened.safetensors")
    assert candidate.recorded(MODEL) == 0
    candidate.warm_up(8)
    gc.collect()
    gc.disable()  # the service has frozen all that lives at its start: what is in a circle then is never freed
    try:
        serving.adopt(candidate)
        assert old() is not None, "the device still works in its memory"
        before = under_way()
        del under_way
        assert old() is None
    finally:
        gc.enable()
    after = serving.begin(Work(MODEL), PIXELS[:2])()
    assert (serving.recorded(MODEL), serving._buckets["identity"]) == (8, other)
    assert_alike(before, engine().run(Work(MODEL), PIXELS[:2]), within=1)
    hardened = engine(None, ("mnist-hardened",)).run(Work("mnist-hardened"), PIXELS[:2])
    assert np.array_equal(after.images, hardened.images)
    assert after.sha256 == hardened.sha256 != before.sha256


def test_an_engine_whose_device_cannot_record_runs_eagerly_and_says_so_once(plain, caplog):
    class Unable(Host):
        def record(self, operation):
            raise RuntimeError("operation not permitted when stream is capturing")

    eager = engine(Unable)
    assert eager.recorded(MODEL) == 0
    assert caplog.text.count("cannot be recorded and run eagerly") == 1
    assert eager.begin(Work(MODEL), PIXELS[:3]) is None
    assert_alike(eager.run(Work(MODEL), PIXELS[:3]), plain.run(Work(MODEL), PIXELS[:3]))


async def test_through_the_queue_each_request_gets_its_own_images(recorded, plain):
    queue = batcher(recorded.run, max_batch_images=8, queue_images=100, begin=recorded.begin)
    parts = [PIXELS[:1], PIXELS[1:4], PIXELS[4:24], PIXELS[24:25], PIXELS[25:32], PIXELS[32:33, :26, :24], PIXELS[33:]]
    answers = await asyncio.gather(*(queue.submit(Work(MODEL), images, 100) for images in parts))
    for images, answer in zip(parts, answers, strict=True):
        assert_alike(answer.result, plain.run(Work(MODEL), images), within=1)
    queue.close(5)
