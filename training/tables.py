"""Every table of the documents, written from the records and from nothing else."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import models
from models.checkpoint import write_atomically

from . import figures, lid
from .records import Record, ablation, has_other_weights, is_choice, read_all, sweep
from .redflags import annotate, with_flags
from .threats import ThreatName

# The columns of the paper's Table 1 and Table 2, and of the latter on LISA.
_COLUMNS = (
    ("none", "PGD_N", "PGD_T", "CW_N", "DDN_N", "AA_N", "JSMA_T", "PGD_N_eps2", "AA_N_eps2"),
    ("STA_N", "STA_T", "FWA_N", "FWA_N_eps2"),
)
_STICKERS = ("AP_1", "AP_2", "AP_3", "AP_4")
_TRANSFER = ("none", "PGD_N", "PGD_T", "CW_N", "DDN_N", "AA_N", "STA_N", "STA_T", "FWA_N")
_WHITE_BOX = (
    "PGD_N", "PGD_T", "PGD_Nx100", "PGD_Nx100r10", "PGDM_Nx100r10", "CW_N", "DDN_N", "AA_N", "SQUARE_N", "STA_N",
    "ROA_N", *_STICKERS,
)  # fmt: skip
# The paper's target of each data set, and the classifiers that may stand in for it; any other is one to transfer to.
_TARGETS = {
    "mnist": ("lenet5",),
    "cifar10": ("resnet110", "resnet18", "resnet20"),
    "lisa": ("lisa-cnn",),
    "lisa-track": ("cnn",),
}
_TITLES = {"cifar10": "CIFAR-10", "lisa-track": "LISA by track"}
_NAMES = {"none": "natural", "PGD_N_eps2": "PGD_N ε'", "AA_N_eps2": "AA_N ε'", "FWA_N_eps2": "FWA_N ε'"}
_TABLES = {
    "oblivious": (
        "Oblivious: the attack sees the classifier alone (the paper's Tables 1 and 2)",
        "AT_PGD and DOA, which are classifiers, are attacked here through the ordinary one too. The paper's rows of\n"
        "these two look like attacks on the robust classifier itself: compare them with the white-box rows.",
    ),
    "white_box": (
        "White box: the attack sees everything that answers",
        "A purifier that learned to undo what was crafted against the classifier alone falls when the gradient goes\n"
        "through it: it must not be relied on against an attacker who can hold or query it.",
    ),
}
_ABLATION = (
    "PGD_N and PGD_T seen, every attack oblivious: the mean over training seeds, and from the\n"
    "lowest to the highest of them."
)
_TRANSFERRED = "The purifiers learned in front of the target alone; the attack sees the classifier that stands here."
_DETECTION = (
    "A detector fitted on the validation split, of adversarial against natural and noisy images; what it calls\n"
    "adversarial among others of the test split. Restored images stand beside natural ones: where as few of them are\n"
    "called adversarial, they no longer carry what this detector looks for. What an image was made of is never among\n"
    "the neighbours that its estimate is taken from: with it restored images would seem more natural than natural\n"
    "ones. And an attacker who knows the detector passes it without any purifier (Athalye, Carlini & Wagner, ICML\n"
    "2018)."
)
_PICTURES = """
## Pictures

scikit-learn's digits in MNIST's frame, the LeNet-5 and the `mnist-transparent` that ship, neither trained on them; the
small number is the class that the classifier gives. Written by `arn-train figures`.

![Adversarial digits above what the purifier makes of them](figures/restored.png)

The same with the purifier in the attacker's hands:

![Digits attacked through the purifier above what it makes of them](figures/adaptive.png)

