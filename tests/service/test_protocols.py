"""Images are found in every wire format and put back; whatever is no image stays as it came, byte for byte."""

import base64
import email
import io
import json
import math
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from arn_purify.service.core import codec
from arn_purify.service.errors import BadParameter, BrokenBody, ServiceError, WrongSize
from arn_purify.service.gateway.preprocessing import Preprocessing
from arn_purify.service.gateway.protocols import Message, Slot, torchserve, v1, v2, v2_grpc
from arn_purify.service.gateway.protocols.json_text import parse, splice
from arn_purify.service.gateway.rest import inflate

DIGIT = (1, 28, 28)


def digit(channels, height, width):
    return (channels, height, width) == DIGIT


def anything(channels, height, width):
    return True


def png(pixels):
    return codec.encode_image(np.asarray(pixels, np.uint8).reshape(*np.shape(pixels)[:2], -1))


UNDECLARED = Preprocessing()


def through(protocol, wire, contract=UNDECLARED, takes=anything):
    """Find, enter, leave and put back every image, unchanged."""
    found = protocol.find(wire)
    new = {}
    for index in contract.choose(found.slots, takes):
        slot = found.slots[index]
        if isinstance(slot.images, bytes):
            opened = codec.open_image(slot.images, 10**6)
            new[index] = codec.encode_image(opened.decode(opened.channels)[0])
        else:
            entered = contract.to_purifier(slot, takes)
            assert entered.images.dtype in (np.uint8, np.float32)
            new[index] = entered.from_purifier(entered.images)
    return found.replace_images(new), len(new)


# -- generated requests -------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
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
sides = st.integers(1, 6)


@st.composite
def tensors(draw, dtype):
    shape = draw(st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), sides, sides))
    size = math.prod(shape)
    if np.dtype(dtype).kind == "u":
        return np.array(draw(st.lists(st.integers(0, 255), min_size=size, max_size=size)), dtype).reshape(shape)
    width = np.dtype(dtype).itemsize * 8
    values = draw(st.lists(st.floats(0, 1, width=width), min_size=size, max_size=size))
    return np.array(values, dtype).reshape(shape)


DATATYPES = {"FP32": np.float32, "FP16": np.float16, "UINT8": np.uint8, "FP64": np.float64}


@given(st.data(), st.sampled_from(sorted(DATATYPES)))
def test_v2_binary_comes_back_byte_for_byte(data, datatype):
    tensor = data.draw(tensors(DATATYPES[datatype]))
    blob, side = tensor.tobytes(), data.draw(st.binary(max_size=9))
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


@given(st.data(), st.sampled_from(sorted(CONTENTS)), st.booleans(), st.text(max_size=5), st.binary(max_size=9))
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


pictures = st.tuples(sides, sides, st.sampled_from([1, 3])).flatmap(
    lambda shape: st.binary(min_size=math.prod(shape), max_size=math.prod(shape)).map(
        lambda raw: np.frombuffer(raw, np.uint8).reshape(shape)
    )
)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def same(encoded, image):
    return np.array_equal(pixels(encoded), image.squeeze(2) if image.shape[2] == 1 else image)


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


def test_a_form_keeps_its_other_parts_byte_for_byte_and_names_the_new_type():
    jpeg = io.BytesIO()
    Image.new("L", (28, 28), 9).save(jpeg, "JPEG")
    text = b'--b\r\nContent-Disposition: form-data; name="k"\r\n\r\n 1.0 \r\n'
    body = (
        text + b'--b\r\nContent-Disposition: form-data; name="data"; filename="a.jpg"\r\n'
        + b"content-type: image/jpeg\r\n\r\n" + jpeg.getvalue() + b"\r\n--b--\r\n"
    )  # fmt: skip
    back, count = through(torchserve, Message(body, {"content-type": "multipart/form-data; boundary=b"}))
    assert count == 1
    assert back.body.startswith(text)
    assert b"\r\ncontent-type: image/png\r\n\r\n\x89PNG" in back.body
    assert back.body.endswith(b"\r\n--b--\r\n")
    untouched, none = through(
        torchserve, Message(text + b"--b--", {"content-type": 'multipart/form-data; boundary="b"'})
    )
    assert (untouched.body, none) == (text + b"--b--", 0)


