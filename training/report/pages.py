"""The pages of results in the documentation, and the tables of the README, written from the records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from arn_purify import models
from arn_purify.models.files import write_atomically

from ..data.datasets import DATASETS, DatasetSpec, spec_of
from ..measuring.records import Record, read_all
from ..measuring.redflags import annotate, with_flags
from . import figures, plots
from .checkpoints import of_released_weights, under_file_names
from .hardened import hardened_sections
from .listing import commands_page
from .markdown import ERROR, markdown_table
from .paper import paper_rates
from .rows import Row, attack_title, cell_text, row_of, row_order
from .sections import ablation_sections, comparison_sections, released_sections
from .selection import (
    in_page_order,
    missing_target,
    of_released,
    of_target,
    released_classifier,
    released_names,
    target_of,
)
from .subsets import subsets
from .weakest import WEAKEST, weakest

_BEGIN, _END = "<!-- results: written by `arn-train tables` -->", "<!-- /results -->"
# The white-box columns of the tables of released models.
_WHITE_BOX = ("PGD_N", "AA_N")
_PICTURES = """\
## Pictures

These are scikit-learn's digits, placed in 28x28 pixels as in MNIST, with the released LeNet-5 and `mnist-transparent`.
Neither was trained on these digits.
The small number is the predicted class. `arn-train figures` draws them.

The attacker sees the classifier alone:

![Adversarial digits, and below them the purified ones](figures/oblivious.png)

The attacker sees the purifier too:

![Digits attacked through the purifier, and below them the purified ones](figures/white-box.png)

A feature of the classifier's first layer (the paper's Figure 1):

![A feature of a natural digit and of three adversarial ones](figures/features.png)"""
_WHERE = (
    "*Without* is the classifier alone. The oblivious attacker does not see the purifier; the white-box attacker\n"
    "differentiates through it. *n* is stated where not all test images were attacked."
)
_READ = "Error rates in percent on the test split; lower is better. Terms and names: [glossary](glossary.md)."


def _title(dataset: str) -> str:
    return spec_of(dataset).title or dataset


def _choice(records: Sequence[Record]) -> str:
    """No defence, the robust classifier and the released purifiers, by what the attacker knows."""
    cells: dict[tuple[Row, str, str], Record] = {
        (row_of(r), r.threat_model, r.attack): r
        for r in records
        if r.dataset == "mnist"
        and (r.defence in ("none", "AT_PGD") or r.checkpoint in models.available())
        and r.in_process
    }
    columns = sorted({row for row, _, _ in cells}, key=row_order)
    wanted = (
        ("natural images", "oblivious", "none"),
        ("unknown: PGD_N", "oblivious", "PGD_N"),
        ("unknown: AA_N", "oblivious", "AA_N"),
        ("unknown: PGD_N at .4", "oblivious", "PGD_N_eps2"),
        ("known: PGD_N", "white_box", "PGD_N"),
        ("known: AA_N", "white_box", "AA_N"),
    )
    rows = []
    for title, threat, attack in wanted:
        # Without a defence there is nothing to know.
        of = {row: cells.get((row, "oblivious" if row[0] == "none" else threat, attack)) for row in columns}
        rows.append([title, *(cell_text(of[row]) for row in columns)])
    names = ("no defence" if row[0] == "none" else row[0] if row[0] == "AT_PGD" else f"`{row[1]}`" for row in columns)
    return markdown_table([ERROR, *names], rows)


def _overview(records: Sequence[Record], results: Path, papers: bool) -> str:
    """The released models beside no defence; data sets of the same columns share a table.

    With ``papers`` the paper's rows are below, and the tables of every data set are shown, not the first alone.
    """
    grouped: dict[tuple[str, ...], list[DatasetSpec]] = {}
    for spec in DATASETS.values():
        if spec.overview:
            grouped.setdefault(spec.overview, []).append(spec)
    chosen = [r for r in of_released(records) if r.in_process]
    tables = []
    for columns, specs in grouped.items():
        rows = [row for spec in specs for row in _released(chosen, results, spec, papers)]
        if rows:
            white = (f"white box: {attack_title(a)}" for a in _WHITE_BOX)
            tables.append(markdown_table([ERROR, *map(attack_title, columns), *white], rows))
    return "\n\n".join(tables if papers else tables[:1])


def _released(records: Sequence[Record], results: Path, spec: DatasetSpec, papers: bool) -> list[list[str]]:
    """One data set's rows of the overview: no defence, its released purifiers, the paper's row."""
    records = [r for r in records if r.dataset == spec.name]
    white = [_nearest(records, attack) for attack in _WHITE_BOX]
    rows = []
    for name in ("", *released_names(spec.name)):
        own = [r for r in records if (r.checkpoint == name if name else r.defence == "none")]
        oblivious = {r.attack: r for r in own if r.threat_model == "oblivious"}
        if not own or not oblivious:
            continue
        cells = [cell_text(oblivious.get(a)) for a in spec.overview]
        for attack, nearest in zip(_WHITE_BOX, white, strict=True):
            found = next((r for r in own if (r.threat_model, r.attack) == ("white_box", nearest)), None)
            cells.append(cell_text(found, attack))
        bare = f"{_title(spec.name)}, {spec.title_of_target(own[0].classifier)} alone"
        rows.append([f"`{name}`" if name else bare, *cells])
    rates = paper_rates(results, spec.name)
    if papers and rates and records:
        missing = missing_target(records, spec.name)
        label = f"*the paper's {spec.paper_row}{f', in front of {missing}' if missing else ''}*"
        published = [rates.get((spec.paper_row, a)) for a in spec.overview]
        rows.append([label, *("" if v is None else f"{v:.2f}" for v in published), *("" for _ in _WHITE_BOX)])
    return rows


def _nearest(records: Sequence[Record], attack: str) -> str:
    """The white-box ``attack``, or where none was made at its usual budget the one at another."""
    names = sorted({r.attack for r in records if r.threat_model == "white_box"})
    return next((n for n in (attack, *names) if n in names and n.partition("@")[0] == attack and "x" not in n), attack)


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


def _pages(records: Sequence[Record], dataset: str, results: Path) -> dict[str, str]:
    """One data set's pages, by file name: the released models first, then what they are compared with."""
    title, first, compared = _title(dataset), f"results-{dataset}.md", f"results-{dataset}-comparison.md"
    target, released = target_of(records, dataset), released_classifier(records, dataset)
    papers = missing_target(records, dataset)
    instead = "The target is `{}`, which stands in for the paper's `{}`." if papers else ""
    parts = {
        compared: (
            f"{title}, every defence", [instead.format(target, papers), *comparison_sections(records, dataset, results)]
        ),
        f"results-{dataset}-hardened.md": (
            f"{title}, the hardened profile", hardened_sections(records, compared)
        ),
        f"results-{dataset}-ablation.md": (
            f"{title}, without L_adv, L_nor, L_att (the paper's Figure 4)", ablation_sections(records, dataset)
        ),
    }  # fmt: skip
    others = {name: (head, body) for name, (head, body) in parts.items() if any(body)}
    links = "\n".join(f"- [{head.removeprefix(f'{title}, ')}]({name})" for name, (head, _) in others.items())
    more = f"More tables:\n\n{links}"
    pictures = _PICTURES if (results.parent / "docs" / "figures" / "oblivious.png").is_file() else ""
    worst = weakest(records, [dataset])
    body = [
        _WHERE,
        f"## Weakest numbers\n\n{WEAKEST}\n\n{worst}" if worst else "",
        *released_sections(records, dataset),
        pictures if dataset == "mnist" else "",
        more,
    ]
    note = subsets([r for r in records if r.in_process])
    pages = {first: (title, [instead.format(released, papers), *body]), **others}
    return {
        name: "\n\n".join(part for part in (f"# Results: {head}", _READ, note, *body) if part) + "\n"
        for name, (head, body) in pages.items()
    }


