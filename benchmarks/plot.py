"""The records as plots and tables.

``python -m benchmarks.plot`` writes ``speed.png`` and ``soak.png`` in ``docs/figures``, and, from the project's own
records, tables in its README and in two pages of the documentation.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from . import common

plt.switch_backend("Agg")

Record = dict[str, Any]
OURS = "arn"
_WORKERS = (1, 4, 16)
_COLOURS = ("#222222", "#3b6fb6", "#c2553a", "#5a9367", "#8a6fb0", "#b08d3b")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """This service beside others in one run: ``medians`` by server and by connections."""

    label: str
    file: str
    medians: dict[str, dict[str, dict[str, float]]]


def speed(compared: Sequence[Comparison]) -> Figure:
    """Requests a second of each server relative to this service, a panel each comparison."""
    figure, grid = plt.subplots(
        1, len(compared), figsize=(1 + 2.4 * len(compared), 3.8), layout="constrained", squeeze=False, sharey=True
    )
    for axis, comparison in zip(grid[0], compared, strict=True):
        ours = comparison.medians[OURS]
        for colour, (server, by_connections) in zip(_COLOURS, comparison.medians.items(), strict=False):
            counts = sorted(by_connections, key=int)
            relative = [by_connections[count]["rps"] / ours[count]["rps"] for count in counts]
            axis.plot(
                range(len(counts)), relative, "o-", label="this service" if server == OURS else server, color=colour
            )
        axis.set_xticks(range(len(counts)), counts)
        axis.set(xlabel="connections", title=comparison.label)
        axis.grid(axis="y", alpha=0.3)
    grid[0][0].set_ylim(bottom=0)
    grid[0][0].set_ylabel("requests a second, this service = 1")
    figure.legend(
        *grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(_COLOURS), frameon=False
    )
    return figure


def tables(compared: Sequence[Comparison]) -> str:
    """Requests a second of this service, and how many times those of the others."""
    ours = ["| image, arithmetic | connections | requests/s | p50, ms |", "| --- | ---: | ---: | ---: |"]
    peers = [server for server in compared[0].medians if server != OURS]
    others = [f"| image, arithmetic, connections | {' | '.join(peers)} |", f"| --- |{' ---: |' * len(peers)}"]
    for comparison in compared:
        for count, own in comparison.medians[OURS].items():
            link = f"[{comparison.label}](../results/benchmarks/{comparison.file})"
            ours.append(f"| {link} | {count} | {own['rps']:,.0f} | {own['p50_ms']:.1f} |")
            # Empty where the other answered nothing in the time.
            others_rps = (comparison.medians[peer][count]["rps"] for peer in peers)
            ratios = (f"{own['rps'] / rps:.2f}x" if rps else "" for rps in others_rps)
            others.append(f"| {comparison.label}, {count} | {' | '.join(ratios)} |")
    caption = "Requests a second of this service, divided by those of each other server:"
    return "\n".join(["", *ours, "", caption, "", *others, "", ""])


def soak(record: Record) -> Figure:
    """What the process looked like over the minutes of a soak."""
    samples = record["samples"]
    minutes = [sample["seconds"] / 60 for sample in samples]
    figure, axes = plt.subplots(6, figsize=(8, 10.5), layout="constrained", sharex=True)
    for axis, (key, label) in zip(
        axes,
        {
            "rss_mb": "memory, MB",
            "queue_images": "images waiting",
            "open_files": "open files",
            "lag_p50_ms": "event-loop lag, ms",
            "new_connection_ms": "connecting, ms",
        }.items(),
        strict=False,
    ):
        axis.plot(minutes, [sample[key] for sample in samples], color=_COLOURS[1])
        axis.set_ylabel(label)
    for status, colour, label in (("200", _COLOURS[3], "answered"), ("429", _COLOURS[2], "refused")):
        rates = [
            (after["answered"].get(status, 0) - before["answered"].get(status, 0))
            / (after["seconds"] - before["seconds"])
            for before, after in pairwise(samples)
        ]
        axes[-1].plot(minutes[1:], rates, color=colour, label=label)
    axes[-1].set(xlabel="minutes", ylabel="requests/s")
    axes[-1].legend(frameon=False, fontsize="small")
    for axis in axes:
        axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
    answered = record["counts"]["answered"] / (60 * record["minutes"])
    axes[0].set_title(f"{record['sent_rps']:.0f} requests/s sent, {answered:.0f} of them answered")
    return figure


def read(results: Path) -> list[Comparison]:
    """The records of the comparison with other servers, the smallest image first."""
    found = []
    for path in sorted(results.glob("http-*.json")):
        record = json.loads(path.read_text())
        by_image = record["medians"]
        if "body_bytes" not in record:  # of one network's PNGs
            by_image = {re.findall(r"\d+x\d+", record["what"])[0]: by_image}
        threads = "" if record["threads"] == 2 else f", {record['threads']} thread"
        for image, medians in by_image.items():
            order = int(image.partition("x")[0]), record["precision"] != "fp32", -record["threads"]
            label = f"{image}, {record['precision']}{threads}"
            found += [(order, Comparison(label, path.name, medians))] if OURS in medians else []
    return [comparison for _, comparison in sorted(found, key=lambda item: item[0])]


def capacity(results: Path) -> str:
    """What one replica answers, and what the event loops of several workers can feed a device with."""
    http, profile = ("http-mnist-transparent-2-fp32.json", "profile-mnist-transparent.json")
    rps = json.loads((results / http).read_text())["medians"][OURS]["32"]["rps"]
    cost = json.loads((results / profile).read_text())["microseconds"]["32"]
    loop = cost["of it the event loop's thread"]
    fed = " | ".join(f"{workers * 1e6 / loop:,.0f}" for workers in _WORKERS)
    whole = cost["processor time"]
    return f"""