FORM = {"content-type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Disposition: form-data; name="data"; filename="a; name=other"',
        b'content-disposition:form-data;filename=a ;name=data',
        b'Content-Type: image/png\r\nContent-Disposition: form-data; name="data";',
    ],
)  # fmt: skip
def test_a_parts_field_is_read_as_its_quotes_say(head):
    (slot,) = torchserve.find(Message(b"--b\r\n" + head + b"\r\n\r\nx\r\n--b--", FORM)).slots
    assert slot.name == "data"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Type: image/png",
        b'Content-Disposition : form-data; name="data"',
        b'Content-Disposition: form-data;\r\n name="data"',
        b'Content-Disposition: form-data; name="a"; name="data"',
        b"Content-Disposition: form-data; name=\"a\"; name*=UTF-8''data",
        b'Content-Disposition: form-data; name="a"\r\ncontent-disposition: form-data; name="data"',
        b'Content-Disposition: form-data; filename="a\\"; name=b; x="; name=data',
        b'Content-Disposition: form-data; filename="a',
    ],
)
def test_a_part_whose_field_two_readers_may_read_differently_is_refused(head):
    with pytest.raises(BrokenBody):
        torchserve.find(Message(b"--b\r\n" + head + b"\r\n\r\nx\r\n--b--", FORM))


def test_a_parts_own_length_is_that_of_the_new_image():
    buffer = io.BytesIO()
    Image.new("L", (28, 28)).save(buffer, "PNG")
    image = buffer.getvalue()
    head = b'Content-Disposition: form-data; name="data"\r\nContent-Length: 9\r\nContent-MD5: x\r\n\r\n'
    found = torchserve.find(Message(b"--b\r\n" + head + image + b"\r\n--b--", FORM))
    part = email.message_from_bytes(found.replace_images({0: image + b"more"}).body.split(b"--b")[1].lstrip())
    assert (part["Content-Length"], part["Content-MD5"]) == (str(len(image) + 4), None)


@pytest.mark.parametrize("shape", [[1] * 33, [9] * 200_000, [-1, 2], [2**63], [1.0], [True]])
def test_a_shape_is_made_of_few_counts(shape):
    entry = {"name": "x", "datatype": "FP32", "shape": shape, "data": [0.5]}
    with pytest.raises(BrokenBody, match="at most 32 counts"):
        v2.find(Message(json.dumps({"inputs": [entry]}).encode(), {}))


def test_over_grpc_too():
    request = v2_grpc.parse("ModelInferRequest", b"")
    request.inputs.add(name="x", datatype="FP32", shape=[9] * 1000)
    with pytest.raises(BrokenBody, match="at most 32 counts"):
        v2_grpc.find(Message(request.SerializeToString(), {}))


def test_the_raw_form_is_read_as_what_a_purifier_takes():
    for dtype in (np.float32, np.uint8, np.float16):
        tensor = np.linspace(0, 1, 784).astype(dtype)
        wire = Message(tensor.tobytes(), {v2.HEADER: "0"})
        assert through(v2, wire, takes=digit)[0] == wire
    with pytest.raises(WrongSize):
        through(v2, Message(b"12345", {v2.HEADER: "0"}), takes=digit)


# -- the contract -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((2, 1, 28, 28), "auto", (2, 1, 28, 28)),
        ((2, 28, 28, 1), "auto", (2, 1, 28, 28)),
        ((5, 28, 28), "auto", (5, 1, 28, 28)),
        ((28, 28), "auto", (1, 1, 28, 28)),
        ((2, 784), "auto", (2, 1, 28, 28)),
        ((784,), "nhwc", (1, 1, 28, 28)),
    ],
)
def test_layouts(shape, layout, expected):
    tensor = np.random.default_rng(0).random(shape, dtype=np.float32)
    entered = Preprocessing(layout=layout).to_purifier(Slot("x", tensor), digit)
    assert entered.images.shape == expected
    assert np.array_equal(entered.from_purifier(entered.images), tensor)
    changed = entered.from_purifier(1 - entered.images)
    assert np.allclose(changed, 1 - tensor)
    assert changed.shape == tensor.shape


