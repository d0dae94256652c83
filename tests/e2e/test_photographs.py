"""Normalised photographs through the gateway to a real Triton that serves an ONNX classifier, by its own client."""

import json
import os
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from arn_purify import models
from examples import servers
from examples.servers import photos
from tests.conftest import PATIENCE
from tests.networks import save_photo

from .conftest import serving

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
CLIENT = servers.HERE / "clients" / "triton_photo_client.py"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three pictures without content, uint8 ``(3, 224, 224, 3)``, as a file."""
    rng = np.random.default_rng(0)
    drawn = [Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize((224, 224)) for n in (3, 9, 60)]
    path = tmp_path_factory.mktemp("photographs") / "images.npy"
    np.save(path, np.stack(drawn))
    return path


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton")
    photos.add_to_triton(folder)
    try:
        with servers.serving("triton", folder) as running:
            yield running
    except servers.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def chained(triton, tmp_path_factory):
    folder, grpc = tmp_path_factory.mktemp("gateway"), servers.free_port()
    flags = [
        "--models", save_photo(folder / "photo.safetensors"), "--downstream-url", triton.http, "--downstream-protocol",
        "v2", "--downstream-grpc", triton.grpc, "--grpc-port", grpc, "--downstream-model", "photos", "--precision",
        "fp32", "--max-batch-images", 1, *photos.GATEWAY,
    ]  # fmt: skip
    with serving(folder, *map(str, flags)) as served:
        served.grpc, served.checkpoint = f"127.0.0.1:{grpc}", folder / "photo.safetensors"
        yield served


def ask(mode, address, images, folder):
    """The labels, and the images that Triton saw, back on [0, 1]."""
    command = [servers.python("triton"), CLIENT, mode, address, images, folder / "seen.npy"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-2000:]
    mean, std = (np.array(numbers, np.float32).reshape(3, 1, 1) for numbers in (photos.MEAN, photos.STD))
    return json.loads(done.stdout), torch.from_numpy(np.load(folder / "seen.npy") * std + mean)


@pytest.mark.parametrize("mode", ["binary", "json", "grpc"])
def test_what_arrives_is_the_purified_image_normalised_as_it_came(mode, triton, chained, images, tmp_path):
    x = torch.from_numpy(np.load(images)).permute(0, 3, 1, 2).float() / 255
    classifier = models.load("photo-efficientnet-lite0")
    with torch.inference_mode():
        purified = models.load(chained.checkpoint)(x).clamp(0, 1)
        wanted = [classifier(given).argmax(1).tolist() for given in (x, purified)]
    direct, through = (triton.grpc, chained.grpc) if mode == "grpc" else (triton.http, chained.url)
    labels, seen = ask(mode, direct, images, tmp_path)
    assert (seen - x).abs().max() < 1e-5
    assert labels == wanted[0]
    labels, seen = ask(mode, through, images, tmp_path)
    assert (purified - x).abs().max() > 0.02
    assert (seen - purified).abs().max() < 1e-4
    assert labels == wanted[1]
