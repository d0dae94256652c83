"""KServe V1 and TensorFlow Serving's REST: rows (``instances``), columns (``inputs``) and ``{"b64": ...}``.

Sources: KServe's V1 protocol page; TensorFlow Serving's RESTful API page ("Request format", "Encoding binary values").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...errors import BrokenBody
from . import Message, ParsedRequest, Slot, Value
from .json_text import Node, parse, splice
from .json_values import UNNAMED, scan, written


def find(message: Message) -> ParsedRequest:
    """The values in a ``:predict`` body.

    Raises:
        BrokenBody: no JSON object, or one with neither or both of ``instances`` and ``inputs``.
    """
    text, root = parse(message.body, message.reserve)
    if (root.get("instances") is None) == (root.get("inputs") is None):
        raise BrokenBody("a predict request has either 'instances' or 'inputs'")
    return in_json(text, root, message.headers)


def in_json(text: str, root: Node, headers: Mapping[str, str]) -> ParsedRequest:
    """The values in any JSON body; those of ``instances``, ``inputs`` and an array have no name of their own."""
    found: list[tuple[Node, Slot]] = []
    for key, member in (root.members or {}).items():
        found += scan(text, "" if key in ("instances", "inputs") else key or UNNAMED, member)
    if root.members is None:
        found += scan(text, "", root)
    nodes = [node for node, _ in found]

    def replace_images(new: Mapping[int, Value]) -> Message:
        return Message(splice(text, [(nodes[index], written(value)) for index, value in new.items()]).encode(), headers)

    return ParsedRequest([slot for _, slot in found], replace_images)


def labels(answer: bytes, headers: Mapping[str, str]) -> list[Any] | None:  # noqa: ARG001 (the protocols' signature)
    """The classes in a predict answer, for comparing two; None where they cannot be read."""
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
    classes = []
    for row in rows:
        kinds = {type(entry) for entry in (row if isinstance(row, list) else [row])}
        if isinstance(row, list) and len(row) > 1 and float in kinds and kinds <= {int, float}:
            classes.append(row.index(max(row)))
        elif kinds and kinds <= {int, str}:
            classes.append(row)
        else:
            return None
    return classes
