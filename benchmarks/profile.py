"""Where the microseconds of one request go.

``python -m benchmarks.profile`` loads the service with wrk and 1 and 32 connections and subtracts the stages, as
``Server-Timing`` and ``arn_stage_seconds`` tell them, from wrk's mean latency: what remains is HTTP parsing, ASGI, the
event loop's turns and the client. Processor time is that of the process, and of the event loop's thread, on which all
runs that is in front of the device. ``--py-spy`` also samples who holds the interpreter's lock, and leaves the stacks,
as flame graphs are drawn from, under ``build/``.
"""

from __future__ import annotations

import argparse
import collections
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from arn_purify.service.core import codec
from arn_purify.service.core.precision import resolve

from . import common

STAGES = ("decode", "queue", "infer", "encode")


def measure(served: common.Served, png: bytes, connections: int, seconds: float) -> dict[str, float]:
    """Microseconds of each stage a request, of the rest, of all of it by wrk, and of the service's processor time."""
    url, headers = f"{served.url}/purify", {"Content-Type": "image/png"}
    common.load(url, png, headers, connections, 1)
    before, loop = served.metrics(), loop_seconds(served.pid)
    sample = common.load(url, png, headers, connections, seconds)
    after, loop = served.metrics(), loop_seconds(served.pid) - loop

    def grown(name: str) -> float:
        return after[name] - before[name]

    answered = grown('arn_requests_total{route="/purify",status="200"}')
    row = {
        stage: 1e6 * grown(f'arn_stage_seconds_sum{{stage="{stage}"}}') / answered
        for stage in STAGES
    }  # fmt: skip
    total = 1000 * sample["mean_ms"]
    return {
        **row, "the rest": total - sum(row.values()), "all, by wrk": total,
        "processor time": 1e6 * grown("process_cpu_seconds_total") / answered,
        "of it the event loop's thread": 1e6 * loop / answered, "requests/s": sample["rps"],
    }  # fmt: skip


def loop_seconds(pid: int) -> float:
    """Processor time of a process's first thread, which runs the event loop (Linux)."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def spy(served: common.Served, png: bytes, connections: int, seconds: float, name: str) -> list[tuple[str, float]]:
    """The functions on top of the stack of whoever holds the interpreter's lock under load, with their shares."""
    program = shutil.which("py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        raise SystemExit("py-spy is not installed")
    stacks = common.BUILD / f"{name}.stacks"
    command = [
        *(program, "record", "--gil", "--function", "--format", "raw", "--output", str(stacks)),
        *("--rate", "250", "--duration", str(round(seconds)), "--pid", str(served.pid)),
    ]
    recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    common.load(f"{served.url}/purify", png, {"Content-Type": "image/png"}, connections, seconds + 2)
    if recorder.wait():
        raise SystemExit("py-spy may not look into the process here")
    top: collections.Counter[str] = collections.Counter()
    for line in stacks.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        top[stack.rpartition(";")[2]] += int(count)
    return [(function, count / top.total()) for function, count in top.most_common(15)]


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--network", default=common.NETWORKS[0], choices=common.NETWORKS)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch's threads")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--precision", default="auto", choices=common.PRECISIONS)
    parser.add_argument("--py-spy", action="store_true", help="sample the process too")
    parser.add_argument("--out", type=Path, help="instead of results/benchmarks/profile-NETWORK.json")
    flags = parser.parse_args()
    png = codec.encode_image(common.images(flags.network, 1)[0])
    precision = resolve(flags.precision, "cpu")
    arguments = ("--models", common.network(flags.network), "--classifier", "", "--precision", precision)
    tops: dict[int, Any] = {}
    with common.serving(*arguments, threads=flags.threads) as served:
        columns = {
            count: common.medians([measure(served, png, count, flags.seconds) for _ in range(flags.rounds)])
            for count in flags.connections
        }
        if flags.py_spy:
            tops = {count: spy(served, png, count, flags.seconds, f"profile-{count}") for count in flags.connections}
    print(f"| microseconds a request, {flags.network} | {' | '.join(f'{c} connection(s)' for c in columns)} |")
    print("| --- |" + " ---: |" * len(columns))
    for name in next(iter(columns.values())):
        print(f"| {name} | {' | '.join(f'{column[name]:,.0f}' for column in columns.values())} |")
    for count, top in tops.items():
        print(f"\n| holds the lock, {count} connection(s) | share |\n| --- | ---: |")
        for function, share in top:
            print(f"| {function} | {share:.1%} |")
    common.write(
        flags.out or common.RESULTS / f"profile-{flags.network}.json",
        "microseconds of one request by stage; the rest is HTTP parsing, ASGI, the event loop and the client",
        common.versions("torch", "fastapi", "uvicorn", "pillow"),
        threads=flags.threads,
        precision=precision,
        seconds=flags.seconds,
        rounds=flags.rounds,
        microseconds=columns,
        py_spy=tops,
    )


if __name__ == "__main__":
    main()
