"""Many images a request: uint8 ``.npy`` to /purify, and V2 binary tensors through the gateway, beside the bare network.

``python -m benchmarks.bulk`` sends 1 to 1,024 images a request with wrk on the same cores and tells images a second as
a share of what eager torch, and this service's engine, do in a loop at their best batch size. Behind the gateway stands
a server that reads and answers (``benchmarks.sink``): its figures hold the way on to a classifier too.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from arn_purify.service.core import codec
from arn_purify.service.core.precision import Precision, resolve
from examples.servers import free_port

from . import common, engine

Body = tuple[str, bytes, dict[str, str]]
"""Path, body, headers."""


def npy(images: NDArray[np.uint8]) -> Body:
    return "/purify", codec.encode_npy(images), {"Content-Type": codec.NPY_TYPE}


def v2(images: NDArray[np.uint8]) -> Body:
    tensor = {
        "name": "images", "datatype": "UINT8", "shape": images.shape,
        "parameters": {"binary_data_size": images.nbytes},
    }  # fmt: skip
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return "/v2/models/sink/infer", head + images.tobytes(), headers


ROUTES = {".npy": npy, "V2 binary": v2}
LIMITS = {"fp32": ("eager", "engine"), "bf16": ("eager", "engine bf16")}
"""The backends that the service is measured by: plain torch, and its own engine in the arithmetic that it serves."""


def check(served: common.Served, network: str, precision: Precision) -> None:
    """The service answers what the network does, as near as its arithmetic promises."""
    images = common.images(network, 8)
    path, body, headers = npy(images)
    answer = codec.decode_npy(common.fetch(served.url + path, body, headers))
    run = engine.BACKENDS["eager"](common.network(network), 1)
    x = engine.as_float(images)
    if engine.deviation(torch.from_numpy(answer.copy()), run(images, x)).max() > common.LEVELS[precision]:
        raise RuntimeError("the service answers other images")


def load(served: common.Served, body: Body, count: int, connections: int, seconds: float) -> float:
    """Images a second; every one was seen by the network."""
    before = served.metrics()["arn_batch_images_sum"]
    path, content, headers = body
    sample = common.load(served.url + path, content, headers, connections, seconds)
    purified = served.metrics()["arn_batch_images_sum"] - before
    rate = sample["rps"] * count
    if sample["errors"] or not 0 < 0.9 * rate * seconds < purified:
        raise RuntimeError(f"{path}: {sample['errors']:.0f} errors, {purified:.0f} images purified")
    return rate


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.bulk", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=common.NETWORKS, choices=common.NETWORKS)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 8, 64, 256, 1024], help="images a request")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32, 64, 256], help="of the networks alone")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch, everywhere")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--out", type=Path, default=common.RESULTS / "bulk.json")
    parser.add_argument("--precision", default="auto", choices=common.PRECISIONS, help="of the service and its engine")
    return parser.parse_args()


def measured(network: str, flags: argparse.Namespace, precision: Precision) -> list[dict[str, object]]:
    """A row for each route and number of images."""
    eager, alone = LIMITS[precision]
    bodies = {(name, n): make(common.images(network, n)) for name, make in ROUTES.items() for n in flags.counts}
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in bodies}
    limits: dict[str, list[float]] = {eager: [], alone: []}
    url = f"http://127.0.0.1:{(port := free_port())}"
    sink = [sys.executable, "-m", "benchmarks.sink", str(port)]
    arguments = [
        *("--models", common.network(network), "--classifier", "", "--queue-images", "8192"),
        *("--downstream-url", url, "--downstream-protocol", "v2", "--precision", precision),
    ]
    with (
        common.running(sink, functools.partial(common.fetch, url), common.BUILD / "sink.log"),
        common.serving(*arguments, threads=flags.threads) as served,
    ):
        check(served, network, precision)
        for _ in range(flags.rounds):
            best, _ = engine.measure(network, flags.threads, flags.batches, [eager, alone], 3, flags.seconds / 12)
            for name in limits:
                limits[name].append(max(row["images_per_second"] for row in best if row["backend"] == name))
            for (name, count), body in bodies.items():
                # Long enough for every connection to be answered several times, however large its requests.
                enough = 4 * flags.connections * count / limits[alone][-1]
                seconds = math.ceil(max(flags.seconds, enough))
                rates[name, count].append(load(served, body, count, flags.connections, seconds))
                print(f"{network}  {name:9} {count:5}  {rates[name, count][-1]:.0f} images/s", flush=True)
    return [
        {
            "network": network, "route": name, "images": count,
            "images_per_second": (rate := statistics.median(samples)),
            "share_of_eager": rate / statistics.median(limits[eager]),
            "share_of_engine": rate / statistics.median(limits[alone]),
            "rounds": samples, "limits": limits,
        }
        for (name, count), samples in rates.items()
    ]  # fmt: skip


def main() -> None:
    flags = parsed()
    precision = resolve(flags.precision, "cpu")
    rows = [row for network in flags.networks for row in measured(network, flags, precision)]
    print("| network | route | images a request | images/s | of eager torch | of the engine alone |")
    print("| --- | --- |" + " ---: |" * 4)
    for row in rows:
        print(
            f"| {row['network']} | {row['route']} | {row['images']} | {row['images_per_second']:,.0f} | "
            f"{row['share_of_eager']:.0%} | {row['share_of_engine']:.0%} |"
        )
    common.write(
        flags.out,
        "images a second over HTTP, many a request, as a share of eager torch and of the engine in a loop",
        common.versions("torch", "fastapi", "uvicorn"),
        connections=flags.connections,
        threads=flags.threads,
        precision=precision,
        seconds=flags.seconds,
        load="wrk, one thread, on the same cores",
        rows=rows,
    )


if __name__ == "__main__":
    main()
