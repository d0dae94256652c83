"""Replicas on Ray Serve beside one ``arn serve``: ``python -m benchmarks.ray``.

Every process computes on one thread. ``wrk``, Ray's proxy and its controller run on the same cores: read what a second
replica adds where they are so many. Writes the record, and the line of ``docs/scaling.md`` that tells it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from examples.servers import free_port

from .common import BUILD, RESULTS, ROOT, Place, Sample, fetch, load, medians, running, serving, versions, write

LINE = Place(ROOT / "docs" / "scaling.md", "ray", "ray")
BODY = (ROOT / "examples" / "adversarial_3.png").read_bytes()
SERVER = """
import sys, threading
from pathlib import Path
import ray
from ray import serve
replicas, port, ready = sys.argv[1:]
ray.init(num_cpus=4, include_dashboard=False, logging_level="error", log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
from arn_purify.service.ray_app import Purifier
serve.run(Purifier.options(num_replicas=int(replicas)).bind(), logging_config={"enable_access_log": False})
Path(ready).touch()
threading.Event().wait()
"""
WAYS = {"arn serve": 0, "Ray Serve, 1 replica": 1, "Ray Serve, 2 replicas": 2}


@contextmanager
def served(replicas: int) -> Iterator[str]:
    """The service's address: on Ray, or 0 replicas for a process of its own."""
    if not replicas:
        with serving(threads=1) as alone:
            yield alone.url
        return
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready"
        command = [sys.executable, "-W", "ignore", "-c", SERVER, str(replicas), str(port), str(ready)]
        with running(command, ready.stat, BUILD / "ray.log", {"OMP_NUM_THREADS": "1"}):
            yield f"http://127.0.0.1:{port}"


def told(record: dict[str, Any]) -> str:
    """The record as the line of the page."""
    alone, one, two = (record["medians"][way]["rps"] for way in WAYS)
    return (
        f"With Ray's default settings, Ray Serve with one replica answered {one / alone:.2f} times as many\n"
        f"requests a second as one `arn serve`, with two replicas {two / alone:.2f} times. Ray's processes and the\n"
        f"load generator shared the machine's {record['cores']} cores\n"
        "([record](../results/benchmarks/ray.json), `python -m benchmarks.ray`).\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.ray", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--out", type=Path, default=RESULTS / "ray.json")
    flags = parser.parse_args()
    samples: dict[str, list[Sample]] = {way: [] for way in WAYS}
    for number in range(flags.rounds):
        for way, replicas in WAYS.items():
            with served(replicas) as url:
                answer = fetch(f"{url}/purify", BODY)
                if not answer.startswith(b"\x89PNG"):
                    raise RuntimeError(f"{way} answers no picture")
                load(f"{url}/purify", BODY, {}, flags.connections, min(2, flags.seconds))
                samples[way].append(load(f"{url}/purify", BODY, {}, flags.connections, flags.seconds))
                print(f"round {number + 1}  {way:22} {samples[way][-1]}", flush=True)
    write(
        flags.out, "POST /purify, 28x28 grey PNG, replicas on one machine", versions("torch", "ray", "fastapi"),
        seconds=flags.seconds, rounds=flags.rounds, connections=flags.connections, threads=1,
        medians={way: medians(rows) for way, rows in samples.items()}, samples=samples,
    )  # fmt: skip
    line = told(json.loads(flags.out.read_text()))
    print(line)
    if flags.out == RESULTS / "ray.json":
        LINE.fill(line)


if __name__ == "__main__":
    main()
