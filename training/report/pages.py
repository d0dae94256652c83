"""The pages of results in the documentation, and the tables of the README, written from the records alone."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from arn_purify import models
from arn_purify.models.files import write_atomically

from ..data.datasets import DATASETS, DatasetSpec, spec_of
from ..measuring.records import Record, read_all
from ..measuring.redflags import annotate, with_flags
from . import figures
from .markdown import markdown_table
from .paper import paper_rates
from .rows import Row, attack_title, brief_text, cell_text, row_label, row_of, row_order
from .sections import sections
from .selection import in_page_order, missing_target, of_target

_BEGIN, _END = "<!-- results: written by `arn-train tables` -->", "<!-- /results -->"
# The white-box columns of the tables of released models.
_WHITE_BOX = ("PGD_N", "AA_N")
_LEGEND = """\
A row is a defence and, in brackets, the checkpoint that was measured. `ARN_`, `HGD_` and `APE-G_` are followed by the
attacks seen in training: `PP` PGD_N and PGD_T, `DP` PGD_N and DDN_N, `PS` PGD_N and STA_N, `AP` two of the four
stickers, `wide` PGD_N and PGD_T at many budgets, `W` attacks through the purifier itself. An attack that ends in `_N`
is untargeted, in `_T` targeted. CW is Carlini and Wagner's, AA AutoAttack; JSMA changes few pixels, STA moves them, FWA
moves mass (Wasserstein), ROA is a rectangle, AP are stickers; ε' is a larger budget:
[settings](evaluation.md#attacks).
"""
_PICTURES = """
## Pictures

scikit-learn's digits in MNIST's frame, with the released LeNet-5 and `mnist-transparent`, neither trained on them. The
small number is the predicted class. Drawn by `arn-train figures`.

![Adversarial digits, and below them the purified ones](figures/restored.png)

The same when the attacker has the purifier:

![Digits attacked through the purifier, and below them the purified ones](figures/adaptive.png)

Features in the classifier's first layer (the paper's Figure 1):

