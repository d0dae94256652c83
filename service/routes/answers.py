"""Purified images as the body of an answer: PNG, WebP, JPEG, .npy, JSON or multipart."""

from __future__ import annotations

import io
import secrets
from collections.abc import Sequence
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from ..core import codec
from ..core.purifier import Item
from . import schemas
from .uploads import Upload, channels_first


def pictures(item: Item) -> list[NDArray[np.uint8]]:
    """The purified images of an item as uint8 ``(H, W, C)``."""
    images = item.purified.images
    if images.dtype != np.uint8:
        images = np.round(images * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return list(images)


def _json_images(items: Sequence[Item]) -> bytes:
    answer = schemas.PurifyAnswer(
        images=[
            schemas.PurifiedImage(
                filename=item.filename,
                model=item.model,
                shape=picture.shape,
                png=codec.encode_base64(codec.encode_image(picture)),
                residual=residual(item, index),
            )
            for item in items
            for index, picture in enumerate(pictures(item))
        ]
    )
    return answer.model_dump_json().encode()


def residual(item: Item, index: int) -> schemas.Residual:
    """How far an item's image ``index`` was moved."""
    return schemas.Residual(linf=float(item.purified.linf[index]), l2=float(item.purified.l2[index]))


def _multipart(items: Sequence[Item]) -> tuple[bytes, str]:
    """RFC 2046 multipart/mixed, one PNG a part, each with its own headers."""
    boundary = secrets.token_hex(16)
    out = io.BytesIO()
    number = 0
    for item in items:
        for index, picture in enumerate(pictures(item)):
            number += 1
            stem = (item.filename or f"image-{number}").rpartition("/")[2].rpartition(".")
            filename = f"{stem[0] or stem[2]}.png"
            out.write(
                f"--{boundary}\r\nContent-Type: image/png\r\n"
                f"Content-Disposition: attachment; filename*=UTF-8''{quote(filename)}\r\n"
                f"X-ARN-Model: {item.model}\r\n"
                f"X-ARN-Residual-Linf: {item.purified.linf[index]:.6f}\r\n"
                f"X-ARN-Residual-L2: {item.purified.l2[index]:.6f}\r\n\r\n".encode()
            )
            out.write(codec.encode_image(picture))
            out.write(b"\r\n")
    out.write(f"--{boundary}--\r\n".encode())
    return out.getvalue(), f"multipart/mixed; boundary={boundary}"


def encode(items: Sequence[Item], media_type: str) -> tuple[bytes, str]:
    """The body of an answer, and its ``Content-Type``."""
    if media_type == "application/json":
        return _json_images(items), media_type
    if media_type == codec.NPY_TYPE:
        return codec.encode_npy(items[0].purified.images), media_type
    if media_type == "multipart/mixed":
        return _multipart(items)
    return codec.encode_image(pictures(items[0])[0], media_type.removeprefix("image/")), media_type  # type: ignore[arg-type]


def offers(upload: Upload) -> tuple[str, ...]:
    """Media types that can answer an upload, the default first."""
    if upload.tensor is not None and channels_first(upload.tensor)[0] not in (1, 3):
        return (codec.NPY_TYPE,)  # no picture
    if upload.tensor is not None:
        single = ("image/png", "image/webp", "image/jpeg") if len(upload.tensor) == 1 else ()
        return (codec.NPY_TYPE, "application/json", "multipart/mixed", *single)
    if len(upload.files) > 1:
        return ("multipart/mixed", "application/json")
    # JPEG last: it changes the pixels, so only who asks for it gets it.
    return ("image/png", "image/webp", codec.NPY_TYPE, "application/json", "image/jpeg")
