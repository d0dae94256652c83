"""The Open Inference Protocol V2 over REST: JSON, and the binary data extension with its raw form.

Sources: the Open Inference Protocol's REST page; Triton's "Binary Tensor Data Extension".
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson

from ...errors import BrokenBody
from . import MAX_PLACES, Images, Message, Numbers, ParsedRequest, Slot, from_base64, is_encoded_image, shaped
from .json_text import Node, parse, splice

HEADER = "inference-header-content-length"
DTYPES = {
    "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2", "INT32": "<i4",
    "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


_CLASSIFIED = re.compile(r"^-?[0-9.]+(?:[eE][-+]?[0-9]+)?:(?=[0-9]+(?::|$))")


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a slot's images lie: a node of the JSON, or a part of the blob of input ``blob``."""

    node: Node | None = None
    blob: int = -1
    element: int = -1


def find(wire: Message) -> ParsedRequest:
    """The images in an ``infer`` body; ``Inference-Header-Content-Length`` says where its JSON ends.

    Raises:
        BrokenBody: broken JSON, or lengths, shapes and data that contradict one another.
    """
    declared = wire.headers.get(HEADER)
    if declared is not None and (not declared.isdecimal() or len(declared) > 12 or int(declared) > len(wire.body)):
        raise BrokenBody(f"{HEADER} is {declared[:32]!r}, the body has {len(wire.body)} bytes")
    if declared is not None and int(declared) == 0:
        return _raw(wire)
    split = len(wire.body) if declared is None else int(declared)
    text, root = parse(wire.body[:split])
    inputs = root.get("inputs")
    if inputs is None or (inputs.elements is None and inputs.leaf != []):
        raise BrokenBody("an infer request has a list of 'inputs'")
    slots: list[Slot] = []
    places: list[_Place] = []
    blobs: list[bytes | memoryview] = []
    sizes: list[Node] = []
    rest = memoryview(wire.body)[split:]
    for node in inputs.elements or []:
        name, datatype, shape = _described(node)
        parameters = node.get("parameters") or Node(0, 0)
        data, size = node.get("data"), parameters.get("binary_data_size")
        if parameters.get("shared_memory_region") is not None:
            raise BrokenBody(f"input {name!r} is in shared memory, which is not read here: send it in the body")
        if size is not None:
            if type(size.leaf) is not int or not 0 <= size.leaf <= len(rest) or data is not None:
                raise BrokenBody(f"input {name!r}: binary_data_size {size.leaf!r}, {len(rest)} bytes are left")
            found = binary(name, datatype, shape, rest[: size.leaf])
            slots += [slot for _, slot in found]
            places += [_Place(blob=len(blobs), element=element) for element, _ in found]
            blobs.append(rest[: size.leaf])
            sizes.append(size)
            rest = rest[size.leaf :]
        elif data is not None:
            for place, slot in _from_json(text, name, datatype, shape, data):
                slots.append(slot)
                places.append(_Place(node=place))
    if len(rest):
        raise BrokenBody(f"{len(rest)} bytes follow the last input")

    def replace_images(new: Mapping[int, Images]) -> Message:
        changed: dict[int, dict[int, Images]] = {}
        replacements = []
        for index, images in new.items():
            place = places[index]
            if place.node is not None:
                replacements.append((place.node, _text(place.node, images)))
            else:
                changed.setdefault(place.blob, {})[place.element] = images
        written = [join(blob, changed[i]) if i in changed else blob for i, blob in enumerate(blobs)]
        replacements += [
            (size, str(len(after))) for size, before, after in zip(sizes, blobs, written, strict=True)
            if len(before) != len(after)
        ]  # fmt: skip
        head = splice(text, replacements).encode() if replacements else bytes(wire.body[:split])
        headers = {**wire.headers, HEADER: str(len(head))} if declared is not None else wire.headers
        return Message(b"".join([head, *written]), headers)

    return ParsedRequest(slots, replace_images)


def _described(node: Node) -> tuple[str, str, tuple[int, ...]]:
    """Name, datatype and shape of an input."""
    name, datatype, shape = ((node.get(key) or Node(0, 0)).leaf for key in ("name", "datatype", "shape"))
    if not isinstance(name, str) or not isinstance(datatype, str) or not isinstance(shape, list):
        raise BrokenBody("every input has a 'name', a 'datatype' and a 'shape'")
    return name, datatype, shaped(name, shape)


