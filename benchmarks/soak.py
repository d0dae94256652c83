"""Minutes at more than the service can do: every answer compared, every surplus refused politely, nothing lost.

``python -m benchmarks.soak`` measures first what 16 clients that wait for their answers get, which is less than a crowd
does, then sends twice as much, mixed: PNG, JPEG, WebP and BMP, ``.npy`` of up to 64 images, multipart, one network and
``identity``, and clients that hang up midway. It writes what came of it with memory, queue, open files and the event
loop's lag over time, and ends with 1 if a criterion is not met.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import io
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from email import message_from_bytes
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from arn_purify.service.core import codec
from arn_purify.service.core.precision import Precision, resolve

from . import common, engine

Pixels = NDArray[np.uint8]

MOST_UNDER_WAY = 800  # below the 1,024 open files that a process commonly may have
FORMATS = ("png", "jpeg", "webp", "bmp")
SIZES = ((16, 16), (33, 57), (96, 96), (150, 200))


@dataclasses.dataclass
class Case:
    """A request and what its answer holds: uint8 ``(N, H, W, C)``, to ``tolerance`` grey levels."""

    path: str
    headers: dict[str, str]
    body: bytes
    expected: Pixels
    tolerance: int
    seen: set[bytes] = dataclasses.field(default_factory=set)
    values: int = 0
    within_one_level: int = 0

    def right(self, kind: str, content: bytes) -> bool:
        """Whether an answer is the expected one. The same bytes again are not decoded again."""
        boundary = kind.partition("boundary=")[2].encode()
        key = content.replace(boundary, b"") if boundary else content
        if key in self.seen:
            return True
        pixels = _pixels(kind, content)
        if pixels.shape != self.expected.shape:
            return False
        off = np.abs(pixels.astype(np.int16) - self.expected)
        self.values += off.size
        self.within_one_level += int((off <= 1).sum())
        right = bool((off <= self.tolerance).all())
        if right and len(self.seen) < 50:
            self.seen.add(key)
        return right


def _pixels(kind: str, content: bytes) -> Pixels:
    if kind == codec.NPY_TYPE:
        return codec.decode_npy(content).astype(np.uint8, copy=False)
    if kind.startswith("multipart/"):
        message = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + content)
        return np.concatenate([_image(part.get_payload(decode=True)) for part in message.get_payload()])  # type: ignore
    return _image(content)


def _image(content: bytes, channels: int = 0) -> Pixels:
    opened = codec.open_image(content, 10**9)
    return opened.decode(channels or opened.channels)


def _encoded(pixels: Pixels, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, kind.upper())
    return buffer.getvalue()


def cases(tolerance: int) -> dict[str, list[Case]]:
    """Every kind of request by group, with the answers of the networks in this process, one image at a time in fp32.

    The network's answers may be off by ``tolerance`` grey levels, the identity's by none.
    """
    run = engine.BACKENDS["eager"]("mnist-transparent", 1)

    def purified(images: Pixels) -> Pixels:
        rows = [run(images, engine.as_float(image[None])) for image in images]
        return np.concatenate([row.mul(255).round().byte().permute(0, 2, 3, 1).numpy() for row in rows])

    digits, noise = common.images("mnist-transparent", 10), common.images("colour32", 8)
    generator = np.random.default_rng(0)
    files = {
        (number, kind): _encoded(digit, kind) for number, digit in enumerate(digits) for kind in FORMATS
    }  # fmt: skip
    npy = {"Content-Type": codec.NPY_TYPE}
    found: dict[str, list[Case]] = collections.defaultdict(list)
    for (_, kind), body in files.items():
        found["image"].append(
            Case("/purify", {"Content-Type": f"image/{kind}"}, body, purified(_image(body, 1)), tolerance)
        )
    for count in (1, 8, 32, 64):
        images = common.images("mnist-transparent", count)
        found["tensor"].append(Case("/purify", npy, codec.encode_npy(images), purified(images), tolerance))
    parts = list(files.values())[:: len(FORMATS) + 1][:5]
    form = b"".join(
        b'--soak\r\nContent-Disposition: form-data; name="file"; filename="%d"\r\n\r\n%s\r\n' % named
        for named in enumerate(parts)
    )
    expected = purified(np.concatenate([_image(part, 1) for part in parts]))
    headers = {"Content-Type": "multipart/form-data; boundary=soak"}
    found["multipart"].append(Case("/purify", headers, form + b"--soak--\r\n", expected, tolerance))
    for height, width in SIZES:
        pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
        for kind in FORMATS:
            body = _encoded(pixels, kind)
            headers = {"Content-Type": f"image/{kind}"}
            found["identity"].append(Case("/purify?model=identity", headers, body, _image(body), 0))
    found["identity"].append(Case("/purify?model=identity", npy, codec.encode_npy(noise), noise, 0))
    return found


SHARES = {"image": 60, "tensor": 25, "multipart": 5, "identity": 10}
"""Of each group in the load, in percent."""


class Load:
    """Requests drawn at random, the answers compared and counted."""

    def __init__(self, url: str, found: dict[str, list[Case]]) -> None:
        self.url, self.found = url, found
        self.random = random.Random(0)
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self.session: aiohttp.ClientSession

    def draw(self) -> Case:
        (group,) = self.random.choices(list(SHARES), list(SHARES.values()))
        return self.random.choice(self.found[group])

    async def ask(self, case: Case) -> None:
        self.counts["sent"] += 1
        try:
            async with self.session.post(self.url + case.path, data=case.body, headers=case.headers) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self._fault("lost", f"{type(error).__name__}: {error}")
            return
        if answer.status == 200:
            self.counts["answered"] += 1
            if not case.right(answer.headers["Content-Type"], content):
                self._fault("wrong", f"{case.path} {case.headers['Content-Type']}: other pixels")
        elif answer.status == 429:
            self.counts["refused"] += 1
            if not answer.headers.get("Retry-After", "").isdecimal():
                self._fault("wrong", "a 429 without Retry-After")
        else:
            self._fault("lost", f"{answer.status}: {content[:200]!r}")

    def _fault(self, kind: str, what: str) -> None:
        self.counts[kind] += 1
        if len(self.faults) < 20:
            self.faults.append(f"{kind}: {what}")

    async def hang_up(self, case: Case) -> None:
        """Send a request in part, or whole, and close without reading the answer."""
        self.counts["hung up"] += 1
        address = urlsplit(self.url)
        head = f"POST {case.path} HTTP/1.1\r\nHost: soak\r\nContent-Length: {len(case.body)}\r\n"
        lines = "".join(f"{name}: {value}\r\n" for name, value in case.headers.items())
        sent = case.body[: self.random.choice((len(case.body) // 2, len(case.body)))]
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(f"{head}{lines}\r\n".encode() + sent)
            await asyncio.sleep(self.random.choice((0, 0.005, 0.05)))
            writer.close()

    async def closed(self, workers: int, seconds: float) -> float:
        """Answers a second where each of so many clients waits for its answer."""
        end = time.perf_counter() + seconds

        async def work() -> None:
            while time.perf_counter() < end:
                await self.ask(self.draw())

        await asyncio.gather(*(work() for _ in range(workers)))
        return self.counts["answered"] / seconds

    async def open(self, rate: float, seconds: float, gone: float) -> None:
        """So many requests a second, whatever becomes of them; of so many more, per request, the client hangs up."""
        under_way: set[asyncio.Task[None]] = set()
        started, due = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - started) < seconds:
            while due < elapsed * rate:
                due += 1
                if len(under_way) >= MOST_UNDER_WAY:
                    self.counts["held back"] += 1
                    continue
                way = self.hang_up if self.random.random() < gone else self.ask
                task = asyncio.create_task(way(self.draw()))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            await asyncio.sleep(0.005)
        await asyncio.gather(*under_way)


async def drive(
    served: common.Served, flags: argparse.Namespace, precision: Precision, watch: Callable[[], Any]
) -> dict[str, Any]:
    """What waiting clients get, then the overload; counts of both."""
    found = cases(common.LEVELS[precision])
    timeout = aiohttp.ClientTimeout(total=120)
    # A server closes an idle connection after 5 seconds: a request on it then would be lost by nobody's fault.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    results: dict[str, Any] = {}
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        probe = Load(served.url, found)
        probe.session = session
        await probe.closed(16, min(2.0, flags.probe_seconds))  # warms both sides
        probe.counts.clear()
        results["capacity_rps"] = capacity = await probe.closed(16, flags.probe_seconds)
        print(f"16 clients get {capacity:.0f} answers/s; twice that for {flags.minutes:g} minutes", flush=True)
        load = Load(served.url, found)
        load.session = session
        with watch():
            await load.open(2 * capacity, 60 * flags.minutes, flags.gone)
    counts = collections.Counter(load.counts)
    counts["wrong"] += probe.counts["wrong"]
    counts["lost"] += probe.counts["lost"]
    names = ("sent", "answered", "refused", "wrong", "lost", "hung up", "held back")
    everything = [case for group in found.values() for case in group]
    within = 100 * sum(case.within_one_level for case in everything) / sum(case.values for case in everything)
    return {
        **results, "counts": {name: counts[name] for name in names}, "faults": probe.faults + load.faults,
        "percent_within_one_level": within,
    }  # fmt: skip


def criteria(
    counts: dict[str, int], within: float, samples: Sequence[dict[str, Any]], minutes: float
) -> dict[str, bool]:
    """What a run has to meet, and whether it did."""
    return {
        "every answer is right": counts["wrong"] == 0,
        "99 % of the values are within one grey level": within >= 99,
        "nothing is lost": counts["lost"] == 0 and counts["sent"] == counts["answered"] + counts["refused"],
        "the surplus was refused": counts["refused"] > 0,
        "memory at the end is within 2 % of minute two": abs(growth(samples, minutes) - 1) <= 0.02,
    }


def growth(samples: Sequence[dict[str, Any]], minutes: float) -> float:
    """Memory at the end as a share of that at minute two (of a shorter run: after a fifth), each over half a minute."""
    if not samples:
        return math.nan
    early, span = min(120.0, 12 * minutes), min(30.0, 12 * minutes)
    last = samples[-1]["seconds"]

    def around(begin: float) -> float:
        chosen = [s["rss_mb"] for s in samples if begin <= s["seconds"] <= begin + span]
        return float(statistics.median(chosen or [samples[-1]["rss_mb"]]))

    return around(last - span) / around(early)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--probe-seconds", type=float, default=10, help="of measuring what waiting clients get")
    parser.add_argument("--every", type=float, default=2, help="seconds between two looks at the process")
    parser.add_argument("--gone", type=float, default=0.05, help="share of clients that hang up")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch's threads in the service")
    parser.add_argument("--workers", type=int, default=1, help="processes of the service")
    parser.add_argument("--precision", default="auto", choices=common.PRECISIONS)
    parser.add_argument("--out", type=Path, default=common.RESULTS / "soak.json")
    flags = parser.parse_args()
    lines = common.BUILD / "soak.jsonl"
    precision = resolve(flags.precision, "cpu")
    workers = ("--workers", str(flags.workers))
    arguments = ("--models", "mnist-transparent,identity", "--classifier", "", "--precision", precision, *workers)

    with common.serving(*arguments, threads=flags.threads) as served:

        @contextlib.contextmanager
        def watch() -> Any:
            command = [sys.executable, "-m", "benchmarks.watch", served.url, str(served.pid), str(flags.every)]
            with lines.open("w") as file:
                process = subprocess.Popen(command, cwd=common.ROOT, stdout=file)
            try:
                yield
            finally:
                process.kill()
                process.wait()

        results = asyncio.run(drive(served, flags, precision, watch))
        series = served.metrics()
    # The last line may have been cut off with its writer.
    samples = [json.loads(line) for line in lines.read_text().splitlines(keepends=True) if line.endswith("\n")]
    met = criteria(results["counts"], results["percent_within_one_level"], samples, flags.minutes)
    sent = results["counts"]["sent"] / (60 * flags.minutes)
    answered = max(1, results["counts"]["answered"])
    print(f"sent {results['counts']['sent'] / answered:.2f} times what was answered: {results['counts']}")
    slowest = max(sample["new_connection_ms"] for sample in samples) if samples else math.nan
    print(f"/health/live on a new connection took {slowest:.0f} ms at most")
    for fault in results["faults"]:
        print(fault)
    for criterion, is_met in met.items():
        print(f"{'met    ' if is_met else 'NOT MET'}  {criterion}")
    common.write(
        flags.out,
        "mixed requests, twice what 16 waiting clients get; answers compared with the networks in process, one by one",
        common.versions("torch", "fastapi", "uvicorn", "pillow", "aiohttp"),
        minutes=flags.minutes,
        threads=flags.threads,
        workers=flags.workers,
        precision=precision,
        **results,
        sent_rps=sent,
        memory_growth=growth(samples, flags.minutes),
        criteria=met,
        rejected={name: value for name, value in series.items() if name.startswith("arn_rejected_total")},
        samples=samples,
    )
    sys.exit(0 if all(met.values()) else 1)


if __name__ == "__main__":
    main()
