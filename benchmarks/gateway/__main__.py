"""The gateway before real model servers.

``python -m benchmarks.gateway latency``: what it adds to a call of Triton, V2 binary, identity purifier, beside
KServe's SDK transformer, interleaved in one run. ``python -m benchmarks.gateway accuracy``: 1,000 adversarial MNIST
digits through every server and protocol, direct and chained, each with the server's own client. ``... photographs
--purifier PATH``: labelled photographs, natural and attacked, as normalised tensors through Triton.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import itertools
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from arn_purify import models
from benchmarks import common
from examples import servers
from examples.servers import photos

CLIENTS = common.ROOT / "examples" / "servers" / "clients"
SHAPES = [(1, 3, 32, 32), (1, 3, 224, 224)]
PURIFIER = "mnist-transparent"
BLOCK = 25  # calls of one way before the next has its turn


@contextlib.contextmanager
def gateway(behind: servers.Server, *flags: str) -> Iterator[tuple[str, str]]:
    grpc = servers.free_port()
    downstream = [
        "--downstream-url", behind.http, "--downstream-protocol", "any", "--downstream-grpc", behind.grpc,
        "--grpc-port", str(grpc),
    ]  # fmt: skip
    with common.serving(*downstream, *flags, threads=1) as ours:
        yield ours.url, f"127.0.0.1:{grpc}"


def latency(requests: int, folder: Path) -> None:
    transformer_port = servers.free_port()
    with servers.serving("triton", folder) as triton, gateway(triton, "--models", "identity") as (ours, _):
        command = [
            str(servers.python("kserve")), "-m", "benchmarks.gateway.kserve_transformer",
            "--http_port", str(transformer_port), "--predictor_host", triton.http.removeprefix("http://"),
            "--model_name", "identity", "--predictor_protocol", "v2",
        ]  # fmt: skip
        theirs = f"http://127.0.0.1:{transformer_port}"
        with common.running(
            command, lambda: common.fetch(f"{theirs}/v2/health/live"), folder / "transformer.log",
            {"OMP_NUM_THREADS": "1"},
        ):  # fmt: skip
            ways = {"direct": triton.http, "this gateway": ours, "KServe SDK transformer": theirs}
            figures = {}
            for shape in SHAPES:
                samples: dict[str, list[float]] = {name: [] for name in ways}
                connections = {
                    name: http.client.HTTPConnection(url.removeprefix("http://")) for name, url in ways.items()
                }
                image = np.random.default_rng(0).random(shape, dtype=np.float32)
                head, body = infer_request(image)
                for _ in range(requests // BLOCK):
                    for name, connection in connections.items():
                        for number in range(-5, BLOCK):  # the first few warm the caches that the others took
                            started = time.perf_counter()
                            first = call(connection, head, body)
                            if number >= 0:
                                samples[name].append(1000 * (time.perf_counter() - started))
                            if first != image.reshape(-1)[0]:
                                raise RuntimeError(f"{name} answers {first}")
                figures["x".join(map(str, shape))] = {
                    name: {"p50_ms": statistics.median(times), "p99_ms": float(np.percentile(times, 99))}
                    for name, times in samples.items()
                }
    print("| image | way | p50 ms | added | p99 ms |\n| --- | --- | ---: | ---: | ---: |")
    for shape_name, by_way in figures.items():
        for name, row in by_way.items():
            added = row["p50_ms"] - by_way["direct"]["p50_ms"]
            print(f"| {shape_name} | {name} | {row['p50_ms']:.2f} | {added:.2f} | {row['p99_ms']:.2f} |")
    write("gateway-latency.json", "V2 binary FP32, one at a time", requests=requests, block=BLOCK, figures=figures)


def clients(requests: int, folder: Path) -> None:
    """aiohttp beside httpx, 32 calls at a time: the choice of the gateway's own client."""
    import aiohttp
    import httpx2

    head, body = infer_request(np.random.default_rng(0).random(SHAPES[0], dtype=np.float32))
    path = "/v2/models/identity/infer"

    async def with_aiohttp(url: str) -> None:
        async with aiohttp.ClientSession() as session:

            async def one() -> None:
                async with session.post(url + path, data=body, headers=head) as answer:
                    await answer.read()

            await many(one)

    async def with_httpx(url: str) -> None:
        async with httpx2.AsyncClient(limits=httpx2.Limits(max_connections=32)) as session:

            async def one() -> None:
                (await session.post(url + path, content=body, headers=head)).raise_for_status()

            await many(one)

    async def many(one: Callable[[], Awaitable[None]]) -> None:
        left = iter(range(requests))

        async def worker() -> None:
            for _ in left:
                await one()

        await asyncio.gather(*(worker() for _ in range(32)))

    figures: dict[str, list[float]] = {"aiohttp": [], "httpx2": []}
    with servers.serving("triton", folder) as triton:
        for _ in range(5):
            for name, run in {"aiohttp": with_aiohttp, "httpx2": with_httpx}.items():
                started = time.perf_counter()
                asyncio.run(run(triton.http))
                figures[name].append(requests / (time.perf_counter() - started))
    medians = {name: statistics.median(rates) for name, rates in figures.items()}
    print({name: f"{rate:.0f} calls/s" for name, rate in medians.items()})
    write("gateway-clients.json", "calls a second to Triton, 32 at a time", requests=requests, figures=medians)