@given(st.data(), st.sampled_from(["0-1", "0-255", "-1-1", "mean/std"]), st.sampled_from(["rgb", "bgr"]), st.booleans())
def test_ranges_and_colours_go_in_and_out(data, range_, colour, channels_last):
    unit = data.draw(tensors(np.float32)).astype(np.float64)
    channels = unit.shape[1]
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    declared = {"mean": mean, "std": std} if range_ == "mean/std" else {"range": range_}
    contract = Preprocessing(layout="nhwc" if channels_last else "nchw", colour=colour, **declared)
    column = [np.array(part).reshape(-1, 1, 1) for part in (mean, std)]
    as_sent = {
        "0-1": unit, "0-255": unit * 255, "-1-1": unit * 2 - 1, "mean/std": (unit - column[0]) / column[1],
    }[range_].astype(np.float32)  # fmt: skip
    flip = colour == "bgr" and channels == 3
    tensor = as_sent[:, ::-1] if flip and range_ != "mean/std" else as_sent
    if range_ == "mean/std" and flip:
        tensor = as_sent[:, ::-1]
    tensor = np.ascontiguousarray(tensor.transpose(0, 2, 3, 1) if channels_last else tensor)
    entered = contract.to_purifier(Slot("x", tensor), anything)
    assert np.allclose(entered.images, unit, atol=2e-7)
    assert np.array_equal(entered.from_purifier(entered.images), tensor)
    halved = entered.from_purifier((entered.images / 2).astype(np.float32))
    again = contract.to_purifier(Slot("x", halved), anything)
    assert np.allclose(again.images, unit / 2, atol=1e-6)


def test_integers_stay_integers():
    tensor = np.arange(784, dtype=np.int64).reshape(1, 28, 28, 1) % 256
    entered = Preprocessing().to_purifier(Slot("x", tensor, typed=False), digit)
    assert entered.images.dtype == np.uint8
    assert np.array_equal(entered.from_purifier(255 - entered.images), 255 - tensor)
    binary = (tensor > 100).astype(np.int64)  # JSON's 0 and 1 are 0.0 and 1.0
    entered = Preprocessing().to_purifier(Slot("x", binary, typed=False), digit)
    assert entered.images.max() == 1
    between = entered.from_purifier(entered.images * np.float32(0.75))
    assert between.max() == 0.75  # and not the integer below
    bytes_ = (tensor % 128).astype(np.int8)
    entered = Preprocessing().to_purifier(Slot("x", bytes_), digit)
    assert entered.from_purifier(np.full_like(entered.images, 200)).max() == 127  # the lightest that there is
    levels = Preprocessing(range="0-1").to_purifier(Slot("x", binary), digit)
    assert levels.from_purifier(levels.images * np.float32(0.75)).sum() == binary.sum()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.1, -0.5])
def test_values_outside_the_declared_range_are_refused(bad):
    tensor = np.zeros((1, 1, 28, 28), np.float32)
    tensor[0, 0, 3, 3] = bad
    with pytest.raises(BadParameter, match="finite values"):
        Preprocessing().to_purifier(Slot("x", tensor), digit)


WITH_COMPANY = [
    (v1, '{"instances": [{"image": {"b64": "PNG"}}, {"image": {"b64": "R0lGODlhAQABAAAAACw="}}]}'),
    (v1, '{"instances": [{"image": {"b64": "PNG"}}, {"image": "text"}]}'),
    (v1, '{"instances": [{"image": DIGIT}, {"image": [["0.5"]]}]}'),
    (v1, '{"instances": [{"image": DIGIT}, {"image": [[1, 2], [3, 4]]}]}'),
    (v1, '{"instances": [DIGIT, {"b64": "R0lGODlhAQABAAAAACw="}]}'),
    (v2, '{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [2], "data": ["PNG", "R0lGODlhAQABAAAAACw="]}]}'),
]


@pytest.mark.parametrize(("protocol", "body"), WITH_COMPANY)
def test_nothing_passes_in_an_images_company(protocol, body):
    image = base64.b64encode(png(np.zeros((28, 28)))).decode()
    body = body.replace("PNG", image).replace("DIGIT", json.dumps(np.zeros((28, 28)).tolist()))
    try:
        assert (
            through(protocol, Message(body.encode(), {}), takes=digit)[1] == 0
        )  # which the gateway refuses as no image
    except ServiceError as refused:
        assert refused.status in (400, 422)  # noqa: PT017