def _front(records: Sequence[Record], results: Path, datasets: Sequence[str]) -> str:
    """The front page of the results."""
    links = "\n".join(f"- [{_title(dataset)}](results-{dataset}.md)" for dataset in datasets)
    return (
        "# Results\n\n"
        f"{_READ}\n"
        "*Oblivious* attacks see the classifier alone. In the columns *white box* they see the purifier too. The l∞\n"
        "budget ε is .3 on MNIST and 8/255 on the other data sets, unless a cell names another.\n\n"
        f"{_overview(records, results, papers=True)}\n\n"
        f"## Weakest numbers\n\n{WEAKEST}\n\n{weakest(records, datasets)}\n\n"
        "## All numbers\n\n"
        "These pages have all attacks on the released models with 95 % intervals, and link to every comparison:\n\n"
        f"{links}\n\n"
        "## Where the numbers come from\n\n"
        "A cell is measured on all test images (MNIST 10,000, CIFAR-10 9,980) unless it states another number, *n*.\n"
        "These *n* are every k-th image, so numbers with different *n* come from different images.\n"
        "Each number is a record with its command, settings, seed, versions, and the hashes of classifier and\n"
        "checkpoint. Its file is\n\n"
        "```\nresults/DATASET/CLASSIFIER/DEFENCE-RUN/ATTACK-THREAT.json\n```\n\n"
        "For example, `results/mnist/lenet5/ARN_PP-speckled/PGD_N-white_box.json` is the white-box error of\n"
        "`mnist-transparent` under PGD_N. The page *every defence* of a data set ends with the run of each\n"
        "checkpoint; without a defence the folder is `none`. The [commands](results-commands.md) are sorted by\n"
        "model, and [Reproduce one cell](evaluation.md#reproduce-one-cell) has an example.\n\n"
        "⚑ marks a number with a [red flag](evaluation.md#red-flags). `arn-train tables` writes these pages.\n"
        "The paper's numbers are in `results/paper/tables.json`.\n\n"
        "[The notes](notes.md) say how the networks were trained and what else was tried.\n"
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
    records = of_released_weights(records, results)
    _unmixed(records)
    records = under_file_names(records, results)
    docs, readme, choosing = root / "docs", root / "README.md", root / "docs" / "choosing.md"
    datasets = in_page_order({record.dataset for record in records})
    wanted = {
        docs / "results.md": _front(records, results, datasets),
        docs / "results-commands.md": commands_page(records, results),
        **{
            docs / name: text
            for dataset in datasets
            for name, text in _pages([r for r in records if r.dataset == dataset], dataset, results).items()
        },
        readme: _between(readme, _overview(records, results, papers=False).replace("(gloss", "(docs/gloss")),
        choosing: _between(choosing, _choice(of_target(records))),
    }
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    folder = docs / "figures"
    plotted = of_target(records)
    outdated = figures.stale(folder, plots.plots(plotted))
    if (folder / "oblivious.png").is_file():
        cards = {name: models.card_of(models.load(name)) for name in models.available()}
        outdated += figures.stale(folder, figures.pictures(cards["mnist-lenet5"], cards["mnist-transparent"]))
        outdated += figures.stale(models.ZOO, figures.sheets(cards["mnist-lenet5"], list(cards.values())))
    if not check:
        for path in stale:
            write_atomically(path, wanted[path].encode())
        plots.draw_plots(plotted, folder)
    return [*stale, *outdated]
