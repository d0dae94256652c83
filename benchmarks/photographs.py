"""What purifying photographs of 224x224 costs beside the classifier that sees them.

``python -m benchmarks.photographs`` takes turns between the two networks, several rounds, and writes the medians of
milliseconds a batch and their ratio: above 1 the purifier costs more. Both run in the same backend, and as they are
served: the purifier in the engine, the classifier in eager torch.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import statistics
from pathlib import Path

import torch

from arn_purify import models

from . import common, engine
from .http.__main__ import photograph

CLASSIFIER = "photo-efficientnet-lite0"
BACKENDS = ("channels_last", "traced, optimised", "ONNX Runtime", "OpenVINO")


def measure(
    purifier: str, threads: int, batches: list[int], backends: list[str], rounds: int, seconds: float
) -> tuple[list[dict[str, object]], dict[str, str]]:
    """One row a batch size and backend, and why those backends are missing that are not here."""
    torch.set_num_threads(threads)
    runs, skipped = {}, {}
    for name in backends:
        try:
            runs[name] = tuple(engine.BACKENDS[name](source, threads) for source in (purifier, CLASSIFIER))
        except (ImportError, RuntimeError, ValueError) as error:
            skipped[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            print(f"skipped {name}: {skipped[name]}", flush=True)
    served = engine.BACKENDS["engine"](purifier, threads), engine.BACKENDS["channels_last"](CLASSIFIER, threads)
    runs["as served"] = served
    image = common.decoded(photograph(224, 224))
    inputs = {count: (levels := image[None].repeat(count, 0), engine.as_float(levels)) for count in batches}
    times: dict[tuple[int, str], list[tuple[float, float]]] = {key: [] for key in itertools.product(inputs, runs)}
    for number in range(-1, rounds):  # the first compiles
        for (count, name), kept in times.items():
            pair = []
            for run in runs[name]:
                torch.set_num_threads(threads)  # the engine sets its own
                pair.append(
                    engine.median_seconds(functools.partial(run, *inputs[count]), seconds if number >= 0 else 0)
                )
            if number >= 0:
                kept.append((pair[0], pair[1]))
    rows = []
    for (count, name), pairs in times.items():
        ratios = [ours / theirs for ours, theirs in pairs]
        ours, theirs = (1000 * statistics.median(column) for column in zip(*pairs, strict=True))
        rows.append({
            "batch": count, "backend": name, "purifier_ms": ours, "classifier_ms": theirs,
            "ratio": statistics.median(ratios), "ratios": ratios,
        })  # fmt: skip
    return rows, skipped


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.photographs", description=__doc__)
    parser.add_argument("--purifier", default=common.PHOTOGRAPHS, help="name or path")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--backends", nargs="*", default=list(BACKENDS), choices=list(engine.BACKENDS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one network at one batch size in one round")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "photographs.json")
    flags = parser.parse_args()
    rows, skipped = measure(
        flags.purifier, flags.threads, flags.batches, flags.backends, flags.rounds, flags.seconds
    )  # fmt: skip
    print("| batch | backend | purifier ms | classifier ms | ratio |\n| ---: | --- | ---: | ---: | ---: |")
    for row in rows:
        print("| {batch} | {backend} | {purifier_ms:.1f} | {classifier_ms:.1f} | {ratio:.2f} |".format(**row))
    x = torch.zeros(1, 3, 224, 224)
    networks = {models.card_of(network).name: network for network in map(models.load, (flags.purifier, CLASSIFIER))}
    common.write(
        flags.out, "milliseconds of purifying a batch of 224x224 beside the classifier's forward pass",
        common.versions("torch", "onnxruntime", "openvino"), threads=flags.threads, rounds=flags.rounds,
        seconds=flags.seconds, sha256={name: models.card_of(network).sha256 for name, network in networks.items()},
        megaflops={name: round(common.flops(network, x) / 1e6) for name, network in networks.items()},
        skipped=skipped, rows=rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
