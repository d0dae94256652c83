"""The metrics of all workers as one: counters and histograms added up, gauges by their modes."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from prometheus_client import ProcessCollector, values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from ..workers.table import Worker

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_OF_EACH = ("process_start_time_seconds", "process_max_fds")  # not added up: the earliest, the fewest


def count_together(worker: Worker) -> None:
    """Count in files of the run's folder from now on. Before the first metric is made.

    A file belongs to the worker's number, so that its successor counts on and the number of files stays the same.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(worker.folder)
    values.ValueClass = values.MultiProcessValue(lambda: worker.number)  # type: ignore[no-untyped-call]


def forget_gauges(number: int, folder: Path) -> None:
    """Remove the gauges of a worker that has ended."""
    mark_process_dead(number, str(folder))  # type: ignore[no-untyped-call]


class Together(Collector):
    """What a scrape of any worker answers."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._files = MultiProcessCollector(None, str(worker.folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        """Every metric, with those of the processes, the supervisor among them."""
        for family in self._families():
            if family.name.endswith("_info"):  # of a model that is no longer loaded
                family.samples = [sample for sample in family.samples if sample.value]
            yield family
        yield from self._processes()

    def _families(self) -> list[Metric]:
        try:
            return list(self._files.collect())  # type: ignore[no-untyped-call]
        except struct.error:  # a worker that starts has made its file and not yet written to it
            time.sleep(0.01)
            return list(self._files.collect())  # type: ignore[no-untyped-call]

    def _processes(self) -> Iterator[Metric]:
        supervisor = os.getppid()
        sums: dict[str, Metric] = {}
        for pid in [supervisor, *self._worker.table.pids()]:
            for family in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                (sample,) = family.samples
                total = sums.setdefault(family.name, family).samples[0]
                if total is not sample:
                    add = min if sample.name in _OF_EACH else float.__add__
                    sums[family.name].samples[0] = total._replace(value=add(float(total.value), float(sample.value)))
        if cpu := sums.get("process_cpu_seconds"):
            # Of workers that have ended, so that the counter never falls.
            seconds = cpu.samples[0].value + _children_seconds(supervisor)
            cpu.samples[0] = cpu.samples[0]._replace(value=seconds)
        yield from sums.values()


def _children_seconds(pid: int) -> float:
    with suppress(OSError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[13:15])) / _TICKS_A_SECOND
    return 0.0
