"""The page on extending is followed to the letter: every file it shows, every command, in order, in an empty folder."""

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arn_purify import models
from arn_purify.training.measuring.records import read_all
from tests.e2e.conftest import serving

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extend.md").read_text()
SECTIONS = dict(re.findall(r"(?ms)^## (.*?)\n(.*?)(?=^## |\Z)", PAGE))


def follow(section, folder):
    """Write the files of a section and run its commands; what they print. A service is not started here."""
    said = ""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    blocks = re.findall(r"```(python|sh)\n(.*?)```", SECTIONS[section], re.S)
    assert {language for language, _ in blocks} == {"python", "sh"}
    for language, block in blocks:
        if language == "python":
            (folder / re.match(r"# (\S+)\n", block)[1]).write_text(block)
        elif " serve " not in block:
            block = block.replace("arn-train", f"{sys.executable} -m arn_purify.training")
            done = subprocess.run(
                ["bash", "-e", "-c", block], cwd=folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr[-2000:]
            said += done.stdout
    return said


def test_an_attack_of_ones_own_becomes_records_like_any_other(tmp_path):
    said = follow("An attack", tmp_path)
    found = {(r.attack, r.threat_model): r for r in read_all(tmp_path / "mine")}
    names = ("PGD_N", "one_step.rfgsm", "one_step.rfgsm@0.2r10")
    assert found.keys() == {(name, threat) for name in names for threat in ("oblivious", "white_box")}
    mine = found["one_step.rfgsm", "white_box"]
    assert (mine.eps, mine.norm, mine.settings["share"], mine.flags) == (0.3, "linf", 0.5, ())
    assert len(mine.sha256["attack"]) == 64
    assert found["PGD_N", "white_box"].sha256["attack"] != mine.sha256["attack"]
    assert found["one_step.rfgsm@0.2r10", "white_box"].settings["restarts"] == 10
    assert 5 < mine.error_rate <= found["PGD_N", "white_box"].error_rate
    share = float(re.search(r"other_loss:pgd@0\.1: ([\d.]+) % of 30 reached the goal$", said, re.M)[1])
    assert share > 10


def test_a_network_of_ones_own_is_trained_measured_and_served(tmp_path, monkeypatch):
    said = follow("A network", tmp_path)
    assert "ARN_PP   PGD_N" in said
    with pytest.raises(models.CheckpointError, match="half"):
        models.load(tmp_path / "runs" / "half" / "purifier.safetensors")
    (line,) = re.findall(r"(?m)^python (serve_half.py serve .*)$", SECTIONS["A network"])
    script, _, *flags = shlex.split(line)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with serving(tmp_path, *flags, command=(sys.executable, script), cwd=tmp_path) as served:
        body = (ROOT / "examples" / "natural_3.png").read_bytes()
        answer = served.client.post("/purify", content=body)
        assert answer.headers["X-ARN-Purified"] == "true"
        assert np.array(Image.open(io.BytesIO(answer.content))).shape == (28, 28)


def test_a_recipe_of_ones_own_is_trained_by(tmp_path):
    follow("A recipe", tmp_path)
    card = models.card_of(models.load(tmp_path / "runs" / "sharp" / "purifier.safetensors"))
    assert card.recipe.startswith("sharp-")
    assert card.loss_weights["l1"] == 20
    assert [attack["attack"] for attack in card.seen_attacks] == ["PGD_N", "DDN_Nx20"]


def test_a_data_set_of_ones_own_is_measured_and_learned_from(tmp_path):
    follow("A data set", tmp_path)
    measured = list(read_all(tmp_path / "mine"))
    found = {r.attack: r for r in measured if r.classifier == "mnist-lenet5"}
    assert (found["PGD_N"].dataset, found["PGD_N"].eps, found["PGD_N"].n) == ("scans", 0.2, 130)
    assert {(r.classifier, r.attack) for r in measured if r.classifier != "mnist-lenet5"} == {
        ("lenet5", "none"), ("lenet5", "PGD_N")
    }  # fmt: skip
    assert found["none"].error_rate < 30
    card = models.card_of(models.load(tmp_path / "runs" / "scans" / "purifier.safetensors"))
    assert card.dataset == "scans"
    assert card.seen_attacks[0]["eps"] == 0.2
