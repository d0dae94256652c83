"""The Open Inference Protocol V2 over REST: JSON, and the binary data extension with its raw form.

Sources: the Open Inference Protocol's REST page; Triton's "Binary Tensor Data Extension".
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import BrokenBody, shown
from . import MAX_PLACES, Message, Numbers, ParsedRequest, Slot, Value, shaped
from .json_text import Node, parse, splice
from .json_values import scan, written

HEADER = "inference-header-content-length"
DTYPES = {
    "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2", "INT32": "<i4",
    "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
READ_TYPES = (*DTYPES, "BF16")
"""The types of the tensors that are read here; BF16 as float32."""


_CLASSIFIED = re.compile(r"^-?[0-9.]+(?:[eE][-+]?[0-9]+)?:(?=[0-9]+(?::|$))")


@dataclasses.dataclass(frozen=True)
class _Input:
    """An input: its shape's node, its ``data`` or its blob and the node with that one's length."""

    datatype: str
    shape: Node
    data: Node | None = None
    blob: bytes | memoryview = b""
    size: Node | None = None


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a slot's value lies: at a node of the JSON, or in an input, of whose blob it is one element (-1: all)."""

    node: Node | None = None
    input: int = -1
    element: int = -1


def find(message: Message) -> ParsedRequest:
    """The values in an ``infer`` body; ``Inference-Header-Content-Length`` says where its JSON ends.

    Raises:
        BrokenBody: broken JSON, or lengths, shapes and data that contradict one another.
    """
    declared = message.headers.get(HEADER)
    length = len(message.body)
    if declared is not None and (not declared.isdecimal() or len(declared) > 12 or int(declared) > length):
        raise BrokenBody(f"{HEADER} is {shown(declared)}, the body has {length} bytes")
    if declared is not None and int(declared) == 0:
        return _raw(message)
    split_at = length if declared is None else int(declared)
    text, root = parse(message.body[:split_at], message.reserve)
    request = _Request(text, memoryview(message.body)[split_at:])
    request.read(root)
    if len(request.rest):
        raise BrokenBody(f"{len(request.rest)} bytes follow the last input")

    def replace_images(new: Mapping[int, Value]) -> Message:
        head, blobs = request.written(new)
        headers = {**message.headers, HEADER: str(len(head))} if declared is not None else message.headers
        return Message(b"".join([head, *blobs]), headers)

    return ParsedRequest(request.slots, replace_images)


class _Request:
    """The JSON of a request, its inputs and the slots in them; ``rest`` are the blobs that no input has taken yet."""

    def __init__(self, text: str, rest: memoryview) -> None:
        self.text, self.rest = text, rest
        self.slots: list[Slot] = []
        self._places: list[_Place] = []
        self._inputs: list[_Input] = []

    def read(self, root: Node) -> None:
        inputs = root.get("inputs")
        if inputs is None or (inputs.elements is None and not (isinstance(inputs.leaf, list) and not inputs.leaf)):
            raise BrokenBody("an infer request has a list of 'inputs'")
        for node in inputs.elements or []:
            self._read_input(node)
        self._scan(root, "inputs")

    def _scan(self, node: Node, *known: str) -> None:
        """What could be an image in members that hold none: parameters, and what no protocol knows."""
        for key, member in (node.members or {}).items():
            for place, slot in scan(self.text, key, member) if key not in known else ():
                if slot.value is not None or slot.reason:
                    self._add(dataclasses.replace(slot, name=f"{key}: {slot.name}"), _Place(place))

    def _add(self, slot: Slot, place: _Place) -> None:
        self.slots.append(slot)
        self._places.append(place)

    def _read_input(self, node: Node) -> None:
        name, datatype, shape = _described(node)
        parameters, shape_node = node.get("parameters") or Node(0, 0), node.get("shape") or Node(0, 0)
        data, size = node.get("data"), parameters.get("binary_data_size")
        if parameters.get("shared_memory_region") is not None:
            raise BrokenBody(f"input {shown(name)} is in shared memory, which is not read here: send it in the body")
        index = len(self._inputs)
        if size is not None:
            if type(size.leaf) is not int or not 0 <= size.leaf <= len(self.rest) or data is not None:
                raise BrokenBody(
                    f"input {shown(name)}: binary_data_size {shown(size.leaf)}, {len(self.rest)} bytes are left"
                )
            blob, self.rest = self.rest[: size.leaf], self.rest[size.leaf :]
            for element, slot in binary(name, datatype, shape, blob):
                self._add(slot, _Place(input=index, element=element))
            self._inputs.append(_Input(datatype, shape_node, blob=blob, size=size))
        else:
            self._inputs.append(_Input(datatype, shape_node, data=data))
            if data is not None and (tensor := _from_json(self.text, name, datatype, shape, data)):
                self._add(tensor, _Place(input=index))
            if data is not None and datatype not in READ_TYPES:  # BYTES: unspecified; in practice base64 strings
                for place, slot in scan(self.text, name, data):
                    self._add(slot, _Place(place))
        self._scan(node, "name", "datatype", "shape", "data")

    def written(self, new: Mapping[int, Value]) -> tuple[bytes, list[bytes | memoryview]]:
        """The JSON and the blobs with other values in some slots."""
        replacements: list[tuple[Node, str]] = []
        changed: dict[int, dict[int, Value]] = {}
        for index, value in new.items():
            place = self._places[index]
            if place.node is not None:
                replacements.append((place.node, written(value)))
            else:
                changed.setdefault(place.input, {})[place.element] = value
        blobs = []
        for index, read in enumerate(self._inputs):
            values = changed.get(index, {})
            if -1 in values:
                replacements += _reshaped(read, values[-1])
            if read.size is not None:
                blobs.append(join(read.blob, read.datatype, values) if values else read.blob)
                if len(blobs[-1]) != len(read.blob):
                    replacements.append((read.size, str(len(blobs[-1]))))
        return splice(self.text, replacements).encode(), blobs


