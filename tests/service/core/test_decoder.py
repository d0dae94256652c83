"""Images decoded in processes of their own: the same pixels, and trouble that ends with the process."""

import asyncio
import errno
import io
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arn_purify.service.core import codec
from arn_purify.service.core.decoder import Decoder, memory, processes
from arn_purify.service.core.selection import DecodePlan, Selection, Target
from arn_purify.service.errors import (
    BrokenImage,
    DeadlineExceeded,
    DecodeTimeout,
    OutOfMemory,
    TooManyPixels,
    WrongSize,
)
from tests.conftest import PATIENCE, decoders_of, running
from tests.fuzz import slow_png

PIXELS = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
PNG = codec.encode_image(PIXELS)


SLOW = slow_png(4000)


class Planned(Selection):
    """A selection that plans what a test says."""

    def __init__(self, plan):
        super().__init__(())
        object.__setattr__(self, "plan", plan)


AS_IT_IS = Planned(lambda size, channels: DecodePlan(Target("m", channels)))


def noting(plan, seen):
    def planned(*header):
        seen.append(header)
        return plan

    return Planned(planned)


@asynccontextmanager
async def decoding(seconds=PATIENCE, wait_seconds=PATIENCE, max_pixels=100_000, max_bytes=2**20):
    decoder = Decoder(seconds, wait_seconds, max_pixels, max_bytes)
    try:
        yield decoder
    finally:
        decoder.close()


_others: set[int] = set()


@pytest.fixture(autouse=True)
def others():
    """A service that other tests of this process share may have decoders of its own."""
    _others.clear()
    _others.update(decoders_of(os.getpid()))


def children():
    return decoders_of(os.getpid()) - _others


async def test_where_no_process_can_be_started_it_is_told(monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fail)
    async with decoding() as decoder:
        with pytest.raises(OutOfMemory, match="temporarily"):
            await decoder.decode(PNG, AS_IT_IS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
async def test_the_pixels_are_those_that_the_codec_reads(kind):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind)
    data = buffer.getvalue()
    async with decoding() as decoder:
        for channels, resize_to in [(3, None), (1, None), (3, (28, 28))]:
            plan, seen = DecodePlan(Target("m", channels, resize_to)), []
            told, pixels, _ = await decoder.decode(data, noting(plan, seen))
            assert (told, seen) == (plan.colour, [((300, 200), 3)])
            assert np.array_equal(pixels, codec.open_image(data, 10**6).decode(channels, resize_to))
        assert len(children()) == 1


async def test_refusals_come_back_as_they_are_and_cost_no_process():
    def refuse(size, channels):
        raise WrongSize(f"not {size}")

    async with decoding() as decoder:
        for data, plan, error, sentence in [
            (b"junk", AS_IT_IS, BrokenImage, "not a PNG"),
            (PNG[:-9000], AS_IT_IS, BrokenImage, "cannot be decoded"),
            (codec.encode_image(np.zeros((400, 300, 1), np.uint8)), AS_IT_IS, TooManyPixels, "300x400"),
            (PNG, Planned(refuse), WrongSize, "300, 200"),
        ]:
            with pytest.raises(error, match=sentence):
                await decoder.decode(data, plan)
        first = children()
        await decoder.decode(PNG, AS_IT_IS)
        assert children() == first


async def test_a_decode_without_end_is_killed_and_the_next_image_gets_a_new_process():
    async with decoding(seconds=0.3) as decoder:
        await decoder.decode(PNG, AS_IT_IS)
        before = children()
        with pytest.raises(DecodeTimeout, match=r"0\.3 seconds"):
            await decoder.decode(SLOW, AS_IT_IS)
        assert not children()
        await decoder.decode(PNG, AS_IT_IS)
        assert len(children()) == 1
        assert children() != before
    assert not children()


def ended_by(number):
    """Ends the process by a signal while it is at an image."""

    def planner(size, channels):
        os.kill(children().pop(), number)
        return DecodePlan(Target("m", channels))

    return Planned(planner)


async def test_a_signal_to_the_whole_group_does_not_end_a_process_that_starts():
    async with decoding() as decoder:
        decoded = asyncio.create_task(decoder.decode(PNG, AS_IT_IS))
        while not children():
            await asyncio.sleep(0)
        os.kill(children().pop(), signal.SIGTERM)
        _, pixels, _ = await decoded
        assert np.array_equal(pixels[0], PIXELS)


async def test_a_process_that_dies_takes_one_image_with_it_or_none():
    async with decoding() as decoder:
        await decoder.decode(PNG, AS_IT_IS)
        os.kill(children().pop(), signal.SIGSEGV)  # while it is idle
        while children():
            await asyncio.sleep(0.01)
        await decoder.decode(PNG, AS_IT_IS)

        with pytest.raises(BrokenImage, match="died"):
            await decoder.decode(PNG, ended_by(signal.SIGSEGV))
        await decoder.decode(PNG, AS_IT_IS)


