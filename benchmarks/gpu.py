"""A GPU: images a second in bulk beside the bare captured network, and the latency of a single image.

``python -m benchmarks.gpu`` measures the network alone as a CUDA graph over images that lie on the device, the engine
from arrays to arrays with two batches under way, and the service over loopback: several connections in bulk, one for
single PNGs. The client is Python's own, on the same machine, and its time is in the figures. ``--device cpu`` runs the
same lines without a GPU.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from arn_purify import models
from arn_purify.models.inference import folded
from arn_purify.service.core import codec
from arn_purify.service.core.buckets import Backend, Host
from arn_purify.service.core.cuda import Cuda
from arn_purify.service.core.engine import Engine, Work
from arn_purify.service.core.precision import PrecisionSetting, resolve, to_bf16

from . import bulk, common

GOAL_SHARE, GOAL_MS = 0.9, 1.0
_BACKENDS: dict[str, type[Cuda] | type[Host]] = {"cuda": Cuda, "cpu": Host}


def rate(step: Callable[[], object], images: int, wait: Callable[[], object], seconds: float) -> float:
    """Images a second of ``step``, called over and over and then waited for."""
    step()
    wait()
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(8):  # so that a wait for the device is a small part
            step()
        wait()
        steps += 8
    return images * steps / (time.perf_counter() - started)


def bare(network: str, device: str, precision: PrecisionSetting, count: int, seconds: float) -> float:
    """Images a second of the network alone, recorded, over float32 images that lie on the device."""
    model = models.load(common.network(network), device).requires_grad_(False)
    lowered = (to_bf16 if resolve(precision, device) == "bf16" else folded)(model)
    lowered.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.rand(count, *models.card_of(model).input_shape, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    backend: Backend = _BACKENDS[device]()
    with torch.inference_mode():
        replay = backend.record(lambda: lowered(x))
        return rate(
            lambda: backend.computing.put(replay), count, lambda: backend.computing.mark().synchronize(), seconds
        )


def recorded(network: str, device: str, precision: PrecisionSetting, most: int) -> tuple[Engine, Work]:
    """An engine with recordings of up to ``most`` images, and what to ask of it."""
    engine = Engine((common.network(network),), (), device, precision, backend=_BACKENDS[device])
    engine.warm_up(most)
    return engine, Work(next(iter(engine.purifiers)))


def overlapped(engine: Engine, work: Work, network: str, count: int, seconds: float) -> float:
    """Images a second of the engine, from arrays to arrays, the next batch begun before the last is waited for."""
    images, under_way = common.images(network, count), deque[Callable[[], object]]()

    def step() -> None:
        finish = engine.begin(work, images)
        if finish is None:
            raise RuntimeError(f"batches of {network} were not recorded")
        under_way.append(finish)
        if len(under_way) > 1:
            under_way.popleft()()

    def wait() -> None:
        while under_way:
            under_way.popleft()()

    return rate(step, count, wait, seconds)


def posted(url: str, body: bulk.Body, connections: int, seconds: float) -> list[float]:
    """The seconds of each answered request, sent over so many connections at once."""
    path, content, headers = body
    address, taken = urllib.parse.urlsplit(url), list[float]()
    failures: list[BaseException] = []

    def client() -> None:
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        try:
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                started = time.perf_counter()
                connection.request("POST", path, content, headers)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{path} answers {answer.status}")
                taken.append(time.perf_counter() - started)
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=client) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return taken


def over_http(network: str, flags: argparse.Namespace, counts: list[int]) -> dict[str, Any]:
    """Images a second for each number a request, and the single image's milliseconds."""
    arguments = [
        *("--models", common.network(network), "--classifier", "", "--device", flags.device),
        *("--precision", flags.precision, "--max-batch-images", str(max(counts)), "--queue-images", "65536"),
    ]
    with common.serving(*arguments) as served:
        bulk.check(served, network, resolve(flags.precision, flags.device))
        told = json.loads(common.fetch(f"{served.url}/models"))["purifiers"][0]
        rates: dict[int, float] = {}
        for count in counts:
            body = bulk.npy(common.images(network, count))
            posted(served.url, body, flags.connections, flags.seconds / 2)
            started = time.perf_counter()
            answered = len(posted(served.url, body, flags.connections, 2 * flags.seconds))
            rates[count] = answered * count / (time.perf_counter() - started)
        png = "/purify", codec.encode_image(common.images(network, 1)[0]), {"Content-Type": "image/png"}
        posted(served.url, png, 1, flags.seconds / 2)
        single = sorted(posted(served.url, png, 1, 2 * flags.seconds))
    return {
        "recorded_images": told["recorded_images"], "rates": rates, "requests": len(single),
        "p50_ms": 1000 * statistics.median(single), "p99_ms": 1000 * single[int(0.99 * (len(single) - 1))],
    }  # fmt: skip


