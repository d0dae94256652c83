"""The tables of one data set, from the records and from nothing else."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arn_purify import models

from ..measuring import lid
from ..measuring.records import Record, ablation, has_other_weights, is_choice, sweep
from ..measuring.threats import ThreatName
from . import figures

# The columns of the paper's Table 1 and Table 2, and of the latter on LISA.
_COLUMNS = (
    ("none", "PGD_N", "PGD_T", "CW_N", "DDN_N", "AA_N", "JSMA_T", "PGD_N_eps2", "AA_N_eps2"),
    ("STA_N", "STA_T", "FWA_N", "FWA_N_eps2"),
)
STICKERS = ("AP_1", "AP_2", "AP_3", "AP_4")
_TRANSFER = ("none", "PGD_N", "PGD_T", "CW_N", "DDN_N", "AA_N", "STA_N", "STA_T", "FWA_N")
_WHITE_BOX = (
    "PGD_N", "PGD_T", "PGD_Nx100", "PGD_Nx100r10", "PGDM_Nx100r10", "CW_N", "DDN_N", "AA_N", "SQUARE_N", "STA_N",
    "ROA_N", *STICKERS,
)  # fmt: skip
# The paper's target of each data set, and the classifiers that may stand in for it; any other is one to transfer to.
_TARGETS = {
    "mnist": ("lenet5",),
    "cifar10": ("resnet110", "resnet18", "resnet20"),
    "lisa": ("lisa-cnn",),
    "lisa-track": ("cnn",),
}
NAMES = {"none": "natural", "PGD_N_eps2": "PGD_N ε'", "AA_N_eps2": "AA_N ε'", "FWA_N_eps2": "FWA_N ε'"}
_TABLES = {
    "oblivious": (
        "Oblivious: the attack sees the classifier alone",
        "AT_PGD and DOA, which are classifiers, are attacked here through the ordinary one too. The paper's rows of\n"
        "these two look like attacks on the robust classifier itself: compare them with the white-box rows.",
    ),
    "white_box": (
        "White box: the attack sees everything that answers",
        "A purifier that learned to undo what was crafted against the classifier alone falls when the gradient goes\n"
        "through it: it must not be relied on against an attacker who can hold or query it.",
    ),
}
_ROBUST = ("AT_PGD", "DOA_7x7", "DOA_9x5")
_ABLATION = (
    "`paper-` is the paper's recipe, `transparent-` and `cifar10-` ours, behind it the steps taken.\n"
    "PGD_N and PGD_T seen, every attack oblivious: the mean over training seeds, and from the\n"
    "lowest to the highest of them."
)
_TRANSFERRED = "The purifiers learned in front of the target alone; the attack sees the classifier that stands here."
_DETECTION = (
    "A detector fitted on the validation split, of adversarial against natural and noisy images; what it calls\n"
    "adversarial among others of the test split. Restored images stand beside natural ones: where as few of them are\n"
    "called adversarial, they no longer carry what this detector looks for. An image's own source is excluded from\n"
    "its neighbours; otherwise restored images would look more natural than natural ones. And an attacker who knows\n"
    "the detector passes it without any purifier (Athalye, Carlini & Wagner, ICML 2018)."
)
_RECIPES = (
    "A recipe's name is that of `train --recipe` (`training/recipes.py`), then what was changed of it, and the steps\n"
    "taken where they were not the recipe's own. A checkpoint's card (`models/zoo`, `results/checkpoints`) tells its\n"
    "data, seed and command."
)
# The order of the paper's rows.
_ORDER = ("none", "AT", "DOA", "APE-G", "HGD", "ARN")

_IN_WORDS = {"oblivious": "oblivious", "gray_box": "gray box", "white_box": "white box", "bpda": "BPDA"}

Row = tuple[str, str, str]
"""Defence, checkpoint and transport."""


def row_of(record: Record) -> Row:
    """The row that a record's cell stands in."""
    name = "" if record.defence == "none" else record.checkpoint
    return record.defence, name, record.settings["transport"]