async def test_an_image_beyond_a_decoders_memory_is_an_error():
    giant = codec.encode_image(np.zeros((12_000, 12_000, 1), np.uint8))  # 144 MP that its limits do not foresee
    async with decoding(max_pixels=10**9) as decoder:
        decoder._limits = (500 * 2**20, *decoder._limits[1:])
        with pytest.raises(BrokenImage):
            await decoder.decode(giant, AS_IT_IS)
        await decoder.decode(PNG, AS_IT_IS)


async def test_images_at_once_go_to_processes_of_their_own_and_wait_no_longer_than_they_may():
    async with decoding(seconds=1.0, wait_seconds=0.5) as decoder:
        images = [SLOW] * decoder._threads._max_workers + [PNG]
        outcomes = await asyncio.gather(*(decoder.decode(data, AS_IT_IS) for data in images), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [DecodeTimeout] * (len(images) - 1) + [DeadlineExceeded]
        await decoder.decode(PNG, AS_IT_IS)


@pytest.mark.parametrize("idle", [False, True])
async def test_a_process_that_linux_ends_for_want_of_memory_is_no_fault_of_the_image(idle):
    async with decoding() as decoder:
        if idle:
            await decoder.decode(PNG, AS_IT_IS)

        with pytest.raises(OutOfMemory, match="ended"):
            await decoder.decode(PNG, ended_by(signal.SIGKILL))
        assert not children()
        await decoder.decode(PNG, AS_IT_IS)


async def test_a_process_that_closes_its_channel_and_stays_is_ended(monkeypatch):
    monkeypatch.setattr("arn_purify.service.core.decoder._SECONDS_TO_END", 0.1)
    async with decoding() as decoder:
        await decoder.decode(PNG, AS_IT_IS)
        os.kill(children().pop(), signal.SIGSTOP)
        decoder._idle[0]._channel.shutdown(socket.SHUT_RDWR)  # as if it had done so
        _, pixels, _ = await decoder.decode(PNG, AS_IT_IS)  # by another
        assert np.array_equal(pixels[0], PIXELS)
        assert len(children()) == 1


@pytest.mark.parametrize(
    ("cores", "limit", "number"),
    [(1, None, 2), (4, None, 4), (64, None, 8), (64, "max", 8), (64, str(2**63 - 4096), 8), (4, "1", 1),
     (64, str(2 * memory(16_000_000, 2**26)), 1), (64, str(7 * memory(16_000_000, 2**26)), 3)],
)  # fmt: skip
@pytest.mark.parametrize("version", [0, 1])
def test_there_are_as_many_as_cores_and_half_of_the_memory_allow(monkeypatch, tmp_path, cores, limit, number, version):
    files = [tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"]
    if limit:
        files[version].write_text(f"{limit}\n")
    monkeypatch.setattr("arn_purify.service.core.decoder._MEMORY_LIMITS", files)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert processes(16_000_000, 2**26) == number
    decoder = Decoder(1, 1, 16_000_000, 2**26)
    assert decoder._threads._max_workers == number
    decoder.close()


KINDS = {"16-bit grey": "I;16", "transparent grey": "LA", "transparent colour": "RGBA", "palette": "P"}


@pytest.mark.parametrize("kind", KINDS)
async def test_no_image_takes_more_memory_than_is_planned_for(kind):
    side = 1500
    image = Image.new("L", (side, side), 9).convert(KINDS[kind])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned, which takes a copy
    given = {"transparency": bytes(256)} if kind == "palette" else {}
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif, **given)
    async with decoding(max_pixels=side**2) as decoder:
        await decoder.decode(buffer.getvalue(), Planned(lambda size, _: DecodePlan(Target("m", 3))))
        status = Path(f"/proc/{children().pop()}/status").read_text()
        assert 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1]) < memory(side**2, buffer.tell())


def test_an_idle_service_has_no_decoders_and_a_stopped_one_leaves_none():
    before = children()
    with running(models="identity", classifier="", decode_seconds=2) as client:
        small = codec.encode_image(PIXELS[:28, :28])
        assert client.post("/purify", content=small).status_code == 200
        assert children() == before
        answer = client.post("/purify", content=PNG)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), PIXELS)
        assert len(children() - before) == 1
        refused = client.post("/purify", content=SLOW)
        assert (refused.status_code, refused.json()["code"]) == (422, "decode_timeout")
        # Small, but of the kind that grows.
        assert client.post("/purify", content=slow_png(20, (28, 28))).status_code == 200
        assert len(children() - before) == 1
    assert children() == before


def test_a_system_that_sets_no_limit_decodes_all_the_same():
    ours, theirs = socket.socketpair()
    script = """
import resource, sys
def refuse(*_):
    raise ValueError("current limit exceeds maximum limit")  # as on macOS
resource.setrlimit = refuse
from arn_purify.service.core.decode_worker import main
main()
"""
    command = [sys.executable, "-c", script, str(theirs.fileno()), str(2**40), "100000", "60"]
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        ours.sendall(f"{len(PNG)}\n".encode() + PNG + b"null\n")  # its header is all that is asked for
        assert ours.makefile("rb").readline() == b'{"size": [300, 200], "channels": 3}\n'
        ours.shutdown(socket.SHUT_WR)
    assert process.returncode == 0
