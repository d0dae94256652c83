"""The plots of the result pages, drawn from the records."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..attacks import ATTACKS
from ..data.datasets import spec_of
from ..measuring.records import Record
from .figures import figure_of, hash_of, save, stale
from .rows import attack_title, row_label, row_of, row_order
from .selection import AblationRow, ablation, is_variant, released_names, sweep

_COLOURS = ("#3b6fb6", "#c2553a", "#5a9367", "#8a6fb0", "#b08d3b")
# A part of each plot's hash: another number draws all of them again.
_STYLE = 2


def plot_name(kind: str, dataset: str) -> str:
    """File name of the ``ablation``, the ``comparison`` or the ``sweep`` of a data set."""
    return f"{kind}.png" if dataset == "mnist" else f"{kind}-{dataset}.png"


def plots(records: Sequence[Record]) -> dict[str, str]:
    """File name of each plot that the records allow, and the hash of what it shows."""
    return {name: digest for name, (digest, _) in _wanted(records).items()}


def draw_plots(records: Sequence[Record], folder: Path) -> None:
    """Draw the plots that are out of date."""
    wanted = _wanted(records)
    for path in stale(folder, {name: digest for name, (digest, _) in wanted.items()}):
        digest, draw = wanted[path.name]
        save(draw(), path, digest)


def _wanted(records: Sequence[Record]) -> dict[str, tuple[str, Callable[[], Any]]]:
    """By file name, the hash of what a plot shows and what draws it."""
    found: dict[str, tuple[str, Callable[[], Any]]] = {}
    for dataset in sorted({r.dataset for r in records}):
        chosen = [r for r in records if r.dataset == dataset]
        variants, swept, compared = ablation(chosen), sweep(chosen), _compared(chosen)
        if variants:
            shown: Any = {f"{r.recipe} {r.attack}": r.errors for group in variants.values() for r in group}
            found[plot_name("ablation", dataset)] = hash_of([_STYLE, shown]), partial(_ablation, variants)
        if swept:
            # The README shows it: the released purifiers, as far as there are any.
            swept = [r for r in swept if r.checkpoint in released_names(dataset)] or swept
            shown = {f"{r.defence} {r.checkpoint} {r.attack}": r.errors for r in swept}
            found[plot_name("sweep", dataset)] = hash_of([_STYLE, shown]), partial(_sweep, swept)
        if compared:
            shown = {f"{r.defence} {r.checkpoint} {r.attack}": (r.errors, r.n) for r in compared}
            digest = hash_of([_STYLE, spec_of(dataset).columns, shown])  # which are its panels
            found[plot_name("comparison", dataset)] = digest, partial(_comparison, compared)
    return found


def _compared(records: Sequence[Record]) -> list[Record]:
    """The oblivious records of the comparison's tables, without those over HTTP, which repeat others."""
    return [r for r in records if r.threat_model == "oblivious" and r.in_process and not is_variant(r)]


def _comparison(records: Sequence[Record]) -> Any:
    """A panel for each attack, a line for each defence: its error and the 95 % interval."""
    columns = [attack for group in spec_of(records[0].dataset).columns for attack in group]
    attacks = [attack for attack in columns if any(r.attack == attack for r in records)]
    rows = sorted({row_of(r) for r in records if r.attack in attacks}, key=row_order)
    width = min(5, len(attacks)) or 1
    height = -(-len(attacks) // width) or 1
    figure, grid = figure_of(
        2.4 + 1.7 * width, height * (0.7 + 0.2 * len(rows)), nrows=height, ncols=width, sharey=True, squeeze=False
    )
    for axis in grid.flat[len(attacks) :]:
        axis.set_visible(False)
    for axis, attack in zip(grid.flat, attacks, strict=False):
        found = {row_of(r): r for r in records if r.attack == attack}
        for place, row in enumerate(rows):
            if record := found.get(row):
                rate, low, high = (max(value, 0.05) for value in (record.error_rate, *record.ci95))
                bars = [[rate - low], [max(high - rate, 0)]]
                colour = _COLOURS[0] if row[0].startswith("ARN") else "#777777"
                axis.errorbar(rate, place, xerr=bars, fmt="o", ms=4, capsize=2, color=colour)
        ticks = [0.1, 1, 10, 100]
        axis.set(xscale="log", xlim=(0.05, 130), title=attack_title(attack), ylim=(len(rows) - 0.5, -0.5))
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_yticks(range(len(rows)), [row_label(row) for row in rows], fontsize=8)
        axis.grid(axis="x", alpha=0.3)
    for axis in grid.flat[max(0, len(attacks) - width) :]:  # nothing is drawn below them
        axis.set_xlabel("error, %")
    return figure


def _ablation(groups: Mapping[AblationRow, Sequence[Record]]) -> Any:
    bases = sorted({base for base, _, _ in groups})
    figure, axes = figure_of(9, 3.2 * len(bases), nrows=len(bases), squeeze=False)
    for axis, base in zip(axes[:, 0], bases, strict=True):
        variants = sorted({variant for b, variant, _ in groups if b == base}, key=lambda v: ("without" in v, v))
        members = {v: [r for (b, w, _), rs in groups.items() if (b, w) == (base, v) for r in rs] for v in variants}
        places_of = {name: place for place, name in enumerate(("none", *ATTACKS))}
        names = sorted(
            {r.attack for v in variants for r in members[v]}, key=lambda name: (places_of.get(name, 99), name)
        )
        for offset, variant in enumerate(variants):
            means, spreads = [], []
            for attack in names:
                rates = [r.error_rate for r in members[variant] if r.attack == attack]
                means.append(sum(rates) / len(rates) if rates else math.nan)
                spreads.append((means[-1] - min(rates), max(rates) - means[-1]) if rates else (0, 0))
            places = [i + 0.8 * offset / len(variants) for i in range(len(names))]
            axis.bar(
                places, means, 0.8 / len(variants), yerr=list(zip(*spreads, strict=True)), label=variant, capsize=2,
                color=_COLOURS[offset % len(_COLOURS)],
            )  # fmt: skip
        axis.set_xticks([i + 0.3 for i in range(len(names))], [attack_title(name) for name in names])
        axis.set(ylabel="error, %", title=f"recipe {base}: mean over seeds, with the best and the worst seed")
        axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    return figure


def _sweep(records: Sequence[Record]) -> Any:
    figure, axis = figure_of(6.5, 4)
    for colour, row in enumerate(sorted({row_of(r) for r in records}, key=row_order)):
        points = sorted((r for r in records if row_of(r) == row), key=lambda r: r.eps or 0)
        x, y = [r.eps for r in points], [r.error_rate for r in points]
        band = [r.ci95 for r in points]
        axis.plot(x, y, "o-", label=row[1] or row[0], color=_COLOURS[colour % len(_COLOURS)])
        axis.fill_between(x, [b[0] for b in band], [b[1] for b in band], alpha=0.2, color=_COLOURS[colour % 5])
    axis.set(
        xlabel="budget ε: largest change of a pixel, of a range of 1", ylabel="error, %", ylim=(0, 102),
        title="White box: PGD through purifier and classifier, 40 steps",
    )  # fmt: skip
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure
