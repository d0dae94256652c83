"""Photographs: which go to their purifier, and what the classifier sees of a large one."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from arn_purify import models
from arn_purify.service.core import codec
from arn_purify.service.core.fit import fit_image
from tests.conftest import running
from tests.networks import save_photo
from tests.service.images import post

SIZE = (160, 96)  # width and height of what is no classifier's size


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_photo(tmp_path_factory.mktemp("photographs") / "photo.safetensors")


@pytest.fixture(scope="module")
def client(path):
    names = f"mnist-transparent,cifar10-transparent,{path}"
    classifiers = "mnist-lenet5,cifar10-airbench-40,photo-efficientnet-lite0"
    with running(models=names, classifier=classifiers, max_batch_images=1) as client:
        yield client


def photograph(mode="RGB", size=SIZE):
    levels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def purified(path, image):
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        return models.load(path)(x).mul(255).round()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("size", "status"), [(SIZE, 200), ((65, 65), 200), ((64, 200), 422), ((200, 64), 422)])
def test_a_photograph_is_of_65_pixels_or_more_on_both_sides_in_colour_or_grey(mode, size, status, client, path):
    image = photograph(mode, size)
    answer = post(client, encoded(image))
    assert answer.status_code == status
    if status == 422:
        assert "photo 224x224 and from 65x65 up with 3 channel(s)" in answer.json()["error"]
        return
    assert answer.headers["x-arn-model"] == "photo@fp32"
    back = np.asarray(Image.open(io.BytesIO(answer.content)))
    wanted = purified(path, image.convert("RGB"))[0].permute(1, 2, 0).numpy()
    assert np.abs(wanted - np.array(image.convert("RGB"))).max() > 5
    assert np.abs(back - wanted).max() <= 1


def test_small_images_go_to_their_own_purifiers(client):
    for size, model in (((28, 28), "mnist-transparent"), ((32, 32), "cifar10-transparent")):
        grey = photograph("L" if size == (28, 28) else "RGB", size)
        assert post(client, encoded(grey)).headers["x-arn-model"] == f"{model}@fp32"
    named = post(client, encoded(photograph()), path="/purify?model=cifar10-transparent&resize=crop")
    assert named.headers["x-arn-model"] == "cifar10-transparent@fp32"


@pytest.mark.parametrize("fit", ["crop", "fit"])
def test_resize_brings_a_photograph_to_the_size_that_its_purifier_was_evaluated_at(fit, client, path):
    image = photograph(size=(300, 200))
    back = np.asarray(Image.open(io.BytesIO(post(client, encoded(image), path=f"/purify?resize={fit}").content)))
    wanted = purified(path, fit_image(image, (224, 224), fit))[0].permute(1, 2, 0).numpy()
    assert np.abs(back - wanted).max() <= 1


def test_a_tensor_goes_by_its_shape_as_an_image_does(client):
    for shape, status in (((2, 70, 80, 3), 200), ((1, 70, 80, 1), 422)):
        answer = post(client, codec.encode_npy(np.zeros(shape, np.uint8)), codec.NPY_TYPE)
        assert answer.status_code == status


@pytest.mark.parametrize("accept", ["*/*", "image/png", "image/*", "image/jpeg, image/png", "image/webp", "image/jpeg"])
def test_a_jpeg_is_answered_as_png_or_as_asked_for(accept, client):
    given = encoded(photograph(), "JPEG", quality=95)
    answer = post(client, given, "image/jpeg", Accept=accept)
    kind = accept if accept in ("image/webp", "image/jpeg") else "image/png"
    assert answer.headers["content-type"] == kind
    image = Image.open(io.BytesIO(answer.content))
    assert (image.size, image.get_format_mimetype()) == (SIZE, kind)
    lossless = Image.open(io.BytesIO(post(client, given, "image/jpeg").content))
    moved = np.abs(np.array(image, np.int16) - np.array(lossless, np.int16))
    assert moved.mean() < 4 if kind == "image/jpeg" else not moved.any()


@pytest.mark.parametrize(("query", "fit"), [("", "crop"), ("&resize=fit", "fit")])
def test_the_classifier_sees_the_purified_square_at_the_centre_and_answers_its_top_five(query, fit, client, path):
    image = photograph()
    answer = post(client, encoded(image), path=f"/classify?compare=true{query}").json()
    assert (answer["model"], answer["classifier"]) == ("photo", "photo-efficientnet-lite0")
    classifier = models.load("photo-efficientnet-lite0")
    seen = purified(path, fit_image(image, (224, 224), fit)) / 255
    with torch.inference_mode():
        wanted = classifier(seen).softmax(1)[0]
    best = wanted.topk(5)
    assert len(answer["probabilities"]) == 1000
    assert [row["label"] for row in answer["top"]] == best.indices.tolist()
    assert [row["probability"] for row in answer["top"]] == pytest.approx(best.values.tolist(), rel=0.05)
    names = models.card_of(classifier).class_names
    assert [row["class_name"] for row in answer["top"]] == [names[label] for label in best.indices]
    assert (answer["label"], answer["class_name"]) == (answer["top"][0]["label"], answer["top"][0]["class_name"])
    assert len(answer["unpurified"]["top"]) == 5


def test_few_classes_have_no_top_five(client):
    assert "top" not in post(client, encoded(photograph("RGB", (32, 32))), path="/classify").json()


def test_what_cannot_be_brought_to_the_classifiers_size_is_refused(client):
    tensor = codec.encode_npy(np.zeros((1, 70, 80, 3), np.uint8))
    answer = post(client, tensor, codec.NPY_TYPE, "/classify")
    assert (answer.status_code, answer.json()["code"]) == (422, "wrong_size")
    assert "take (3, 224, 224)" in answer.json()["error"]
