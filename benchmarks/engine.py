"""The networks alone: every backend that is installed, beside this service's engine and plain torch.

``python -m benchmarks.engine`` takes turns between the backends, several rounds, and writes the medians of images a
second and how far, in grey levels, the answers are from eager fp32 torch at batch 1.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from arn_purify import models
from arn_purify.service.core.engine import Engine, Work
from arn_purify.service.core.precision import Precision

from . import common

Run = Callable[[NDArray[np.uint8], Tensor], Any]
"""Takes uint8 ``(N, H, W, C)`` and the same as float32 ``(N, C, H, W)`` on [0, 1]; answers in one of the two forms."""


def _model(source: str) -> nn.Module:
    return models.load(source).requires_grad_(False)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _bare(model: nn.Module, half: bool = False) -> Run:
    def run(_: NDArray[np.uint8], x: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            out: Tensor = model(x)
            return out

    return run


class _Inner(nn.Module):
    """A network in channels-last memory; with ``dtype`` its weights and its arithmetic are of that type."""

    def __init__(self, source: str, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.model = _model(source).to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(_channels_last(x.to(self.dtype))).float()
        return out


def _traced(source: str, dtype: torch.dtype = torch.float32, optimised: bool = False) -> Run:
    model = _Inner(source, dtype).eval()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        example = torch.rand(2, *models.card_of(model.model).input_shape)
        graph = torch.jit.freeze(torch.jit.trace(model, example, check_trace=False))
        return _bare(torch.jit.optimize_for_inference(graph) if optimised else graph)


def _compiled(source: str, dtype: torch.dtype = torch.float32) -> Run:
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    dynamo.recompile_limit = 64  # counted over both dtypes
    # A graph for each batch size: with a free one, freezing makes a graph that contradicts itself (torch 2.13).
    model = torch.compile(_Inner(source, dtype).eval(), dynamic=False)

    def run(_: NDArray[np.uint8], x: Tensor) -> Tensor:
        with torch.no_grad(), inductor.patch(freezing=True):
            out: Tensor = model(x)
            return out

    return run


@functools.cache
def _onnx(source: str) -> Path:
    import onnx  # noqa: F401 (what is missing is told by its name)
    import onnxscript  # noqa: F401

    from arn_purify.training.convert import convert

    target = common.BUILD / f"{Path(source).stem}.onnx"
    convert(source, target)
    return target


def _onnxruntime(source: str, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(_onnx(source), options, providers=["CPUExecutionProvider"])
    return lambda _, x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0])


def _openvino(source: str, threads: int, precision: str = "f32") -> Run:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY",
    }  # fmt: skip
    model = openvino.Core().compile_model(_onnx(source), "CPU", settings)
    return lambda _, x: torch.from_numpy(model(x.numpy(), share_inputs=True)[0])


def _engine(source: str, threads: int, precision: Precision) -> Run:
    engine = Engine((source,), (), "cpu", precision, threads)
    work = Work(next(iter(engine.purifiers)))
    return lambda levels, _: torch.from_numpy(engine.run(work, levels).images)


BACKENDS: dict[str, Callable[[str, int], Run]] = {
    "eager": lambda source, _: _bare(_model(source)),
    "channels_last": lambda source, _: _bare(_Inner(source)),
    "traced": lambda source, _: _traced(source),
    "traced, optimised": lambda source, _: _traced(source, optimised=True),
    "torch.compile": lambda source, _: _compiled(source),
    "ONNX Runtime": _onnxruntime,
    "OpenVINO": _openvino,
    "bf16 autocast": lambda source, _: _bare(_Inner(source), half=True),
    "bf16 weights, traced": lambda source, _: _traced(source, torch.bfloat16),
    "bf16 weights, torch.compile": lambda source, _: _compiled(source, torch.bfloat16),
    "OpenVINO bf16": lambda source, threads: _openvino(source, threads, "bf16"),
    "engine": lambda source, threads: _engine(source, threads, "fp32"),
    "engine bf16": lambda source, threads: _engine(source, threads, "bf16"),
}


def median_seconds(call: Callable[[], object], seconds: float) -> float:
    """Of one call, of those that fit into ``seconds`` and never fewer than three."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def as_float(levels: NDArray[np.uint8]) -> Tensor:
    """uint8 ``(N, H, W, C)`` as float32 ``(N, C, H, W)`` on [0, 1]."""
    return torch.from_numpy(levels).permute(0, 3, 1, 2).float().div(255).contiguous()