def paper_rates(results: Path, dataset: str) -> dict[tuple[str, str], float]:
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


def mnist_first(datasets: Iterable[str]) -> list[str]:
    """In the order of the pages."""
    return sorted(datasets, key=lambda name: (name != "mnist", name))


def _by_count(names: Iterable[str]) -> list[str]:
    """Each name once, the most frequent first."""
    return [name for name, _ in Counter(names).most_common()]


def of_target(records: Sequence[Record]) -> list[Record]:
    """The records in front of each data set's target."""
    of = {d: [r for r in records if r.dataset == d] for d in {r.dataset for r in records}}
    targets = {dataset: _target(chosen, dataset) for dataset, chosen in of.items()}
    return [r for r in records if r.classifier == targets[r.dataset]]


def cell_text(record: Record | None) -> str:
    """The rate with its interval, n where not all images were taken, and whether it is flagged."""
    if record is None:
        return ""
    low, high = record.ci95
    size = "" if record.n == 10_000 else f", n {record.n:,}"
    flags = " ⚑" if record.flags else ""
    return f"**{record.error_rate:.2f}** <sub>{low:.2f} to {high:.2f}{size}</sub>{flags}"


_UNDEFENDED: Row = ("none", "", "in-process")
# How far, in points, the undefended rows may lie from each other where an attack shall count as the paper's.
_APART, _STICKERS_APART = 1.0, 5.0


def row_label(row: Row) -> str:
    """What stands at the row's head."""
    defence, checkpoint, transport = row
    notes = [checkpoint] if checkpoint else []
    if transport != "in-process":
        notes.append(f"over {transport.replace('http+', 'HTTP, ')}")
    return f"{defence} ({', '.join(notes)})" if notes else defence


