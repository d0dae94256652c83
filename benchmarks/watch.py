"""What a serving process looks like from outside, as lines of JSON; a process of its own, so that no load delays it.

``python -m benchmarks.watch URL PID SECONDS`` tells every so many seconds, until it is ended, the memory and the open
files, both of all workers where there are several, the queue, the answers so far, and how long ``/health/live`` took:
on a connection that stays, which is how late the event loop was, and on new ones, as probes open them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import statistics
import sys
import threading
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

_PINGS_A_SECOND = 5


def metrics(url: str) -> dict[str, float]:
    """Every series of ``/metrics``, by its name with its labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        return _series(answer.read())


def _series(text: bytes) -> dict[str, float]:
    lines = text.decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def answered(series: dict[str, float]) -> dict[str, float]:
    """Answers of ``/purify`` by status."""
    begin = 'arn_requests_total{route="/purify",status="'
    return {name.removeprefix(begin)[:3]: value for name, value in series.items() if name.startswith(begin)}


def processes(pid: int) -> list[Path]:
    """Of a service: the one at ``pid``, and the workers that it has started."""
    found = [Path(f"/proc/{pid}")]
    for child in (found[0] / "task" / str(pid) / "children").read_text().split():
        with contextlib.suppress(OSError):  # it has just ended
            if b"arn_purify.service.workers" in (Path("/proc") / child / "cmdline").read_bytes():
                found.append(Path("/proc") / child)
    return found


class _Probe(threading.Thread):
    """Asks on a new connection, over and over."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.worst, self.begun = url, 0.0, time.perf_counter()

    def run(self) -> None:
        while True:
            self.begun = time.perf_counter()
            with urllib.request.urlopen(f"{self.url}/health/live", timeout=600) as answer:
                answer.read()
            self.worst = max(self.worst, time.perf_counter() - self.begun)
            self.begun += 1e9  # none is under way
            time.sleep(0.5)

    def take(self) -> float:
        """The longest since the last time, in seconds; of one that is under way, so far."""
        worst, self.worst = max(self.worst, time.perf_counter() - self.begun), 0.0
        return worst


def main(url: str, pid: int, every: float) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    probe = _Probe(url)
    probe.start()
    started = time.perf_counter()

    def ask(path: str) -> bytes:
        connection.request("GET", path)
        return connection.getresponse().read()

    while True:
        lags = []
        for _ in range(max(1, round(_PINGS_A_SECOND * every))):
            asked = time.perf_counter()
            ask("/health/live")
            lags.append(1000 * (time.perf_counter() - asked))
            time.sleep(1 / _PINGS_A_SECOND)
        series = _series(ask("/metrics"))
        resident = files = 0
        for process in processes(pid):
            with contextlib.suppress(OSError):
                resident += int((process / "statm").read_text().split()[1])
                files += len(list((process / "fd").iterdir()))
        line = {
            "seconds": time.perf_counter() - started, "rss_mb": resident * 4096 / 1e6,
            "open_files": files, "queue_images": series["arn_queue_images"],
            "lag_p50_ms": statistics.median(lags), "lag_max_ms": max(lags),
            "new_connection_ms": 1000 * probe.take(), "answered": answered(series),
        }  # fmt: skip
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
