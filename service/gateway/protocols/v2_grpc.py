"""The Open Inference Protocol V2 over gRPC: ``ModelInfer`` as protobuf. Everything else passes as bytes.

The messages are those of the protocol's ``grpc_predict_v2.proto`` (package ``inference``), with Triton's two further
parameter types, built here in a pool of their own, so that they live beside anybody else's copy in one process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from ...errors import BrokenBody
from . import MAX_PLACES, Found, Images, Slot, Wire, shaped
from .v2 import DTYPES, binary, from_bytes, join, tell

SERVICE = "inference.GRPCInferenceService"

_KINDS = {
    "bool": 8,
    "int32": 5,
    "int64": 3,
    "uint32": 13,
    "uint64": 4,
    "float": 2,
    "double": 1,
    "string": 9,
    "bytes": 12,
}
_MAP = "map InferParameter"
# message -> its fields in the order of their numbers; * repeats, | belongs to the one-of, _MAP maps names to parameters
_MESSAGES: dict[str, list[tuple[str, str]]] = {
    "InferParameter": [
        ("|bool", "bool_param"), ("|int64", "int64_param"), ("|string", "string_param"), ("|double", "double_param"),
        ("|uint64", "uint64_param"),
    ],
    "InferTensorContents": [
        ("*bool", "bool_contents"), ("*int32", "int_contents"), ("*int64", "int64_contents"),
        ("*uint32", "uint_contents"), ("*uint64", "uint64_contents"), ("*float", "fp32_contents"),
        ("*double", "fp64_contents"), ("*bytes", "bytes_contents"),
    ],
    "Tensor": [  # InferInputTensor and InferOutputTensor alike
        ("string", "name"), ("string", "datatype"), ("*int64", "shape"), (_MAP, "parameters"),
        ("InferTensorContents", "contents"),
    ],
    "RequestedOutput": [("string", "name"), (_MAP, "parameters")],
    "ModelInferRequest": [
        ("string", "model_name"), ("string", "model_version"), ("string", "id"), (_MAP, "parameters"),
        ("*Tensor", "inputs"), ("*RequestedOutput", "outputs"), ("*bytes", "raw_input_contents"),
    ],
    "ModelInferResponse": [
        ("string", "model_name"), ("string", "model_version"), ("string", "id"), (_MAP, "parameters"),
        ("*Tensor", "outputs"), ("*bytes", "raw_output_contents"),
    ],
}  # fmt: skip
# datatype -> the member of InferTensorContents that holds it; FP16 has none and travels raw only
_CONTENTS = {
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def _build() -> Mapping[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(name="open_inference_v2.proto", package="inference", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if any(kind.startswith("|") for kind, _ in fields):
            message.oneof_decl.add(name="parameter_choice")
        for number, (kind, field_name) in enumerate(fields, 1):
            repeated = kind.startswith("*") or kind == _MAP
            field = message.field.add(name=field_name, number=number, label=3 if repeated else 1)
            kind = kind.lstrip("*")
            if kind == _MAP:
                entry = message.nested_type.add(name="ParametersEntry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=1, type=9)
                entry.field.add(name="value", number=2, label=1, type=11, type_name=".inference.InferParameter")
                field.type, field.type_name = 11, f".inference.{name}.ParametersEntry"
            elif kind in _MESSAGES:
                field.type, field.type_name = 11, f".inference.{kind}"
            else:
                field.type = _KINDS[kind.lstrip("|")]
                if kind.startswith("|"):
                    field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}"))
        for name in ("ModelInferRequest", "ModelInferResponse")
    }


_CLASSES = _build()


def parse(name: str, body: bytes | bytearray) -> Any:
    """A ``ModelInferRequest`` or ``ModelInferResponse``.

    Raises:
        BrokenBody: not that message.
    """
    try:
        return _CLASSES[name].FromString(bytes(body))
    except DecodeError as error:
        raise BrokenBody(f"not a {name}: {error}") from error


def find(wire: Wire) -> Found:
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

    def put_back(new: Mapping[int, Images]) -> Wire:
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
        return Wire(request.SerializeToString(deterministic=True), wire.headers)

    return Found(slots, put_back)


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
        return tell(scores.reshape(tuple(output.shape)))
    except (BrokenBody, IndexError, KeyError, ValueError, OverflowError):
        return None
