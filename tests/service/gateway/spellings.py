"""Values that hold an image in every spelling, or none, and requests of every protocol that are made of such values.

A value is text, bytes, or a tensor with its datatype.
"""

import base64
import io
import json
import struct
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, quote_plus, unquote_to_bytes

import numpy as np
from PIL import Image

from arn_purify.service.gateway.protocols import v2, v2_grpc


class Tensor(NamedTuple):
    datatype: str
    array: np.ndarray


def b64(data):
    return base64.b64encode(data).decode()


def picture(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"), np.float32)


def bf16(array):
    return (np.ascontiguousarray(array, "<f4").view("<u4") >> 16).astype("<u2")


def from_bf16(bits):
    return (bits.astype("<u4") << 16).view("<f4")


def file_of(tensor):
    return (np.asarray(tensor.array, np.int64) & 255).astype("u1").tobytes()


def keeps(pattern, read):
    """Read text that must have the client's own spelling."""

    def checked(text):
        assert pattern(text), text[:80]
        return read(text)

    return checked


# name -> how a file is written, and how the file is read from what was written
TEXTS = {
    "base64": (b64, base64.b64decode),
    "line breaks": (
        lambda data: base64.encodebytes(data).decode(),
        keeps(lambda text: len(text.split("\n")[0]) == 76 and text[-1] == "\n", base64.b64decode),
    ),
    "no padding": (
        lambda data: b64(data).rstrip("="),
        lambda text: base64.b64decode(text + "=" * (-len(text) % 4)),
    ),
    "URL-safe": (lambda data: base64.urlsafe_b64encode(data).decode(), base64.urlsafe_b64decode),
    "white space": (
        lambda data: f" \t{b64(data)}\r\n",
        keeps(lambda text: text[:2] == " \t" and text[-2:] == "\r\n", base64.b64decode),
    ),
    "data URI": (
        lambda data: f"data:image/png;base64,{b64(data)}",
        keeps(lambda text: text.startswith("data:image/png;base64,"), lambda text: base64.b64decode(text[22:])),
    ),
    "percent-encoded": (lambda data: quote(b64(data), safe=""), lambda text: base64.b64decode(unquote_to_bytes(text))),
    "percent-encoded data URI": (
        lambda data: f"data:image/png,{quote(data)}",
        lambda text: unquote_to_bytes(text.partition(",")[2]),
    ),
    "a bytes literal": (lambda data: f"b'{b64(data)}'", lambda text: base64.b64decode(text[2:-1])),
    "base64 twice": (lambda data: b64(b64(data).encode()), lambda text: base64.b64decode(base64.b64decode(text))),
    "hexadecimal": (bytes.hex, bytes.fromhex),
    "Latin-1": (lambda data: data.decode("latin-1"), lambda text: text.encode("latin-1")),
}
FILES = {"a file": (lambda data: data, lambda data: data)}
NUMBERS = {
    "UINT8 [N]": (lambda data: Tensor("UINT8", np.frombuffer(data, "u1")), file_of),
    "UINT8 [1, N]": (
        lambda data: Tensor("UINT8", np.frombuffer(data, "u1")[None]),
        lambda t: t.array[0].astype("u1").tobytes(),
    ),
    "UINT8 [N, 1]": (
        lambda data: Tensor("UINT8", np.frombuffer(data, "u1")[:, None]),
        file_of,
    ),
    "INT8 [1, N]": (
        lambda data: Tensor("INT8", np.frombuffer(data, "i1")[None]),
        file_of,
    ),
    "INT32 [N]": (
        lambda data: Tensor("INT32", np.frombuffer(data, "u1").astype("<i4")),
        file_of,
    ),
    "UINT8 [1, N] and zeros": (
        lambda data: Tensor("UINT8", np.frombuffer(data + bytes(3000 - len(data)), "u1")[None]),
        keeps(lambda t: t.array.shape == (1, 3000), file_of),
    ),
}
PIXELS = {
    "FP32": (lambda data: Tensor("FP32", picture(data)[None, None] / 255), lambda t: t.array[0, 0] * 255),
    "UINT8": (lambda data: Tensor("UINT8", picture(data).astype("u1")[None, :, :, None]), lambda t: t.array[0, ..., 0]),
    "BF16": (
        lambda data: Tensor("BF16", from_bf16(bf16(picture(data)[None, None] / 255))),
        lambda t: t.array[0, 0] * 255,
    ),
    "frames": (lambda data: Tensor("FP32", picture(data)[None, None, None] / 255), lambda t: t.array[0, 0, 0] * 255),
}
GIF = b"GIF89a\x1c\0\x1c\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x1c\0\x1c\0\0\x02\x1a\x84\x8f\xa9\xcb\xed\x0f\0;"
FOREIGN = {
    "GIF": GIF,
    "TIFF": b"II*\0\x08\0\0\0" + bytes(40),
    "AVIF": b"\0\0\0\x20ftypavif\0\0\0\0avifmif1" + bytes(40),
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40),
    "JPEG XL": b"\xff\x0a" + bytes(range(40)),
    "JPEG XL in a container": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40),
    "ICO": b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0\x68\4\0\0\x16\0\0\0\x28" + bytes(39),
    "PNM": b"P5\n28 28\n255\n" + bytes(784),
}
UNREADABLE_TEXTS = {
    "one character too many": lambda data: unpadded(data) + "A" * (1 + (-len(unpadded(data))) % 4),
    "a stray character": lambda data: f"{b64(data)[:60]}*{b64(data)[60:]}",
    "two alphabets": lambda data: f"{b64(data)[:60]}-+{b64(data)[60:]}",
    "within other text": lambda data: json.dumps({"image": b64(data)}),
    "a file cut off": lambda data: b64(data[:60]),
    "within other bytes": lambda data: b64(b"\x0a\xff\x01" + data),
    "behind other characters": lambda data: "!" * 700 + "!".join(b64(data)),
    **{name: (lambda data, file=file: b64(file)) for name, file in FOREIGN.items()},
}
UNREADABLE_FILES = {name: (lambda data, file=file: file) for name, file in FOREIGN.items()}
UNREADABLE_NUMBERS = {
    "BOOL": lambda data: Tensor("BOOL", picture(data)[None, None] > 99),
    "a GIF's bytes": lambda data: Tensor("UINT8", np.frombuffer(GIF, "u1")[None]),
    "a file cut off": lambda data: Tensor("UINT8", np.frombuffer(data[:60], "u1")),
    "the letters of base64": lambda data: Tensor("UINT8", np.frombuffer(b64(data).encode(), "u1")[None]),
    "another order of axes": lambda data: Tensor("FP32", picture(data)[:, None, None, :, None] / 255),
    "too many axes": lambda data: Tensor("FP32", picture(data)[None, :, :, None, None] / 255),
}
PARAMETER_TEXTS = ("seaside", "BMW", "50% off", "P3", "http://x/cat.png?a=b", "a" * 200, "QUJD" * 40, "/9 k/", "GIF")
PARAMETER_NUMBERS = (
    Tensor("INT64", np.arange(5)),
    Tensor("FP32", np.ones((2, 3), "<f4")),
    Tensor("UINT8", np.zeros(40, "u1")),
)


