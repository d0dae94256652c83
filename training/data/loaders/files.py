"""Official files: downloaded once and checked each time."""

from __future__ import annotations

import hashlib
import logging
import urllib.request
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..splits import DataError

logger = logging.getLogger(__name__)


def download(url: str, root: Path, official: str) -> bytes:
    """What ``url`` answers; where it does not, a :class:`DataError` that says to put ``official`` into ``root``."""
    logger.info("downloading %s", url)
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 (https)
            data: bytes = answer.read()
    except (OSError, HTTPException) as error:
        raise DataError(
            f"{root.name} is not in {root} and could not be downloaded ({error}): "
            f"put {official} or the same as .npz there, or name the folder above with --data-dir"
        ) from error
    return data


def read_checked(path: Path, md5: str) -> bytes:
    """The content of ``path``; :class:`DataError` where its published checksum is another."""
    data = path.read_bytes()
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise DataError(f"{path} does not match its published checksum: delete it and try again")
    return data


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of a ``.npz`` file, by name."""
    try:
        with np.load(path) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
