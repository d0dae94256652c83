"""KServe V1 and TensorFlow Serving's REST: rows (``instances``), columns (``inputs``) and ``{"b64": ...}``.

Sources: KServe's V1 protocol page; TensorFlow Serving's RESTful API page ("Request format", "Encoding binary values").
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from ...errors import BrokenBody
from . import Images, Message, ParsedRequest, Slot, from_base64, numbers
from .json_text import Node, parse, splice


def find(wire: Message) -> ParsedRequest:
    """The images in a ``:predict`` body.

    Raises:
        BrokenBody: no JSON object, or one with neither or both of ``instances`` and ``inputs``.
    """
    text, root = parse(wire.body)
    rows, columns = root.get("instances"), root.get("inputs")
    if (rows is None) == (columns is None):
        raise BrokenBody("a predict request has either 'instances' or 'inputs'")
    found = list(_slots(text, "", rows or columns))
    nodes = [node for node, _ in found]

    def replace_images(new: Mapping[int, Images]) -> Message:
        texts = [(nodes[index], _text(images)) for index, images in new.items()]
        return Message(splice(text, texts).encode(), wire.headers)

    return ParsedRequest([slot for _, slot in found], replace_images)


def _slots(text: str, name: str, node: Node | None) -> Iterator[tuple[Node, Slot]]:
    if node is None:
        return
    if node.members is not None and list(node.members) == ["b64"]:
        yield node.members["b64"], Slot(name, from_base64(node.members["b64"].leaf))
    elif node.members is not None:
        if name:
            yield node, Slot(name, None)  # an object under an input's name is no image, whatever it holds
        for key, member in node.members.items():
            yield from _slots(text, key, member)
    elif node.elements is not None:
        for element in node.elements:
            yield from _slots(text, name, element)
    elif isinstance(node.leaf, str):
        yield node, Slot(name, from_base64(node.leaf))
    else:
        # Of one string among numbers numpy would make as long a string of each: gigabytes of a small body.
        quoted = text.find('"', node.start, node.end) >= 0
        yield node, Slot(name, None if quoted else numbers(node.leaf), typed=False)


def _text(images: Images) -> str:
    if isinstance(images, bytes):
        return json.dumps(base64.b64encode(images).decode())
    return orjson.dumps(images, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def labels(answer: bytes, headers: Mapping[str, str]) -> list[Any] | None:  # noqa: ARG001 (the protocols' signature)
    """The classes that a predict answer tells, for comparing two; None where they cannot be told."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    rows = value.get("predictions", value.get("outputs")) if isinstance(value, dict) else None
    return best(rows) if isinstance(rows, list) and rows else None


def best(rows: list[Any]) -> list[Any] | None:
    """Of each row of scores the index of the largest; of labels, or rows of them, themselves; None for anything else.

    A row of numbers of which one has a point is one of scores.
    """
    told = []
    for row in rows:
        kinds = {type(entry) for entry in (row if isinstance(row, list) else [row])}
        if isinstance(row, list) and len(row) > 1 and float in kinds and kinds <= {int, float}:
            told.append(row.index(max(row)))
        elif kinds and kinds <= {int, str}:
            told.append(row)
        else:
            return None
    return told
