"""What the benchmarks share: the two networks, servers as processes, wrk, and records."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from arn_purify import models
from arn_purify.models import Arn, ArnConfig, Card, checkpoint
from examples.servers import free_port

from . import watch

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
RESULTS = ROOT / "results" / "benchmarks"

NETWORKS = ("mnist-transparent", "colour32", "cifar10-transparent")
"""25 MFLOP an image of 28x28x1, as shipped; of 32x32x3 89 MFLOP with random weights, and 143 as shipped."""

PHOTOGRAPHS = "photo-preview"
"""The purifier of photographs."""

_COLOUR32 = ArnConfig(channels=3, size=32, width=64, code_channels=176, blocks=0)


def network(name: str) -> str:
    """What ``arn_purify.load`` and ``arn serve --models`` take; the checkpoint of ``colour32`` is made at first use."""
    if name != "colour32":
        return name
    path = BUILD / "colour32.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        model = Arn(_COLOUR32)
        with torch.no_grad():  # BatchNorm's statistics, without which random layers fade to one grey
            for _ in range(50):
                model(torch.rand(64, 3, 32, 32))
        shape = (3, 32, 32)
        architecture, config, kind = checkpoint.architecture_of(model)
        card = Card(name, kind, architecture, config, "none: random weights", shape)
        checkpoint.save(model.eval(), card, path)
    return str(path)


def megaflops(name: str) -> float:
    """Of one image through a network; a multiplication and an addition are two."""
    model = models.load(network(name))
    return flops(model, torch.zeros(1, *models.card_of(model).input_shape)) / 1e6


def flops(model: nn.Module, x: Tensor) -> int:
    """Of a pass of ``x`` through ``model``; a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(x)
    total: int = counter.get_total_flops()
    return total


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a benchmark writes into a page: between two comments, which name it and its program."""

    page: Path
    name: str
    program: str

    @property
    def begin(self) -> str:
        return f"<!-- {self.name}: written by `python -m benchmarks.{self.program}` -->\n"

    @property
    def end(self) -> str:
        return f"<!-- /{self.name} -->\n"

    def fill(self, text: str) -> None:
        """Write ``text`` there."""
        head, _, rest = self.page.read_text().partition(self.begin)
        self.page.write_text(head + self.begin + text + self.end + rest.partition(self.end)[2])


@functools.cache
def images(name: str, count: int) -> NDArray[np.uint8]:
    """Inputs for a network, uint8 ``(N, H, W, C)``: the attacked examples over and over, noise for random weights."""
    if name == "colour32":
        return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    files = "photos/adversarial_cat.png" if name == "cifar10-transparent" else "adversarial_*.png"
    examples = np.stack([np.atleast_3d(Image.open(path)) for path in sorted((ROOT / "examples").glob(files))])
    return np.resize(examples, (count, *examples.shape[1:]))


def decoded(file: bytes) -> NDArray[np.uint8]:
    """An image file's pixels."""
    return np.array(Image.open(io.BytesIO(file)))


# -- servers ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    up: Callable[[], object],
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """A server from when ``up`` raises no ``OSError`` until the block ends, when all its children go too; its pid."""
    for ending in (signal.SIGTERM, signal.SIGINT):  # our end is that of our servers too, in the background as well
        signal.signal(ending, signal.default_int_handler)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            [*map(str, command)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                up()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            process.terminate()
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


PRECISIONS = ("auto", "fp32", "bf16")
LEVELS = {"fp32": 1, "bf16": 4}
"""Grey levels that a value may be off, by the service's arithmetic."""


@dataclasses.dataclass(frozen=True)
class Served:
    """This service as a process."""

    url: str
    pid: int

    def metrics(self) -> dict[str, float]:
        """Every series of ``/metrics``, by its name with its labels."""
        return watch.metrics(self.url)


@contextlib.contextmanager
def serving(*flags: str, threads: int = 0) -> Iterator[Served]:
    """``arn serve``, ready; ``threads`` of torch, 0 for its own choice."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [
        sys.executable,
        "-m",
        "arn_purify.service",
        "serve",
        "--port",
        str(port),
        "--log-level",
        "warning",
        *flags,
    ]
    limit = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    with running(command, lambda: fetch(f"{url}/health/ready"), BUILD / "arn.log", limit) as pid:
        yield Served(url, pid)


def fetch(url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
    """One answer; ``urllib.error.HTTPError`` unless it is 2xx."""
    with urllib.request.urlopen(urllib.request.Request(url, body, dict(headers or {})), timeout=30) as answer:
        content: bytes = answer.read()
        return content


# -- load ---------------------------------------------------------------------------------------------------------

Sample = dict[str, float]


@functools.cache
def wrk() -> str:
    """The path of wrk: the machine's own, else Debian's package unpacked under ``build/``."""
    found = shutil.which("wrk") or str(BUILD / "wrk/usr/bin/wrk")
    if not Path(found).exists():
        folder = BUILD / "wrk"
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "wrk", "libluajit-5.1-2"], cwd=folder, check=True)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, folder], check=True)
    return found


def load(url: str, body: bytes, headers: Mapping[str, str], connections: int, seconds: float) -> Sample:
    """What wrk measures with one thread: requests a second, latency in milliseconds, answers that were not 2xx."""
    (BUILD / "body").write_bytes(body)
    script = BUILD / "post.lua"
    script.write_text(
        f'local file = io.open("{BUILD / "body"}", "rb")\nwrk.method = "POST"\nwrk.body = file:read("*a")\n'
        + "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in headers.items())
        + "done = function(summary, latency)\n"
        '  io.write(string.format("RESULT %d %d %.1f %.1f %.1f %d\\n", summary.requests, summary.duration,\n'
        "    latency.mean, latency:percentile(50), latency:percentile(99),\n"
        "    summary.errors.status + summary.errors.read + summary.errors.timeout + summary.errors.connect))\nend\n"
    )
    duration = f"-d{max(1, round(seconds))}s"
    command = [wrk(), "-t1", f"-c{connections}", duration, "--timeout", "20s", "-s", str(script), url]
    # Debian's package unpacked without root finds its library here; an installed wrk needs none of it.
    libraries = ":".join(str(path) for path in (BUILD / "wrk/usr/lib").glob("*-linux-gnu"))
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries}
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    found = re.search(r"RESULT (\d+) (\d+) ([\d.]+) ([\d.]+) ([\d.]+) (\d+)", out)
    if not found:
        raise RuntimeError(f"wrk said: {out}")
    requests, microseconds, mean, p50, p99, errors = map(float, found.groups())
    return {
        "rps": 1e6 * requests / microseconds, "mean_ms": mean / 1000, "p50_ms": p50 / 1000, "p99_ms": p99 / 1000,
        "errors": errors,
    }  # fmt: skip


def medians(samples: Sequence[Sample]) -> Sample:
    """Of each figure over several samples."""
    return {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}


# -- records ------------------------------------------------------------------------------------------------------


def cpu() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1]
    return platform.processor()


def versions(*packages: str) -> dict[str, str]:
    """Of those packages that are installed here."""
    found = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def write(path: Path, what: str, versions: Mapping[str, Any], **fields: Any) -> None:
    """A record: what was measured, on which machine, with which versions, by which command, and the figures."""
    spec = sys.modules["__main__"].__spec__
    program = f"python -m {spec.name.removesuffix('.__main__')}" if spec else sys.argv[0]
    record = {
        "what": what, "cpu": cpu(), "cores": os.cpu_count(), "versions": versions,
        "command": " ".join([program, *sys.argv[1:]]), **fields,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {path}")
