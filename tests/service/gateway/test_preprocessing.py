"""Tensors in every layout, range and colour order, to a purifier and back."""

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arn_purify.service.errors import BadParameter, ServiceError
from arn_purify.service.gateway.preprocessing import Preprocessing
from arn_purify.service.gateway.protocols import Message, Slot, v1, v2

from .helpers import anything, digit, entered, png, tensors, through


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
    found = entered(Preprocessing(layout=layout), Slot("x", tensor), digit)
    assert found.images.shape == expected
    assert np.array_equal(found.from_purifier(found.images), tensor)
    changed = found.from_purifier(1 - found.images)
    assert np.allclose(changed, 1 - tensor)
    assert changed.shape == tensor.shape


@pytest.mark.parametrize("shape", [(2, 784), (8, 784), (3, 28, 28), (3, 784), (784,), (28, 28)])
def test_a_purifier_of_any_size_takes_no_layout_in_which_one_of_a_fixed_size_reads_the_shape(shape):
    tensor = np.random.default_rng(0).random(shape, dtype=np.float32)
    found = entered(Preprocessing(), Slot("x", tensor), digit, anything)
    assert np.array_equal(found.images, tensor.reshape(-1, 1, 28, 28))
    assert (found.size, found.channels) == ((28, 28), 1)


@pytest.mark.parametrize("dtype", ["<f4", "u1", "<f2"])
def test_nor_a_type_of_the_raw_form(dtype):
    tensor = np.arange(784).astype(dtype) / np.dtype(dtype).type(784 if dtype != "u1" else 1)
    slot = Slot("raw", tensor.astype(dtype).tobytes(), raw=True)
    found = entered(Preprocessing(), slot, digit, anything)
    assert found.size == (28, 28)
    assert found.from_purifier(found.images).tobytes() == slot.value


@pytest.mark.parametrize("dtype", ["<i4", "<u4", "<i2", "<u2"])
def test_integers_in_the_raw_form_are_no_tiny_floats(dtype):
    """As such they would be black to the purifier, and levels to the server."""
    levels = ((np.arange(784) + 99) % 256).astype(dtype)
    with pytest.raises(BadParameter, match="integers"):
        entered(Preprocessing(), Slot("raw", levels.tobytes(), raw=True), digit)
    black = np.zeros(784, "<f4" if dtype.endswith("4") else "<f2")
    assert entered(Preprocessing(), Slot("raw", black.tobytes(), raw=True), digit).images.max() == 0


def test_a_few_tiny_floats_in_the_raw_form_are_those_of_an_image():
    """FP16 has them below 6e-5, and a resized image a few."""
    values = np.linspace(0, 1, 784, dtype=np.float16)
    values[5] = 3e-5
    assert entered(Preprocessing(), Slot("raw", values.tobytes(), raw=True), digit).images.shape == (1, 1, 28, 28)


def test_a_typed_tensor_may_hold_tiny_numbers():
    tensor = np.full((1, 784), 1e-40, np.float32)
    assert entered(Preprocessing(), Slot("x", tensor), digit).images.shape == (1, 1, 28, 28)


@given(st.data(), st.sampled_from(["0-1", "0-255", "-1-1", "mean/std"]), st.sampled_from(["rgb", "bgr"]), st.booleans())
def test_ranges_and_colours_go_in_and_out(data, range_, colour, channels_last):
    unit = data.draw(tensors(np.float32)).astype(np.float64)
    channels = unit.shape[1]
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    declared = {"mean": mean, "std": std} if range_ == "mean/std" else {"range": range_}
    preprocessing = Preprocessing(layout="nhwc" if channels_last else "nchw", colour=colour, **declared)
    column = [np.array(part).reshape(-1, 1, 1) for part in (mean, std)]
    as_sent = {
        "0-1": unit, "0-255": unit * 255, "-1-1": unit * 2 - 1, "mean/std": (unit - column[0]) / column[1],
    }[range_].astype(np.float32)  # fmt: skip
    flip = colour == "bgr" and channels == 3
    tensor = as_sent[:, ::-1] if flip and range_ != "mean/std" else as_sent
    if range_ == "mean/std" and flip:
        tensor = as_sent[:, ::-1]
    tensor = np.ascontiguousarray(tensor.transpose(0, 2, 3, 1) if channels_last else tensor)
    found = entered(preprocessing, Slot("x", tensor), anything)
    assert np.allclose(found.images, unit, atol=2e-7)
    assert np.array_equal(found.from_purifier(found.images), tensor)
    halved = found.from_purifier((found.images / 2).astype(np.float32))
    again = entered(preprocessing, Slot("x", halved), anything)
    assert np.allclose(again.images, unit / 2, atol=1e-6)


def test_integers_stay_integers():
    tensor = np.arange(784, dtype=np.int64).reshape(1, 28, 28, 1) % 256
    found = entered(Preprocessing(), Slot("x", tensor, typed=False), digit)
    assert found.images.dtype == np.uint8
    assert np.array_equal(found.from_purifier(255 - found.images), 255 - tensor)
    binary = (tensor > 100).astype(np.int64)  # JSON's 0 and 1 are 0.0 and 1.0
    found = entered(Preprocessing(), Slot("x", binary, typed=False), digit)
    assert found.images.max() == 1
    between = found.from_purifier(found.images * np.float32(0.75))
    assert between.max() == 0.75  # and not the integer below
    bytes_ = (tensor % 128).astype(np.int8)
    found = entered(Preprocessing(), Slot("x", bytes_), digit)
    assert found.from_purifier(np.full_like(found.images, 200)).max() == 127  # the lightest that there is
    levels = entered(Preprocessing(range="0-1"), Slot("x", binary), digit)
    assert levels.from_purifier(levels.images * np.float32(0.75)).sum() == binary.sum()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.1, -0.5])
def test_values_outside_the_declared_range_are_refused(bad):
    tensor = np.zeros((1, 1, 28, 28), np.float32)
    tensor[0, 0, 3, 3] = bad
    with pytest.raises(BadParameter, match="finite values"):
        entered(Preprocessing(), Slot("x", tensor), digit)


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
