"""Labels are read from every kind of answer."""

import json
import struct

import numpy as np
import pytest

from arn_purify.service.gateway.protocols import torchserve, v1, v2, v2_grpc


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
