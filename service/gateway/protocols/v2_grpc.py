"""The Open Inference Protocol V2 over gRPC: ``ModelInfer`` as protobuf. Everything else passes as bytes.

The messages are those of ``open_inference.proto``, read from its descriptor set into a pool of their own: a process may
hold another library's copy of them as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from ...errors import BrokenBody
from . import MAX_PLACES, Images, Message, ParsedRequest, Slot, shaped
from .v2 import DTYPES, binary, from_bytes, join, top_classes

SERVICE = "inference.GRPCInferenceService"
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


def find(wire: Message) -> ParsedRequest:
    """The images in a ``ModelInferRequest``, whether its tensors travel raw or as contents.

    Raises:
        BrokenBody: no such message, or tensors that contradict their shapes.
    """
    request = parse("ModelInferRequest", wire.body)
    raw: Sequence[bytes] = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BrokenBody(f"{len(request.inputs)} inputs, {len(raw)} raw contents")
    if len(request.inputs) > MAX_PLACES:
        raise BrokenBody(f"more than {MAX_PLACES} inputs")
    slots: list[Slot] = []
    places: list[tuple[int, int]] = []
    for index, tensor in enumerate(request.inputs):
        if "shared_memory_region" in tensor.parameters:
            raise BrokenBody(f"input {tensor.name!r} is in shared memory, which is not read here: send it in the body")
        shape = shaped(tensor.name, tensor.shape)
        found = binary(tensor.name, tensor.datatype, shape, raw[index]) if raw else _contents(tensor, shape)
        slots += [slot for _, slot in found]
        places += [(index, element) for element, _ in found]

    def replace_images(new: Mapping[int, Images]) -> Message:
        changed: dict[int, dict[int, Images]] = {}
        for slot, images in new.items():
            index, element = places[slot]
            changed.setdefault(index, {})[element] = images
        for index, elements in changed.items():
            if raw:
                request.raw_input_contents[index] = join(raw[index], elements)
                continue
            tensor = request.inputs[index]
            contents = getattr(tensor.contents, _CONTENTS[tensor.datatype])
            for element, images in elements.items():
                if isinstance(images, bytes):
                    contents[element] = images
                else:
                    contents[:] = images.reshape(-1).tolist()
        return Message(request.SerializeToString(deterministic=True), wire.headers)

    return ParsedRequest(slots, replace_images)


def _contents(tensor: Any, shape: tuple[int, ...]) -> list[tuple[int, Slot]]:
    held = getattr(tensor.contents, _CONTENTS.get(tensor.datatype, ""), None)
    if held is None:
        return [(-1, Slot(tensor.name, None))]
    if len(held) != math.prod(shape):
        raise BrokenBody(f"input {tensor.name!r}: {len(held)} elements for the shape {list(shape)}")
    if tensor.datatype == "BYTES":
        if len(held) > MAX_PLACES:
            raise BrokenBody(f"input {tensor.name!r}: more than {MAX_PLACES} elements")
        return [(i, Slot(tensor.name, element)) for i, element in enumerate(held)]
    wide, dtype = np.array(held), np.dtype(DTYPES[tensor.datatype])
    array = wide.astype(dtype)
    if dtype.kind in "iu" and (array != wide).any():
        raise BrokenBody(f"input {tensor.name!r}: a value that is no {tensor.datatype}")
    return [(-1, Slot(tensor.name, array.reshape(shape)))] if len(held) else []


def labels(answer: bytes, headers: Mapping[str, str]) -> list[Any] | None:  # noqa: ARG001 (the protocols' signature)
    """The classes that a ``ModelInferResponse`` tells; None where they cannot be told."""
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
