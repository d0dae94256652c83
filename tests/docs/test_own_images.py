"""The guide is followed to the letter: every file it shows, every command, in order, in an empty folder."""

import io
import json
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


PHOTOGRAPHS, SMALL_IMAGES = (ROOT / "docs" / "own-images.md").read_text().split("## Small images")


def follow(text, folder, replaced=()):
    """Write every file that a part of the guide shows and run every command but those that serve; what they print."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    said = ""
    for language, block in re.findall(r"```(python|sh)\n(.*?)```", text, re.S):
        if language == "python":
            name = re.match(r"# (\S+)\n", block)[1]
            (folder / name).write_text(block)
        elif not block.startswith("arn serve"):
            for old, new in replaced:
                block = block.replace(old, new)
            done = subprocess.run(
                ["bash", "-e", "-c", block], cwd=folder, env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
                capture_output=True, text=True,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-2000:]
            said += done.stdout
    return said


def errors_in(said):
    """Percent by what evaluate prints of each number: defence, attack, threat model."""
    found = re.findall(r"(?m)^(\S+ +\S+ +\S+) +([\d.]+) %", said)
    return {" ".join(key.split()): float(value) for key, value in found}


@pytest.mark.slow  # minutes of attacks
def test_the_guide_leads_from_photographs_to_a_fine_tuned_purifier(tmp_path):
    (tmp_path / "results").symlink_to(ROOT / "results")
    whole, toy = "steps=1000,", "steps=4,crafted=4,pool=8,batch_size=4,"
    assert PHOTOGRAPHS.count(whole) == 1
    errors = errors_in(follow(PHOTOGRAPHS, tmp_path, [(whole, toy)]))
    attack = "PGD_N@0.0157x10"
    assert errors["none none oblivious"] == 0
    undefended = errors.pop(f"none {attack} oblivious")
    assert undefended > 30  # two classes are far apart
    (purified,) = (error for name, error in errors.items() if name.endswith(f"{attack} oblivious"))
    assert purified < undefended / 2
    assert sum(name.endswith("white_box") for name in errors) == 1
    assert len(list((tmp_path / "purified").rglob("*.png"))) == 24
    last = json.loads((tmp_path / "runs" / "pictures" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 4
    assert last["error/natural"] < 50


@pytest.mark.slow  # minutes of training
def test_the_guide_leads_from_a_folder_to_a_served_purifier(tmp_path, monkeypatch):
    errors = errors_in(follow(SMALL_IMAGES, tmp_path))
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
