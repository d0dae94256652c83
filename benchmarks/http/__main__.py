"""This service beside its peers: same network, same PNG in and out, same cores.

``python -m benchmarks.http`` makes the peers' environment under ``build/``, measures every server in turn over several
rounds, prints ratios to this service and writes the record. Ratios of one run are what to read: absolute figures belong
to the machine. ``--photographs``: JPEGs of 224x224 and 640x480 instead, through a purifier of photographs, in one run.
"""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import math
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from arn_purify import models
from arn_purify.service.core import codec
from arn_purify.service.core.precision import Precision, resolve
from benchmarks import common
from benchmarks.common import Sample
from examples.servers import environment, free_port

PEERS = common.BUILD / "peers"
PHOTOGRAPHS = ((224, 224), (640, 480))  # width and height
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


def variables(source: str, threads: int, precision: Precision) -> dict[str, str]:
    """The environment of every server; Ray's and BentoML's are what their manuals name for speed and for silence."""
    return {
        "OMP_NUM_THREADS": str(threads), "BENCH_THREADS": str(threads), "BENCH_NETWORK": source,
        "ARN_MODELS": source, "ARN_PRECISION": precision, "BENCH_PRECISION": precision,
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_USAGE_STATS_ENABLED": "0",
        "BENTOML_HOME": str(common.BUILD / "bentoml"), "BENTOML_DO_NOT_TRACK": "True",
    }  # fmt: skip


def headers(body: bytes) -> dict[str, str]:
    return {"Content-Type": "image/png" if body.startswith(b"\x89PNG") else "image/jpeg"}


def ask(url: str, body: bytes) -> NDArray[np.uint8]:
    """One purified image."""
    return np.array(Image.open(io.BytesIO(common.fetch(url, body, headers(body)))))


def photograph(width: int, height: int) -> bytes:
    """One that scikit-learn brings, as JPEG."""
    from sklearn.datasets import load_sample_image

    image = ImageOps.fit(Image.fromarray(load_sample_image("china.jpg")), (width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


Samples = dict[str, dict[str, dict[int, list[Sample]]]]
"""By the name of what is sent, by server, by connections."""


def measure(bodies: Mapping[str, bytes], source: str, precision: Precision, flags: argparse.Namespace) -> Samples:
    """Every server in turn, several rounds, started anew for each body; each first answers as the first server did."""
    samples: Samples = {what: {name: {c: [] for c in flags.connections} for name in flags.servers} for what in bodies}
    references: dict[str, NDArray[np.uint8]] = {}
    settings = variables(source, flags.threads, precision)
    for number, name, (what, body) in itertools.product(range(flags.rounds), flags.servers, bodies.items()):
        url = f"http://127.0.0.1:{(port := free_port())}/purify"
        up = functools.partial(ask, url, body)
        with common.running([*SERVERS[name], str(port)], up, common.BUILD / f"{name}.log", settings):
            answer = ask(url, body)
            reference = references.setdefault(what, answer)
            if np.abs(answer.astype(int) - reference).max() > common.LEVELS[precision]:
                raise RuntimeError(f"{name} answers another image")
            for count in flags.connections:
                common.load(url, body, headers(body), count, 1)
                samples[what][name][count].append(common.load(url, body, headers(body), count, flags.seconds))
                sample = samples[what][name][count][-1]
                print(f"round {number + 1}  {what}  {name:14} {count:3}  {sample}", flush=True)
    return samples


def medians(by_server: Mapping[str, Mapping[int, list[Sample]]]) -> dict[str, dict[int, Sample]]:
    return {name: {count: common.medians(rows) for count, rows in by.items()} for name, by in by_server.items()}


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
    parser.add_argument("--photographs", action="store_true", help="JPEGs of two sizes through --purifier instead")
    parser.add_argument("--purifier", default=common.PHOTOGRAPHS, help="name or path; of --photographs")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", help="1, 8, 32 and 128; of photographs 1, 8 and 32")
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=list(SERVERS))
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch's threads in every server")
    parser.add_argument("--precision", default="auto", choices=common.PRECISIONS, help="of every server")
    parser.add_argument("--out", type=Path, help="instead of results/benchmarks/http-NETWORK-THREADS-PRECISION.json")
    flags = parser.parse_args()
    flags.connections = flags.connections or ([1, 8, 32] if flags.photographs else [1, 8, 32, 128])
    if set(flags.servers) != {OURS}:
        print("the peers are installed under build/ at the first run", flush=True)
        environment(PEERS, [f"torch=={metadata.version('torch').partition('+')[0]}", *REQUIREMENTS])
    (of_photographs if flags.photographs else of_network)(flags, resolve(flags.precision, "cpu"))


def of_network(flags: argparse.Namespace, precision: Precision) -> None:
    """PNGs of the size that a network takes."""
    image = common.images(flags.network, 1)[0]
    png = codec.encode_image(image)
    samples = measure({"png": png}, common.network(flags.network), precision, flags)["png"]
    height, width, channels = image.shape
    common.write(
        flags.out or common.RESULTS / f"http-{flags.network}-{flags.threads}-{precision}.json",
        f"POST /purify, one PNG of {width}x{height}x{channels} in and out, {flags.network}; every server batches "
        "in its own way",
        record_versions(),
        network=flags.network,
        megaflops=round(common.megaflops(flags.network), 1),
        **conditions(flags, precision),
        medians=medians(samples),
        samples=samples,
    )
    print(table(medians(samples), flags.connections))


def of_photographs(flags: argparse.Namespace, precision: Precision) -> None:
    """JPEGs of two sizes, each in its own table of one record."""
    bodies = {f"{width}x{height}": photograph(width, height) for width, height in PHOTOGRAPHS}
    samples = measure(bodies, flags.purifier, precision, flags)
    figures = {what: medians(by_server) for what, by_server in samples.items()}
    card = models.card_of(models.load(flags.purifier))
    common.write(
        flags.out or common.RESULTS / f"http-photographs-{flags.threads}-{precision}.json",
        "POST /purify, one JPEG in and one PNG out; every server batches in its own way",
        record_versions(),
        network=card.name,
        sha256=card.sha256,
        body_bytes={what: len(body) for what, body in bodies.items()},
        **conditions(flags, precision),
        medians=figures,
        samples=samples,
    )
    for what, by_server in figures.items():
        print(f"\n{what}\n\n{table(by_server, flags.connections)}")


def record_versions() -> dict[str, object]:
    return {**common.versions("torch", "fastapi", "uvicorn", "pillow"), "peers": MEASURED}


def conditions(flags: argparse.Namespace, precision: Precision) -> dict[str, object]:
    return {
        "threads": flags.threads, "precision": precision, "seconds": flags.seconds,
        "rounds": flags.rounds, "load": "wrk, one thread, on the same cores",
    }  # fmt: skip


if __name__ == "__main__":
    main()