def unpadded(data):
    return b64(data).rstrip("=")


# -- requests: each protocol writes named values as a body with headers, and reads them back ------------------------


def v1_write(values):
    members = {name: value.array.tolist() if isinstance(value, Tensor) else value for name, value in values.items()}
    return json.dumps({"instances": [members]}).encode(), {}


def v1_read(body, headers, values):
    (row,) = json.loads(body)["instances"]
    return {name: Tensor("", np.array(value)) if isinstance(value, list) else value for name, value in row.items()}


def v2_json_write(values):
    inputs = []
    for name, value in values.items():
        tensor = value if isinstance(value, Tensor) else Tensor("BYTES", np.array([value], object))
        data = tensor.array.reshape(-1).tolist()
        inputs.append({"name": name, "datatype": tensor.datatype, "shape": tensor.array.shape, "data": data})
    return json.dumps({"id": "7", "inputs": inputs}).encode(), {}


def v2_json_read(body, headers, values):
    found = {}
    for entry in json.loads(body)["inputs"]:
        array = np.array(entry["data"]).reshape(entry["shape"])
        found[entry["name"]] = entry["data"][0] if entry["datatype"] == "BYTES" else Tensor(entry["datatype"], array)
    return found


def blob_of(value):
    if isinstance(value, Tensor):
        return bf16(value.array).tobytes() if value.datatype == "BF16" else value.array.tobytes()
    data = value if isinstance(value, bytes) else value.encode("latin-1")
    return struct.pack("<I", len(data)) + data


def of_blob(datatype, shape, blob, was):
    if datatype == "BYTES":
        return blob[4:] if isinstance(was, bytes) else blob[4:].decode("latin-1")
    if datatype == "BF16":
        return Tensor(datatype, from_bf16(np.frombuffer(blob, "<u2")).reshape(shape))
    return Tensor(datatype, np.frombuffer(blob, "?" if datatype == "BOOL" else v2.DTYPES[datatype]).reshape(shape))


def described(value):
    return (value.datatype, value.array.shape) if isinstance(value, Tensor) else ("BYTES", (1,))