def measured(network: str, flags: argparse.Namespace) -> dict[str, Any]:
    """What is written of a network: medians over the rounds, which take turns."""
    engine, work = recorded(network, flags.device, flags.precision, max(flags.batches))
    alone: dict[int, list[float]] = {count: [] for count in flags.batches}
    ours: dict[int, list[float]] = {count: [] for count in flags.batches}
    for _ in range(flags.rounds):
        for count in flags.batches:
            alone[count].append(bare(network, flags.device, flags.precision, count, flags.seconds))
            ours[count].append(overlapped(engine, work, network, count, flags.seconds))
    single: list[float] = []
    image = common.images(network, 1)
    for _ in range(200 if flags.seconds >= 1 else 5):
        started = time.perf_counter()
        engine.run(work, image)
        single.append(time.perf_counter() - started)
    http = over_http(network, flags, flags.batches)
    best = max(statistics.median(rates) for rates in alone.values())
    rows = [
        {
            "batch": count, "bare": statistics.median(alone[count]), "engine": statistics.median(ours[count]),
            "http": http["rates"][count],
        }
        for count in flags.batches
    ]  # fmt: skip
    return {
        "network": network, "precision": engine.precision, "recorded_images": http["recorded_images"], "rows": rows,
        "share_of_bare": {name: max(row[name] for row in rows) / best for name in ("engine", "http")},
        "engine_single_ms": 1000 * statistics.median(single), "p50_ms": http["p50_ms"], "p99_ms": http["p99_ms"],
        "requests": http["requests"],
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """A network's figures in Markdown, and whether the goals are met."""
    lines = [f"| {found['network']}, {found['precision']} | bare | engine | over HTTP |", "| ---: |" + " ---: |" * 3]
    lines += [
        f"| {row['batch']} | {row['bare']:,.0f} | {row['engine']:,.0f} | {row['http']:,.0f} |" for row in found["rows"]
    ]
    shares = found["share_of_bare"]
    met = {True: "met", False: "NOT met"}
    lines.append(
        f"\nbulk: the engine does {shares['engine']:.0%} of the bare network's best (goal {GOAL_SHARE:.0%} "
        f"{met[shares['engine'] >= GOAL_SHARE]}), the service over HTTP {shares['http']:.0%}"
    )
    lines.append(
        f"one PNG over loopback: p50 {found['p50_ms']:.2f} ms (goal {GOAL_MS:g} ms {met[found['p50_ms'] < GOAL_MS]}), "
        f"p99 {found['p99_ms']:.2f}; the engine alone {found['engine_single_ms']:.3f}\n"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=list(_BACKENDS))
    parser.add_argument(
        "--networks", nargs="+", default=["mnist-transparent", "cifar10-transparent"], choices=common.NETWORKS
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024, 4096], help="powers of two")
    parser.add_argument("--connections", type=int, default=4, help="in bulk")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1, help="of each figure in one round")
    parser.add_argument("--precision", default="auto", choices=common.PRECISIONS)
    parser.add_argument("--out", type=Path, default=common.RESULTS / "gpu.json")
    flags = parser.parse_args()
    found = []
    for network in flags.networks:
        found.append(measured(network, flags))
        print(table(found[-1]), flush=True)
    common.write(
        flags.out,
        "a GPU: images a second of the bare captured network, the engine and the service, and a single image's latency",
        {**common.versions("torch", "fastapi", "uvicorn"), "cuda": torch.version.cuda},
        device=torch.cuda.get_device_name() if flags.device == "cuda" else flags.device,
        connections=flags.connections,
        rounds=flags.rounds,
        seconds=flags.seconds,
        load="http.client, a thread a connection, on the same machine",
        goals={"share_of_bare": GOAL_SHARE, "p50_ms": GOAL_MS},
        networks=found,
    )


if __name__ == "__main__":
    main()
