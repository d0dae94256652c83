"""From a request to purified images: what both /purify and /classify do."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
from starlette.requests import Request

from ..core import codec
from ..core.attack import Attack
from ..core.codec import Images
from ..core.purifier import BYTES_PER_PIXEL, Item, Purifier, Timings, run_off_loop
from ..edge.http import read_body, read_multipart, stopping_when_client_leaves
from ..errors import BadParameter, BrokenBody, ServiceError, UnsupportedMedia, WrongSize
from ..settings import Settings
from .openapi import MULTIPART

_UNTYPED = ("", "application/x-www-form-urlencoded", "application/octet-stream")  # curl's defaults: look at the bytes
_NPY_MAGIC = b"\x93NUMPY"


@dataclasses.dataclass(frozen=True)
class Upload:
    """What a request brought: images of one body, by file, or one tensor. ``kind`` is the body's media type."""

    kind: str
    files: Sequence[tuple[str | None, bytes | bytearray]] = ()
    tensor: Images | None = None

    @property
    def several(self) -> bool:
        """Whether the answer is one of several images: a tensor, or more than one file."""
        return self.tensor is not None or len(self.files) > 1


class Uploads:
    """Reads requests and purifies what they bring."""

    def __init__(self, settings: Settings, purifier: Purifier) -> None:
        self._settings, self._purifier = settings, purifier

    async def read(self, request: Request) -> Upload:
        """The body as images or a tensor.

        Raises:
            ServiceError: as :meth:`Purifier.admit` says, before a byte of the body is read.
            UnsupportedMedia: a content type that is not read.
            BrokenBody, BadParameter, BodyTooLarge, TooManyImages: the body.
        """
        self._purifier.admit()
        content_type = request.headers.get("content-type", "")
        kind = content_type.partition(";")[0].strip().lower()
        if kind not in (*_UNTYPED, *codec.IMAGE_TYPES, codec.NPY_TYPE, MULTIPART):
            raise UnsupportedMedia(
                f"content type {kind!r} is not read here: send {', '.join(codec.IMAGE_TYPES[:4])}, "
                f"{codec.NPY_TYPE} or {MULTIPART}"
            )
        body = await read_body(request, self._settings.max_body_bytes)
        if not body:
            raise BrokenBody("the body is empty")
        if kind == MULTIPART:
            return Upload(kind, await read_multipart(content_type, body, self._settings.queue_images))
        if kind == codec.NPY_TYPE or (kind in _UNTYPED and body.startswith(_NPY_MAGIC)):
            tensor = await run_off_loop(len(body) // BYTES_PER_PIXEL, codec.decode_npy, body)
            return Upload(codec.NPY_TYPE, tensor=tensor)
        return Upload("image", [(None, body)])

    async def purify(
        self,
        request: Request,
        upload: Upload,
        timings: Timings,
        classify: bool = False,
        compare: bool = False,
        attack: Attack | None = None,
    ) -> list[Item]:
        """Decode, queue, infer; ends where the client hangs up.

        Raises:
            ServiceError: as :meth:`Purifier.decode` and :meth:`Purifier.purify` say.
        """
        started = time.perf_counter()
        async with stopping_when_client_leaves(request):
            items = await self._items(request, upload, classify)
            timings.stage("decode", started)
            return await self._purifier.purify(items, timings, classify, compare, attack)

    async def _items(self, request: Request, upload: Upload, classify: bool) -> list[Item]:
        """Decode every image for the model that takes it, and for the classifier that is to see it."""
        classifiers = self._purifier.engine.classifiers if classify else ()
        channels = {(height, width): channels for channels, height, width in classifiers}
        selection = self._purifier.selection(request.query_params.get("model"), flag(request, "resize"), channels)
        if upload.tensor is not None:
            if selection.resize:
                raise BadParameter("resize works on images, not on tensors")
            shape = channels_first(upload.tensor)
            item = Item(None, selection.choose(shape[1:], channels=shape[0]).name, upload.tensor)
            if classify:
                self._check_classifier(item)
            return [item]
        items: list[Item] = []
        decoding = self._purifier.decoding(request.scope["state"]["memory"])
        for filename, data in upload.files:
            try:
                item = await decoding.decode(data, selection)
                if classify:
                    self._check_classifier(item)
                items.append(dataclasses.replace(item, filename=filename))
            except ServiceError as error:
                if filename is not None:
                    error.args = (f"{filename}: {error}",)
                raise
        return items

    def _check_classifier(self, item: Item) -> None:
        taken, shape = self._purifier.engine.classifiers, channels_first(item.images)
        if not taken:
            raise BadParameter("no classifier is embedded, and ARN_DOWNSTREAM_URL is not set")
        if shape not in taken:
            known = " or ".join(map(str, taken))
            raise WrongSize(f"the embedded classifiers take {known} (C, H, W), the images are {shape}")


def accept(request: Request) -> str | None:
    """The request's ``Accept``, of however many lines."""
    return ", ".join(request.headers.getlist("accept")) or None


def flag(request: Request, name: str) -> bool:
    """A query parameter that is true or false; alone it is true.

    Raises:
        BadParameter: it is something else.
    """
    value = request.query_params.get(name, "false").lower()
    if value not in ("true", "1", "false", "0", ""):
        raise BadParameter(f"{name} is true or false, not {value!r}")
    return value in ("true", "1", "")


def channels_first(images: Images) -> tuple[int, int, int]:
    """(C, H, W) of the images."""
    first, second, third = images.shape[1:]
    return (third, first, second) if images.dtype == np.uint8 else (first, second, third)
