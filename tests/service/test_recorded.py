"""The service over an engine whose batches are recorded, as on CUDA: its answers, what it says of itself, a swap."""

import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from arn_purify import models
from arn_purify.service import state
from arn_purify.service.core import codec
from arn_purify.service.core.buckets import Host
from arn_purify.service.core.engine import Engine, Work
from tests.conftest import running
from tests.service.images import post

PIXELS = np.random.default_rng(0).integers(0, 256, (21, 28, 28, 1), np.uint8)
NAME, TOKEN = "mnist-transparent", {"X-Admin-Token": "t"}


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    monkeypatch.setattr(state, "Engine", functools.partial(Engine, backend=Host))
    (tmp_path / "other.safetensors").write_bytes((models.ZOO / "mnist-hardened.safetensors").read_bytes())
    settings = {"admin_token": "t", "admin_folder": str(tmp_path), "sizes": "any", "max_batch_images": 8}
    with running(models=NAME, classifier="mnist-lenet5", **settings) as client:
        yield client


def purified(client, images):
    answer = post(client, codec.encode_npy(images), codec.NPY_TYPE)
    assert answer.status_code == 200, answer.text
    return codec.decode_npy(answer.content), answer.headers["x-arn-model-sha256"]


def test_many_clients_get_their_own_images_before_and_after_a_swap(recorded):
    (card,) = recorded.get("/models").json()["purifiers"]
    assert card["recorded_images"] == 8
    parts = [PIXELS[:1], PIXELS[1:3], PIXELS[3:15], PIXELS[15:16, :26, :24], PIXELS[16:]]
    for name in (NAME, "mnist-hardened"):
        engine = Engine((name,), ("mnist-lenet5",), "cpu", "fp32")
        with ThreadPoolExecutor(len(parts)) as pool:
            answers = list(pool.map(functools.partial(purified, recorded), parts))
        for images, (answer, sha256) in zip(parts, answers, strict=True):
            assert abs(answer.astype(int) - engine.run(Work(name), images).images).max() <= 1
            assert sha256 == engine.card(name).sha256
        label = recorded.post("/classify?compare=true", content=codec.encode_image(PIXELS[0])).json()
        expected = engine.run(Work(name, classify=True, compare=True), PIXELS[:1])
        assert label["probabilities"] == pytest.approx(expected.probabilities[0].tolist(), abs=1e-2)
        assert label["unpurified"]["probabilities"] == pytest.approx(expected.unpurified[0].tolist(), abs=1e-4)
        if name == NAME:
            swap = recorded.post(f"/admin/models/{NAME}", json={"path": "other.safetensors"}, headers=TOKEN)
            assert swap.status_code == 200, swap.text
            file = models.ZOO / "mnist-hardened.safetensors"
            assert swap.json()["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