def test_an_input_may_be_called_raw():
    tensor = np.zeros((1, 1, 28, 28), np.float32)
    described = {"name": "raw", "datatype": "FP32", "shape": tensor.shape, "data": tensor.reshape(-1).tolist()}
    assert through(v2, Message(json.dumps({"inputs": [described]}).encode(), {}), takes=digit)[1] == 1


# -- malformed ----------------------------------------------------------------------------------------------------

GOOD = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}


def v2_body(described, blob=b"12345678"):
    head = json.dumps({"inputs": [described]}).encode()
    return Message(head + blob, {v2.HEADER: str(len(head))})


@pytest.mark.parametrize(
    ("protocol", "wire"),
    [
        (v2, Message(b"", {})),
        (v2, Message(b"{", {})),
        (v2, Message(b"[]", {})),
        (v2, Message(b'{"inputs": 3}', {})),
        (v2, Message(b'{"inputs": [], "inputs": []}', {})),
        (v2, Message(b"\xff{}", {})),
        (v2, Message(b"[" * 100_000, {})),
        (v2, Message(b'{"inputs": [' + b'{"a":' * 100_000, {})),
        (v2, Message(b'{"inputs": []} x', {})),
        (v2, Message(b'{"inputs": [],}', {})),
        (v2, Message(b"{}", {v2.HEADER: "-1"})),
        (v2, Message(b"{}", {v2.HEADER: "3"})),
        (v2, Message(b"{}", {v2.HEADER: "9" * 5000})),
        (v2, v2_body(GOOD, b"1234567")),
        (v2, v2_body(GOOD, b"123456789")),
        (v2, v2_body({**GOOD, "shape": [1, 3]})),
        (v2, v2_body({**GOOD, "shape": [-1, -2]})),
        (v2, v2_body({**GOOD, "shape": [True, 2]})),
        (v2, v2_body({**GOOD, "shape": [2**62, 2**62]})),
        (v2, v2_body({**GOOD, "shape": "x"})),
        (v2, v2_body({**GOOD, "parameters": {"binary_data_size": 2**63}})),
        (v2, v2_body({**GOOD, "parameters": {"binary_data_size": -1}})),
        (v2, v2_body({**GOOD, "parameters": {"binary_data_size": "8"}})),
        (v2, v2_body({**GOOD, "data": [1, 2]})),
        (v2, v2_body({**GOOD, "parameters": {"shared_memory_region": "r"}}, b"")),
        (v2, v2_body({**GOOD, "datatype": "BYTES", "shape": [1]})),
        (v2, v2_body({**GOOD, "datatype": "BYTES", "shape": [1]}, b"\x01\0\0\0a\0\0\0")),
        (v2, Message(b'{"inputs": [{"name":"x","datatype":"FP32","shape":[2],"data":[1]}]}', {})),
        (v2, Message(b'{"inputs": [{"name":"x","datatype":"FP32","shape":[2],"data":["a",{}]}]}', {})),
        (v2, Message(b'{"inputs": [{"name":"x","datatype":"UINT8","shape":[2],"data":[1,1e400]}]}', {})),
        (v2, Message(b'{"inputs": [{"name":"x","datatype":"UINT8","shape":[2],"data":[0.9,1]}]}', {})),
        (v2, Message(b'{"inputs": [{"name":"x","datatype":"UINT8","shape":[2],"data":[1,1E2]}]}', {})),
        (v2, Message(b'{"inputs": [{"name":"x","datatype":"UINT8","shape":[2],"data":[1,256]}]}', {})),
        (v2, Message(b'{"inputs": [{"name":"x","datatype":"INT8","shape":[2],"data":[1,true]}]}', {})),
        (v2, Message(b'{"inputs": [{"name":"x","datatype":"FP32","shape":[2],"data":[true,1]}]}', {})),
        (v2, Message(b'{"inputs": [{"name":"x","datatype":"FP32","shape":[2],"data":[1,false]}]}', {})),
        (v2, Message(b'{"inputs": [{"name":"x","datatype":"FP32","shape":[2],"data":[1,"0.5"]}]}', {})),
        (v2, Message(b'{"inputs": [{"name":"x","datatype":"INT64","shape":[1],"data":[' + b"9" * 5000 + b"]}]}", {})),
        (v2_grpc, Message(b"\xff\xff", {})),
        (v2_grpc, Message(b"*\x0b\n\x01x\x12\x04FP32\x1a\x01\x02:\x01a", {})),  # two numbers said, one byte sent
        (v1, Message(b"{}", {})),
        (v1, Message(b'{"instances": [[1]], "inputs": [[1]]}', {})),
        (v1, Message(b'{"instances": [[1, 2}', {})),
        (torchserve, Message(b"x", {"content-type": "multipart/form-data"})),
        (torchserve, Message(b"--b\r\n\r\n", {"content-type": "multipart/form-data; boundary=b"})),
        (torchserve, Message(b"--bxx", {"content-type": "multipart/form-data; boundary=b"})),
        (torchserve, Message(b"{]", {"content-type": "application/json"})),
    ],
)  # fmt: skip
def test_malformed_bodies_are_told(protocol, wire):
    with pytest.raises(BrokenBody) as told:
        protocol.find(wire)
    assert len(str(told.value)) < 300


