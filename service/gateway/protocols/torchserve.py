"""TorchServe's ``/predictions``: the body is one image, a form with images among its parts or fields, or JSON.

Source: TorchServe's Inference API page.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote_plus

from ...errors import BrokenBody
from . import MAX_PLACES, Message, ParsedRequest, Slot, Value, v1
from .json_text import begins_as_json, parse
from .percent import unquoted

_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*)")
# Nothing that two readers may take for different names: no escaped quotes (browsers send %22), no folded lines.
# Groups are repeated possessively (*+, ++): otherwise the engine keeps a hundred bytes for each repetition.
_DISPOSITION = re.compile(rb'(?i)form-data((?:[ \t]*;[ \t]*[^\s;="]+=(?:"[^"]*"|[^\s;"]*+))*+)[ \t;]*')
_PARAMETER = re.compile(rb';[ \t]*([^\s;="]+)=(?:"([^"]*)"|([^\s;"]*))')
# As a disposition's, without escaped quotes: readers of `boundary*`, or of two boundaries, differ.
_FORM_TYPE = re.compile(r'[^;]*((?:[ \t]*;[ \t]*[^\s;="]+=(?:"[^"\\]*"|[^\s;"]*+))*+)[ \t;]*')
_TYPE_PARAMETER = re.compile(r';[ \t]*([^\s;="]+)=(?:"([^"]*)"|([^\s;"]*))')
_BOUNDARY = re.compile(r"[\w'()+,./:=? -]{0,69}[\w'()+,./:=?-]", re.ASCII)  # RFC 2046, section 5.1.1
_ENCODING, _ENCODINGS = b"content-transfer-encoding", (b"binary", b"8bit", b"7bit", b"base64")
_LONGEST_HEADERS = 2**14  # of a part, in bytes
_LONGEST_TYPE = 512  # characters of a content type; a boundary has 70 at most


_SPACED_BASE64 = re.compile(rb"[A-Za-z0-9/]{4,}(?: [A-Za-z0-9/]*+)++={0,2}")
_URLENCODED = re.compile(rb"[^=&\s]{1,256}=[^&\s]*+(?:&[^=&\s]{1,256}=[^&\s]*+)*+\s*")


def find(message: Message) -> ParsedRequest:
    """The values in a ``/predictions`` body: clients often declare another content type than they send.

    Raises:
        BrokenBody: a form or JSON that contradicts itself.
    """
    kind = message.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = bytes(message.body)
    if kind == "multipart/form-data":
        return _find_in_form(message)
    if kind == "application/json" or begins_as_json(body):
        try:
            text, root = parse(body, message.reserve)
            found = v1.in_json(text, root, message.headers)
        except BrokenBody:
            if kind == "application/json":
                raise
        else:
            if kind == "application/x-www-form-urlencoded" and b"&" in body:
                raise BrokenBody("a body that is JSON and a form: send it as application/json")
            return found
    if kind == "application/x-www-form-urlencoded" and _URLENCODED.fullmatch(body):
        return _find_in_fields(message, body)

    def replace_images(new: Mapping[int, Value]) -> Message:
        declared = {"content-type": "image/png"} if kind.startswith("image/") else {}
        return Message(_bytes(new.get(0, body)), {**message.headers, **declared} if new else message.headers)

    return ParsedRequest([Slot("data", body, declared=kind.startswith("image/"))], replace_images)


def _find_in_fields(message: Message, body: bytes) -> ParsedRequest:
    """``data=...&key=...``, of which each value is percent-encoded and a plus is a space."""
    if body.count(b"&") >= MAX_PLACES:
        raise BrokenBody(f"the form has more than {MAX_PLACES} fields")
    fields = body.split(b"&")
    pairs = [field.partition(b"=") for field in fields]
    names = [unquoted(name.replace(b"+", b" ")).decode("utf-8", "replace") for name, _, _ in pairs]
    values = [_field_value(value) for _, _, value in pairs]

    def replace_images(new: Mapping[int, Value]) -> Message:
        written = list(fields)
        for index, value in new.items():
            name, _, old = pairs[index]
            safe = "".join(sign for sign in "/=" if sign.encode() in old)
            written[index] = name + b"=" + quote_plus(_bytes(value), safe).encode()
        return Message(b"&".join(written), message.headers)

    return ParsedRequest([Slot(name, value) for name, value in zip(names, values, strict=True)], replace_images)


def _field_value(value: bytes) -> bytes:
    """A field's value. A plus is a space, but not within base64: its client forgot to encode it."""
    plain = unquoted(value.replace(b"+", b" "))
    return plain.strip().replace(b" ", b"+") if _SPACED_BASE64.fullmatch(plain.strip()) else plain