def binary(name: str, datatype: str, shape: tuple[int, ...], blob: bytes | memoryview) -> list[tuple[int, Slot]]:
    """The slots in the raw bytes of an input, each with its element (-1: the blob is one tensor). Also gRPC's form.

    Raises:
        BrokenBody: the bytes do not fill the shape.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        elements = split(name, blob)
        if len(elements) != count:
            raise BrokenBody(f"input {name!r}: {len(elements)} elements for the shape {list(shape)}")
        return [(i, Slot(name, element)) for i, element in enumerate(elements)]
    if datatype not in DTYPES:
        return [(-1, Slot(name, None))]
    dtype = np.dtype(DTYPES[datatype])
    if len(blob) != count * dtype.itemsize:
        raise BrokenBody(f"input {name!r}: {len(blob)} bytes for the shape {list(shape)} of {datatype}")
    return [(-1, Slot(name, np.frombuffer(blob, dtype).reshape(shape)))] if count else []


def split(name: str, blob: bytes | memoryview) -> list[bytes]:
    """The elements of a BYTES tensor: each a little-endian u32 length and so many bytes."""
    elements: list[bytes] = []
    index = 0
    while index < len(blob):
        if len(elements) == MAX_PLACES:
            raise BrokenBody(f"input {name!r}: more than {MAX_PLACES} elements")
        if index + 4 > len(blob):
            raise BrokenBody(f"input {name!r}: an element's length is cut off")
        (length,) = struct.unpack_from("<I", blob, index)
        if index + 4 + length > len(blob):
            raise BrokenBody(f"input {name!r}: an element says {length} bytes, {len(blob) - index - 4} are left")
        elements.append(bytes(blob[index + 4 : index + 4 + length]))
        index += 4 + length
    return elements


def join(blob: bytes | memoryview, new: Mapping[int, Images]) -> bytes:
    """A blob with elements of it (-1: all of it) replaced."""
    if -1 in new:
        whole = new[-1]
        assert not isinstance(whole, bytes)
        return whole.tobytes()
    elements = [new.get(index, element) for index, element in enumerate(split("", blob))]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements if isinstance(element, bytes))


def _from_json(text: str, name: str, datatype: str, shape: tuple[int, ...], data: Node) -> list[tuple[Node, Slot]]:
    if datatype == "BYTES":
        # Unspecified; in practice they are base64 strings.
        return [(element, Slot(name, from_base64(element.leaf))) for element in _elements(data)]
    if datatype not in DTYPES:
        return [(data, Slot(name, None))]
    dtype = np.dtype(DTYPES[datatype])
    # numpy would read strings as numbers, true and false too, and cut fractions off: told by their letters.
    foreign = '"rs' if dtype.kind == "f" else '"rs.eE'
    if any(text.find(letter, data.start, data.end) >= 0 for letter in foreign):
        raise BrokenBody(f"input {name!r}: its data are no {datatype} tensor")
    try:
        array = np.array(data.leaf, dtype=dtype) if isinstance(data.leaf, list) else None
    except (ValueError, TypeError, OverflowError) as error:
        raise BrokenBody(f"input {name!r}: its data are no {datatype} tensor") from error
    if array is None or array.size != math.prod(shape):
        raise BrokenBody(f"input {name!r}: the data do not fill the shape {list(shape)}")
    return [(data, Slot(name, array.reshape(shape)))] if array.size else []


def _elements(node: Node) -> Iterator[Node]:
    """The elements of a list, flat or nested."""
    if node.elements is None:
        if node.leaf != []:
            yield node
        return
    for element in node.elements:
        yield from _elements(element)


def _text(node: Node, images: Images) -> str:
    if isinstance(images, bytes):
        return json.dumps(base64.b64encode(images).decode())
    shape = np.shape(node.leaf)  # flat or nested, as it came
    return orjson.dumps(images.reshape(shape), option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _raw(wire: Message) -> ParsedRequest:
    """The raw form: the body is the one input's bytes; its type and shape are the model's own affair."""
    whole: Images = bytes(wire.body) if is_encoded_image(wire.body) else np.frombuffer(wire.body, np.uint8)

    def replace_images(new: Mapping[int, Images]) -> Message:
        images = new.get(0, whole)
        return Message(images if isinstance(images, bytes) else images.tobytes(), wire.headers)

    return ParsedRequest([Slot("raw", whole, raw=True)] if len(wire.body) else [], replace_images)


def labels(answer: bytes, headers: Mapping[str, str]) -> list[Any] | None:
    """The classes that an ``infer`` answer tells, for comparing two: per row of its first output, the largest entry.

    None where it cannot be told.
    """
    length = headers.get(HEADER, "")
    try:
        split_at = int(length) if length.isdecimal() else len(answer)
        output = json.loads(answer[:split_at])["outputs"][0]
        shape, datatype = output["shape"], output["datatype"]
        if "data" in output:
            scores: Numbers = np.array(output["data"], dtype=object if datatype == "BYTES" else DTYPES[datatype])
        else:
            scores = from_bytes(datatype, answer[split_at : split_at + output["parameters"]["binary_data_size"]])
        return top_classes(scores.reshape(shape))
    except (BrokenBody, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError):
        return None


def from_bytes(datatype: str, blob: bytes) -> Numbers:
    """The elements of an output in its raw form; raises ``KeyError`` for a type that is not read."""
    if datatype != "BYTES":
        return np.frombuffer(blob, DTYPES[datatype])
    return np.array([element.decode() for element in split("", blob)], dtype=object)


def top_classes(scores: Numbers) -> list[Any] | None:
    """Per row the index of the largest score, or the label; of several labels in a row the first, which is the best.

    Of Triton's classification extension, ``score:index[:label]``, what follows the score. None for single scores.
    """
    if scores.dtype.kind == "f":
        several = scores.ndim >= 2 and scores.shape[-1] > 1
        return scores.reshape(len(scores), -1).argmax(1).tolist() if several else None
    if scores.dtype.kind == "O":
        first = scores.reshape(len(scores), -1)[:, 0] if scores.ndim >= 2 else scores
        return [_CLASSIFIED.sub("", label) for label in first.tolist()]
    return list(scores.reshape(-1).tolist())