def _reshaped(read: _Input, value: Value) -> list[tuple[Node, str]]:
    """A tensor's new data in the JSON, flat or nested as they came, and its new shape where that is another."""
    assert isinstance(value, np.ndarray)
    replacements = [] if value.shape == tuple(read.shape.leaf) else [(read.shape, json.dumps(value.shape))]
    if read.data is not None:
        nested = np.shape(read.data.leaf)
        same = value.size == math.prod(nested)
        flat = len(nested) == 1
        as_sent = value.reshape(nested) if same else value.reshape(-1) if flat else value
        replacements.append((read.data, written(_to_bf16(as_sent)[1] if read.datatype == "BF16" else as_sent)))
    return replacements


def _described(node: Node) -> tuple[str, str, tuple[int, ...]]:
    """Name, datatype and shape of an input."""
    name, datatype, shape = ((node.get(key) or Node(0, 0)).leaf for key in ("name", "datatype", "shape"))
    if not isinstance(name, str) or not isinstance(datatype, str) or not isinstance(shape, (list, np.ndarray)):
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
            raise BrokenBody(f"input {shown(name)}: {len(elements)} elements for the shape {list(shape)}")
        return [(i, Slot(name, element)) for i, element in enumerate(elements)]
    if datatype not in READ_TYPES:
        return [(-1, unread(name, datatype, shape, bytes(blob)))]
    size = 2 if datatype == "BF16" else np.dtype(DTYPES[datatype]).itemsize
    if len(blob) != count * size:
        raise BrokenBody(f"input {shown(name)}: {len(blob)} bytes for the shape {list(shape)} of {datatype}")
    return [(-1, Slot(name, from_bytes(datatype, blob).reshape(shape)))] if count else []


def unread(name: str, datatype: str, shape: tuple[int, ...], held: bytes | None = None) -> Slot:
    """The slot of a tensor of a type that is not read, with its bytes where there are any."""
    return Slot(name, held, f"its datatype {datatype[:32]} is not read here: {', '.join(READ_TYPES)} are", shape)


def split(name: str, blob: bytes | memoryview) -> list[bytes]:
    """The elements of a BYTES tensor: each a little-endian u32 length and so many bytes."""
    elements: list[bytes] = []
    index = 0
    while index < len(blob):
        if len(elements) == MAX_PLACES:
            raise BrokenBody(f"input {shown(name)}: more than {MAX_PLACES} elements")
        if index + 4 > len(blob):
            raise BrokenBody(f"input {shown(name)}: an element's length is cut off")
        (length,) = struct.unpack_from("<I", blob, index)
        if index + 4 + length > len(blob):
            raise BrokenBody(f"input {shown(name)}: an element says {length} bytes, {len(blob) - index - 4} are left")
        elements.append(bytes(blob[index + 4 : index + 4 + length]))
        index += 4 + length
    return elements


