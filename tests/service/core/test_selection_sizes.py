"""``ARN_SIZES``: a purifier takes the size that its card names, or where that is allowed any that its network can."""

import dataclasses
import io

import numpy as np
import pytest
import torch

from arn_purify import models
from arn_purify.models import Arn, ArnConfig, Card, checkpoint
from arn_purify.service.core import codec, engine
from tests.conftest import running


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(0)
    model = Arn(ArnConfig.preset("colour", 3, 32)).eval()
    architecture, config, kind = checkpoint.architecture_of(model)
    path = tmp_path_factory.mktemp("sizes") / "colour.safetensors"
    checkpoint.save(model, Card("colour", kind, architecture, config, "cifar10", (3, 32, 32)), path)
    return path


@pytest.fixture(scope="module")
def client(path):
    with running(models=f"{path},mnist-transparent", sizes="any") as client:
        yield client


def image(height, width, count=1):
    return np.random.default_rng(height).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def reference(path, images):
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        return models.load(path)(x).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


# 16x64 has as many pixels as 32x32.
@pytest.mark.parametrize(("height", "width"), [(32, 32), (41, 26), (16, 64), (3, 1)])
def test_any_size_comes_back_as_the_network_purifies_it(height, width, client, path):
    given = image(height, width)
    answer = client.post("/purify", content=codec.encode_image(given[0]), headers={"Content-Type": "image/png"})
    assert answer.headers["x-arn-model"] == "colour@fp32"
    back = np.asarray(codec.open_image(answer.content, 10**6).decode(3))
    assert abs(back.astype(int) - reference(path, given)).max() <= 1


def test_a_size_that_was_evaluated_goes_to_the_model_that_was(client):
    grey = np.zeros((28, 28, 1), np.uint8)
    answer = client.post("/purify", content=codec.encode_image(grey), headers={"Content-Type": "image/png"})
    assert answer.headers["x-arn-model"] == "mnist-transparent@fp32"


def test_many_large_images_go_through_a_few_at_a_time(client, path, monkeypatch):
    given = image(40, 40, count=5)
    sizes = []
    step = engine.Step.forward
    monkeypatch.setattr(engine.Step, "forward", lambda self, x: (sizes.append(len(x)), step(self, x))[1])
    monkeypatch.setattr(engine, "_VALUES_A_PASS", 2 * 40 * 40 * 3)
    answer = client.post("/purify", content=codec.encode_npy(given), headers={"Content-Type": codec.NPY_TYPE})
    assert sizes == [2, 2, 1]
    assert abs(np.load(io.BytesIO(answer.content)).astype(int) - reference(path, given)).max() <= 1


def test_by_default_the_evaluated_size_alone_is_taken(path):
    with running(models=str(path)) as client:
        for height, status in ((32, 200), (33, 422)):
            body = codec.encode_image(image(height, 32)[0])
            answer = client.post("/purify", content=body, headers={"Content-Type": "image/png"})
            assert answer.status_code == status
    assert answer.json()["code"] == "wrong_size"


def test_cards_tell_which_networks_take_any_size(path):
    card = models.card_of(models.load(path))
    released = dataclasses.asdict(ArnConfig("released"))
    assert models.any_size(card)
    assert models.any_size(models.card_of(models.load("mnist-transparent")))
    assert not models.any_size(dataclasses.replace(card, config=released))
    assert not models.any_size(models.card_of(models.load("mnist-lenet5")))
