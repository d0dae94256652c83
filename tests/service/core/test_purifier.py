"""The core stands by itself: images in, purified images out, without a server and without its libraries."""

import asyncio
import contextlib
import subprocess
import sys

import numpy as np
import pytest

from arn_purify.service.core import codec
from arn_purify.service.core.batcher import Batcher
from arn_purify.service.core.decoder import Decoder
from arn_purify.service.core.engine import Engine
from arn_purify.service.core.lifecycle import Lifecycle
from arn_purify.service.core.limits import MemoryBudget
from arn_purify.service.core.purifier import Item, Purifier, Timings
from arn_purify.service.errors import BodiesFull, DeadlineExceeded, Draining, TooManyImages, TooManyPixels, Warming
from arn_purify.service.settings import Settings

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), dtype=np.uint8)
PNG = codec.encode_image(PIXELS[0])


class Noted:
    """An observer that remembers."""

    def __init__(self):
        self.stages, self.residuals, self.spans = [], [], []

    def observe_stage(self, stage, seconds):
        self.stages.append((stage, seconds))

    def observe_residuals(self, model, linf, l2):
        self.residuals.append((model, len(linf), len(l2)))


class Parts:
    """A purifier and what it stands on."""

    def __init__(self, **settings):
        self.settings = Settings(models="mnist-transparent,identity", **settings)
        self.noted = Noted()
        self.engine = Engine(self.settings.models, (), "cpu", "fp32")
        self.decoder = Decoder(5, 5, self.settings.max_pixels, self.settings.max_body_bytes)
        self.batcher = Batcher(self.engine.run, 4, queue_images=self.settings.queue_images)
        self.lifecycle = Lifecycle(self.batcher, drain_seconds=5)
        self.purifier = Purifier(
            self.settings, self.engine, self.batcher, self.decoder, self.lifecycle, self.noted,
            lambda name, started, ended: self.noted.spans.append(name),
        )  # fmt: skip

    async def __aenter__(self):
        self.batcher.start()
        while not self.batcher.warm:
            await asyncio.sleep(0.001)
        return self

    async def __aexit__(self, *_):
        await asyncio.to_thread(self.batcher.close, 5)
        self.decoder.close()


async def test_an_image_goes_through_and_its_numbers_are_observed_once():
    async with Parts() as parts:
        purifier = parts.purifier
        with purifier.request() as timings:
            purifier.admit()
            assert parts.lifecycle.in_flight == 1
            items = [await purifier.decode(PNG, purifier.selection(wanted)) for wanted in (None, "identity")]
            items = await purifier.purify(items, timings)
        assert parts.lifecycle.in_flight == 0
        headers = purifier.answer_headers(items, timings)
    assert [item.model for item in items] == ["mnist-transparent", "identity"]
    assert np.array_equal(items[1].purified.images[0], PIXELS[0])
    assert headers["X-ARN-Model"] == "mnist-transparent@fp32, identity@fp32"
    assert sorted(parts.noted.residuals) == [("identity", 1, 1), ("mnist-transparent", 1, 1)]
    assert [name for name, _ in parts.noted.stages] == ["queue", "infer"]
    assert sorted(parts.noted.spans) == ["infer", "infer", "queue", "queue"]


async def test_who_hangs_up_in_the_queue_has_waited_there(monkeypatch):
    """Or the longest waits, which clients give up, would be in no histogram."""
    queued = asyncio.Event()

    async def submit(*_):
        queued.set()
        await asyncio.Event().wait()

    async with Parts() as parts:
        purifier = parts.purifier
        monkeypatch.setattr(parts.batcher, "submit", submit)

        async def ask():
            with purifier.request() as timings:
                await purifier.purify([await purifier.decode(PNG, purifier.selection())], timings)

        asked = asyncio.create_task(ask())
        await queued.wait()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    assert [name for name, _ in parts.noted.stages] == ["queue"]


def test_a_stage_counts_however_it_ends():
    noted = Noted()
    with contextlib.suppress(ValueError), Timings(observe=noted.observe_stage) as timings, timings.during("decode"):
        raise ValueError
    assert [name for name, _ in noted.stages] == ["decode"]


async def test_what_a_request_decodes_is_reserved_and_bounded():
    async with Parts(bodies_bytes=2000, max_body_bytes=1000) as parts:
        selection, budget = parts.purifier.selection("identity"), MemoryBudget(2000)
        with budget.reserve() as memory:
            decoding = parts.purifier.decoding(memory)
            await decoding.decode(PNG, selection)
            await decoding.decode(PNG, selection)
            assert memory.size == budget.reserved_bytes == 2 * PIXELS[0].nbytes
            with pytest.raises(TooManyPixels, match="2000 bytes"):
                await decoding.decode(PNG, selection)
        with budget.reserve(1500), budget.reserve() as memory, pytest.raises(BodiesFull):
            await parts.purifier.decoding(memory).decode(PNG, selection)


async def test_images_of_several_shapes_are_admitted_together():
    """Where they never fit the client must not be told to come again."""
    half = [Item(None, "identity", np.zeros((40, side, side, 1), np.uint8)) for side in (28, 32)]
    async with Parts(queue_images=64) as parts:
        with parts.purifier.request() as timings:
            with pytest.raises(TooManyImages, match="80 images"):
                await parts.purifier.purify(half, timings)
            assert len(await parts.purifier.purify(half[:1], timings)) == 1


async def test_a_request_whose_deadline_passed_decodes_no_further_image():
    async with Parts(deadline_seconds=1e-9) as parts:
        with MemoryBudget(10**6).reserve() as memory:
            decoding = parts.purifier.decoding(memory)
            await decoding.decode(PNG, parts.purifier.selection())
            with pytest.raises(DeadlineExceeded):
                await decoding.decode(PNG, parts.purifier.selection())


async def test_a_drain_waits_for_accepted_requests_and_takes_no_new_ones():
    parts = Parts()
    with pytest.raises(Warming):
        parts.purifier.admit()
    async with parts:
        with parts.lifecycle.request():
            drain = asyncio.create_task(parts.lifecycle.drain())
            await asyncio.sleep(0.05)
            assert not drain.done()
            with pytest.raises(Draining):
                parts.purifier.admit()
        await drain
    assert parts.lifecycle.alive  # a drain's end is no failure


def test_the_core_loads_no_server():
    program = (
        "import sys; import arn_purify.service.core.purifier, arn_purify.service.core.background;"
        "print(*({'fastapi', 'starlette', 'uvicorn', 'aiohttp', 'grpc', 'opentelemetry', 'prometheus_client'}"
        " & set(sys.modules)));"
        "print(*(n for n in sys.modules if n.startswith('arn_purify.service.') and n.split('.')[2] not in"
        " ('core', 'settings', 'errors')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
