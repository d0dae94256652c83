"""Files that are written whole or not at all, and those of a folder that nobody meant."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# What archivers, file managers and servers leave in folders, beside names with a leading dot.
_LEFT_BEHIND = frozenset({"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"})


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or was left behind by a tool: never one of the user's images."""
    return name.startswith(".") or name in _LEFT_BEHIND


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader, or a kill, sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