def deviation(out: Tensor, reference: Tensor) -> Tensor:
    """Grey levels between an answer and the reference, each value; of an answer in levels, to the rounded reference."""
    if out.dtype == torch.uint8:
        return (out.permute(0, 3, 1, 2).float() - reference.mul(255).round()).abs()
    return (out - reference).abs() * 255


def measure(
    network: str, threads: int, batches: Sequence[int], backends: Sequence[str], rounds: int, seconds: float
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One row a backend and batch size, and why those backends are missing that are not here."""
    source = common.network(network)
    inputs = {count: (levels := common.images(network, count), as_float(levels)) for count in batches}
    reference = torch.cat([_bare(_model(source))(levels, x) for x in inputs[max(batches)][1].split(1)])
    torch.set_num_threads(threads)
    runs: dict[str, Run] = {}
    deviations: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    for name in backends:
        try:
            run = BACKENDS[name](source, threads)
            # The first call compiles; every batch size is called before any is timed.
            deviations[name] = torch.cat([deviation(run(*given), reference[:n]) for n, given in inputs.items()])
            runs[name] = run
        except (ImportError, RuntimeError) as error:
            skipped[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            print(f"skipped {name}: {skipped[name]}", flush=True)
    samples: dict[tuple[str, int], list[float]] = {(name, count): [] for name in runs for count in batches}
    for _ in range(rounds):
        for count, given in inputs.items():
            for name, run in runs.items():
                torch.set_num_threads(threads)  # the engine sets its own
                took = median_seconds(functools.partial(run, *given), seconds)
                samples[name, count].append(count / took)
    rows = [
        {
            "network": network, "threads": threads, "backend": name, "batch": count,
            "images_per_second": statistics.median(rates), "rounds": rates,
            "largest_deviation_levels": float(deviations[name].max()),
            "percent_within_one_level": 100 * float((deviations[name] <= 1).double().mean()),
        }
        for (name, count), rates in samples.items()
    ]  # fmt: skip
    return rows, skipped


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Images a second of one network and number of threads, in Markdown."""
    batches = sorted({row["batch"] for row in rows})
    lines = [
        f"| {rows[0]['network']}, {rows[0]['threads']} thread(s) | {' | '.join(map(str, batches))} "
        "| levels off | within one |",
        "| --- |" + " ---: |" * (len(batches) + 2),
    ]
    for name in dict.fromkeys(row["backend"] for row in rows):
        mine = {row["batch"]: row for row in rows if row["backend"] == name}
        cells = [f"{mine[count]['images_per_second']:,.0f}" for count in batches]
        off, within = (mine[batches[0]][key] for key in ("largest_deviation_levels", "percent_within_one_level"))
        lines.append(f"| {name} | {' | '.join(cells)} | {off:.2g} | {within:.2f} % |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=common.NETWORKS, choices=common.NETWORKS)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64, 256])
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=list(BACKENDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="of one backend at one batch size in one round")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "engine.json")
    flags = parser.parse_args()
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    for network in flags.networks:
        for threads in flags.threads:
            new, missing = measure(network, threads, flags.batches, flags.backends, flags.rounds, flags.seconds)
            print(table(new), flush=True)
            rows += new
            skipped |= missing
    common.write(
        flags.out,
        "images a second of the networks alone, and the deviation from eager fp32 at batch 1 in grey levels",
        common.versions("torch", "onnxruntime", "openvino"),
        megaflops={name: round(common.megaflops(name), 1) for name in flags.networks},
        rounds=flags.rounds,
        seconds=flags.seconds,
        skipped=skipped,
        rows=rows,
    )


if __name__ == "__main__":
    main()