![Features of a natural digit and of three adversarial ones](figures/features.png)
"""


def _title(dataset: str) -> str:
    return spec_of(dataset).title or dataset


def _choice(records: Sequence[Record]) -> str:
    """No defence, the released purifiers and the robust classifier, by what the attacker knows."""
    cells: dict[tuple[Row, str, str], Record] = {
        (row_of(r), r.threat_model, r.attack): r
        for r in records
        if r.dataset == "mnist"
        and (r.defence in ("none", "AT_PGD") or r.checkpoint in models.available())
        and r.in_process
    }
    unknown = [("oblivious", attack) for attack in ("none", "PGD_N", "AA_N", "PGD_N_eps2")]
    rows = []
    for row in sorted({row for row, _, _ in cells}, key=row_order):
        known = "oblivious" if row[0] == "none" else "white_box"  # without a defence there is nothing to know
        wanted = [*unknown, (known, "PGD_N"), (known, "AA_N")]
        rows.append([row_label(row), *(cell_text(cells.get((row, *key))) for key in wanted)])
    heads = ["error rate, %", "natural", "unknown: PGD_N", "AA_N", "PGD_N at .4", "known: PGD_N", "AA_N"]
    return markdown_table(heads, rows)


def _overview(records: Sequence[Record], results: Path) -> str:
    """The released models beside no defence and beside the paper; a table for data sets of the same columns."""
    groups: dict[tuple[str, ...], list[DatasetSpec]] = {}
    for spec in DATASETS.values():
        if spec.overview:
            groups.setdefault(spec.overview, []).append(spec)
    chosen = [r for r in of_target(records) if r.in_process]
    tables = []
    for columns, specs in groups.items():
        rows = [row for spec in specs for row in _released(chosen, results, spec)]
        heads = ["error, %", *map(attack_title, columns), *(f"white box: {attack_title(a)}" for a in _WHITE_BOX)]
        if rows:
            tables.append(markdown_table(heads, rows))
    return "\n\n".join(tables)


def _released(records: Sequence[Record], results: Path, spec: DatasetSpec) -> list[list[str]]:
    """One data set's rows of the overview: no defence, its released purifiers, the paper's row."""
    records = [r for r in records if r.dataset == spec.name]
    # The purifier of a data set that only splits another's images is not released, but shows what to expect.
    names = [f"{spec.name}-transparent", *(n for n in models.available() if n == f"{spec.name}-hardened")]
    wanted = [*(("oblivious", a) for a in spec.overview), *(("white_box", a) for a in _WHITE_BOX)]
    rows = []
    for name in ("", *names):
        cells: dict[tuple[str, str], Record] = {
            (r.threat_model, r.attack): r for r in records if (r.checkpoint == name if name else r.defence == "none")
        }
        if any(key in cells for key in wanted):
            bare = f"{_title(spec.name)}, `{next(iter(cells.values())).classifier}` alone"
            rows.append([f"`{name}`" if name else bare, *(brief_text(cells.get(key)) for key in wanted)])
    rates = paper_rates(results, spec.name)
    if rates and records:
        papers = [f"{rates[spec.paper_row, a]:.2f}" if (spec.paper_row, a) in rates else "" for a in spec.overview]
        missing = missing_target(records, spec.name)
        label = f"*the paper's {spec.paper_row}{f', in front of {missing}' if missing else ''}*"
        rows.append([label, *papers, *("" for _ in _WHITE_BOX)])
    return rows


def _between(path: Path, text: str) -> str:
    """A page with another text where its results stand.

    Raises:
        ValueError: it has no place for them.
    """
    head, _, rest = path.read_text().partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not end:
        raise ValueError(f"{path} has no place for the results: {_BEGIN} ... {_END}")
    return f"{head}{_BEGIN}\n\n{text}\n\n{_END}{tail}"


def _flags(records: Sequence[Record]) -> str:
    """A line for each flag, with the rows and attacks that have it."""
    carriers: dict[str, list[str]] = {}
    for r in records:
        for flag in r.flags:
            carrier = f"{row_label(row_of(r))} {r.attack} {r.threat_model}, {r.classifier}"
            carriers.setdefault(flag, []).append(carrier)
    lines = [f"- {flag}: {'; '.join(rows)}" for flag, rows in sorted(carriers.items())]
    explained = "[evaluation.md](evaluation.md#red-flags) explains each."
    return f"\n## Red flags ⚑\n\n{explained}\n\n" + "\n".join(lines) + "\n" if lines else ""


def _by_file(records: Sequence[Record], results: Path) -> list[Record]:
    """The records under the names of the files that were measured, as far as these exist.

    Where a file is gone and another has its name now, the record shows its recipe and short hash too.
    """
    files = [path for folder in (models.ZOO, results / "checkpoints") for path in folder.glob("*.safetensors")]
    names = {hashlib.sha256(path.read_bytes()).hexdigest(): path.stem for path in files}
    hashes: dict[str, set[str | None]] = {}
    for r in records:
        hashes.setdefault(r.checkpoint, set()).add(r.sha256.get("checkpoint"))

    def named(r: Record) -> Record:
        ambiguous = len(hashes[r.checkpoint]) > 1 and r.recipe
        name = names.get(r.sha256.get("checkpoint", ""), r.checkpoint_id if ambiguous else r.checkpoint)
        through = names.get(str(r.settings.get("surrogate_sha256")))
        settings: Mapping[str, object] = {**r.settings, "surrogate_name": through} if through else r.settings
        return dataclasses.replace(r, checkpoint=name, settings=settings)

    return [named(r) for r in records]


def _page(records: Sequence[Record], dataset: str, results: Path) -> str:
    """One data set's page."""
    papers = missing_target(records, dataset)
    target = of_target(records)[0].classifier
    instead = f"The target here is `{target}`, which stands in for the paper's `{papers}`.\n\n" if papers else ""
    pictures = ""
    if dataset == "mnist" and (results.parent / "docs" / "figures" / "restored.png").is_file():
        pictures = _PICTURES
    read = "How to read these tables: [results](results.md).\n\n"
    text = f"# Results: {_title(dataset)}\n\n{read}{instead}{sections(records, dataset, results)}\n"
    return text + pictures + _flags(records)