def join(blob: bytes | memoryview, datatype: str, new: Mapping[int, Value]) -> bytes:
    """A blob with elements of it (-1: all of it) replaced."""
    if -1 in new:
        whole = new[-1]
        assert isinstance(whole, np.ndarray)
        return (_to_bf16(whole)[0] if datatype == "BF16" else whole).tobytes()
    elements = [new.get(index, element) for index, element in enumerate(split("", blob))]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements if isinstance(element, bytes))


def _to_bf16(values: Numbers) -> tuple[Numbers, Numbers]:
    """float32 values rounded to BF16, half to even: their bits, and the values that these stand for."""
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    halves = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
    return halves, (halves.astype("<u4") << 16).view("<f4")


def _from_json(text: str, name: str, datatype: str, shape: tuple[int, ...], data: Node) -> Slot | None:
    if datatype not in READ_TYPES:
        return None if datatype == "BYTES" or data.elements is not None else unread(name, datatype, shape)
    dtype = np.dtype(DTYPES.get(datatype, "<f4"))
    # numpy would read strings as numbers, true and false too, and cut fractions off: recognised by their letters.
    foreign = '"rs' if dtype.kind == "f" else '"rs.eE'
    if any(text.find(letter, data.start, data.end) >= 0 for letter in foreign):
        raise BrokenBody(f"input {shown(name)}: its data are no {datatype} tensor")
    try:
        array = _typed(data.leaf, dtype)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise BrokenBody(f"input {shown(name)}: its data are no {datatype} tensor") from error
    if array is None or array.size != math.prod(shape):
        raise BrokenBody(f"input {shown(name)}: the data do not fill the shape {list(shape)}")
    return Slot(name, array.reshape(shape)) if array.size else None


def _typed(leaf: Any, dtype: np.dtype[Any]) -> Numbers | None:
    """A leaf's numbers; raises ``ValueError``, ``TypeError`` or ``ArithmeticError`` if the type does not hold them."""
    if isinstance(leaf, list):
        return _array(leaf, dtype)
    if not isinstance(leaf, np.ndarray):
        return None
    if dtype.kind != "f" and not np.iinfo(dtype).min <= leaf.min() <= leaf.max() <= np.iinfo(dtype).max:
        raise OverflowError
    return _array(leaf, dtype)


def _array(values: Any, dtype: Any) -> Numbers:
    # numpy would only warn of a number that is beyond the type, and write infinity.
    with np.errstate(over="raise"):
        return np.array(values, dtype)


def _raw(message: Message) -> ParsedRequest:
    """The raw form: the body is the one input's bytes; its type and shape are the model's own affair."""

    def replace_images(new: Mapping[int, Value]) -> Message:
        value = new.get(0, bytes(message.body))
        assert not isinstance(value, str)
        return Message(value if isinstance(value, bytes) else value.tobytes(), message.headers)

    return ParsedRequest([Slot("raw", bytes(message.body), raw=True)] if len(message.body) else [], replace_images)


def labels(answer: bytes, headers: Mapping[str, str]) -> list[Any] | None:
    """The classes in an ``infer`` answer, for comparing two: per row of its first output, the largest entry.

    None where they cannot be read.
    """
    length = headers.get(HEADER, "")
    try:
        split_at = int(length) if length.isdecimal() else len(answer)
        output = json.loads(answer[:split_at])["outputs"][0]
        shape, datatype = output["shape"], output["datatype"]
        if "data" in output:
            scores: Numbers = _array(output["data"], object if datatype == "BYTES" else DTYPES[datatype])
        else:
            scores = from_bytes(datatype, answer[split_at : split_at + output["parameters"]["binary_data_size"]])
        return top_classes(scores.reshape(shape))
    except (BrokenBody, ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        return None


def from_bytes(datatype: str, blob: bytes | memoryview) -> Numbers:
    """The elements of a tensor in its raw form; raises ``KeyError`` for a type that is not read."""
    if datatype == "BYTES":
        return np.array([element.decode() for element in split("", blob)], dtype=object)
    if datatype == "BF16":
        return (np.frombuffer(blob, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(blob, DTYPES[datatype])


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
