"""Other runtimes answer as torch does, on noise and on digits."""

import numpy as np
import pytest
import torch

from arn_purify import models
from arn_purify.training import convert, data
from arn_purify.training.cli import main

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", ["mnist-transparent", "mnist-lenet5"])
def test_onnx_answers_as_torch_does(name, tmp_path, capsys):
    assert main(["convert", name, str(tmp_path / "out" / "model.onnx")]) == 0
    assert "from torch's answers" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    digits = data.load("digits").test.batch(slice(0, 64))[0].contiguous()
    for images in (digits, torch.rand(3, 1, 28, 28)):
        theirs = session.run(None, {"images": images.numpy()})[0]
        assert np.abs(theirs - models.load(name)(images).detach().numpy()).max() <= convert.TOLERANCE
    assert session.get_modelmeta().custom_metadata_map["arn.sha256"] == models.card_of(models.load(name)).sha256


def test_the_exported_program_answers_as_torch_does(tmp_path):
    assert convert.convert("mnist-transparent", tmp_path / "model.pt2") <= convert.TOLERANCE
    program = torch.export.load(tmp_path / "model.pt2").module()
    images = torch.rand(7, 1, 28, 28)
    assert torch.allclose(program(images), models.load("mnist-transparent")(images), atol=convert.TOLERANCE)


def test_a_network_that_answers_otherwise_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "_pt2", lambda model, *_: lambda images: model(images) + 0.01)
    with pytest.raises(convert.ConversionError, match=r"differs from torch by 0\.01"):
        convert.convert("mnist-transparent", tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "file", "message"), [("identity", "x.onnx", "any size"), ("mnist-lenet5", "x.tflite", "ending")]
)
def test_what_cannot_be_converted_says_why(name, file, message, tmp_path, capsys):
    assert main(["convert", name, str(tmp_path / file)]) == 2
    assert message in capsys.readouterr().err
