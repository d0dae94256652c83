"""TorchServe's ``/predictions``: the body is one image, or a form with images among its parts, or JSON.

Source: TorchServe's Inference API page.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from email.message import Message as MailMessage
from typing import Any

from ...errors import BrokenBody
from . import MAX_PLACES, Images, Message, ParsedRequest, Slot, is_encoded_image, v1
from .json_text import parse

_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*)")
# Nothing that two readers may take for different names: no escaped quotes (browsers send %22), no folded lines.
_DISPOSITION = re.compile(rb'(?i)form-data((?:[ \t]*;[ \t]*[^\s;="]+=(?:"[^"]*"|[^\s;"]*))*)[ \t;]*')
_PARAMETER = re.compile(rb';[ \t]*([^\s;="]+)=(?:"([^"]*)"|([^\s;"]*))')
_LONGEST_TYPE = 512  # characters of a content type; a boundary has 70 at most


def find(wire: Message) -> ParsedRequest:
    """The images in a ``/predictions`` body, whatever content type it declares; none where it holds none.

    Raises:
        BrokenBody: a form or JSON that contradicts itself.
    """
    kind = wire.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _find_in_form(wire)
    if kind == "application/json":
        _, root = parse(wire.body)  # a handler may take any JSON; what KServe's envelope holds can be told
        return v1.find(wire) if (root.get("instances") is None) != (root.get("inputs") is None) else _nothing(wire)
    if is_encoded_image(wire.body) or kind.startswith("image/"):

        def replace_images(new: Mapping[int, Images]) -> Message:
            declared = {"content-type": "image/png"} if kind.startswith("image/") else {}
            return Message(_bytes(new.get(0, bytes(wire.body))), {**wire.headers, **declared} if new else wire.headers)

        return ParsedRequest([Slot("data", bytes(wire.body))], replace_images)
    return _nothing(wire)


def _nothing(wire: Message) -> ParsedRequest:
    return ParsedRequest([], lambda _: wire)


@dataclasses.dataclass(frozen=True)
class _Part:
    """``body[start:head]`` are a part's ``headers``, ``body[head:end]`` its content, ``name`` its field."""

    name: str
    headers: Sequence[tuple[bytes, bytes]]
    start: int
    head: int
    end: int

    def head_of(self, new: bytes) -> bytes:
        """The headers of the part with an image, ``new``, in the place of its own."""
        lines = []
        for name, value in self.headers:
            if name.lower() == b"content-type" and value.lower().startswith(b"image/"):
                value = b"image/png"
            elif name.lower() == b"content-length":
                value = str(len(new)).encode()
            elif name.lower() == b"content-md5":
                continue
            lines.append(name + b": " + value + b"\r\n")
        return b"".join(lines) + b"\r\n"


# Not aiohttp's MultipartWriter: it writes every part anew, so the spelling of the other parts' headers and what
# follows the last part would change.
def _find_in_form(wire: Message) -> ParsedRequest:
    body = bytes(wire.body)
    parts = _parts(body, _boundary(wire))

    def replace_images(new: Mapping[int, Images]) -> Message:
        pieces, position = [], 0
        for index, images in sorted(new.items()):
            part = parts[index]
            pieces += [body[position : part.start], part.head_of(_bytes(images)), _bytes(images)]
            position = part.end
        return Message(b"".join([*pieces, body[position:]]), wire.headers)

    return ParsedRequest([Slot(part.name, body[part.head : part.end]) for part in parts], replace_images)


def _boundary(wire: Message) -> bytes:
    if len(wire.headers["content-type"]) > _LONGEST_TYPE:
        raise BrokenBody("a content type too long for a boundary")
    message = MailMessage()
    message["Content-Type"] = wire.headers["content-type"]
    boundary = message.get_boundary()
    if not boundary or len(boundary) > 70 or not boundary.isascii():
        raise BrokenBody("a multipart/form-data body without a boundary")
    return b"--" + boundary.encode()


def _parts(body: bytes, delimiter: bytes) -> list[_Part]:
    """RFC 2046 section 5.1.1, without the preamble that forms never have."""
    if not body.startswith(delimiter):
        raise BrokenBody("the form does not begin with its boundary")
    parts: list[_Part] = []
    index = len(delimiter)
    while not body.startswith(b"--", index):
        if not body.startswith(b"\r\n", index):
            raise BrokenBody("a line break is missing after the form's boundary")
        start = index + 2
        end = body.find(b"\r\n" + delimiter, start - 2)
        head = body.find(b"\r\n\r\n", start - 2)
        if end < 0 or head < 0 or head > end:
            raise BrokenBody("the form ends too early, or a part has no headers' end")
        if len(parts) == MAX_PLACES:
            raise BrokenBody(f"the form has more than {MAX_PLACES} parts")
        headers = _headers(body[start:head])
        parts.append(_Part(_field(headers), headers, start, head + 4, max(end, head + 4)))
        index = end + 2 + len(delimiter)
    return parts


def _headers(head: bytes) -> list[tuple[bytes, bytes]]:
    """A part's headers, each on its own line."""
    found = [_HEADER.fullmatch(line) for line in head.split(b"\r\n")] if head else []
    if not all(found):
        raise BrokenBody("a part of the form has a line that is no header")
    return [(line[1], line[2]) for line in found if line]


def _field(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """The field that a part belongs to (RFC 7578 section 4.2)."""
    disposition = [value for name, value in headers if name.lower() == b"content-disposition"]
    told = _DISPOSITION.fullmatch(disposition[0]) if len(disposition) == 1 else None
    names = [a or b for key, a, b in _PARAMETER.findall(told[1]) if key.lower() in (b"name", b"name*")] if told else []
    if len(names) != 1:
        raise BrokenBody("a part of the form has not one Content-Disposition with one name")
    return str(names[0].decode("utf-8", "replace"))


def labels(answer: bytes, headers: Mapping[str, str]) -> list[Any] | None:
    """The classes that an answer tells: the best key of an object of scores, else as V1's rows are read."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict) and value and all(isinstance(score, float) for score in value.values()):
        return [max(value, key=value.__getitem__)]
    if isinstance(value, dict):
        return v1.labels(answer, headers)
    several = isinstance(value, list) and bool(value) and all(isinstance(row, list) for row in value)
    return v1.best(value if several else [value])


def _bytes(images: Images) -> bytes:
    assert isinstance(images, bytes)
    return images
