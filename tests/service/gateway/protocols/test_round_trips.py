"""Images are found in every wire format and put back; whatever is no image stays as it came, byte for byte."""

import base64
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arn_purify.service.errors import WrongSize
from arn_purify.service.gateway.preprocessing import Preprocessing
from arn_purify.service.gateway.protocols import Message, torchserve, v1, v2, v2_grpc
from arn_purify.service.gateway.protocols.spelling import read

from ..helpers import DATATYPES, digit, pictures, pixels, png, same, tensors, through


def no_image(value):
    return read(value) is None


no_images = st.binary(max_size=9).filter(no_image)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8).filter(no_image)


anything_else = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


# Number formats that Python would not write, around the images.
NUMBERS = ["1.0", "1E5", "-0.0", "1e-07", "0.10", "NaN", "-Infinity", '"\\u0041\\/"', "12345678901234567890"]


oddities = st.sampled_from(NUMBERS)


spaces = st.sampled_from(["", " ", "\n  ", "\t"])


@st.composite
def json_text(draw, members):
    """An object with these members (text by name) and others, in any order and spacing."""
    values = oddities | anything_else.map(json.dumps)
    others = draw(st.dictionaries(st.text(min_size=1, max_size=6), values, max_size=3))
    pairs = draw(st.permutations([*members.items(), *((k, v) for k, v in others.items() if k not in _RESERVED)]))
    s = lambda: draw(spaces)  # noqa: E731
    return "{" + ",".join(f"{s()}{json.dumps(k)}{s()}:{s()}{v}{s()}" for k, v in pairs) + "}" + s()


_RESERVED = {"inputs", "instances", "data", "shape", "datatype", "parameters", "name", "b64", "binary_data_size"}


@given(st.data(), st.sampled_from(sorted(DATATYPES)))
def test_v2_binary_comes_back_byte_for_byte(data, datatype):
    tensor = data.draw(tensors(DATATYPES[datatype]))
    blob, side = tensor.tobytes(), data.draw(no_images)
    image = data.draw(json_text({
        "name": '"image"', "datatype": json.dumps(datatype), "shape": json.dumps(tensor.shape),
        "parameters": json.dumps({"binary_data_size": len(blob)}),
    }))  # fmt: skip
    size = {"binary_data_size": len(side)}
    other = json.dumps({"name": "key", "datatype": "INT8", "shape": [len(side)], "parameters": size})
    order = data.draw(st.permutations([(image, blob), (other, side)]))
    head = data.draw(json_text({"inputs": f"[{order[0][0]} , {order[1][0]}]"})).encode()
    body = head + order[0][1] + order[1][1]
    wire = Message(body, {v2.HEADER: str(len(head)), "x-other": "1"})
    back, count = through(v2, wire, Preprocessing(input="image"))
    assert count == 1
    assert back == wire


@given(st.data(), st.sampled_from(["FP32", "UINT8", "FP16"]), st.booleans())
def test_v2_json_keeps_all_but_the_image_byte_for_byte_and_the_image_number_for_number(data, datatype, flat):
    tensor = data.draw(tensors(DATATYPES[datatype]))
    values = json.dumps((tensor.reshape(-1) if flat else tensor).tolist())
    image = data.draw(json_text({
        "name": '"image"', "datatype": json.dumps(datatype), "shape": json.dumps(tensor.shape), "data": values,
    }))  # fmt: skip
    text = data.draw(json_text({"inputs": f"[ {image} ]"}))
    back, _ = through(v2, Message(text.encode(), {}), Preprocessing(input="image"))
    before, after = text.index(values), len(text) - text.index(values) - len(values)
    written = back.body.decode()
    assert written[:before] == text[:before]
    assert written[len(written) - after :] == text[len(text) - after :]
    again = np.array(json.loads(written[before : len(written) - after]), tensor.dtype)
    assert np.array_equal(again, tensor.reshape(-1) if flat else tensor)


@given(st.data(), st.sampled_from(["instances", "inputs"]), st.booleans())
def test_v1_rows_and_columns_keep_all_but_the_image_byte_for_byte(data, key, named):
    tensor = data.draw(tensors(np.float32))
    values = json.dumps(tensor.astype(float).tolist())
    if named:
        inner = data.draw(json_text({"image": values}))
        values_at = f"[{inner}]" if key == "instances" else inner
    else:
        values_at = values
    text = data.draw(json_text({key: values_at}))
    back, count = through(v1, Message(text.encode(), {}), Preprocessing(input="image"))
    assert count == 1
    before = text.index(values)
    assert back.body.decode()[:before] == text[:before]
    after = text[before + len(values) :]
    assert back.body.decode().endswith(after)
    written = back.body.decode()[before : len(back.body.decode()) - len(after)]
    assert np.array_equal(np.array(json.loads(written), np.float32), tensor)


