"""The records as plots and tables.

``python -m benchmarks.plot`` writes ``speed.png`` and ``soak.png`` in ``docs/figures``, and tables in its README.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from . import common

plt.switch_backend("Agg")

Record = dict[str, Any]
PAGE = common.ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- http: written by `python -m benchmarks.plot` -->\n", "<!-- /http -->\n"

OURS = "arn"
_COLOURS = ("#222222", "#3b6fb6", "#c2553a", "#5a9367", "#8a6fb0", "#b08d3b")


def speed(records: Sequence[Record]) -> Figure:
    """Requests a second of each server relative to this service, a panel each network and number of threads."""
    figure, grid = plt.subplots(
        1, len(records), figsize=(1 + 3.4 * len(records), 3.8), layout="constrained", squeeze=False, sharey=True
    )
    for axis, record in zip(grid[0], records, strict=True):
        ours = record["medians"][OURS]
        for colour, (server, by_connections) in zip(_COLOURS, record["medians"].items(), strict=False):
            counts = sorted(by_connections, key=int)
            relative = [by_connections[count]["rps"] / ours[count]["rps"] for count in counts]
            axis.plot(
                range(len(counts)), relative, "o-", label="this service" if server == OURS else server, color=colour
            )
        threads = "1 thread" if record["threads"] == 1 else f"{record['threads']} threads"
        axis.set_xticks(range(len(counts)), counts)
        axis.set(xlabel="connections", title=f"{record['network']}, {threads}")
        axis.grid(axis="y", alpha=0.3)
    grid[0][0].set_ylim(bottom=0)
    grid[0][0].set_ylabel("requests a second, this service = 1")
    figure.legend(
        *grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(_COLOURS), frameon=False
    )
    return figure


def tables(records: dict[str, Record]) -> str:
    """Requests a second of this service, and how many times those of the others, from records by their file's name."""
    ours = ["| network | connections | requests/s | p50, ms |", "| --- | ---: | ---: | ---: |"]
    peers = [server for server in next(iter(records.values()))["medians"] if server != OURS]
    others = [f"| network, connections | {' | '.join(peers)} |", f"| --- |{' ---: |' * len(peers)}"]
    for file, record in records.items():
        size = re.findall(r"\d+x\d+", record["what"])[0] + (", one thread each" if record["threads"] == 1 else "")
        medians = record["medians"]
        for count, own in medians[OURS].items():
            link = f"[{size}](../results/benchmarks/{file})"
            ours.append(f"| {link} | {count} | {own['rps']:,.0f} | {own['p50_ms']:.1f} |")
            ratios = " | ".join(f"{own['rps'] / medians[peer][count]['rps']:.2f}x" for peer in peers)
            others.append(f"| {size}, {count} | {ratios} |")
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


def read(results: Path) -> dict[str, Record]:
    """The records of the comparison with other servers, by their file's name, the smallest network first."""
    found = {path.name: json.loads(path.read_text()) for path in results.glob("http-*-*.json")}
    chosen = {name: r for name, r in found.items() if OURS in r["medians"] and "network" in r}
    return dict(sorted(chosen.items(), key=lambda item: (item[1]["megaflops"], -item[1]["threads"])))


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.plot", description=__doc__)
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    parser.add_argument("--out", type=Path, default=common.ROOT / "docs" / "figures")
    flags = parser.parse_args()
    figures = {}
    if compared := read(flags.results):
        figures["speed.png"] = speed(list(compared.values()))
        common.fill(PAGE, BEGIN, END, tables(compared))
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