@pytest.mark.parametrize(
    ("datatype", "values"),
    [("UINT64", [1, 2**64 - 1]), ("INT8", [-128, 127]), ("FP32", [1, 2.5]), ("FP64", [1e-300, -7])],
)
def test_numbers_that_a_datatype_has_are_read_as_they_are(datatype, values):
    entry = {"name": "x", "datatype": datatype, "shape": [2], "data": values}
    (slot,) = v2.find(Message(json.dumps({"inputs": [entry]}).encode(), {})).slots
    assert slot.images.tolist() == values


@pytest.mark.parametrize("protocol", [v1, torchserve, v2])
def test_one_long_text_among_numbers_makes_no_text_of_each(protocol):
    mixed = '[[0, "' + "a" * 600 + '"' + ", 0" * 50_000 + "]]"
    entry = f'{{"name": "x", "datatype": "FP32", "shape": [1, 50002], "data": {mixed}}}'
    text = f'{{"inputs": [{entry}]}}' if protocol is v2 else f'{{"instances": {mixed}}}'
    wire = Message(text.encode(), {"content-type": "application/json"})
    tracemalloc.start()
    try:
        slots = protocol.find(wire).slots
    except BrokenBody:
        slots = []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(slot.images is None for slot in slots)
    assert peak < 30 * len(wire.body)


kinds = st.sampled_from(["application/json", "image/png", "multipart/form-data; boundary=b"])


@given(
    st.binary(max_size=200), st.sampled_from([v1, v2, v2_grpc, torchserve]), kinds, st.sampled_from([None, "0", "5"])
)
def test_any_bytes_are_found_in_or_refused(body, protocol, kind, length):
    headers = {"content-type": kind} | ({v2.HEADER: length} if length else {})
    try:
        protocol.find(Message(body, headers))
    except ServiceError as error:
        assert error.status < 500  # noqa: PT017


def test_json_places():
    text, root = parse(b' {"a" : [ {"b": 1.50} , {"b":"x"}], "c": [[1, 2], [NaN]]} ')
    b = root.get("a").elements[0].get("b")
    assert text[b.start : b.end] == "1.50"
    assert splice(text, [(root.get("c"), "0"), (b, "7")]) == ' {"a" : [ {"b": 7} , {"b":"x"}], "c": 0} '
    text, root = parse(b'[[ [1], {"b": 2}], [ ["x"], [{"b": 3}]]]')
    assert root.leaf == [[[1], {"b": 2}], [["x"], [{"b": 3}]]]  # a tensor, by how it begins
    text, root = parse(b'[ [[{"b": 3}]]]')
    assert root.elements[0].elements[0].elements[0].get("b").leaf == 3


