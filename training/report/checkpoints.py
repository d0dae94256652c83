"""Which of today's files a record's checkpoint is."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from arn_purify import models

from ..learning.state import weights_sha256
from ..measuring.records import Record


def names_by_hash(results: Path) -> dict[str, str]:
    """The names of the released checkpoints and of those in ``results/checkpoints``, by the SHA-256 of the file."""
    return {_file_hash(path): path.stem for path in (*_kept(results), *_released())}


def of_released_weights(records: Sequence[Record], results: Path) -> list[Record]:
    """Records of a file with a released checkpoint's weights, under the hash of the released one.

    A release gives a file its name and so another hash. What was measured before stays true.
    """
    released = {_weights(path): _file_hash(path) for path in _released()}
    kept = {_file_hash(path): _weights(path) for path in _kept(results)}

    def moved(r: Record) -> Record:
        checkpoint = released.get(kept.get(r.sha256.get("checkpoint", ""), ""))
        return dataclasses.replace(r, sha256={**r.sha256, "checkpoint": checkpoint}) if checkpoint else r

    return [moved(r) for r in records]


def under_file_names(records: Sequence[Record], results: Path) -> list[Record]:
    """The records under the names of the files that were measured, as far as these exist.

    Where a file is gone and another has its name now, the record shows its recipe and short hash too.
    """
    names = names_by_hash(results)
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


def _released() -> list[Path]:
    return list(models.ZOO.glob("*.safetensors"))


def _kept(results: Path) -> list[Path]:
    return list((results / "checkpoints").glob("*.safetensors"))


def _weights(path: Path) -> str:
    return weights_sha256(models.load(path))


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
