"""Parameters come from the query or from fields of a form; what is not known is refused, never ignored."""

import numpy as np
import pytest

from arn_purify.service.core import codec
from arn_purify.service.errors import BadParameter
from arn_purify.service.routes.parameters import Parameters
from tests.service.images import PNG, picture, pixels, post


def upload(client, path, **fields):
    return client.post(path, files={"image": ("a.png", PNG)}, data=fields)


def test_a_field_of_a_form_chooses_as_the_query_does(client):
    assert upload(client, "/purify").headers["x-arn-model"] == "mnist-transparent@fp32"
    assert upload(client, "/purify", model="identity").headers["x-arn-model"] == "identity@fp32"
    assert "unpurified" in upload(client, "/classify", compare="true").json()
    large = {"image": ("a.png", picture(size=(50, 40)))}
    assert pixels(client.post("/purify", files=large, data={"resize": "fit", "model": "mnist-transparent"})).shape == (
        28, 28, 1,
    )  # fmt: skip


@pytest.mark.parametrize("path", ["/purify", "/classify"])
def test_an_unknown_parameter_is_refused_with_those_that_are_known(client, path):
    known = "model, resize" + (", compare" if path == "/classify" else "")
    for answer in (
        post(client, PNG, path=f"{path}?modle=identity"),
        upload(client, path, modle="identity"),
        client.post(path, files={"image": (None, PNG)}),  # a file without a file name is a field
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
        assert answer.json()["error"].endswith(f"is known here: {known}")
    assert "'modle'" in post(client, PNG, path=f"{path}?modle=identity").json()["error"]


@pytest.mark.parametrize(
    ("query", "fields"),
    [("?model=identity", {"model": "mnist-transparent"}), ("?model=identity&model=mnist-transparent", {})],
)
def test_two_values_of_one_parameter_are_refused(client, query, fields):
    answer = upload(client, f"/purify{query}", **fields)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
    assert "given twice" in answer.json()["error"]
    assert upload(client, "/purify?model=identity", model="identity").status_code == 200


@pytest.mark.parametrize(
    ("value", "fit"),
    [("crop", "crop"), ("true", "crop"), ("1", "crop"), ("", "crop"), ("FIT", "fit"), ("false", None), ("0", None)],
)
def test_resize_crops_unless_it_says_otherwise(value, fit):
    assert Parameters(("resize",)).and_these([("resize", value)]).fit("resize") == fit


def test_other_values_are_refused():
    given = Parameters(("resize", "compare")).and_these([("resize", "squash"), ("compare", "maybe")])
    with pytest.raises(BadParameter, match="crop, fit, true or false"):
        given.fit("resize")
    with pytest.raises(BadParameter, match="true or false"):
        given.flag("compare")


def test_the_whole_image_and_its_centre_are_two_answers(client):
    image = np.zeros((40, 80, 1), np.uint8)
    image[:, 20:60] = 255
    path = "/purify?model=mnist-transparent&resize="
    cropped, fitted = (pixels(post(client, codec.encode_image(image), path=path + how)) for how in ("crop", "fit"))
    assert cropped[:, :, 0].mean() > 2 * fitted[:, :, 0].mean()
    true = post(client, codec.encode_image(image), path=path + "true")
    assert np.array_equal(pixels(true), cropped)
