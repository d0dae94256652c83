"""``arn purify``: image files in, PNG files out, without a server."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from arn_purify.models import SMALLEST_PHOTOGRAPH, Card, for_photographs
from arn_purify.models.files import is_hidden, write_atomically

from .core import codec
from .core.engine import Engine, Work
from .core.fit import Fit
from .core.selection import takes
from .errors import ServiceError, WrongSize

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Summary:
    """How many images were ``purified``, how many ``failed``, and how many files of ``other`` types were not read."""

    purified: int
    failed: int
    other: int


def purify_files(source: Path, target: Path, model: str, device: str, resize: Fit | None) -> Summary:
    """Purify an image file, or every image below a folder, into PNGs of the same names.

    Hidden files and folders are skipped, and ``target`` where it lies inside ``source``. An image that cannot be read,
    or has a size that the model does not take, is named on stderr and the others are purified. Where two would have one
    name, as ``a.jpg`` beside ``a.png``, the former becomes ``a.jpg.png``.

    Raises:
        FileNotFoundError: no image there.
        ValueError: ``target`` is the folder ``source``.
        OSError: a result cannot be written.
    """
    names, unread, other = ({source: target}, [], 0) if source.is_file() else _find(source, target)
    if not names and not unread:
        raise FileNotFoundError(f"{source}: no image there")
    engine = Engine((model,), (), device, "fp32")
    name = next(iter(engine.purifiers))
    card, paths, purified = engine.card(name), list(names), 0
    batch = _BATCH if resize or _has_one_size(card) else 1  # large images are in memory one at a time
    for problem in unread:
        _report(str(problem.filename), problem)
    with tqdm(total=len(paths), unit="image") as progress:
        for start in range(0, len(paths), batch):
            arrays = {}
            for path in paths[start : start + batch]:
                try:
                    arrays[path] = _pixels(path, card, resize)
                except (OSError, ServiceError) as error:
                    _report(str(path), error)
            for path, pixels in zip(arrays, _purified(engine, card, list(arrays.values())), strict=True):
                write_atomically(names[path], codec.encode_image(pixels))
                purified += 1
                progress.update()
    return Summary(purified, len(paths) - purified + len(unread), other)


def _find(source: Path, target: Path) -> tuple[Mapping[Path, Path], Sequence[OSError], int]:
    """The images below a folder with the files that they become, folders that cannot be read, the number of others."""
    inside, unread = target.resolve(), list[OSError]()
    if inside == source.resolve():
        raise ValueError(f"{target} is the folder that is read; name another one for the results")
    images, other = [], 0
    for folder, folders, files in os.walk(source, onerror=unread.append):
        here = Path(folder)
        folders[:] = [name for name in folders if not is_hidden(name) and (here / name).resolve() != inside]
        for path in (here / name for name in files if not is_hidden(name)):
            if path.suffix.lower() in _SUFFIXES:
                images.append(path)
            else:
                other += 1
    results = _results(sorted(images))
    return {path: target / png.relative_to(source) for path, png in results.items()}, unread, other


def _results(paths: Sequence[Path]) -> dict[Path, Path]:
    """A PNG's name for each image, no two the same."""
    wanted = Counter(path.with_suffix(".png") for path in paths)
    taken = {path for path in paths if path.suffix == ".png"}
    results = {}
    for path in paths:
        png = path.with_suffix(".png")
        if png != path:
            png = png if wanted[png] == 1 else path.with_name(f"{path.name}.png")
            while png in taken:
                png = png.with_name(f"{png.name}.png")
            taken.add(png)
        results[path] = png
    return results


def _pixels(path: Path, card: Card, resize: Fit | None) -> NDArray[np.uint8]:
    """The image as the model takes it, uint8 ``(1, H, W, C)``."""
    channels, height, width = card.input_shape
    opened = codec.open_image(path.read_bytes(), 10**9)
    if not resize and not takes(card, opened.size):
        larger = "" if _has_one_size(card) else f" and from {SMALLEST_PHOTOGRAPH}x{SMALLEST_PHOTOGRAPH} up"
        raise WrongSize(
            f"{opened.size[1]}x{opened.size[0]}, {card.name} takes {width}x{height}{larger}; --resize or --fit"
        )
    size = ((height, width), resize) if height and resize else ()
    return opened.decode(channels or opened.channels, *size)


def _has_one_size(card: Card) -> bool:
    return bool(card.input_shape[1]) and not for_photographs(card)


def _purified(engine: Engine, card: Card, arrays: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Each image ``(H, W, C)``; they are of one size."""
    return list(engine.run(Work(card.name), np.concatenate(arrays)).images) if arrays else []


def _report(path: str, error: Exception) -> None:
    """Name a file that is left out, beside the progress bar."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    tqdm.write(f"arn: {path}: {reason}", file=sys.stderr)
