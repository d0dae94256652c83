"""The guide is followed to the letter: every file it shows, every command, in order, in an empty folder."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import serving

ROOT = Path(__file__).parents[2]
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


@pytest.mark.slow  # minutes of training
def test_the_guide_leads_from_a_folder_to_a_served_purifier(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "own-images.md").read_text()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    said = ""
    for language, block in re.findall(r"```(python|sh)\n(.*?)```", text, re.S):
        if language == "python":
            name = re.match(r"# (\S+)\n", block)[1]
            (tmp_path / name).write_text(block)
        elif not block.startswith("arn serve"):
            done = subprocess.run(
                ["bash", "-e", "-c", block], cwd=tmp_path, env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
                capture_output=True, text=True,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-2000:]
            said += done.stdout
    errors = dict(re.findall(r"(?m)^(\S+ +\S+ +\S+) +([\d.]+) %", said))
    errors = {" ".join(key.split()): float(value) for key, value in errors.items()}
    undefended, restored = errors["none PGD_N@0.1 oblivious"], errors["ARN_PGD_N@0.1+PGD_T@0.1 PGD_N@0.1 oblivious"]
    assert errors["none none oblivious"] < 10
    assert undefended > 60
    assert restored < undefended / 2
    assert (tmp_path / "photos.onnx").is_file()
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path, "--models", "runs/photos/purifier.safetensors", "--classifier", "") as served:
        picture = next((tmp_path / "photos" / "3").iterdir())
        Image.open(picture).resize((28, 28)).save(tmp_path / "three.png")
        answer = served.client.post("/purify", content=(tmp_path / "three.png").read_bytes())
        assert answer.headers["x-arn-purified"] == "true"
        assert np.array(Image.open(io.BytesIO(answer.content))).shape == (28, 28)