@dataclasses.dataclass(frozen=True)
class _Part:
    """``body[start:head]`` are a part's ``headers``, ``body[head:end]`` its content, ``name`` its field."""

    name: str
    headers: Sequence[tuple[bytes, bytes]]
    start: int
    head: int
    end: int

    @property
    def declared(self) -> bool:
        """Whether its content type says that it is an image."""
        return any(
            name.lower() == b"content-type" and value.lower().startswith(b"image/") for name, value in self.headers
        )

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
def _find_in_form(message: Message) -> ParsedRequest:
    body = bytes(message.body)
    parts = _parts(body, _boundary(message))

    def replace_images(new: Mapping[int, Value]) -> Message:
        pieces, position = [], 0
        for index, value in sorted(new.items()):
            part = parts[index]
            pieces += [body[position : part.start], part.head_of(_bytes(value)), _bytes(value)]
            position = part.end
        return Message(b"".join([*pieces, body[position:]]), message.headers)

    slots = [Slot(part.name, body[part.head : part.end], declared=part.declared) for part in parts]
    return ParsedRequest(slots, replace_images)


def _boundary(message: Message) -> bytes:
    if len(message.headers["content-type"]) > _LONGEST_TYPE:
        raise BrokenBody("a content type too long for a boundary")
    parsed = _FORM_TYPE.fullmatch(message.headers["content-type"])
    parameters = _TYPE_PARAMETER.findall(parsed[1]) if parsed else []
    found = [(key.lower(), a or b) for key, a, b in parameters if key.lower().partition("*")[0] == "boundary"]
    if len(found) != 1 or found[0][0] != "boundary" or not _BOUNDARY.fullmatch(found[0][1]):
        raise BrokenBody("a multipart/form-data body without a boundary, or with two, or with 'boundary*'")
    return f"--{found[0][1]}".encode()


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
        if head - start > _LONGEST_HEADERS:
            raise BrokenBody(f"a part of the form has more than {_LONGEST_HEADERS} bytes of headers")
        headers = _headers(body[start:head])
        if not all(value.lower() in _ENCODINGS for name, value in headers if name.lower() == _ENCODING):
            raise BrokenBody("a part of the form has a Content-Transfer-Encoding that is not read here")
        parts.append(_Part(_field(headers), headers, start, head + 4, max(end, head + 4)))
        index = end + 2 + len(delimiter)
    if body[index + 2 :].strip():
        raise BrokenBody("the form goes on behind its end")  # where some readers look for more parts
    if body.count(b"\n" + delimiter) != len(parts):
        raise BrokenBody("the form's boundary stands within a part")  # where readers of bare line feeds end it
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
    parsed = _DISPOSITION.fullmatch(disposition[0]) if len(disposition) == 1 else None
    names = (
        [a or b for key, a, b in _PARAMETER.findall(parsed[1]) if key.lower() in (b"name", b"name*")] if parsed else []
    )
    if len(names) != 1:
        raise BrokenBody("a part of the form has not one Content-Disposition with one name")
    return str(names[0].decode("utf-8", "replace"))


def labels(answer: bytes, headers: Mapping[str, str]) -> list[Any] | None:
    """The classes in an answer: the best key of an object of scores, else as V1's rows are read."""
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


def _bytes(value: Value) -> bytes:
    assert isinstance(value, bytes)
    return value
