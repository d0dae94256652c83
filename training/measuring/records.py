"""Records: one JSON file for each number under ``results/``, with what was attacked, how, and the command."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from arn_purify.models.files import write_atomically

from ..run_name import RunName, from_json, parse_legacy

ThreatName = Literal["oblivious", "gray_box", "white_box", "bpda"]


@dataclasses.dataclass(frozen=True)
class Record:
    """A measured error rate.

    ``error_rate`` and ``ci95`` (Wilson) are percent of ``n`` images, failed attacks included. ``attacked`` names what
    the attacker differentiated through. ``recipe`` names the run that trained the defence, and ``run`` says the same
    in fields (:mod:`..run_name`; records written before it have none). ``settings`` are the attack's, and the
    ``transport`` by which images reached the purifier. ``measures`` are means over the ``n`` images: ``loss``, the
    cross-entropy of the defended model; ``psnr`` (dB) and ``ssim`` of the purified image beside the natural one.
    """

    dataset: str
    classifier: str
    defence: str
    recipe: str
    checkpoint: str
    attack: str
    eps: float | None
    norm: str | None
    threat_model: ThreatName
    attacked: str
    goal: str
    iterations: int | None
    n: int
    errors: int
    error_rate: float
    ci95: tuple[float, float]
    attack_failures: int
    settings: Mapping[str, Any]
    seed: int
    sha256: Mapping[str, str]
    seconds: float
    device: str
    versions: Mapping[str, str]
    command: str
    flags: tuple[str, ...] = ()
    measures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def run_name(self) -> RunName:
        """The run that trained the defence."""
        return from_json(self.run) if self.run else parse_legacy(self.recipe)

    @property
    def checkpoint_id(self) -> str:
        """The checkpoint's name, recipe and short hash: two files that had one name at different times differ here."""
        return ", ".join(part for part in (self.checkpoint, self.recipe, self.sha256.get("checkpoint", "")[:8]) if part)

    @property
    def in_process(self) -> bool:
        """Whether images reached the purifier without a service between."""
        return str(self.settings.get("transport", "in-process")) == "in-process"

    def path(self, root: Path) -> Path:
        """Where the record is stored: its file name says what it is."""
        parts = [self.attack, self.threat_model]
        if "surrogate" in self.settings:
            parts += [self.settings[key] for key in ("surrogate", "surrogate_recipe") if self.settings.get(key)]
        if self.settings.get("backward") == "g":
            parts.append("through-g")
        transport = self.settings.get("transport", "in-process")
        if transport != "in-process":
            parts.append(transport.replace("+", "-"))
        name = f"{self.defence}-{self.recipe}" if self.recipe else self.defence
        return root / self.dataset / self.classifier / name / f"{'-'.join(parts)}.json"

    def write(self, root: Path) -> Path:
        """Write atomically; returns the path."""
        path = self.path(root)
        write_sealed(path, dataclasses.asdict(self))
        return path


def write_sealed(path: Path, fields: Mapping[str, Any]) -> None:
    """Write fields atomically, with a digest by which a later change is noticed."""
    sealed = json.dumps({**fields, "digest": _digest(fields)}, indent=1, allow_nan=False)
    write_atomically(path, f"{sealed}\n".encode())


def unseal(path: Path, fields: dict[str, Any]) -> None:
    """Check the digest of ``fields`` that were read from ``path``, and remove it.

    Raises:
        ValueError: the fields were changed after :func:`write_sealed`.
    """
    if fields.pop("digest", None) != _digest(fields):
        raise ValueError(f"{path}: changed after it was written; restore it, or delete it and measure again")


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_all(root: Path) -> Iterator[Record]:
    """Every record below ``root``, by path.

    Raises:
        ValueError: a record was changed after it was written, its rate does not follow from its counts, or its path
            is that of another record.
    """
    for path in sorted(root.rglob("*.json")):
        fields = json.loads(path.read_text())
        if "threat_model" not in fields or "errors" not in fields:
            continue  # benchmarks, detections and the paper's numbers
        unseal(path, fields)
        fields["ci95"], fields["flags"] = tuple(fields["ci95"]), tuple(fields["flags"])
        record = Record(**fields)
        if not math.isclose(record.error_rate, 100 * record.errors / record.n) or record.ci95 != wilson(
            record.errors, record.n
        ):
            raise ValueError(f"{path}: its error rate does not follow from its counts")
        if record.path(root) != path:
            raise ValueError(f"{path}: this record belongs at {record.path(root)}")
        yield record


def wilson(errors: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a rate, in percent, rounded to .001."""
    z = 1.959964
    rate = errors / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return round(100 * max(0.0, centre - half), 3), round(100 * min(1.0, centre + half), 3)