def table(
    records: Sequence[Record], attacks: Sequence[str], paper: Mapping[tuple[str, str], float], alike: bool = True
) -> str:
    """A row a defence, a column an attack, the paper's row under ours where it has one.

    Under that the difference, where the classifier is the paper's (``alike``) and so is the attack.
    """
    cells = {(row_of(r), r.attack): r for r in records}
    columns = [attack for attack in attacks if any(attack == key[1] for key in cells)]
    rows = sorted({row for row, attack in cells if attack in columns}, key=place)
    far = _far(columns, cells, paper)
    lines = [
        "| error rate, % | " + " | ".join(NAMES.get(a, a) for a in columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for index, row in enumerate(rows):
        lines.append(f"| {row_label(row)} | " + " | ".join(cell_text(cells.get((row, a))) for a in columns) + " |")
        last_of_defence = index + 1 == len(rows) or rows[index + 1][0] != row[0]
        published = [paper.get((row[0], a)) for a in columns]
        if not last_of_defence or all(value is None for value in published):
            continue
        told = ("" if value is None else f"{value:.2f}" for value in published)
        lines.append(f"| *the paper's {row[0]}* | " + " | ".join(told) + " |")
        if row[0].startswith("ARN") and alike:
            first = next(r for r in rows if r[0] == row[0])
            less = (
                "" if a in far else _difference(cells.get((first, a)), value)
                for a, value in zip(columns, published, strict=True)
            )  # fmt: skip
            lines.append(f"| *{row_label(first)}, difference to the paper's* | " + " | ".join(less) + " |")
    gaps = (
        f"{NAMES.get(attack, attack)} (undefended {gap:+.1f} points: a {'stronger' if gap > 0 else 'weaker'} attack)"
        for attack, gap in far.items()
    )
    return "\n".join(lines) + (f"\n\nNot to be compared with the paper's rows: {', '.join(gaps)}." if far else "")


def _far(
    attacks: Iterable[str], cells: Mapping[tuple[Row, str], Record], paper: Mapping[tuple[str, str], float]
) -> dict[str, float]:
    """Where the undefended classifier's error is too far from the paper's for one attack to count as the other."""
    gaps = {
        attack: cells[_UNDEFENDED, attack].error_rate - paper["none", attack]
        for attack in attacks
        if attack != "none" and (_UNDEFENDED, attack) in cells and ("none", attack) in paper
    }
    return {
        attack: gap for attack, gap in gaps.items() if abs(gap) > (_STICKERS_APART if attack in STICKERS else _APART)
    }


def place(row: Row) -> tuple[object, ...]:
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


def _difference(record: Record | None, published: float | None) -> str:
    return "" if record is None or published is None else f"{record.error_rate - published:+.2f}"


def _adaptive(records: Sequence[Record], published: Sequence[dict[str, Any]], alike: bool) -> str:
    """Tables 3 and 4: a row for each of the paper's, beside it ours that saw the same, under it the others that ship.

    The difference only where the classifier is the paper's (``alike``) and ours saw the same.
    """
    lines = ["| attacked | attack | defence | threat model | ours | the paper's | difference |"]
    lines.append("| --- | --- | --- | --- | ---: | ---: | ---: |")
    for cell in published:
        attack = _adaptive_name(cell)
        found = [r for r in records if _is_of(r, cell, attack) and not is_choice(r.recipe)]
        same = sorted((r for r in found if r.defence.endswith("_PP")), key=lambda r: place(row_of(r)))[:1]
        shown = [*same, *(r for r in found if r not in same and r.checkpoint in models.available())]
        target = "ResNet-110" if alike else "ResNet-20 (the paper's: ResNet-110)"
        attacked = cell["attacked"].replace("+L", " + LeNet-5").replace("+R", f" + {target}")
        rows: Sequence[Record | None] = shown or [None]
        for record in rows:
            row = row_label(row_of(record)) if record else cell["defence"]
            less = _difference(record, cell["error_rate"]) if alike else ""
            lines.append(
                f"| {attacked} | {attack} | {row} | {_IN_WORDS[cell['threat_model']]} | {cell_text(record)} "
                f"| {cell['error_rate']:.2f} | {less} |"
            )
    return "\n".join(lines)


def _is_of(record: Record, cell: Mapping[str, Any], attack: str) -> bool:
    """Whether a record is of what a cell of the paper's Tables 3 and 4 is of."""
    method = record.defence.partition("_")[0]
    surrogate = str(record.settings.get("surrogate", "")).partition("_")[0]
    return (
        (method, record.threat_model, record.attack) == (cell["defence"], cell["threat_model"], attack)
        and (surrogate or method) == cell["attacked"].partition("+")[0]
        and record.settings.get("backward", "identity") == "identity"
    )


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
    "`x100r10` is 100 steps from 10 random starts. *Loss* is the mean cross-entropy of the answers."
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
    "Each row is a short run that changes one thing of the recipe (under *How each was trained*): `-base` nothing,\n"
    "`-from-nothing` has no `--init`, `-trades` TRADES' divergence for cross-entropy, `-one-step` one inner step for\n"
    "ten, `-no-picture` no L1, `-no-ramp` the whole budget from the first step, `joint` tunes the classifier too, and\n"
    "`-reach` goes on from what ships through an MLP as well. The recipe was fixed before any of these was measured."
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
    if {r.classifier for r in shown if r.defence == "ARN_W"} != {first}:
        reach = _by_row(shown, _REACHED, lambda r: (r.classifier, row_label(row_of(r))))
        parts.append(f"{heading} The hardened profile in front of other classifiers\n\n{_REACH}\n\n{reach}")
    fidelity = _by_row(
        [r for r in shown if r.classifier == first and r.measures],
        (("none", "oblivious"), ("PGD_N", "oblivious"), ("PGD_N", "white_box")),
        lambda r: (row_label(row_of(r)),),
        lambda r: f"{r.measures['psnr']:.1f} dB, {r.measures['ssim']:.3f}" if "psnr" in r.measures else "equal",
    )
    parts.append(f"{heading} Image quality\n\n{_FIDELITY}\n\n{fidelity}")
    choices = [
        r for r in everything
        if r.defence == "ARN_W" and r.settings["transport"] == "in-process"
        and (r.recipe != itself or r.classifier == first)
    ]  # fmt: skip
    if any(r.recipe != itself for r in choices):
        bought = _by_row(choices, _REACHED, lambda r: (r.checkpoint, r.classifier))
        parts.append(f"{heading} What each choice of the hardened recipe buys\n\n{_CHOICES}\n\n{bought}")
    return parts


def _by_attack(records: Sequence[Record]) -> str:
    """A row an attack and threat model, a column a defence; the loss of f beside the error, where it was measured."""
    defences = sorted({row_of(r) for r in records}, key=place)
    threats = ("white_box", "bpda", "gray_box", "oblivious")
    cells: dict[tuple[int, str, str], dict[Row, Record]] = {}
    for r in records:
        what = _threat(r)
        key = (threats.index(r.threat_model), what, r.attack)
        cells.setdefault(key, {})[row_of(r)] = r
    lines = ["| error rate, % | threat model | " + " | ".join(row_label(row) for row in defences) + " |"]
    lines.append("| --- | --- |" + " ---: |" * len(defences))
    for (_, what, attack), found in sorted(cells.items(), key=lambda item: (item[0][:2], _by_number(item[0][2]))):
        texts = []
        for row in defences:
            loss = found[row].measures.get("loss") if row in found else None
            texts.append(cell_text(found.get(row)) + (f" <sub>loss {loss:.3g}</sub>" if loss is not None else ""))
        lines.append(f"| {NAMES.get(attack, attack)} | {what} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _threat(record: Record) -> str:
    """The threat model in words, with what the attacker holds."""
    told = _IN_WORDS[record.threat_model]
    if "surrogate" in record.settings:
        told += f", through {record.settings.get('surrogate_name') or record.settings['surrogate']}"
    return told + (", g's gradient" if record.settings.get("backward") == "g" else "")


def _by_number(text: str) -> list[tuple[int, float, str]]:
    """A key by which ``PGD_Nx40`` comes before ``PGD_Nx100``."""
    parts = re.split(r"([0-9]+(?:[.][0-9]+)?)", text)
    return [(0, float(part), "") if index % 2 else (1, 0.0, part) for index, part in enumerate(parts)]


def _by_row(
    records: Sequence[Record],
    columns: Sequence[tuple[str, ThreatName]],
    key_of: Callable[[Record], tuple[str, ...]],
    cell_of: Callable[[Record], str] = lambda record: cell_text(record),
) -> str:
    """A row for each ``key_of``, a column an attack and threat model, those that nothing was measured at left out."""
    cells = {(key_of(r), (r.attack, r.threat_model)): cell_of(r) for r in records}
    kept = [column for column in columns if any(column == key[1] for key in cells)]
    rows = sorted({row for row, column in cells if column in kept})
    width = len(rows[0]) if rows else 1
    heads = [
        f"{NAMES.get(attack, attack)}, {what.replace('_', ' ')}".replace("natural, oblivious", "natural")
        for attack, what in kept
    ]
    lines = ["|" + "  |" * width + " " + " | ".join(heads) + " |", "|" + " --- |" * width + " ---: |" * len(kept)]
    lines.extend(f"| {' | '.join(row)} | " + " | ".join(cells.get((row, c), "") for c in kept) + " |" for row in rows)
    return "\n".join(lines)


def _groups(dataset: str, threat_model: str) -> tuple[tuple[str, ...], ...]:
    """The columns of each of a threat model's tables."""
    if threat_model != "oblivious":
        return (_WHITE_BOX,)
    return (("none", *STICKERS),) if dataset.startswith("lisa") else (*_COLUMNS, STICKERS)


def sections(everything: Sequence[Record], dataset: str, results: Path) -> str:
    """Every table of one data set."""
    heading, records = "##", of_target(everything)
    paper, target = paper_rates(results, dataset), _target(everything, dataset)
    alike = not stand_in(everything, dataset)
    parts = []
    for threat_model, (title, remark) in _TABLES.items():
        chosen = [
            r for r in records
            if r.threat_model == threat_model and not has_other_weights(r.recipe) and not is_choice(r.recipe)
        ]  # fmt: skip
        # The paper's numbers are oblivious ones; beside a white box they would say nothing.
        beside = paper if threat_model == "oblivious" else {}
        tables = [
            table(chosen, columns, beside, alike)
            for columns in _groups(dataset, threat_model)
            if any(record.attack in columns for record in chosen)
        ]
        if tables:
            whose = " (the paper's Tables 1 and 2)" if beside else ""
            told = remark if threat_model == "white_box" or any(r.defence in _ROBUST for r in chosen) else ""
            parts.append("\n\n".join(part for part in (f"{heading} {title}{whose}", told, *tables) if part))
    published = json.loads((results / "paper" / "tables.json").read_text())
    for key, title in (
        ("table3", "Adaptive attacks: gray box and white box (the paper's Table 3)"),
        ("table4", "BPDA, identity backward (the paper's Table 4)"),
    ):
        cells = [cell for cell in published[key] if cell["dataset"] == dataset]
        if cells:
            parts.append(f"{heading} {title}\n\n{_adaptive(records, cells, alike)}")
    bpda = [r for r in records if r.threat_model == "bpda" and r.settings.get("backward") != "g"]
    if bpda and not any(cell["dataset"] == dataset for cell in published["table4"]):
        parts.append(f"{heading} BPDA, identity backward\n\n{table(bpda, _WHITE_BOX, {})}")
    transfer = _transfer(everything, target, published["table5"])
    if transfer:
        parts.append(f"{heading} In front of other classifiers (the paper's Table 5)\n\n{_TRANSFERRED}\n\n{transfer}")
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
    recipes = sorted(
        {
            (r.checkpoint, r.recipe)
            for r in everything
            if r.recipe and (is_choice(r.recipe) or not has_other_weights(r.recipe))
        }
    )
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
            tables.append(f"In front of `{classifier}`:\n\n{table(chosen, _TRANSFER, beside)}")
    return "\n\n".join(tables)


def _sweep(records: Sequence[Record]) -> str:
    """White-box PGD_N, a column a budget."""
    chosen = sweep(records)
    budgets = sorted({r.eps for r in chosen if r.eps is not None})
    cells = {(row_of(r), r.eps): r for r in chosen}
    lines = ["| error rate, % | " + " | ".join(f"ε {eps:g}" for eps in budgets) + " |"]
    lines.append("| --- |" + " ---: |" * len(budgets))
    lines.extend(
        f"| {row_label(row)} | " + " | ".join(cell_text(cells.get((row, eps))) for eps in budgets) + " |"
        for row in sorted({row for row, _ in cells}, key=place)
    )
    return "\n".join(lines)


def _ablation(records: Sequence[Record]) -> str:
    """Figure 4: a row a variant, the mean over its seeds and from which to which."""
    groups = ablation(records)
    attacks = [a for columns in _COLUMNS for a in columns if any(r.attack == a for rs in groups.values() for r in rs)]
    lines = ["| error rate, % | seeds | " + " | ".join(NAMES.get(a, a) for a in attacks) + " |"]
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
            size += "" if len(found) == len(members) else f", {len(found)} seeds"
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
        label = row_label((row["defence"], row["checkpoint"], "in-process"))
        found = row["detection"]
        shares = " | ".join(f"{found[key]:.2f}" for key in ("adversarial", "restored", "natural", "noisy"))
        lines.append(f"| {label}, {row['attack']}, n {row['n']:,} | {shares} | {found['area']:.3f} | {beside} |")
    return "\n".join(lines)


def stand_in(records: Sequence[Record], dataset: str) -> str:
    """The paper's target, where another stands in for it; else nothing."""
    papers = next(iter(_targets(dataset)), "")
    return "" if not papers or _target(records, dataset) == papers else papers