CONTENTS = {"FP32": "fp32_contents", "FP64": "fp64_contents", "UINT8": "uint_contents"}


@given(st.data(), st.sampled_from(sorted(CONTENTS)), st.booleans(), st.text(max_size=5), no_images)
def test_grpc_requests_come_back_byte_for_byte(data, datatype, raw, name, other):
    tensor = data.draw(tensors(DATATYPES[datatype]))
    request = v2_grpc.parse("ModelInferRequest", b"")
    request.model_name, request.id = name, "7"
    request.parameters["p"].string_param = name
    image = request.inputs.add(name="image", datatype=datatype, shape=tensor.shape)
    side = request.inputs.add(name="key", datatype="BYTES", shape=[1])
    side.parameters["q"].int64_param = 3
    request.outputs.add(name="scores").parameters["binary_data"].bool_param = True
    if raw:
        request.raw_input_contents.extend([tensor.tobytes(), struct.pack("<I", len(other)) + other])
    else:
        getattr(image.contents, CONTENTS[datatype]).extend(tensor.reshape(-1).tolist())
        side.contents.bytes_contents.append(other)
    sent = request.SerializeToString(deterministic=True)
    back, count = through(v2_grpc, Message(sent, {}), Preprocessing(input="image"))
    assert count == 1
    assert back.body == sent


@given(st.data(), st.lists(pictures, min_size=1, max_size=3))
def test_encoded_images_come_back_pixel_for_pixel_wherever_they_are(data, images):
    encoded = [png(image) for image in images]
    texts = [json.dumps(base64.b64encode(one).decode()) for one in encoded]

    rows = ",".join(f'{{"key": 1.0, "image": {{"b64": {text}}}}}' for text in texts)
    back, count = through(v1, Message(f'{{"instances": [{rows}]}}'.encode(), {}))
    assert count == len(images)
    for row, image in zip(json.loads(back.body)["instances"], images, strict=True):
        assert same(base64.b64decode(row["image"]["b64"]), image)

    blob, text = (b"".join(struct.pack("<I", len(one)) + one for one in ones) for ones in (encoded, [b"text"]))
    described = [
        {"name": name, "datatype": "BYTES", "shape": [count], "parameters": {"binary_data_size": len(part)}}
        for name, count, part in [("x", len(encoded), blob), ("y", 1, text)]
    ]
    head = json.dumps({"inputs": described}).encode()
    blob += text
    back, count = through(v2, Message(head + blob, {v2.HEADER: str(len(head))}))
    assert count == len(images)
    length = int(back.headers[v2.HEADER])
    size = json.loads(back.body[:length])["inputs"][0]["parameters"]["binary_data_size"]
    elements = v2.split("x", back.body[length : length + size])
    assert back.body[length + size :] == text
    for element, image in zip(elements, images, strict=True):
        assert same(element, image)

    described = f'{{"name": "x", "datatype": "BYTES", "shape": [{len(texts)}], "data": [{", ".join(texts)}]}}'
    strings = f'{{"inputs": [{described}]}}'
    assert through(v2, Message(strings.encode(), {}))[1] == len(images)

    back, _ = through(torchserve, Message(encoded[0], {"content-type": "image/png"}))
    assert np.array_equal(pixels(back.body), pixels(encoded[0]))


def test_the_raw_form_is_read_as_what_a_purifier_takes():
    for dtype in (np.float32, np.uint8, np.float16):
        tensor = np.linspace(0, 1, 784).astype(dtype)
        wire = Message(tensor.tobytes(), {v2.HEADER: "0"})
        assert through(v2, wire, takes=digit)[0] == wire
    with pytest.raises(WrongSize):
        through(v2, Message(b"12345", {v2.HEADER: "0"}), takes=digit)


def test_an_input_may_be_called_raw():
    tensor = np.zeros((1, 1, 28, 28), np.float32)
    described = {"name": "raw", "datatype": "FP32", "shape": tensor.shape, "data": tensor.reshape(-1).tolist()}
    assert through(v2, Message(json.dumps({"inputs": [described]}).encode(), {}), takes=digit)[1] == 1
