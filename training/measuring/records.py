"""One JSON file a number, under ``results/``: what was attacked, how, with what outcome, and the command."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from arn_purify.models.checkpoint import write_atomically

from .threats import ThreatName


@dataclasses.dataclass(frozen=True)
class Record:
    """A measured error rate.

    ``error_rate`` and ``ci95`` (Wilson) are percent of ``n`` images, failed attacks included; ``attacked`` names what
    the attacker differentiated through; ``recipe`` how the defence was trained; ``settings`` are the attack's, and the
    ``transport`` by which images reached the purifier. ``measures``, means over the ``n`` images: ``loss``, the
    cross-entropy of what answers; ``psnr`` (dB) and ``ssim`` of the purified image beside the natural one.
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

    def path(self, root: Path) -> Path:
        """Where the record lives: its file name says what it is."""
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
    """Write fields atomically, with a digest that tells when they were changed afterwards."""
    write_atomically(path, (json.dumps({**fields, "digest": _digest(fields)}, indent=1) + "\n").encode())


def unseal(path: Path, fields: dict[str, Any]) -> None:
    """Take the digest out of what was read from ``path``.

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
        ValueError: one that was changed after it was written, whose rate does not follow from its counts, or that lies
            where another belongs.
    """
    for path in sorted(root.rglob("*.json")):
        fields = json.loads(path.read_text())
        if "threat_model" not in fields or "errors" not in fields:
            continue  # benchmarks and the paper's numbers are no records of ours
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


# A recipe's name with loss weights instead of its own, as `train --weights` writes it.
_TERMS = re.compile(r"-(mse|att|nor|adv|l1|feature|logit|guide|ce|clean|kl|margin)([0-9][0-9.e-]*?)(?=-|$)")


_SEED = re.compile(r"(.*?)(?:-seed([0-9]+))?")


def has_other_weights(recipe: str) -> bool:
    """Whether the recipe was run with other loss weights than its own: a row of an ablation.

    A run that goes on from another is none unless a term is left out.
    """
    weights = [float(weight) for _, weight in _TERMS.findall(recipe)]
    return bool(weights) and ("-from-" not in recipe or 0 in weights)


def is_choice(recipe: str) -> bool:
    """Whether it is a hardened recipe with something of its own changed: a row of the table of choices."""
    return recipe == "joint" or recipe.startswith(("hardened-", "joint-"))


def ablation(records: Iterable[Record]) -> dict[tuple[str, str, int], list[Record]]:
    """Oblivious records of recipes with other weights, by (recipe and steps, what was taken out and left in, seed)."""
    groups: dict[tuple[str, str, int], list[Record]] = {}
    for record in records:
        if record.threat_model != "oblivious" or not has_other_weights(record.recipe) or is_choice(record.recipe):
            continue
        if record.settings["transport"] != "in-process":
            continue
        base, seed = _SEED.fullmatch(record.recipe).groups()  # type: ignore[union-attr]  # it matches everything
        weights = [(term, float(weight)) for term, weight in _TERMS.findall(base)]
        without = ", ".join(f"without L_{term}" for term, weight in weights if not weight)
        left = ", ".join(f"{term} {weight:g}" for term, weight in weights if weight)
        recipe = _TERMS.sub("", base) if record.defence == "ARN_PP" else f"{record.defence} {_TERMS.sub('', base)}"
        key = (recipe, (without or "all terms") + (f" ({left})" if left else ""), int(seed or 0))
        groups.setdefault(key, []).append(record)
    return groups


def sweep(records: Iterable[Record]) -> list[Record]:
    """White-box PGD_N of 40 steps at every budget, of the defences that were measured at more than the usual ones."""
    chosen = [
        r for r in records
        if r.threat_model == "white_box" and re.fullmatch(r"PGD_N(@[0-9.]+)?", r.attack) and r.iterations == 40
    ]  # fmt: skip
    swept = {(r.defence, r.recipe) for r in chosen if "@" in r.attack}
    return [r for r in chosen if (r.defence, r.recipe) in swept]


def wilson(errors: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a rate, in percent, rounded to .001."""
    z = 1.959964
    rate = errors / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return round(100 * max(0.0, centre - half), 3), round(100 * min(1.0, centre + half), 3)
