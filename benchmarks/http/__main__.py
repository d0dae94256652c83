"""This service beside its peers: same network, same PNG in and out, same cores.

``python -m benchmarks.http`` makes the peers' environment under ``build/``, measures every server in turn over several
rounds, prints ratios to this service and writes the record. Ratios of one run are what to read: absolute figures belong
to the machine.
"""

from __future__ import annotations

import argparse
import functools
import io
import math
import os
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from arn_purify.service.core import codec
from arn_purify.service.core.precision import Precision, resolve
from benchmarks import common
from benchmarks.common import Sample
from examples.servers import environment, free_port

PEERS = common.BUILD / "peers"
HEADERS = {"Content-Type": "image/png"}
MEASURED = ["litserve==0.2.19", "mosec==0.9.8", "ray[serve]==2.60.0", "bentoml==1.4.40"]
REQUIREMENTS = [*MEASURED, "safetensors", "numpy", "pillow", "fastapi", "uvicorn[standard]"]
OURS = "arn"
# The port follows each.
SERVERS = {
    OURS: (sys.executable, "-m", "arn_purify.service", "serve", "--log-level", "warning", "--port"),
    "plain FastAPI": (PEERS / "bin/python", "-m", "benchmarks.http.plain"),
    "LitServe": (PEERS / "bin/python", "-m", "benchmarks.http.litserve_app"),
    "mosec": (PEERS / "bin/python", "-m", "benchmarks.http.mosec_app", "--port"),
    "Ray Serve": (PEERS / "bin/python", "-m", "benchmarks.http.ray_app"),
    "BentoML": (PEERS / "bin/bentoml", "serve", "benchmarks.http.bentoml_app:Purify", "--host", "127.0.0.1", "--port"),
}


def variables(network: str, threads: int, precision: Precision) -> dict[str, str]:
    """The environment of every server; Ray's and BentoML's are what their manuals name for speed and for silence."""
    return {
        "OMP_NUM_THREADS": str(threads), "BENCH_THREADS": str(threads), "BENCH_NETWORK": common.network(network),
        "ARN_MODELS": common.network(network), "ARN_PRECISION": precision, "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_USAGE_STATS_ENABLED": "0",
        "BENTOML_HOME": str(common.BUILD / "bentoml"), "BENTOML_DO_NOT_TRACK": "True",
    }  # fmt: skip


def ask(url: str, png: bytes) -> NDArray[np.uint8]:
    """One purified image."""
    return np.array(Image.open(io.BytesIO(common.fetch(url, png, HEADERS))))


def table(figures: dict[str, dict[int, Sample]], connections: list[int]) -> str:
    lines = [
        "| server | connections | requests/s | this service is | p50 ms | p99 ms | errors |",
        "| --- |" + " ---: |" * 6,
    ]
    for count in connections:
        ours = figures[OURS][count]["rps"] if OURS in figures else float("nan")
        for name, by_connections in figures.items():
            row = by_connections[count]
            ratio = ours / row["rps"] if row["rps"] else math.inf
            lines.append(
                f"| {name} | {count} | {row['rps']:.0f} | {ratio:.2f}x | "
                f"{row['p50_ms']:.2f} | {row['p99_ms']:.2f} | {row['errors']:.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.http", description=__doc__)
    parser.add_argument("--network", default=common.NETWORKS[0], choices=common.NETWORKS)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=list(SERVERS))
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch's threads in every server")
    parser.add_argument("--precision", default="auto", choices=common.PRECISIONS, help="of this service")
    parser.add_argument("--out", type=Path, help="instead of results/benchmarks/http-NETWORK-THREADS.json")
    flags = parser.parse_args()
    precision = resolve(flags.precision, "cpu")
    if set(flags.servers) != {OURS}:
        print("the peers are installed under build/ at the first run", flush=True)
        environment(PEERS, [f"torch=={metadata.version('torch').partition('+')[0]}", *REQUIREMENTS])
    image = common.images(flags.network, 1)[0]
    png = codec.encode_image(image)
    samples: dict[str, dict[int, list[Sample]]] = {name: {c: [] for c in flags.connections} for name in flags.servers}
    reference: NDArray[np.uint8] | None = None
    settings = variables(flags.network, flags.threads, precision)
    for number in range(flags.rounds):
        for name in flags.servers:
            url = f"http://127.0.0.1:{(port := free_port())}/purify"
            up = functools.partial(ask, url, png)
            with common.running([*SERVERS[name], str(port)], up, common.BUILD / f"{name}.log", settings):
                answer = ask(url, png)
                reference = answer if reference is None else reference
                if np.abs(answer.astype(int) - reference).max() > common.LEVELS[precision]:
                    raise RuntimeError(f"{name} answers another image")
                for count in flags.connections:
                    common.load(url, png, HEADERS, count, 1)
                    samples[name][count].append(common.load(url, png, HEADERS, count, flags.seconds))
                    print(f"round {number + 1}  {name:14} {count:3}  {samples[name][count][-1]}", flush=True)
    figures = {name: {count: common.medians(rows) for count, rows in by.items()} for name, by in samples.items()}
    height, width, channels = image.shape
    common.write(
        flags.out or common.RESULTS / f"http-{flags.network}-{flags.threads}.json",
        f"POST /purify, one PNG of {width}x{height}x{channels} in and out, {flags.network}; every server batches "
        "in its own way",
        {**common.versions("torch", "fastapi", "uvicorn", "pillow"), "peers": MEASURED},
        network=flags.network,
        megaflops=round(common.megaflops(flags.network), 1),
        threads=flags.threads,
        precision={OURS: precision, "peers": "fp32"},
        seconds=flags.seconds,
        rounds=flags.rounds,
        load="wrk, one thread, on the same cores",
        medians=figures,
        samples=samples,
    )
    print(table(figures, flags.connections))


if __name__ == "__main__":
    main()