def test_compressed_bodies_are_bounded():
    import gzip
    import zlib

    assert inflate(gzip.compress(b"x" * 100), "gzip", 100) == b"x" * 100
    assert inflate(zlib.compress(b"x"), "deflate", 100) == b"x"
    assert inflate(gzip.compress(b"x" * 9) + gzip.compress(b"y"), "gzip", 100) == b"x" * 9 + b"y"
    many = gzip.compress(b"") * 10_000
    assert inflate(many, "gzip", 100) == b""
    bomb = gzip.compress(bytes(10**7))
    for body, encoding, status in [
        (bomb, "gzip", 413),
        (bomb[:-9], "gzip", 413),
        (gzip.compress(b"x" * 50)[:-9], "gzip", 400),
        (gzip.compress(b"x") + b"y", "gzip", 400),
        (zlib.compress(b"x") * 2, "deflate", 400),
        (gzip.compress(b"x" * 60) * 2, "gzip", 413),
        (gzip.compress(b"") * 70_000, "gzip", 400),
        (b"no", "gzip", 400),
        (b"no", "br", 415),
    ]:
        with pytest.raises(ServiceError) as told:
            inflate(body, encoding, 100)
        assert told.value.status == status


def test_labels_are_read_from_every_kind_of_answer():
    assert v1.labels(b'{"predictions": [[0.1, 0.9], [0.8, 0.2]]}', {}) == [1, 0]
    assert v1.labels(b'{"predictions": [3, 4]}', {}) == [3, 4]
    assert v1.labels(b"x", {}) is None
    answer = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [0.1, 0.9, 0.8, 0.2]}]}
    assert v2.labels(json.dumps(answer).encode(), {}) == [1, 0]
    answer["outputs"][0] = {"name": "y", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    head = json.dumps(answer).encode()
    assert v2.labels(head + np.array([1, 2], "<f4").tobytes(), {v2.HEADER: str(len(head))}) == [1]
    assert v2.labels(b"{}", {}) is None
    assert torchserve.labels(b'{"cat": 0.2, "dog": 0.8}', {}) == ["dog"]
    assert torchserve.labels(b"7", {}) == [7]


def test_what_follows_triton_s_score_is_the_label():
    answer = {
        "outputs": [{"name": "y", "datatype": "BYTES", "shape": [2, 2], "data": ["0.9:3:three", "0.1:7", "a:1", "b"]}]
    }
    assert v2.labels(json.dumps(answer).encode(), {}) == ["3:three", "a:1"]
    blob = b"".join(struct.pack("<I", len(text)) + text for text in (b"1e-05:4", b"-2.5:0:zero"))
    answer["outputs"][0] = {
        "name": "y", "datatype": "BYTES", "shape": [2, 1], "parameters": {"binary_data_size": len(blob)}
    }  # fmt: skip
    head = json.dumps(answer).encode()
    assert v2.labels(head + blob, {v2.HEADER: str(len(head))}) == ["4", "0:zero"]
    response = v2_grpc.parse("ModelInferResponse", b"")
    response.outputs.add(name="y", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(b"0.5:8")
    assert v2_grpc.labels(response.SerializeToString(), {}) == ["8"]


@pytest.mark.parametrize(
    ("protocol", "answer", "told"),
    [
        (v1, {"predictions": [[0, 0.3, 0.7], [1, 0.0, 0.0]]}, [2, 0]),
        (v1, {"predictions": [[3], [4]]}, [[3], [4]]),
        (v1, {"predictions": [0.25, 0.75]}, None),
        (v1, {"predictions": [[0.25], [0.75]]}, None),
        (v1, {"predictions": [{"class": 3, "probabilities": [0.1, 0.9]}]}, None),
        (v2, {"outputs": [{"datatype": "FP32", "shape": [2, 1], "data": [0.1, 0.9]}]}, None),
        (v2, {"outputs": [{"datatype": "FP32", "shape": [2], "data": [0.1, 0.9]}]}, None),
        (v2, {"outputs": [{"datatype": "INT64", "shape": [2], "data": [3, 4]}]}, [3, 4]),
        (torchserve, {"label": 3, "score": 0.9}, None),
        (torchserve, 0.7, None),
        (torchserve, [[0.1, 0.9]], [1]),
    ],
)
def test_a_score_is_no_label(protocol, answer, told):
    assert protocol.labels(json.dumps(answer).encode(), {}) == told