def _front(records: Sequence[Record], results: Path, datasets: Sequence[str]) -> str:
    """The front page of the results."""
    links = ", ".join(f"[{_title(dataset)}](results-{dataset}.md)" for dataset in datasets)
    return (
        "# Results\n\n"
        "Error rates in percent on the test split, lower is better. Attacks see the classifier alone (*oblivious*);\n"
        f"in the columns *white box* they see purifier and classifier.\n\n{_overview(records, results)}\n\n"
        f"Every defence and attack, with 95 % Wilson intervals: {links}.\n\n"
        "## How to read the tables\n\n"
        f"{_LEGEND}\n"
        "A cell is measured on all test images (MNIST 10,000) unless it states another number (*n*). Each is a record\n"
        "under `results/` with its [command](results-commands.md), settings, hashes of classifier and checkpoint,\n"
        "seed and versions. ⚑ marks a number with a [red flag](evaluation.md#red-flags). `arn-train tables` writes\n"
        "these pages; the paper's numbers are in `results/paper/tables.json`.\n"
    )


def _commands(records: Sequence[Record]) -> str:
    listing = "\n".join(sorted({record.command for record in records if record.command}))
    return (
        "# Results: commands\n\n"
        "The command of each record. Checkpoints under `runs/` are not kept:\n"
        "`scripts/reproduce mnist --only NAME`, or of another data set, trains one again.\n\n"
        f"```sh\n{listing}\n```\n"
    )


def _unmixed(records: Sequence[Record]) -> None:
    """Check that no row has numbers of two checkpoints, or of two classifiers of one name.

    Raises:
        ValueError: one has.
    """
    hashes: dict[tuple[str, str, str, str], tuple[str | None, str | None]] = {}
    for r in records:
        row = (r.dataset, r.classifier, r.defence, r.recipe)
        found = (r.sha256.get("classifier"), r.sha256.get("checkpoint"))
        if hashes.setdefault(row, found) != found:
            raise ValueError(f"{' '.join(row)}: its records are of two checkpoints; delete those of the older one")


def update(results: Path, check: bool = False) -> list[Path]:
    """Write the tables into the README and the pages of ``docs/``, and the plots; returns what was not up to date.

    With ``check`` nothing is written. Without it the records' flags are brought up to date first: records that two
    machines made may raise flags together.

    Raises:
        ValueError: a record that was changed after it was written, or records of two checkpoints in one row; with
            ``check``, flags that do not follow from the records.
    """
    root = results.parent
    records = list(read_all(results)) if check else annotate(results)
    if check and records != with_flags(records):
        raise ValueError(f"{results}: flags that do not follow from the records; write the tables again")
    _unmixed(records)
    records = _by_file(records, results)
    docs, readme, choosing = root / "docs", root / "README.md", root / "docs" / "choosing.md"
    datasets = in_page_order({record.dataset for record in records})
    wanted = {
        docs / "results.md": _front(records, results, datasets),
        docs / "results-commands.md": _commands(records),
        **{
            docs / f"results-{dataset}.md": _page([r for r in records if r.dataset == dataset], dataset, results)
            for dataset in datasets
        },
        readme: _between(readme, _overview(records, results)),
        choosing: _between(choosing, _choice(of_target(records))),
    }
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    folder = docs / "figures"
    plotted = of_target(records)
    outdated = figures.stale(folder, figures.plots(plotted))
    if (folder / "restored.png").is_file():
        cards = {name: models.card_of(models.load(name)) for name in models.available()}
        outdated += figures.stale(folder, figures.pictures(cards["mnist-lenet5"], cards["mnist-transparent"]))
        outdated += figures.stale(models.ZOO, figures.sheets(cards["mnist-lenet5"], list(cards.values())))
    if not check:
        for path in stale:
            write_atomically(path, wanted[path].encode())
        figures.draw_plots(plotted, folder)
    return [*stale, *outdated]
