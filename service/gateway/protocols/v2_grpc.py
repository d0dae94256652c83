"""The Open Inference Protocol V2 over gRPC: ``ModelInfer`` as protobuf. Everything else passes as bytes.

The messages are those of ``open_inference.proto``, read from its descriptor set into a pool of their own: a process may
hold another library's copy of them as well.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from ...errors import BrokenBody, shown
from . import MAX_PLACES, Message, ParsedRequest, Slot, Value, shaped
from .v2 import DTYPES, READ_TYPES, binary, from_bytes, join, top_classes, unread
from .wire import parsed_bytes

SERVICE = "inference.GRPCInferenceService"
_PIECE = 2**16
_DESCRIPTORS = Path(__file__).with_name("open_inference.binpb")

# datatype -> the member of InferTensorContents that holds it; FP16 has none and travels raw only
_CONTENTS = {
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def _messages() -> Mapping[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(_DESCRIPTORS.read_bytes()).file:
        pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}"))
        for name in ("ModelInferRequest", "ModelInferResponse")
    }


_MESSAGES = _messages()


def parse(name: str, body: bytes | bytearray) -> Any:
    """A ``ModelInferRequest`` or ``ModelInferResponse``.

    Raises:
        BrokenBody: not that message.
    """
    try:
        return _MESSAGES[name].FromString(bytes(body))
    except DecodeError as error:
        raise BrokenBody(f"not a {name}: {error}") from error


def find(message: Message) -> ParsedRequest:
    """The values in a ``ModelInferRequest``, whether its tensors travel raw or as contents, and its text parameters.

    Raises:
        BrokenBody: no such message, or tensors that contradict their shapes.
        BodyTooLarge: of too many fields.
    """
    message.reserve(parsed_bytes(message.body))
    request = parse("ModelInferRequest", message.body)
    raw: Sequence[bytes] = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BrokenBody(f"{len(request.inputs)} inputs, {len(raw)} raw contents")
    if len(request.inputs) > MAX_PLACES:
        raise BrokenBody(f"more than {MAX_PLACES} inputs")
    slots: list[Slot] = []
    places: list[tuple[Any, int, int]] = []  # a tensor, its index and an element of it; or a parameter
    for index, tensor in enumerate(request.inputs):
        if "shared_memory_region" in tensor.parameters:
            raise BrokenBody(
                f"input {shown(tensor.name)} is in shared memory, which is not read here: send it in the body"
            )
        shape = shaped(tensor.name, tensor.shape)
        _no_other_contents(tensor, raw=bool(raw))
        found = binary(tensor.name, tensor.datatype, shape, raw[index]) if raw else _contents(tensor, shape)
        slots += [slot for _, slot in found]
        places += [(tensor, index, element) for element, _ in found]
    for owner in (request, *request.inputs, *request.outputs):
        texts = sorted(name for name, value in owner.parameters.items() if value.string_param)
        slots += [Slot(name, owner.parameters[name].string_param) for name in texts]
        places += [(owner.parameters[name], -1, -1) for name in texts]

    def replace_images(new: Mapping[int, Value]) -> Message:
        changed: dict[int, dict[int, Value]] = {}
        for slot, value in new.items():
            place, index, element = places[slot]
            if isinstance(value, str):
                place.string_param = value
            else:
                changed.setdefault(index, {})[element] = value
        for index, values in changed.items():
            _write(request, index, values)
        return Message(request.SerializeToString(deterministic=True), message.headers)

    return ParsedRequest(slots, replace_images, request.model_name)


def _write(request: Any, index: int, values: Mapping[int, Value]) -> None:
    """Other values in the elements of an input (-1: all of it)."""
    tensor = request.inputs[index]
    whole = values.get(-1)
    if isinstance(whole, np.ndarray) and whole.shape != tuple(tensor.shape):
        tensor.shape[:] = whole.shape
    if request.raw_input_contents:
        request.raw_input_contents[index] = join(request.raw_input_contents[index], tensor.datatype, values)
        return
    contents = getattr(tensor.contents, _CONTENTS[tensor.datatype])
    if isinstance(whole, np.ndarray):
        del contents[:]
        for piece in _pieces(whole.reshape(-1)):
            contents.extend(piece.tolist())
        return
    for element, value in values.items():
        contents[element] = value


def _no_other_contents(tensor: Any, raw: bool) -> None:
    """Refuse a tensor with contents beside those that its datatype names: servers differ in which they take."""
    expected = "" if raw else _CONTENTS.get(tensor.datatype)
    other = [field.name for field, _ in tensor.contents.ListFields() if field.name != expected]
    if other and expected is not None:
        raise BrokenBody(
            f"input {shown(tensor.name)} of {tensor.datatype[:32]} has {other[0]}, which is not its contents"
        )


def _few(tensor: Any, elements: Sequence[bytes]) -> None:
    if len(elements) > MAX_PLACES:
        raise BrokenBody(f"input {shown(tensor.name)}: more than {MAX_PLACES} elements")


def _contents(tensor: Any, shape: tuple[int, ...]) -> list[tuple[int, Slot]]:
    held = getattr(tensor.contents, _CONTENTS.get(tensor.datatype, ""), None)
    if held is None:
        if not tensor.contents.ListFields():
            return []
        slot = unread(tensor.name, tensor.datatype, shape)
        if tensor.datatype in READ_TYPES:
            slot = dataclasses.replace(slot, reason=f"its datatype {tensor.datatype} is read as raw contents only")
        _few(tensor, tensor.contents.bytes_contents)
        texts = [dataclasses.replace(slot, value=element) for element in tensor.contents.bytes_contents]
        return [(-1, slot), *((-1, text) for text in texts)]
    if len(held) != math.prod(shape):
        raise BrokenBody(f"input {shown(tensor.name)}: {len(held)} elements for the shape {list(shape)}")
    if tensor.datatype == "BYTES":
        _few(tensor, held)
        return [(i, Slot(tensor.name, element)) for i, element in enumerate(held)]
    dtype = np.dtype(DTYPES[tensor.datatype])
    array, filled = np.empty(len(held), dtype), 0
    for piece in _pieces(held):
        wide = np.array(piece)
        narrow = array[filled : filled + len(wide)]
        narrow[:] = wide.astype(dtype)
        if dtype.kind in "iu" and (narrow != wide).any():
            raise BrokenBody(f"input {shown(tensor.name)}: a value that is no {tensor.datatype}")
        filled += len(wide)
    return [(-1, Slot(tensor.name, array.reshape(shape)))] if len(held) else []


def _pieces(values: Any) -> Iterator[Any]:
    """Some values at a time: Python's number takes up to 32 bytes."""
    return (values[begin : begin + _PIECE] for begin in range(0, len(values), _PIECE))


def labels(answer: bytes, headers: Mapping[str, str]) -> list[Any] | None:  # noqa: ARG001 (the protocols' signature)
    """The classes in a ``ModelInferResponse``; None where they cannot be read."""
    try:
        response = parse("ModelInferResponse", answer)
        output = response.outputs[0]
        if response.raw_output_contents:
            scores = from_bytes(output.datatype, response.raw_output_contents[0])
        elif output.datatype == "BYTES":
            scores = np.array([element.decode() for element in output.contents.bytes_contents], dtype=object)
        else:
            scores = np.array(getattr(output.contents, _CONTENTS[output.datatype]))
        return top_classes(scores.reshape(tuple(output.shape)))
    except (BrokenBody, IndexError, KeyError, ValueError, OverflowError):
        return None
