"""Large tensors are read as arrays, exactly as lists would be; what would take too much memory is refused before."""

import json
import random
import re

import numpy as np
import pytest

from arn_purify.service.errors import BodiesFull, BodyTooLarge, BrokenBody
from arn_purify.service.gateway.protocols import Message, json_tensor, torchserve, v1, v2, v2_grpc
from arn_purify.service.gateway.protocols.json_text import parse

from ..helpers import traced

MIB = 2**20


def written(shape, draw):
    """A tensor's text, now and then with a mistake in it."""
    space = draw.choice(["", "", " ", "\n"])
    if not shape:
        odd = ["-0.0", "9007199254740993", "01", ".5", "1.", "+1", "-", "1 2", ""]
        return space + draw.choice(odd if draw.random() < 0.05 else ["1", "0", "-3", "255", "0.5", "12E-2"]) + space
    count = shape[0] + (draw.random() < 0.03)
    return "[" + space + ("," + space).join(written(shape[1:], draw) for _ in range(count)) + space + "]"


def test_a_tensor_is_read_as_numpy_reads_its_lists(monkeypatch):
    monkeypatch.setattr(json_tensor, "_PIECE", 7)
    draw, found = random.Random(0), 0
    for _ in range(20_000):
        text = written([draw.randint(1, 4) for _ in range(draw.randint(1, 4))], draw)
        if draw.random() < 0.3:
            at = draw.randrange(1, len(text))
            text = text[:at] + draw.choice(["[", "]", ",", "1", " ", "", "e"]) + text[at + draw.randint(0, 1) :]
        text += draw.choice(["", "]", "]]", ",[1]", "}"])
        if read := json_tensor.read(text, 0, json_tensor.run_end(text, 0)):
            array, end = read
            expected = np.array(json.loads(text[:end]))
            assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
            np.testing.assert_array_equal(array, expected)
            found += 1
    assert found > 5_000


@pytest.mark.parametrize(
    "text", ["[[1,]2,[3,4]]", "[1[2],3]", "[[1,2]3,[4,5]]", "[[,2]1,[3,4]]", "[[1,2],[3]]", "[[]]"]
)
def test_what_is_no_regular_tensor_in_valid_json_is_left_to_the_scanner(text):
    assert json_tensor.read(text, 0, len(text)) is None


def test_a_tensor_s_numbers_take_eight_bytes_each_and_little_more():
    body = b'{"instances":[[' + b",".join([b"[1]"] * 500_000) + b"]]}"
    reserved = []
    with traced() as most:
        (slot,) = v1.find(Message(body, {}, reserved.append)).slots
        peak = most()
    assert slot.value.shape == (1, 500_000, 1)
    assert sum(reserved) == slot.value.nbytes
    assert peak < 3 * (len(body) + sum(reserved))


@pytest.mark.parametrize(
    "rows",
    [b"[1]," * 600_000 + b"[1,2]", b"[1]," * 600_000 + b"[NaN]", b'{"a":1},' * 400_000 + b"1", b"[]," * 900_000 + b"1"],
    ids=["ragged", "NaN", "objects", "empty"],
)
@pytest.mark.parametrize("protocol", [v1, v2, torchserve], ids=lambda module: module.__name__.rpartition(".")[2])
def test_lists_that_are_no_tensor_are_refused_before_they_take_much(protocol, rows):
    """Each would take ten to thirty times its text."""
    entry = b'{"name":"x","datatype":"FP32","shape":[2],"data":[0,' + rows + b"]}"
    body = b'{"inputs":[' + entry + b"]}" if protocol is v2 else b'{"instances":[[0,' + rows + b"]]}"
    with traced() as most:
        with pytest.raises(BodyTooLarge, match="too many elements"):
            protocol.find(Message(body, {"content-type": "application/json"}))
        peak = most()
    assert peak < 64 * MIB


def test_what_lists_take_is_reserved():
    reserved = []
    parse(b"[0," + b"[1]," * 50_000 + b"[1,2]]", reserved.append)
    assert sum(reserved) >= 50_000 * 137

    def nothing_left(size):
        raise BodiesFull("none")

    for body in (b"[" + b"1," * 50_000 + b"1]", b"[0," + b"[1]," * 50_000 + b"[1,2]]", '"\U0001f600"'.encode()):
        with pytest.raises(BodiesFull):
            parse(body, nothing_left)


def test_a_message_s_numbers_are_reserved_before_it_is_parsed():
    request = v2_grpc.parse("ModelInferRequest", b"")
    tensor = request.inputs.add(name="x", datatype="UINT64", shape=[300_000])
    tensor.contents.uint64_contents.extend([7] * 300_000)
    body, reserved = request.SerializeToString(), []
    with traced() as most:
        (slot,) = v2_grpc.find(Message(body, {}, reserved.append)).slots
        peak = most()
    assert (slot.value == 7).all()
    assert sum(reserved) >= 16 * 300_000 > peak - 4 * MIB


@pytest.mark.parametrize("field", [b"\x2a\x00", b"\x32\x00", b"\x0a\x00"], ids=["inputs", "outputs", "names"])
def test_a_message_of_too_many_fields_is_refused_unparsed(field):
    with pytest.raises(BodyTooLarge, match="fields"):
        v2_grpc.find(Message(field * 300_000, {}))


@pytest.mark.parametrize("body", [b"\x2a", b"\x2a\x05a", b"\x80" * 11, b"\x2b\x00", b"\x2d\x00"])
def test_what_is_no_message_is_refused(body):
    with pytest.raises(BrokenBody, match=re.escape("ModelInferRequest")):
        v2_grpc.find(Message(body, {}))
