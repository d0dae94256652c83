"""What a serving process looks like from outside, as lines of JSON; a process of its own, so that no load delays it.

``python -m benchmarks.watch URL PID SECONDS`` tells every so many seconds, until it is ended, the memory, the open
files, the queue, the answers so far, and how long ``/health/live`` took, which is how late the event loop was.
"""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

_PINGS_A_SECOND = 5


def metrics(url: str) -> dict[str, float]:
    """Every series of ``/metrics``, by its name with its labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def answered(series: dict[str, float]) -> dict[str, float]:
    """Answers of ``/purify`` by status."""
    begin = 'arn_requests_total{route="/purify",status="'
    return {name.removeprefix(begin)[:3]: value for name, value in series.items() if name.startswith(begin)}


def main(url: str, pid: int, every: float) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    started = time.perf_counter()
    process = Path(f"/proc/{pid}")
    while True:
        lags = []
        for _ in range(max(1, round(_PINGS_A_SECOND * every))):
            asked = time.perf_counter()
            connection.request("GET", "/health/live")
            connection.getresponse().read()
            lags.append(1000 * (time.perf_counter() - asked))
            time.sleep(1 / _PINGS_A_SECOND)
        series = metrics(url)
        resident = int((process / "statm").read_text().split()[1])
        line = {
            "seconds": time.perf_counter() - started, "rss_mb": resident * 4096 / 1e6,
            "open_files": len(list((process / "fd").iterdir())), "queue_images": series["arn_queue_images"],
            "lag_p50_ms": statistics.median(lags), "lag_max_ms": max(lags), "answered": answered(series),
        }  # fmt: skip
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
