"""``arn purify``: image files in, PNG files out, without a server."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from arn_purify.models.files import write_atomically

from .core import codec
from .core.engine import Engine, Work
from .core.fit import Fit

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def purify_files(source: Path, target: Path, model: str, device: str, resize: Fit | None, batch: int = 64) -> int:
    """Purify an image file, or every image below a folder, into PNGs of the same names; returns how many.

    Where two would have one name, as ``a.jpg`` beside ``a.png``, the former becomes ``a.jpg.png``.
    """
    paths = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.suffix.lower() in _SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{source}: no image there")
    alone = source.is_file()
    named = Counter(path.with_suffix(".png") for path in paths)  # a.jpg beside a.png keeps its suffix: a.jpg.png
    engine = Engine((model,), (), device, "fp32")
    name = next(iter(engine.purifiers))
    channels, height, width = engine.card(name).input_shape
    with tqdm(total=len(paths), unit="image") as progress:
        for start in range(0, len(paths), batch):
            chunk = paths[start : start + batch]
            arrays = []
            for path in chunk:
                opened = codec.open_image(path.read_bytes(), 10**9)
                if height and not resize and opened.size != (height, width):
                    raise ValueError(
                        f"{path}: {opened.size[1]}x{opened.size[0]}, {name} takes {width}x{height}; --resize or --fit"
                    )
                arrays.append(
                    opened.decode(channels or opened.channels, *((height, width), resize) if height and resize else ())
                )
            if height:  # one size: one batch
                stacked = np.concatenate(arrays)
                purified = list(engine.run(Work(name), stacked).images)
            else:
                purified = [engine.run(Work(name), array).images[0] for array in arrays]
            for path, pixels in zip(chunk, purified, strict=True):
                png = path.with_suffix(".png")
                if named[png] > 1 and path != png:
                    png = path.with_name(f"{path.name}.png")
                write_atomically(target if alone else target / png.relative_to(source), codec.encode_image(pixels))
                progress.update()
    return len(paths)
