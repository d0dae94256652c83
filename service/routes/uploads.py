"""From a request to purified images: what both /purify and /classify do."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from starlette.requests import Request

from ..core import codec
from ..core.attack import Attack
from ..core.codec import Images
from ..core.purifier import BYTES_PER_PIXEL, Item, Purifier, Timings, run_off_loop
from ..core.selection import sizes_of_classifiers
from ..edge.http import read_decoded_body, read_multipart, stopping_when_client_leaves
from ..errors import BadParameter, BrokenBody, ServiceError, UnsupportedMedia, shown
from ..settings import Settings
from .openapi import MULTIPART
from .parameters import Parameters

PARAMETERS = ("model", "resize")
"""What every route that takes images knows."""
_HINT = "; ?resize=crop cuts an image to a model's size, ?resize=fit borders it"

# What curl, libraries and browsers call bytes of a type that they do not know, or an image of ours by another name.
_UNTYPED = ("", "application/x-www-form-urlencoded", "application/octet-stream", "binary/octet-stream")


@dataclasses.dataclass(frozen=True)
class Upload:
    """What a request brought: images of one body, by file, or one tensor; and its parameters."""

    parameters: Parameters
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

    async def read(self, request: Request, known: Sequence[str] = PARAMETERS) -> Upload:
        """The body as images or a tensor, which its bytes tell, and the parameters, of which there are those ``known``.

        Raises:
            ServiceError: as :meth:`Purifier.admit` says, before a byte of the body is read.
            UnsupportedMedia: a content coding, or a content type and bytes, that are not read.
            BrokenBody, BadParameter, BodyTooLarge, TooManyImages: the body.
        """
        self._purifier.admit()
        parameters = Parameters(known)
        if request.scope["query_string"]:
            parameters = parameters.and_these(request.query_params.multi_items())
        content_type = request.headers.get("content-type", "")
        kind = content_type.partition(";")[0].strip().lower()
        body = await read_decoded_body(request, self._settings.max_body_bytes)
        if not body:
            raise BrokenBody("the body is empty")
        if kind == MULTIPART:
            files, fields = await read_multipart(content_type, body, self._settings.queue_images)
            parameters = parameters.and_these(fields)
            if not files:
                raise BrokenBody("the multipart body has no file")
            return Upload(parameters, files)
        if codec.is_npy(body) or (kind == codec.NPY_TYPE and not codec.is_image(body)):
            tensor = await run_off_loop(len(body) // BYTES_PER_PIXEL, codec.decode_npy, body)
            return Upload(parameters, tensor=tensor)
        if not (kind in (*_UNTYPED, *codec.IMAGE_TYPES) or codec.is_image(body)):
            raise UnsupportedMedia(
                f"content type {shown(kind)} is not read here, nor are these bytes: send "
                f"{', '.join(codec.IMAGE_TYPES[:4])}, {codec.NPY_TYPE} or {MULTIPART}"
            )
        return Upload(parameters, [(None, body)])

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
        with stopping_when_client_leaves(request):
            with timings.during("decode"):
                items = await self._items(request, upload, classify)
            return await self._purifier.purify(items, timings, classify, compare, attack)

    async def _items(self, request: Request, upload: Upload, classify: bool) -> list[Item]:
        """Decode every image for the model that takes it, and for the classifier that is to see it."""
        engine, parameters = self._purifier.engine, upload.parameters
        shapes = (card.input_shape for card in engine.classifier_cards()) if classify else ()
        channels = {(height, width): channels for channels, height, width in shapes}
        classified = sizes_of_classifiers(engine.classifier_cards(), engine.cards()) if classify else {}
        selection = self._purifier.selection(
            parameters.text("model"), parameters.fit("resize"), channels, _HINT, classified
        )
        if upload.tensor is not None:
            if selection.fit:
                raise BadParameter("resize works on images, not on tensors")
            shape = channels_first(upload.tensor)
            item = Item(None, selection.choose(shape[1:], channels=shape[0]).name, upload.tensor)
            if classify:
                engine.classifier_of(item.model, shape)
            return [item]
        items: list[Item] = []
        decoding = self._purifier.decoding(request.scope["state"]["memory"])
        for filename, data in upload.files:
            try:
                item = await decoding.decode(data, selection)
                if classify:
                    engine.classifier_of(item.model, channels_first(item.images))
                items.append(item if filename is None else dataclasses.replace(item, filename=filename))
            except ServiceError as error:
                if filename is not None:
                    error.args = (f"{filename[:64]}: {error}",)
                raise
        return items


def accept(request: Request) -> str | None:
    """The request's ``Accept``, of however many lines."""
    return ", ".join(request.headers.getlist("accept")) or None


def channels_first(images: Images) -> tuple[int, int, int]:
    """(C, H, W) of the images."""
    first, second, third = images.shape[1:]
    return (third, first, second) if images.dtype == np.uint8 else (first, second, third)
