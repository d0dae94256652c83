"""Bodies that contradict themselves are refused, in bounded memory."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arn_purify.service.errors import BrokenBody, ServiceError
from arn_purify.service.gateway.protocols import Message, json_tensor, torchserve, v1, v2, v2_grpc
from arn_purify.service.gateway.protocols.json_text import parse, splice

from ..helpers import traced, v2_body


@pytest.mark.parametrize("shape", [[1] * 33, [9] * 200_000, [-1, 2], [2**63], [1.0], [True]])
def test_a_shape_is_made_of_few_counts(shape):
    entry = {"name": "x", "datatype": "FP32", "shape": shape, "data": [0.5]}
    with pytest.raises(BrokenBody, match="at most 32 counts"):
        v2.find(Message(json.dumps({"inputs": [entry]}).encode(), {}))


def test_a_long_shape_is_not_made_a_list_of():
    body = b'{"inputs":[{"name":"a","datatype":"FP32","shape":[1' + b",1" * 10**6 + b'],"data":[1]}]}'
    with traced() as peak, pytest.raises(BrokenBody, match="at most 32 counts"):
        v2.find(Message(body, {}))
    assert peak() < 12 * len(body)


def test_over_grpc_too():
    request = v2_grpc.parse("ModelInferRequest", b"")
    request.inputs.add(name="x", datatype="FP32", shape=[9] * 1000)
    with pytest.raises(BrokenBody, match="at most 32 counts"):
        v2_grpc.find(Message(request.SerializeToString(), {}))


GOOD = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}


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
    assert slot.value.tolist() == values


@pytest.mark.parametrize("protocol", [v1, torchserve, v2])
def test_one_long_text_among_numbers_makes_no_text_of_each(protocol):
    mixed = '[[0, "' + "a" * 600 + '"' + ", 0" * 50_000 + "]]"
    entry = f'{{"name": "x", "datatype": "FP32", "shape": [1, 50002], "data": {mixed}}}'
    text = f'{{"inputs": [{entry}]}}' if protocol is v2 else f'{{"instances": {mixed}}}'
    wire = Message(text.encode(), {"content-type": "application/json"})
    with traced() as most:
        try:
            slots = protocol.find(wire).slots
        except BrokenBody:
            slots = []
        peak = most()
    assert all(slot.value is None for slot in slots)
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


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(
    ("datatype", "number"),
    [("FP16", "65520"), ("FP32", "1e39"), ("BF16", "-1e39"), ("UINT8", "256"), ("UINT8", "-1"), ("INT8", "128")],
)
def test_a_number_beyond_its_type_is_refused(datatype, number, flat):
    data = f"[0, 1, 2, {number}]" if flat else f"[[[[0, 1], [2, {number}]]]]"
    body = f'{{"inputs": [{{"name": "x", "datatype": "{datatype}", "shape": [1, 1, 2, 2], "data": {data}}}]}}'
    with pytest.raises(BrokenBody, match=f"its data are no {datatype} tensor"):
        v2.find(Message(body.encode(), {}))


@pytest.mark.parametrize(
    "body",
    [
        '{"a": 1, "a": 2}', '{"x": [1, {"a": 1, "a": 2}]}', '{"x": [[1, {"b": 0, "a": 1, "c": 0, "a": 2}]]}',
        "[" * 7 + '{"x": {"y": {"z": 1, "z": 2}}}' + "]" * 7,
    ],
)  # fmt: skip
def test_no_object_names_a_member_twice_wherever_it_stands(body):
    """Parsers take the first or the last: what is purified here must be what the server reads."""
    with pytest.raises(BrokenBody, match=r"names '[az]' twice"):
        parse(body.encode())


def test_of_many_members_the_one_named_twice_is_found_at_once():
    """Looking through all of them for each would not end."""
    members = ",".join(f'"{number}":1' for number in range(200_000))
    with pytest.raises(BrokenBody, match="names '199999' twice"):
        parse(f'[1,{{{members},"199999":1}}]'.encode())


def test_a_run_of_small_lists_is_looked_through_once(monkeypatch):
    looked = []
    monkeypatch.setattr(json_tensor, "run_end", lambda *args, of=json_tensor.run_end: looked.append(args) or of(*args))
    lists = "[1]," * 5000
    _, root = parse(f'["a", {lists} "b", {lists} [1]]'.encode())
    assert len(root.elements) == 10_003
    assert len(looked) < 6


def test_json_places():
    text, root = parse(b' {"a" : [ {"b": 1.50} , {"b":"x"}], "c": [[1, 2], [NaN]]} ')
    b = root.get("a").elements[0].get("b")
    assert text[b.start : b.end] == "1.50"
    assert splice(text, [(root.get("c"), "0"), (b, "7")]) == ' {"a" : [ {"b": 7} , {"b":"x"}], "c": 0} '
    text, root = parse(b'[[ [1], {"b": 2}], [ ["x"], [{"b": 3}]]]')
    assert root.leaf == [[[1], {"b": 2}], [["x"], [{"b": 3}]]]  # a tensor, by how it begins
    text, root = parse(b'[ [[{"b": 3}]]]')
    assert root.elements[0].elements[0].elements[0].get("b").leaf == 3
