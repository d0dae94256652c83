"""Checkpoints: bit-equal round trips, and a clear error for every file that is not one of ours."""

import dataclasses
import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from arn_purify import models
from arn_purify.models import Arn, ArnConfig, Card, CheckpointError, checkpoint, files
from arn_purify.service.core.engine import Engine


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Arn(ArnConfig()).train()
    model(torch.rand(8, 1, 28, 28))  # moves BatchNorm's statistics
    return model.eval()


def card(model, **changes):
    architecture, config, kind = checkpoint.architecture_of(model)
    fields = {"name": "x", "kind": kind, "architecture": architecture, "config": config, "dataset": "mnist"}
    return Card(**{**fields, "input_shape": (1, 28, 28), **changes})


@pytest.fixture
def path(model, tmp_path):
    checkpoint.save(
        model, card(model, class_names=("a",), seen_attacks=({"attack": "PGD_N"},)), tmp_path / "x.safetensors"
    )
    return tmp_path / "x.safetensors"


def test_a_loaded_model_is_bit_equal_and_carries_its_card(model, path):
    x = torch.rand(4, 1, 28, 28)
    loaded = models.load(path)
    assert torch.equal(loaded(x), model(x))
    assert not loaded.training
    found = models.card_of(loaded)
    assert dataclasses.replace(found, sha256="") == card(model, class_names=("a",), seen_attacks=({"attack": "PGD_N"},))
    assert len(found.sha256) == 64


def test_half_precision_moves_an_image_by_less_than_two_levels(model, tmp_path):
    checkpoint.save(model, card(model), tmp_path / "half.safetensors", torch.float16)
    x = torch.rand(16, 1, 28, 28)
    assert (models.load(tmp_path / "half.safetensors")(x) - model(x)).abs().max() < 2 / 255


def test_half_precision_keeps_what_it_cannot_hold(tmp_path):
    """A variance of a batch norm can be beyond 65504."""
    classifier = models.load("cifar10-airbench-40")
    name = next(name for name in classifier.state_dict() if name.endswith("running_var"))
    classifier.state_dict()[name].fill_(1e6)
    checkpoint.save(classifier, models.card_of(classifier), tmp_path / "half.safetensors", torch.float16)
    stored = checkpoint.read(tmp_path / "half.safetensors")[1]
    assert (stored.pop(name) == 1e6).all()
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float16}


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_a_truncated_file_is_refused(keep, path):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"x\.safetensors: .*truncated"):
        models.load(path)


@pytest.mark.parametrize("where", ["tensor", "card"])
def test_a_tampered_file_is_refused(where, path):
    data = bytearray(path.read_bytes())
    position = len(data) - 10 if where == "tensor" else data.index(b"mnist")
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="changed after it was written"):
        models.load(path)


def test_a_foreign_file_is_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="no ARN checkpoint"):
        models.load(tmp_path / "foreign.safetensors")
    (tmp_path / "picture.safetensors").write_bytes(b"\x89PNG\r\n" * 100)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        models.load(tmp_path / "picture.safetensors")


def test_a_renamed_shipped_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "mnist-transparent.safetensors").write_bytes((models.ZOO / "mnist-lenet5.safetensors").read_bytes())
    monkeypatch.setattr(models, "ZOO", tmp_path)
    with pytest.raises(CheckpointError, match="renamed 'mnist-lenet5'"):
        models.load("mnist-transparent")


def test_a_card_that_describes_another_model_is_not_written(model, tmp_path):
    with pytest.raises(CheckpointError, match="the card says"):
        checkpoint.save(model, card(model, config={}), tmp_path / "x.safetensors")


def test_a_card_that_does_not_fit_its_tensors_is_refused(model, tmp_path, monkeypatch):
    wide = Arn(ArnConfig(width=64))
    monkeypatch.setattr(checkpoint, "architecture_of", lambda _: ("arn", dataclasses.asdict(model.config), "purifier"))
    checkpoint.save(wide, card(model), tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="do not fit arn"):
        models.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("mnist-lenet5", {"class_names": ("a", "b", "c")}, "3 names of 10 classes"),
        ("mnist-lenet5", {"kind": "purifier"}, "a classifier, not a purifier"),
        ("mnist-transparent", {"input_shape": (3, 28, 28)}, "3 channels"),
        ("mnist-transparent", {"input_shape": (1, 0, 28)}, "no shape"),
        ("mnist-transparent", {"input_shape": (28, 28)}, "no shape"),
    ],
)
def test_a_card_that_contradicts_its_network_is_refused(name, changed, message, tmp_path, monkeypatch):
    released = models.load(name)
    told = dataclasses.replace(models.card_of(released), **changed)
    monkeypatch.setattr(checkpoint, "architecture_of", lambda _: (told.architecture, dict(told.config), told.kind))
    checkpoint.save(released, told, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=f"contradicts its network: {message}"):
        models.load(tmp_path / "x.safetensors")


def test_a_file_with_a_type_that_torch_has_not_is_refused(tmp_path):
    data = (models.ZOO / "mnist-lenet5.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length]) | {"none": {"dtype": "F4", "shape": [0], "data_offsets": [0, 0]}}
    head = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + data[8 + length :])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        models.load(tmp_path / "x.safetensors")


def test_a_name_that_no_header_can_hold_ends_the_start(tmp_path):
    purifier = models.load("mnist-transparent")
    told = dataclasses.replace(models.card_of(purifier), name="数字")
    checkpoint.save(purifier, told, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="export it under another"):
        Engine((str(tmp_path / "x.safetensors"),), (), "cpu", "fp32")


def test_a_classifier_is_no_purifier():
    with pytest.raises(CheckpointError, match="mnist-lenet5 is a classifier"):
        Engine(("mnist-lenet5",), (), "cpu", "fp32")


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(FileNotFoundError, match=r"identity, .*mnist-hardened, mnist-lenet5, mnist-transparent"):
        models.load("mnist-transparant")


def test_a_failed_write_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]