One replica answered {rps:,.0f} requests a second with one 28x28 image each (32 connections, fp32, on two cores that the
load generator shares, [record](../results/benchmarks/{http})). A request took {whole:,.0f} microseconds
of processor time, {loop:,.0f} of them on the event loop ([record](../results/benchmarks/{profile})).
So however quick the device is, the workers' event loops limit what can reach it, with a core for each:

| workers | {" | ".join(map(str, _WORKERS))} |
| --- |{" ---: |" * len(_WORKERS)}
| requests a second, at most | {fed} |

For a peak of R requests a second, with a third in reserve for a lost replica or a burst:

    replicas = max(2, ceil(1.5 * R / requests a second of one replica))

For 5,000 a second that is {max(2, math.ceil(1.5 * 5000 / rps))} replicas.
"""


def stages(results: Path) -> str:
    """Where the microseconds of a request go, a column each network and number of connections."""
    networks = ("mnist-transparent", "colour32")
    records = {name: json.loads((results / f"profile-{name}.json").read_text())["microseconds"] for name in networks}
    columns = {f"{name}, {count}": by for name, record in records.items() for count, by in record.items()}
    rows = [f"| microseconds | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    rows += [
        f"| {stage} | {' | '.join(f'{by[stage]:,.0f}' for by in columns.values())} |"
        for stage in next(iter(columns.values()))
        if stage != "requests/s"
    ]
    return "\n".join(["", *rows, "", ""])


def written(results: Path) -> Iterator[tuple[common.Place, str]]:
    """What is written into pages, and where."""
    docs = common.ROOT / "docs"
    yield common.Place(common.ROOT / "benchmarks" / "README.md", "http", "plot"), tables(read(results))
    yield common.Place(docs / "scaling.md", "replica", "plot"), capacity(results)
    yield common.Place(docs / "architecture.md", "profile", "plot"), stages(results)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.plot", description=__doc__)
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    parser.add_argument("--out", type=Path, default=common.ROOT / "docs" / "figures")
    flags = parser.parse_args()
    figures = {}
    if compared := read(flags.results):
        figures["speed.png"] = speed(compared)
        if flags.results == common.RESULTS:
            for place, text in written(flags.results):
                place.fill(text)
    if (path := flags.results / "soak.json").is_file():
        figures["soak.png"] = soak(json.loads(path.read_text()))
    if not figures:
        raise SystemExit(f"no record to draw in {flags.results}")
    flags.out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(flags.out / name, dpi=110)
        print(f"wrote {flags.out / name}")


if __name__ == "__main__":
    main()