What the first layer of the classifier sees (the paper's Figure 1):

![Features of a natural digit and of three adversarial ones](figures/features.png)
"""
_RECIPES = (
    "A recipe's name is that of `train --recipe` (`training/recipes.py`), then what was changed of it, and the steps\n"
    "taken where they were not the recipe's own. A checkpoint's card tells its data, time and device."
)
# The order of the paper's rows.
_ORDER = ("none", "AT_PGD", "DOA", "APE-G", "HGD", "ARN")
_BEGIN, _END = "<!-- results: written by `arn-train tables` -->", "<!-- /results -->"

Row = tuple[str, str, str]
"""Defence, checkpoint and transport."""


def _row(record: Record) -> Row:
    name = "" if record.defence == "none" else record.checkpoint
    return record.defence, name, record.settings["transport"]


def _paper(results: Path, dataset: str) -> dict[tuple[str, str], float]:
    """The paper's oblivious error rates of a data set's first classifier, by defence and attack."""
    tables = json.loads((results / "paper" / "tables.json").read_text())
    first = next(iter(_TARGETS.get(dataset, ("",))))
    # Where it learned from stickers the paper names the method alone.
    seen = {"APE-G": "APE-G_AP", "ARN": "ARN_AP"}
    return {
        (seen.get(cell["defence"], cell["defence"]), cell["attack"]): cell["error_rate"]
        for cell in (*tables["table1"], *tables["table2"], *tables["table2_extra"])
        if cell["dataset"] == dataset and cell["classifier"] == first
    }


def _target(records: Sequence[Record], dataset: str) -> str:
    """The classifier that the tables of a data set are about: the paper's, a stand-in, or the most measured one."""
    measured = _by_count(record.classifier for record in records)
    return next((name for name in _targets(dataset) if name in measured), next(iter(measured), ""))


def is_target(dataset: str, name: str) -> bool:
    """Whether a data set's tables are about a classifier of this name; of one that the paper has not, about any."""
    targets = _targets(dataset)
    return not targets or name.removeprefix(f"{dataset}-") in targets


def _targets(dataset: str) -> list[str]:
    """:data:`_TARGETS` as records name classifiers, without their data set."""
    return [name.removeprefix(f"{dataset}-") for name in _TARGETS.get(dataset, ())]


def _mnist_first(datasets: Iterable[str]) -> list[str]:
    """In the order of the pages."""
    return sorted(datasets, key=lambda name: (name != "mnist", name))


def _by_count(names: Iterable[str]) -> list[str]:
    """Each name once, the most frequent first."""
    return [name for name, _ in Counter(names).most_common()]


def _of_target(records: Sequence[Record]) -> list[Record]:
    """The records in front of each data set's target."""
    of = {d: [r for r in records if r.dataset == d] for d in {r.dataset for r in records}}
    targets = {dataset: _target(chosen, dataset) for dataset, chosen in of.items()}
    return [r for r in records if r.classifier == targets[r.dataset]]


def _cell(record: Record | None) -> str:
    if record is None:
        return ""
    low, high = record.ci95
    size = "" if record.n == 10_000 else f", n {record.n:,}"
    flags = " ⚑" if record.flags else ""
    return f"**{record.error_rate:.2f}** <sub>{low:.2f} to {high:.2f}{size}</sub>{flags}"


_UNDEFENDED: Row = ("none", "", "in-process")
# How far, in points, the undefended rows may lie from each other where an attack shall count as the paper's.
_APART, _STICKERS_APART = 1.0, 5.0


def _label(row: Row) -> str:
    defence, checkpoint, transport = row
    notes = [checkpoint] if checkpoint else []
    if transport != "in-process":
        notes.append(f"over {transport.replace('http+', 'HTTP, ')}")
    return f"{defence} ({', '.join(notes)})" if notes else defence


def _table(records: Sequence[Record], attacks: Sequence[str], paper: dict[tuple[str, str], float]) -> str:
    """A row a defence, a column an attack, the paper's row and the difference under ours where it has one."""
    cells = {(_row(r), r.attack): r for r in records}
    columns = [attack for attack in attacks if any(attack == key[1] for key in cells)]
    rows = sorted({row for row, attack in cells if attack in columns}, key=_place)
    lines = [
        "| error rate, % | " + " | ".join(_NAMES.get(a, a) for a in columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for index, row in enumerate(rows):
        lines.append(f"| {_label(row)} | " + " | ".join(_cell(cells.get((row, a))) for a in columns) + " |")
        last_of_defence = index + 1 == len(rows) or rows[index + 1][0] != row[0]
        beside = "ARN_PP" if row[0] == "ARN_wide" else row[0]  # the former is ours alone
        published = [paper.get((beside, a)) for a in columns]
        if not last_of_defence or all(value is None for value in published):
            continue
        if beside == row[0]:
            told = ("" if value is None else f"{value:.2f}" for value in published)
            lines.append(f"| *the paper's {row[0]}* | " + " | ".join(told) + " |")
        if row[0].startswith("ARN"):
            first = next(r for r in rows if r[0] == row[0])
            less = (_difference(cells.get((first, a)), value) for a, value in zip(columns, published, strict=True))
            whose = "the paper's" if beside == row[0] else f"the paper's {beside}"
            lines.append(f"| *{_label(first)} less {whose}* | " + " | ".join(less) + " |")
    return "\n".join(lines) + _unlike(columns, cells, paper)


def _unlike(
    attacks: Iterable[str], cells: Mapping[tuple[Row, str], Record], paper: Mapping[tuple[str, str], float]
) -> str:
    """Says at which attacks the undefended classifier is too far from the paper's for the paper's rows to compare."""
    gaps = {
        attack: cells[_UNDEFENDED, attack].error_rate - paper["none", attack]
        for attack in attacks
        if attack != "none" and (_UNDEFENDED, attack) in cells and ("none", attack) in paper
    }
    far = [
        f"{_NAMES.get(attack, attack)} (undefended {gap:+.1f} points: a {'stronger' if gap > 0 else 'weaker'} attack)"
        for attack, gap in gaps.items()
        if abs(gap) > (_STICKERS_APART if attack in _STICKERS else _APART)
    ]
    return f"\n\nNot to be compared with the paper's rows: {', '.join(far)}." if far else ""


def _place(row: Row) -> tuple[object, ...]:
    """Rows in the paper's order, what ships first among those of a defence."""
    method = row[0].partition("_")[0]
    return (
        _ORDER.index(method) if method in _ORDER else len(_ORDER),
        row[0],
        row[1] not in models.available(),
        row[2] != "in-process",
        row,
    )


@functools.cache
def _shipped_recipes() -> dict[str, str]:
    """By data set the recipe of the transparent purifier that ships."""
    cards = (models.card_of(models.load(name)) for name in models.available())
    return {card.dataset: card.recipe for card in cards if card.profile == "transparent"}


def _ships(record: Record) -> bool:
    """Whether it is of no defence, or of one of the purifiers that ship for its data set."""
    shipped = (_shipped_recipes().get(record.dataset), "hardened")
    return record.defence == "none" or (record.defence.startswith("ARN") and record.recipe in shipped)


def _difference(record: Record | None, published: float | None) -> str:
    return "" if record is None or published is None else f"{record.error_rate - published:+.2f}"


def _adaptive(records: Sequence[Record], published: Sequence[dict[str, Any]]) -> str:
    """Tables 3 and 4: a row for each of the paper's, ours beside it, the hardened purifier under the transparent."""
    lines = ["| attacked | attack | defence | threat model | ours | the paper's | ours less |"]
    lines.append("| --- | --- | --- | --- | ---: | ---: | ---: |")
    for cell in published:
        attack = _adaptive_name(cell)
        ours: Record | None = None
        hardened: Record | None = None
        for record in records:
            method = record.defence.partition("_")[0]
            surrogate = str(record.settings.get("surrogate", "")).partition("_")[0]
            if (
                (method, record.threat_model, record.attack) == (cell["defence"], cell["threat_model"], attack)
                and (surrogate or method) == cell["attacked"].partition("+")[0]
                and record.settings.get("backward", "identity") == "identity"
            ):
                if record.recipe == "hardened":
                    hardened = record
                elif not is_choice(record.recipe) and (ours is None or _ours_first(record) > _ours_first(ours)):
                    ours = record
        attacked = cell["attacked"].replace("+L", " + LeNet-5").replace("+R", " + ResNet-110")
        for found in (ours, hardened) if hardened else (ours,):
            row = _label(_row(found)) if found else cell["defence"]
            lines.append(
                f"| {attacked} | {attack} | {row} | {cell['threat_model']} | {_cell(found)} "
                f"| {cell['error_rate']:.2f} | {_difference(found, cell['error_rate'])} |"
            )
    return "\n".join(lines)


def _ours_first(record: Record) -> tuple[bool, bool]:
    """What ships before all else, then what saw PGD_N and PGD_T."""
    return (record.recipe == _shipped_recipes().get(record.dataset), record.defence.endswith("_PP"))


def _adaptive_name(cell: dict[str, Any]) -> str:
    """Our name of an attack of the paper's Tables 3 and 4."""
    attack = str(cell["attack"]).partition("+")[0]
    if "_" not in attack:
        attack += "_T" if cell["goal"] == "targeted" else "_N"
    if cell.get("eps") not in (None, 0.3):
        attack += f"@{cell['eps']}"
    return attack + (f"x{cell['iterations']}" if cell["iterations"] not in (None, 40) else "")


_HARDENED = (
    "Trained against attacks that went through f after g, f frozen and ordinary; beside it the transparent one.\n"
    "`PGDM` climbs the margin in place of cross-entropy, `MATCH` pulls E's features to those of another class,\n"
    "`x100r10` is 100 steps from 10 random starts."
)
_REACH = (
    "A purifier may learn to write the class into the image for the one classifier that it was trained with. These\n"
    "classifiers are others, trained for themselves; a white-box attack goes through each of them."
)
_FIDELITY = (
    "Purified images beside the natural ones: PSNR of the mean squared error over all images, and mean SSIM\n"
    "(Gaussian window of 11 pixels)."
)
_CHOICES = (
    "Each row changes what its name says of the recipe: loss weights, numbers of the recipe, shape of the network,\n"
    "several classifiers (`3f`), steps in all. The recipe was fixed before any of these was measured."
)
_REACHED: tuple[tuple[str, ThreatName], ...] = (
    ("none", "oblivious"), ("PGD_N", "oblivious"), ("PGD_N", "white_box"), ("PGDM_Nx100", "white_box"),
    ("PGDM_Nx100r10", "white_box"), ("AA_N", "white_box"), ("SQUARE_N", "white_box"),
)  # fmt: skip


def _hardened(everything: Sequence[Record], first: str, heading: str) -> list[str]:
    """What a sceptic asks of the hardened profile, from a data set's records; ``first`` is its own f."""
    transparent, hardened = (
        _by_count(r.recipe for r in everything if r.defence == defence) for defence in ("ARN_PP", "ARN_W")
    )
    if not hardened:
        return []
    itself = "hardened" if "hardened" in hardened else hardened[0]  # a toy run has its length in its name
    beside = _shipped_recipes().get(everything[0].dataset) or next(iter(transparent), "")
    rows = {"none": ("",), "ARN_PP": (beside,), "ARN_wide": (beside,), "ARN_W": (itself,)}
    shown = [r for r in everything if r.recipe in rows.get(r.defence, ()) and r.settings["transport"] == "in-process"]
    of_first = [r for r in shown if r.classifier == first and r.defence != "none"]
    parts = [f"{heading} The hardened profile\n\n{_HARDENED}\n\n{_by_attack(of_first)}"]
    if {r.classifier for r in shown} != {first}:
        reach = _by_row(shown, _REACHED, lambda r: (r.classifier, _label(_row(r))))
        parts.append(f"{heading} The hardened profile in front of other classifiers\n\n{_REACH}\n\n{reach}")
    fidelity = _by_row(
        [r for r in shown if r.classifier == first and r.measures],
        (("none", "oblivious"), ("PGD_N", "oblivious"), ("PGD_N", "white_box")),
        lambda r: (_label(_row(r)),),
        lambda r: f"{r.measures['psnr']:.1f} dB, {r.measures['ssim']:.3f}" if "psnr" in r.measures else "equal",
    )
    parts.append(f"{heading} Fidelity\n\n{_FIDELITY}\n\n{fidelity}")
    choices = [
        r for r in everything
        if r.defence == "ARN_W" and r.settings["transport"] == "in-process"
        and (r.recipe != itself or r.classifier == first)
    ]  # fmt: skip
    if any(r.recipe != itself for r in choices):
        table = _by_row(choices, _REACHED, lambda r: (r.recipe, r.classifier))
        parts.append(f"{heading} What each choice of the hardened recipe buys\n\n{_CHOICES}\n\n{table}")
    return parts


def _by_attack(records: Sequence[Record]) -> str:
    """A row an attack and threat model, a column a defence; the loss of f beside the error, where it was measured."""
    defences = sorted({_row(r) for r in records}, key=_place)
    threats = ("white_box", "bpda", "gray_box", "oblivious")
    cells: dict[tuple[int, str, str], dict[Row, Record]] = {}
    for r in records:
        what = " ".join(
            [
                r.threat_model,
                *(str(r.settings[k]) for k in ("surrogate", "surrogate_recipe", "backward") if k in r.settings),
            ]
        )
        key = (threats.index(r.threat_model), what, r.attack)
        cells.setdefault(key, {})[_row(r)] = r
    lines = ["| error rate, % | threat model | " + " | ".join(_label(row) for row in defences) + " |"]
    lines.append("| --- | --- |" + " ---: |" * len(defences))
    for (_, what, attack), found in sorted(cells.items(), key=lambda item: (item[0][:2], _by_number(item[0][2]))):
        texts = []
        for row in defences:
            loss = found[row].measures.get("loss") if row in found else None
            texts.append(_cell(found.get(row)) + (f" <sub>loss {loss:.3g}</sub>" if loss is not None else ""))
        lines.append(f"| {_NAMES.get(attack, attack)} | {what} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _by_number(text: str) -> list[tuple[int, float, str]]:
    """A key by which ``PGD_Nx40`` comes before ``PGD_Nx100``."""
    parts = re.split(r"([0-9]+(?:[.][0-9]+)?)", text)
    return [(0, float(part), "") if index % 2 else (1, 0.0, part) for index, part in enumerate(parts)]


def _by_row(
    records: Sequence[Record],
    columns: Sequence[tuple[str, ThreatName]],
    row_of: Callable[[Record], tuple[str, ...]],
    cell_of: Callable[[Record], str] = lambda record: _cell(record),
) -> str:
    """A row for each ``row_of``, a column an attack and threat model, those that nothing was measured at left out."""
    cells = {(row_of(r), (r.attack, r.threat_model)): cell_of(r) for r in records}
    kept = [column for column in columns if any(column == key[1] for key in cells)]
    rows = sorted({row for row, column in cells if column in kept})
    width = len(rows[0]) if rows else 1
    heads = [
        f"{_NAMES.get(attack, attack)}, {what.replace('_', ' ')}".replace("natural, oblivious", "natural")
        for attack, what in kept
    ]
    lines = ["|" + "  |" * width + " " + " | ".join(heads) + " |", "|" + " --- |" * width + " ---: |" * len(kept)]
    lines.extend(f"| {' | '.join(row)} | " + " | ".join(cells.get((row, c), "") for c in kept) + " |" for row in rows)
    return "\n".join(lines)


def _groups(dataset: str, threat_model: str) -> tuple[tuple[str, ...], ...]:
    """The columns of each of a threat model's tables."""
    if threat_model != "oblivious":
        return (_WHITE_BOX,)
    return (("none", *_STICKERS),) if dataset.startswith("lisa") else (*_COLUMNS, _STICKERS)


def _sections(records: Sequence[Record], dataset: str, results: Path, heading: str, whole: bool) -> str:
    """The tables of one data set, a heading a threat model; all of them only where ``whole``."""
    everything, records = records, _of_target(records)
    paper, target = _paper(results, dataset), _target(everything, dataset)
    parts = []
    for threat_model, (title, remark) in _TABLES.items():
        chosen = [
            r for r in records
            if r.threat_model == threat_model and not has_other_weights(r.recipe) and not is_choice(r.recipe)
        ]  # fmt: skip
        # The paper's numbers are oblivious ones; beside a white box they would say nothing.
        beside = paper if threat_model == "oblivious" else {}
        tables = [
            _table(chosen, columns, beside)
            for columns in _groups(dataset, threat_model)
            if any(record.attack in columns for record in chosen)
        ]
        if tables:
            parts.append(f"{heading} {title}\n\n" + (f"{remark}\n\n" if whole else "") + "\n\n".join(tables))
    if whole:
        published = json.loads((results / "paper" / "tables.json").read_text())
        for key, title in (
            ("table3", "Adaptive attacks: gray box and white box (the paper's Table 3)"),
            ("table4", "BPDA, identity backward (the paper's Table 4)"),
        ):
            cells = [cell for cell in published[key] if cell["dataset"] == dataset]
            if cells:
                parts.append(f"{heading} {title}\n\n{_adaptive(records, cells)}")
        bpda = [r for r in records if r.threat_model == "bpda" and r.settings.get("backward") != "g"]
        if bpda and not any(cell["dataset"] == dataset for cell in published["table4"]):
            parts.append(f"{heading} BPDA, identity backward\n\n{_table(bpda, _WHITE_BOX, {})}")
        transfer = _transfer(everything, target, published["table5"])
        if transfer:
            parts.append(
                f"{heading} In front of other classifiers (the paper's Table 5)\n\n{_TRANSFERRED}\n\n{transfer}"
            )
        if sweep(records):
            picture = f"![White-box error over the budget](figures/{figures.plot_name('sweep', dataset)})"
            parts.append(f"{heading} White-box PGD_N over the budget\n\n{_sweep(records)}\n\n{picture}")
        if ablation(records):
            picture = f"![Error without each loss term](figures/{figures.plot_name('ablation', dataset)})"
            parts.append(
                f"{heading} Without L_adv, L_nor, L_att (the paper's Figure 4)\n\n{_ABLATION}\n\n{_ablation(records)}"
                f"\n\n{picture}"
            )
        parts.extend(_hardened(everything, target, heading))
        detection = _detection(results, dataset)
        if detection:
            parts.append(f"{heading} Detection by LID (section 4.3 of the paper)\n\n{_DETECTION}\n\n{detection}")
        recipes = sorted({(r.checkpoint, r.recipe) for r in everything if r.recipe and not has_other_weights(r.recipe)})
        if recipes:
            lines = ["| checkpoint | recipe |", "| --- | --- |", *(f"| `{a}` | `{b}` |" for a, b in recipes)]
            parts.append(f"{heading} How each was trained\n\n{_RECIPES}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _transfer(records: Sequence[Record], target: str, published: Sequence[dict[str, Any]]) -> str:
    """Table 5: a table for each other classifier, the paper's rows below ours."""
    tables = []
    for classifier in sorted({record.classifier for record in records} - {target}):
        chosen = [
            r for r in records
            if r.classifier == classifier and r.threat_model == "oblivious" and not is_choice(r.recipe)
        ]  # fmt: skip
        beside = {(c["defence"], c["attack"]): c["error_rate"] for c in published if c["classifier"] == classifier}
        if chosen:
            tables.append(f"{classifier}:\n\n{_table(chosen, _TRANSFER, beside)}")
    return "\n\n".join(tables)


def _sweep(records: Sequence[Record]) -> str:
    """White-box PGD_N, a column a budget."""
    chosen = sweep(records)
    budgets = sorted({r.eps for r in chosen if r.eps is not None})
    cells = {(_row(r), r.eps): r for r in chosen}
    lines = ["| error rate, % | " + " | ".join(f"ε {eps:g}" for eps in budgets) + " |"]
    lines.append("| --- |" + " ---: |" * len(budgets))
    lines.extend(
        f"| {_label(row)} | " + " | ".join(_cell(cells.get((row, eps))) for eps in budgets) + " |"
        for row in sorted({row for row, _ in cells}, key=_place)
    )
    return "\n".join(lines)


def _ablation(records: Sequence[Record]) -> str:
    """Figure 4: a row a variant, the mean over its seeds and from which to which."""
    groups = ablation(records)
    attacks = [a for columns in _COLUMNS for a in columns if any(r.attack == a for rs in groups.values() for r in rs)]
    lines = ["| error rate, % | seeds | " + " | ".join(_NAMES.get(a, a) for a in attacks) + " |"]
    lines.append("| --- | ---: |" + " ---: |" * len(attacks))
    for base, variant in sorted({(b, v) for b, v, _ in groups}, key=lambda k: (k[0], "without" in k[1], k[1])):
        members = {seed: rs for (b, v, seed), rs in groups.items() if (b, v) == (base, variant)}
        cells = []
        for attack in attacks:
            found = [r for rs in members.values() for r in rs if r.attack == attack]
            if not found:
                cells.append("")
                continue
            rates, n = [r.error_rate for r in found], found[0].n
            size = "" if n == 10_000 else f", n {n:,}"
            cells.append(f"**{sum(rates) / len(rates):.2f}** <sub>{min(rates):.2f} to {max(rates):.2f}{size}</sub>")
        lines.append(f"| {base}, {variant} | {len(members)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _detection(results: Path, dataset: str) -> str:
    """LID detection, a row a defence."""
    rows = [lid.read(path) for path in sorted((results / dataset).rglob("lid-*.json"))]
    if not rows:
        return ""
    published = json.loads((results / "paper" / "tables.json").read_text())["lid_recall"].get(dataset)
    beside = "" if published is None else f"{published:.2f}"
    lines = [
        "| called adversarial, % | adversarial | restored | natural | noisy | area under ROC | restored, the paper's |",
        "| --- |" + " ---: |" * 6,
    ]
    for row in rows:
        label = _label((row["defence"], row["checkpoint"], "in-process"))
        found = row["detection"]
        shares = " | ".join(f"{found[key]:.2f}" for key in ("adversarial", "restored", "natural", "noisy"))
        lines.append(f"| {label}, {row['attack']}, n {row['n']:,} | {shares} | {found['area']:.3f} | {beside} |")
    return "\n".join(lines)


def _choice(records: Sequence[Record]) -> str:
    """No defence, the shipped purifiers and the robust classifier, by what the attacker knows; no other rows."""
    chosen = [r for r in records if _ships(r) or r.defence == "AT_PGD"]
    cells: dict[tuple[Row, str, str], Record] = {
        (_row(r), r.threat_model, r.attack): r
        for r in chosen
        if r.dataset == "mnist" and r.settings["transport"] == "in-process"
    }
    unknown = ("none", "PGD_N", "AA_N", "PGD_N_eps2")
    lines = ["| error rate, % | natural | unknown: PGD_N | AA_N | PGD_N at .4 | known: PGD_N | AA_N |"]
    lines.append("| --- |" + " ---: |" * 6)
    for row in sorted({row for row, _, _ in cells}, key=_place):
        known = "oblivious" if row[0] == "none" else "white_box"  # without a defence there is nothing to know
        wanted = [*(("oblivious", a) for a in unknown), *((known, a) for a in ("PGD_N", "AA_N"))]
        lines.append(f"| {_label(row)} | " + " | ".join(_cell(cells.get((row, *key))) for key in wanted) + " |")
    return "\n".join(lines)


def _overview(records: Sequence[Record], results: Path) -> str:
    """The rows of no defence and of what ships, MNIST first."""
    parts = []
    for dataset in _mnist_first(_shipped_recipes()):
        chosen = [r for r in records if r.dataset == dataset and _ships(r)]
        if chosen:
            sections = _sections(chosen, dataset, results, "####", whole=False)
            parts.append(f"### {_TITLES.get(dataset, dataset.upper())}\n\n{_stand_in(chosen, dataset)}{sections}")
    return "\n\n".join(parts)


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
    """A line a flag, and the rows and attacks that carry it."""
    carriers: dict[str, list[str]] = {}
    for r in records:
        for flag in r.flags:
            carrier = f"{_label(_row(r))} {r.attack} {r.threat_model}, {r.dataset} {r.classifier}"
            carriers.setdefault(flag, []).append(carrier)
    lines = [f"- {flag}: {'; '.join(rows)}" for flag, rows in sorted(carriers.items())]
    explained = "What each means is told in [evaluation.md](evaluation.md#red-flags)."
    return f"\n## Red flags ⚑\n\n{explained}\n\n" + "\n".join(lines) + "\n" if lines else ""


def _stand_in(records: Sequence[Record], dataset: str) -> str:
    """Says so where the target is not the paper's."""
    target, papers = _target(records, dataset), _TARGETS.get(dataset, ("",))[0].removeprefix(f"{dataset}-")
    if not papers or target == papers:
        return ""
    return f"The target here is `{target}`, which stands in for the paper's `{papers}`.\n\n"


def _by_file(records: Sequence[Record], root: Path) -> list[Record]:
    """The records under the name that the checkpoint they were measured on has now; one that is not here keeps its."""
    files = (path for folder in (models.ZOO, root / "checkpoints") for path in folder.glob("*.safetensors"))
    names = {hashlib.sha256(path.read_bytes()).hexdigest(): path.stem for path in files}
    return [dataclasses.replace(r, checkpoint=names.get(r.sha256.get("checkpoint", ""), r.checkpoint)) for r in records]


def _results_page(records: Sequence[Record], results: Path) -> str:
    text = (
        "# Results\n\n"
        "Error rates in percent on the test split, lower is better, with 95 % Wilson intervals; all 10,000 images\n"
        "unless a cell says otherwise. Every cell is a record under `results/` that holds the command, the settings,\n"
        "the hashes of classifier and checkpoint, the seed and the versions. This page is written by\n"
        "`arn-train tables`; the paper's numbers are in `results/paper/tables.json`.\n"
    )
    for dataset in _mnist_first({record.dataset for record in records}):
        chosen = [record for record in records if record.dataset == dataset]
        sections = _sections(chosen, dataset, results, "###", whole=True)
        text += f"\n## {_TITLES.get(dataset, dataset.upper())}\n\n{_stand_in(chosen, dataset)}{sections}\n"
    if (results.parent / "docs" / "figures" / "restored.png").is_file():
        text += _PICTURES
    commands = sorted({record.command for record in records if record.command})
    listing = "\n".join(commands)
    return text + _flags(records) + f"\n## Commands\n\n```sh\n{listing}\n```\n"


def _unmixed(records: Sequence[Record]) -> None:
    """Raises ``ValueError`` where a row would hold numbers of two checkpoints or of two classifiers of one name."""
    hashes: dict[tuple[str, str, str, str], tuple[str | None, str | None]] = {}
    for r in records:
        found = (r.sha256.get("classifier"), r.sha256.get("checkpoint"))
        for name in {r.recipe, r.checkpoint}:
            row = (r.dataset, r.classifier, r.defence, name)
            if hashes.setdefault(row, found) != found:
                raise ValueError(f"{' '.join(row)}: its records are of two checkpoints; delete those of the older one")


def update(results: Path, check: bool = False) -> list[Path]:
    """Write the tables into the README and two pages of ``docs/``, and the plots; returns what was not up to date.

    With ``check`` nothing is written; without it the records' flags are brought up to date first, since records that
    two machines made can tell something together.

    Raises:
        ValueError: a record that was changed after it was written, or records of two checkpoints in one row; with
            ``check``, flags that do not follow from all.
    """
    root = results.parent
    records = list(read_all(results)) if check else annotate(results)
    if check and records != with_flags(records):
        raise ValueError(f"{results}: flags that do not follow from the records; write the tables again")
    records = _by_file(records, results)
    _unmixed(records)
    readme, choosing = root / "README.md", root / "docs" / "choosing.md"
    wanted = {
        root / "docs" / "results.md": _results_page(records, results),
        readme: _between(readme, _overview(records, results)),
        choosing: _between(choosing, _choice(_of_target(records))),
    }
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    folder = root / "docs" / "figures"
    plotted = _of_target(records)
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
