"""The page of commands: for each model those that measured it, with every flag that they need."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path

from arn_purify import models

from ..data.datasets import DATASETS, spec_of
from ..measuring.records import Record

_FIRST = (
    "--dataset", "--classifier", "--purifier", "--robust-classifier", "--surrogate", "--attacks", "--threat-models",
    "--every",
)  # fmt: skip
# Where records go is the reader's choice, and --force would replace those of the project.
_LEFT_OUT = ("--out", "--force")
_HEAD = (
    "# Results: commands\n\n"
    "These commands measure each model again. They also name flags that the original command left at their\n"
    "defaults, and the present path of each file. Add `--out mine`; without it, a command prints the stored numbers.\n"
    "A record holds the original command. [How to reproduce one cell](evaluation.md#reproduce-one-cell).\n\n"
    "Checkpoints under `runs/` are not part of the repository. To train one again, use\n"
    "`scripts/reproduce mnist --only NAME`, or the same with another data set.\n\n"
    "Commands with `third_party:...` use classifiers that others trained, which are not part of the repository: a\n"
    "MobileNetV2 (google-coral/test_data), a SqueezeNet (songhan/SqueezeNet-Deep-Compression) and a ResNet-56\n"
    "(akamaster/pytorch_resnet_cifar10). To run such a command, write a `third_party.py` with a function that returns\n"
    "the classifier."
)


def commands_page(records: Sequence[Record], results: Path) -> str:
    """The page, from records under the names of the files that were measured."""
    groups: dict[tuple[str, str], set[str]] = {}
    for record in records:
        if record.command:
            name = "" if record.defence == "none" else record.checkpoint
            groups.setdefault((record.dataset, name), set()).add(full_command(record, results))
    known = list(DATASETS)
    parts = [_HEAD]
    for dataset, models_of in itertools.groupby(
        sorted(groups, key=lambda key: (known.index(key[0]), key[0], _model_order(key[1]))), key=lambda key: key[0]
    ):
        parts.append(f"## {spec_of(dataset).title or dataset}")
        for key in models_of:
            listing = "\n".join(sorted(groups[key]))
            parts.append(f"### {key[1] or f'{dataset} without a defence'}\n\n```sh\n{listing}\n```")
    return "\n\n".join(parts) + "\n"


def full_command(record: Record, results: Path) -> str:
    """A record's command with data set, classifier and defence named, each from where it is today."""
    words, flags = _program(record), flags_of(record)
    flags["--dataset"] = record.dataset
    classifier = f"{record.dataset}-{record.classifier}"
    flags.setdefault("--classifier", classifier if classifier in models.available() else "")
    if "--robust-classifier" not in flags:
        flags.setdefault("--purifier", "identity" if record.defence == "none" else record.checkpoint)
    defence = "--robust-classifier" if "--robust-classifier" in flags else "--purifier"
    flags[defence] = _place(record.checkpoint, results) or flags[defence]
    flags = {name: _place(Path(value).stem, results) or value for name, value in flags.items()}
    order = sorted(flags, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    given = [word for name in order if flags[name] for word in (name, flags[name]) if name not in _LEFT_OUT]
    return shlex.join([*words, *given])


def _program(record: Record) -> list[str]:
    """The words of a record's command as far as ``evaluate``; all of them where that is not among them."""
    words = shlex.split(record.command)
    return words[: words.index("evaluate") + 1] if "evaluate" in words else words


def flags_of(record: Record) -> dict[str, str]:
    """The flags of the command that wrote a record, and their values; all but ``--force`` have one."""
    found: dict[str, str] = {}
    rest = iter(shlex.split(record.command)[len(_program(record)) :])
    for word in rest:
        name, _, value = word.partition("=")
        if name != "--force":
            found[name] = value or next(rest)
    return found


def _place(name: str, results: Path) -> str:
    """How the command line names a checkpoint of this name; empty where there is none."""
    if name in models.available():
        return name
    file = results / "checkpoints" / f"{name}.safetensors"
    return f"results/checkpoints/{file.name}" if file.is_file() else ""


def _model_order(name: str) -> tuple[bool, bool, str]:
    """No defence first, then the released models."""
    return name != "", name not in models.available(), name