def infer_request(image: np.ndarray) -> tuple[dict[str, str], bytes]:
    """V2 with the binary extension, its answer binary too."""
    described = {"name": "image", "datatype": "FP32", "shape": list(image.shape)}
    described["parameters"] = {"binary_data_size": image.nbytes}
    head = json.dumps({"id": "1", "inputs": [described], "outputs": [{"name": "first"}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return headers, head + image.tobytes()


def call(connection: http.client.HTTPConnection, headers: dict[str, str], body: bytes) -> float:
    connection.request("POST", "/v2/models/identity/infer", body, headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {content[:300]!r}")
    return float(np.float32(json.loads(content)["outputs"][0]["data"][0]))


def accuracy(every: int, folder: Path) -> None:
    from arn_purify.training import attacks, data
    from arn_purify.training.attacks.craft import crafted_set

    classifier = models.load("mnist-lenet5")
    split = data.load("mnist", None).test.every(every)
    sha256, cache = models.card_of(classifier).sha256, common.ROOT / "data" / "crafted"
    crafted = crafted_set(split, attacks.get("PGD_N"), classifier, sha256, cache, 0, "cpu")
    images = crafted.images.numpy().astype(np.float32)
    file = folder / "images.npy"
    np.save(file, images)
    np.save(folder / "levels.npy", np.round(images * 255).astype(np.uint8))
    labels = split.labels.numpy()
    rows = []
    for name, modes in {
        "triton": ("binary", "json", "grpc"),
        "mlserver": ("",),
        "kserve": ("v1", "v1-b64", "v2"),
        "torchserve": ("curl -T",),
    }.items():
        scratch = folder / name
        scratch.mkdir()
        with servers.serving(name, scratch) as behind, gateway(behind, "--models", PURIFIER) as (url, grpc):
            for mode in modes:
                row: dict[str, object] = {"server": name, "protocol": mode or "v2", "n": len(labels)}
                for way, address in {
                    "direct": behind.grpc if mode == "grpc" else behind.http,
                    "chained": grpc if mode == "grpc" else url,
                }.items():
                    told = ask(name, mode, address, file)
                    row[f"accuracy_{way}"] = round(100 * float((np.array(told) == labels).mean()), 2)
                rows.append(row)
                print(row, flush=True)
    purifier = models.card_of(models.load(PURIFIER))
    write(
        "gateway-accuracy.json", f"PGD_N on every {every}th MNIST test image, oblivious", rows=rows,
        purifier=purifier.name, sha256={"purifier": purifier.sha256, "classifier": sha256},
    )  # fmt: skip


def photographs(count: int, classifier: str, purifier: str, attack: str, folder: Path) -> None:
    """So many of the test split, evenly; the attack sees the classifier alone."""
    from arn_purify.training.load import load_model

    target, target_card = load_model(classifier, "classifier", "photos", "cpu", (3, 224, 224))
    card = models.card_of(models.load(purifier))
    natural, attacked, labels = attacked_photographs(count, target, target_card.sha256, attack)
    files = {"natural": folder / "natural.npy", attack: folder / "attacked.npy"}
    for file, images in zip(files.values(), (natural, attacked), strict=True):
        np.save(file, images)
    photos.add_to_triton(folder, target)
    rows = []
    with (
        servers.serving("triton", folder) as behind,
        gateway(behind, "--models", purifier, "--precision", "fp32", *photos.GATEWAY) as (url, grpc),
    ):
        for (what, file), mode in itertools.product(files.items(), ("binary", "grpc")):
            row: dict[str, object] = {"images": what, "protocol": mode, "n": len(labels)}
            ways = (behind.grpc, grpc) if mode == "grpc" else (behind.http, url)
            for way, address in zip(("direct", "chained"), ways, strict=True):
                told = ask("triton_photo", mode, address, file)
                row[f"accuracy_{way}"] = round(100 * float((np.array(told) == labels).mean()), 2)
            rows.append(row)
            print(row, flush=True)
    write(
        "gateway-photographs.json", "photographs normalised by mean and deviation, through Triton; oblivious attack",
        rows=rows, classifier=target_card.name, purifier=card.name,
        sha256={"purifier": card.sha256, "classifier": target_card.sha256},
    )  # fmt: skip


def attacked_photographs(
    count: int, classifier: nn.Module, sha256: str, attack: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Natural and attacked photographs, uint8 ``(N, 224, 224, 3)``, and labels; attacks are kept in ``build/``."""
    from arn_purify.training import attacks, data

    split = data.load("photos").test
    x, labels = split.batch(torch.linspace(0, len(split) - 1, count).round().long())
    natural = as_levels(x)
    kept = common.BUILD / f"photographs-{attack}-{count}-{sha256[:12]}.npy"
    if not kept.exists():
        chosen = attacks.get(attack, "photos")
        parts = zip(x.split(10), labels.split(10), strict=True)
        kept.parent.mkdir(exist_ok=True)
        found = [as_levels(chosen(classifier, *part, seed=number).images) for number, part in enumerate(parts)]
        np.save(kept, np.concatenate(found))
    return natural, np.load(kept), labels.numpy()


def as_levels(x: torch.Tensor) -> np.ndarray:
    return x.mul(255).round().byte().permute(0, 2, 3, 1).numpy()


def ask(name: str, mode: str, address: str, file: Path) -> list[int]:
    if name == "torchserve":
        from PIL import Image

        paths = []
        for index, image in enumerate(np.load(file.parent / "levels.npy")):
            paths.append(str(file.parent / f"{index:05}.png"))
            Image.fromarray(image[0]).save(paths[-1])
        told = subprocess.run(
            ["sh", CLIENTS / "torchserve_client.sh", address, *paths], capture_output=True, text=True, check=True
        )
        return [int(label) for label in re.findall(r'"label": (\d+)', told.stdout)]
    python = servers.python(name.removesuffix("_photo"))
    command = [python, CLIENTS / f"{name}_client.py", *([mode] if mode else []), address, file]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    answer = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)
    if answer.returncode:
        raise RuntimeError(answer.stderr[-2000:])
    labels: list[int] = json.loads(answer.stdout)
    return labels


def write(name: str, what: str, **fields: object) -> None:
    pins = {server: list(requirements) for server, requirements in servers.REQUIREMENTS.items()}
    common.write(common.RESULTS / name, what, pins, **fields)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("what", choices=["latency", "clients", "accuracy", "photographs"])
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--every", type=int, default=10, help="every k-th test image")
    parser.add_argument("--count", type=int, default=200, help="photographs")
    parser.add_argument(
        "--classifier", default="photo-efficientnet-lite0", help="of photographs: name or module:function"
    )
    parser.add_argument("--purifier", default=common.PHOTOGRAPHS, help="of photographs")
    parser.add_argument("--attack", default="PGD_N@0.0157x10", help="on photographs")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if flags.what == "latency":
            latency(flags.requests, Path(folder))
        elif flags.what == "clients":
            clients(flags.requests, Path(folder))
        elif flags.what == "photographs":
            photographs(flags.count, flags.classifier, flags.purifier, flags.attack, Path(folder))
        else:
            accuracy(flags.every, Path(folder))


if __name__ == "__main__":
    main()
