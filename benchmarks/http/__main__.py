"""This service beside a plain FastAPI app, LitServe and mosec: same network, same PNG in and out, same two cores.

``python -m benchmarks.http`` makes the peers' environment under ``build/``, measures every server in turn over several
rounds, prints ratios to this service and writes the record. Ratios of one run are what to read: absolute figures belong
to the machine.
"""

from __future__ import annotations

import argparse
import contextlib
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
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
PEERS = BUILD / "peers"
IMAGE = ROOT / "examples" / "adversarial_3.png"
PORT = 18000
URL = f"http://127.0.0.1:{PORT}/purify"
REQUIREMENTS = ["litserve==0.2.19", "mosec==0.9.8", "safetensors", "numpy", "pillow", "fastapi", "uvicorn[standard]"]
OURS = "arn"
SERVERS = {
    OURS: [sys.executable, "-m", "service", "serve", "--port", str(PORT), "--log-level", "warning"],
    "plain FastAPI": [str(PEERS / "bin/python"), "-m", "benchmarks.http.plain", str(PORT)],
    "LitServe": [str(PEERS / "bin/python"), "-m", "benchmarks.http.litserve_app", str(PORT)],
    "mosec": [str(PEERS / "bin/python"), "-m", "benchmarks.http.mosec_app", "--port", str(PORT)],
}

Sample = dict[str, float]


def prepare() -> str:
    """The peers' environment, and the path of wrk."""
    if not (PEERS / "bin/mosec").exists():
        print("installing the peers under build/ ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", PEERS], check=True)
        torch = f"torch=={metadata.version('torch').partition('+')[0]}"
        for packages in ([torch], REQUIREMENTS):
            subprocess.run([PEERS / "bin/python", "-m", "pip", "install", "--quiet", *packages], check=True)
    wrk = shutil.which("wrk") or str(BUILD / "wrk/usr/bin/wrk")
    if not Path(wrk).exists():
        folder = BUILD / "wrk"
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "wrk", "libluajit-5.1-2"], cwd=folder, check=True)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, folder], check=True)
    return wrk


@contextlib.contextmanager
def serving(name: str, threads: int) -> Iterator[None]:
    """One server, up and answering, and gone afterwards with all its children."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    log = BUILD / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            SERVERS[name], cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                ask()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.5)


def ask() -> np.ndarray:
    """One purified image."""
    request = urllib.request.Request(URL, IMAGE.read_bytes(), {"Content-Type": "image/png"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return np.array(Image.open(io.BytesIO(answer.read())))


def load(wrk: str, connections: int, seconds: float) -> Sample:
    """What wrk measures: requests a second, p50 and p99 in milliseconds, answers that were not 2xx."""
    script = BUILD / "post.lua"
    script.write_text(
        f'local file = io.open("{IMAGE}", "rb")\nwrk.method = "POST"\nwrk.body = file:read("*a")\n'
        'wrk.headers["Content-Type"] = "image/png"\n'
        "done = function(summary, latency)\n"
        '  io.write(string.format("RESULT %d %d %.1f %.1f %d\\n", summary.requests, summary.duration,\n'
        "    latency:percentile(50), latency:percentile(99),\n"
        "    summary.errors.status + summary.errors.read + summary.errors.timeout + summary.errors.connect))\nend\n"
    )
    command = [wrk, "-t1", f"-c{connections}", f"-d{round(seconds)}s", "--timeout", "10s", "-s", str(script), URL]
    # Debian's package unpacked without root finds its library here; an installed wrk needs none of it.
    libraries = ":".join(str(path) for path in (BUILD / "wrk/usr/lib").glob("*-linux-gnu"))
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries}
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    found = re.search(r"RESULT (\d+) (\d+) ([\d.]+) ([\d.]+) (\d+)", out)
    if not found:
        raise RuntimeError(f"wrk said: {out}")
    requests, microseconds, p50, p99, errors = map(float, found.groups())
    return {"rps": 1e6 * requests / microseconds, "p50_ms": p50 / 1000, "p99_ms": p99 / 1000, "errors": errors}


def medians(samples: list[Sample]) -> Sample:
    return {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}


def table(figures: dict[str, dict[int, Sample]], connections: list[int]) -> str:
    lines = ["| server | connections | requests/s | this service is | p50 ms | p99 ms |", "| --- |" + " ---: |" * 5]
    for count in connections:
        ours = figures[OURS][count]["rps"] if OURS in figures else float("nan")
        for name, by_connections in figures.items():
            row = by_connections[count]
            lines.append(
                f"| {name} | {count} | {row['rps']:.0f} | {ours / row['rps']:.2f}x | "
                f"{row['p50_ms']:.2f} | {row['p99_ms']:.2f} |"
            )
    return "\n".join(lines)


def cpu() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1]
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.http", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=list(SERVERS))
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch's threads in every server")
    parser.add_argument("--out", type=Path, default=ROOT / "results/benchmarks/http.json")
    flags = parser.parse_args()
    wrk = prepare()
    samples: dict[str, dict[int, list[Sample]]] = {name: {c: [] for c in flags.connections} for name in flags.servers}
    reference: np.ndarray | None = None
    for number in range(flags.rounds):
        for name in flags.servers:
            with serving(name, flags.threads):
                answer = ask()
                reference = answer if reference is None else reference
                if np.abs(answer.astype(int) - reference).max() > 1:
                    raise RuntimeError(f"{name} answers another image")
                for count in flags.connections:
                    load(wrk, count, 1)
                    samples[name][count].append(load(wrk, count, flags.seconds))
                    print(f"round {number + 1}  {name:14} {count:3}  {samples[name][count][-1]}", flush=True)
    figures = {name: {count: medians(rows) for count, rows in by.items()} for name, by in samples.items()}
    print(table(figures, flags.connections))
    packages = ["torch", "fastapi", "uvicorn", "pillow"]
    record = {
        "what": "POST /purify, 28x28 grey PNG in and out, mnist-transparent; every server with its own batching",
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": flags.threads,
        "seconds": flags.seconds,
        "rounds": flags.rounds,
        "load": "wrk, one thread, on the same cores",
        "versions": {**{p: metadata.version(p) for p in packages}, "peers": REQUIREMENTS[:2]},
        "command": "python -m benchmarks.http " + " ".join(sys.argv[1:]),
        "medians": figures,
        "samples": samples,
    }
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
