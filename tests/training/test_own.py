"""Attacks, networks, recipes and data sets from a module of the user's own, by flags of ``arn-train``."""

import sys
from pathlib import Path

import pytest

from arn_purify.models.config import ARCHITECTURES
from arn_purify.training import attacks, cli
from arn_purify.training.measuring.records import read_all

NOISE = """
import torch
from arn_purify.training.attacks import Attack

class Noise(Attack):
    starts_at_random = True

    def perturb(self, classifier, images, labels):
        signs = torch.rand_like(images).sub(0.5).sign()
        return (images + self.settings["share"] * 0.1 * signs).clamp(0, 1)

def noise(norm="linf", eps=0.1, share=1.0):
    return Noise("anything", "untargeted", norm, eps, {"share": share}, "mine")

def too_far():
    return noise(share=1.5)

def in_another_norm():
    return noise(norm="wasserstein")

def few_pixels():
    return noise(norm="l0", eps=10)

def round_r3():
    return noise(share=0.5)

def nothing():
    return None

def hungry(classifier):
    return noise()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder with a module of a name of its own, so that each test imports it anew."""
    monkeypatch.chdir(tmp_path)
    name = f"noise_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(NOISE)
    return name


def test_a_name_takes_the_endings_of_a_built_in_one(folder):
    attack = attacks.get(f"{folder}:noise@0.05r3")
    assert (attack.name, attack.eps, attack.settings) == (f"{folder}.noise@0.05r3", 0.05, {"share": 1.0, "restarts": 3})
    assert attacks.AttackName.base_of(attack.name) == f"{folder}.noise"
    assert attacks.for_training(attack) == attack
    with pytest.raises(attacks.AttackError, match="no setting iterations"):
        attacks.get(f"{folder}:noisex100")


def test_a_function_whose_name_ends_like_an_ending_is_found(folder):
    assert attacks.get(f"{folder}:round_r3").settings == {"share": 0.5}
    assert attacks.get(f"{folder}:round_r3r2").settings == {"share": 0.5, "restarts": 2}


def test_a_purifier_that_learned_from_it_is_exported_and_measured_with_it(folder, tmp_path):
    common = ["--dataset", "digits", "--every", "40"]
    seen = ["--seen", f"{folder}:noise@0.05", "--watched", "20"]
    assert cli.main(["train", *common, *seen, "--epochs", "1", "--batch-size", "16", "--out", "run"]) == 0
    assert cli.main(["export", "run/purifier.safetensors", *common, "--name", "mine", "--out", "."]) == 0
    assert f"{folder}.noise@0.05" in (tmp_path / "mine.md").read_text()


def test_attacks_of_other_source_have_another_hash(folder, tmp_path):
    first = attacks.get(f"{folder}:noise")
    assert attacks.get(f"{folder}:noise") == first
    (tmp_path / "other.py").write_text(NOISE.replace("0.5", "0.4"))
    assert attacks.get("other:noise").sha256 != first.sha256
    assert first.describe()["sha256"] == first.sha256


@pytest.mark.parametrize(
    ("function", "flags"),
    [("noise", ()), ("noise@0.05", ("over budget: changed an image by more than 0.05 (linf)",)),
     ("too_far", ("over budget: changed an image by more than 0.1 (linf)",)),
     ("few_pixels", ("over budget: changed an image by more than 10 (l0)",)),
     ("in_another_norm", ("budget not checked: no measure of wasserstein",))],
)  # fmt: skip
def test_an_attack_outside_its_budget_is_flagged_in_its_record(function, flags, folder, capsys):
    spec, on = f"{folder}:{function}", ["--dataset", "digits", "--every", "30"]
    assert cli.main(["craft", *on, "--attacks", spec]) == 0
    crafted = capsys.readouterr().out.strip()
    assert crafted.endswith(flags[0] if flags else "reached the goal")
    assert cli.main(["evaluate", *on, "--attacks", spec, "--out", "records"]) == 0
    (record,) = read_all(Path("records"))
    assert (record.attack, record.flags) == (f"{folder}.{function}", flags)
    assert record.sha256["attack"] == attacks.get(spec).sha256


def test_it_is_measured_again_once_its_source_has_changed(folder, tmp_path, capsys, monkeypatch):
    evaluate = ["evaluate", "--dataset", "digits", "--every", "30", "--attacks", f"{folder}:noise", "--out", "records"]
    for changed, again in ((False, False), (False, True), (True, False)):
        if changed:
            (tmp_path / f"{folder}.py").write_text(NOISE.replace("sub(0.5)", "sub(0.50)"))
            monkeypatch.delitem(sys.modules, folder)
        assert cli.main(evaluate) == 0
        assert ("measured already" in capsys.readouterr().out) is again


@pytest.mark.parametrize(
    ("spec", "message"),
    [("nowhere:noise", "No module named 'nowhere'"), ("{}:missing", "no attribute 'missing'"),
     ("{}:nothing", "gives a NoneType, not an Attack"), ("{}:hungry", "missing 1 required positional argument")],
)  # fmt: skip
def test_what_is_no_attack_is_refused_in_one_line(spec, message, folder, capsys):
    assert cli.main(["craft", "--dataset", "digits", "--attacks", spec.format(folder)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said


def test_a_module_is_imported_before_other_flags_are_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(ARCHITECTURES, "mine", ARCHITECTURES["compact"])
    monkeypatch.delitem(ARCHITECTURES, "mine")  # what the module adds is taken out again
    (tmp_path / "adds_mine.py").write_text(
        "from arn_purify.models.config import ARCHITECTURES\nARCHITECTURES['mine'] = ARCHITECTURES['compact']\n"
    )
    train = ["train", "--arch", "mine", "--dataset", "digits", "--seen", "CW_X", "--out", "run"]
    with pytest.raises(SystemExit):
        cli.main(train)
    assert "invalid choice: 'mine'" in capsys.readouterr().err
    assert cli.main(["--import", "adds_mine", *train]) == 2
    assert "no attack 'CW_X'" in capsys.readouterr().err, "beyond the choice of the network"
    with pytest.raises(SystemExit):
        cli.main(["--import", "nowhere", *train])
    assert "--import: nowhere: No module named 'nowhere'" in capsys.readouterr().err