def v2_binary_write(values):
    blobs = [blob_of(value) for value in values.values()]
    inputs = [
        {
            "name": name,
            "datatype": described(value)[0],
            "shape": described(value)[1],
            "parameters": {"binary_data_size": len(blob)},
        }
        for (name, value), blob in zip(values.items(), blobs, strict=True)
    ]
    head = json.dumps({"inputs": inputs}).encode()
    return head + b"".join(blobs), {"Inference-Header-Content-Length": str(len(head))}


def v2_binary_read(body, headers, values):
    length = int(headers[v2.HEADER])
    found, rest = {}, body[length:]
    for entry in json.loads(body[:length])["inputs"]:
        size = entry["parameters"]["binary_data_size"]
        found[entry["name"]] = of_blob(entry["datatype"], entry["shape"], rest[:size], values[entry["name"]])
        rest = rest[size:]
    assert not rest
    return found


def grpc_write(values, typed=False):
    request = v2_grpc.parse("ModelInferRequest", b"")
    for name, value in values.items():
        datatype, shape = described(value)
        tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
        if not typed:
            request.raw_input_contents.append(blob_of(value))
        elif datatype == "BYTES":
            tensor.contents.bytes_contents.append(value if isinstance(value, bytes) else value.encode("latin-1"))
        else:
            field = "bool_contents" if datatype == "BOOL" else v2_grpc._CONTENTS[datatype]
            getattr(tensor.contents, field).extend(value.array.reshape(-1).tolist())
    return request.SerializeToString(), {}


def grpc_read(body, headers, values):
    request = v2_grpc.parse("ModelInferRequest", body)
    found = {}
    for index, tensor in enumerate(request.inputs):
        was = values[tensor.name]
        if request.raw_input_contents:
            blob = request.raw_input_contents[index]
        elif tensor.datatype == "BYTES":
            blob = b"...." + tensor.contents.bytes_contents[0]
        else:
            held = getattr(tensor.contents, v2_grpc._CONTENTS[tensor.datatype])
            found[tensor.name] = Tensor(tensor.datatype, np.array(held).reshape(tuple(tensor.shape)))
            continue
        found[tensor.name] = of_blob(tensor.datatype, tuple(tensor.shape), blob, was)
    return found


FORM_HEADERS = {"Content-Type": "multipart/form-data; boundary=b0unDary"}


def form_write(values):
    parts = []
    for name, value in values.items():
        file = '; filename="x"\r\nContent-Type: application/octet-stream' if isinstance(value, bytes) else ""
        head = f'--b0unDary\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        parts.append(head + (value if isinstance(value, bytes) else value.encode("latin-1")) + b"\r\n")
    return b"".join([*parts, b"--b0unDary--\r\n"]), FORM_HEADERS


def form_read(body, headers, values):
    found = {}
    for part in body.split(b"--b0unDary")[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = head.split(b'name="')[1].split(b'"')[0].decode()
        content = content.removesuffix(b"\r\n")
        found[name] = content if isinstance(values[name], bytes) else content.decode("latin-1")
    return found


def fields_write(values):
    body = "&".join(f"{name}={quote_plus(value, encoding='latin-1')}" for name, value in values.items()).encode()
    return body, {"Content-Type": "application/x-www-form-urlencoded"}


def fields_read(body, headers, values):
    return dict(parse_qsl(body.decode(), keep_blank_values=True, encoding="latin-1"))


def json_write(values):
    return json.dumps(values).encode(), {"Content-Type": "application/json"}


def json_read(body, headers, values):
    return json.loads(body)


class Protocol(NamedTuple):
    path: str
    write: object
    read: object
    kinds: tuple  # of values: texts, files, numbers
    without: frozenset = frozenset()  # datatypes that cannot be written


V1, V2, TS = "/v1/models/m:predict", "/v2/models/m/infer", "/predictions/m"
PROTOCOLS = {
    "V1": Protocol(V1, v1_write, v1_read, ("texts", "numbers"), frozenset({"BF16"})),
    "V2 JSON": Protocol(V2, v2_json_write, v2_json_read, ("texts", "numbers")),
    "V2 binary": Protocol(V2, v2_binary_write, v2_binary_read, ("texts", "files", "numbers")),
    "gRPC raw": Protocol("", grpc_write, grpc_read, ("texts", "files", "numbers")),
    "gRPC typed": Protocol(
        "", lambda values: grpc_write(values, typed=True), grpc_read, ("texts", "files", "numbers"), frozenset({"BF16"})
    ),
    "TorchServe form": Protocol(TS, form_write, form_read, ("texts", "files")),
    "TorchServe fields": Protocol(TS, fields_write, fields_read, ("texts",)),
    "TorchServe JSON": Protocol(TS, json_write, json_read, ("texts",)),
}
