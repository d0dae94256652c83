"""Records, red flags and tables: what cannot be true is caught."""

import dataclasses
import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from arn_purify import models
from arn_purify.models import Card
from arn_purify.training import attacks, data
from arn_purify.training.cli import main
from arn_purify.training.data.datasets import DATASETS
from arn_purify.training.load import load_model
from arn_purify.training.measuring import evaluate, records, redflags, threats
from arn_purify.training.report import pages

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def split():
    return data.load("digits").test.every(10)


def subject(purifier, card=None):
    classifier = models.load("mnist-lenet5").requires_grad_(False)
    card = card or Card("x", "purifier", "x", {}, "digits", (1, 28, 28), seen_attacks=({"attack": "PGD_N"},))
    return evaluate.Subject(classifier, models.card_of(classifier), purifier, card)


def measure(chosen, split, tmp_path, attack=None, threat_model=None):
    threat_model = threat_model or threats.Oblivious()
    return evaluate.evaluate(chosen, split, attack, threat_model, dataset="digits", crafted=tmp_path / "crafted")


def test_an_undefended_classifier_falls_and_nothing_is_flagged(split, tmp_path):
    chosen = subject(models.Identity(), Card("identity", "purifier", "x", {}, "", (0, 0, 0)))
    natural = measure(chosen, split, tmp_path)
    attacked = measure(chosen, split, tmp_path, attacks.get("PGD_N"))
    assert (natural.defence, natural.attack, natural.goal) == ("none", "none", "none")
    assert natural.error_rate < 60  # digits are not MNIST
    assert attacked.error_rate == 100
    assert attacked.flags == ()
    assert attacked.iterations == 40
    assert attacked.attacked == "f"


def test_a_search_for_the_smallest_change_goes_through_what_answers():
    """Its result lies where the rounding of another layout may decide."""
    classifier = models.load("cifar10-resnet20")
    defended = threats.Defended(
        classifier, models.card_of(classifier), models.Identity(), Card("i", "purifier", "x", {}, "", (0, 0, 0))
    )
    target = threats.Oblivious().target(defended)
    assert target.by(attacks.get("STA_N", "cifar10")) is classifier
    assert target.by(attacks.get("PGD_N", "cifar10")) is target.module is not classifier


def test_bpda_through_the_service_counts_what_the_service_answers(split, tmp_path):
    class Fine(nn.Module):
        """Tells levels apart that eight bits do not have."""

        def forward(self, x):
            return torch.where((x * 255 - (x * 255).round()).abs().amax((1, 2, 3), keepdim=True) > 0.01, 1 - x, x)

    natural = measure(subject(Fine()), split, tmp_path, attacks.get("PGD_N@0.001x1"), threats.Bpda("g"))
    bare = measure(subject(models.Identity()), split, tmp_path)
    assert abs(natural.error_rate - bare.error_rate) < 10


def test_white_box_attacks_f_after_g(split, tmp_path):
    class Dim(nn.Module):
        def forward(self, x):
            return x * 0.9

    record = measure(subject(Dim()), split, tmp_path, attacks.get("PGD_N"), threats.WhiteBox())
    assert (record.attacked, record.threat_model) == ("f after g", "white_box")
    assert record.error_rate == 100


def test_a_record_measures_loss_and_fidelity(split, tmp_path):
    class Dim(nn.Module):
        def forward(self, x):
            return x * 0.9

    nothing = measure(subject(models.Identity()), split, tmp_path)
    assert nothing.measures["ssim"] == 1
    assert "psnr" not in nothing.measures, "equal images have none"
    dimmed = measure(subject(Dim()), split, tmp_path)
    natural = split.batch(slice(None))[0]
    assert dimmed.measures["psnr"] == pytest.approx(-10 * math.log10(float((0.1 * natural).square().mean())), abs=1e-3)
    assert 0.9 < dimmed.measures["ssim"] < 1
    attacked = measure(subject(Dim()), split, tmp_path, attacks.get("PGD_N"))
    assert attacked.measures["psnr"] < dimmed.measures["psnr"], "beside the natural image, not the attacked one"
    assert attacked.measures["ssim"] < dimmed.measures["ssim"]
    logits = models.load("mnist-lenet5")(natural * 0.9)
    assert dimmed.measures["loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(logits, split.labels).item(), rel=1e-3
    )


class Quantiser(nn.Module):
    """Gradient masking by rounding to a few levels."""

    def forward(self, x):
        return (x * 4).round() / 4


def test_bpda_breaks_what_masks_its_gradient(split, tmp_path):
    chosen, attack = subject(Quantiser()), attacks.get("PGD_N")
    masked = measure(chosen, split, tmp_path, attack, threats.WhiteBox())
    broken = measure(chosen, split, tmp_path, attack, threats.Bpda())
    assert any(flag.startswith("zero gradient") for flag in masked.flags)
    assert broken.error_rate > masked.error_rate + 20
    assert (broken.threat_model, broken.attacked) == ("bpda", "f after g, identity backward")


def test_bpda_through_g_sees_the_services_own_rounding(split, tmp_path):
    chosen = subject(models.load("mnist-transparent"))
    record = measure(chosen, split, tmp_path, attacks.get("PGD_N"), threats.Bpda("g"))
    assert record.error_rate > 60
    assert record.path(tmp_path).name == "PGD_N-bpda-through-g.json"


def test_gray_box_goes_through_the_surrogate(split, tmp_path):
    class Dim(nn.Module):
        def forward(self, x):
            return x * 0.9

    card = Card("y", "purifier", "ape-g", {}, "digits", (1, 28, 28), seen_attacks=({"attack": "PGD_N"},))
    threat = threats.GrayBox(Dim(), card)
    record = measure(subject(models.load("mnist-transparent")), split, tmp_path, attacks.get("PGD_N"), threat)
    assert (record.threat_model, record.attacked) == ("gray_box", "f after APE-G_PGD_N")
    assert record.path(tmp_path).name == "PGD_N-gray_box-APE-G_PGD_N.json"


def test_a_robust_classifier_is_attacked_through_the_ordinary_one_and_by_itself(split, tmp_path):
    f = models.load("mnist-lenet5").requires_grad_(False)

    class Stubborn(nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.long), 10) + 0 * f(x)

    card = Card("s", "classifier", "lenet5", {}, "digits", (1, 28, 28), recipe="at-pgd")
    identity = models.Identity()
    chosen = evaluate.Subject(f, models.card_of(f), identity, models.card_of(identity), Stubborn(), card)
    oblivious = measure(chosen, split, tmp_path, attacks.get("PGD_N"))
    white = measure(chosen, split, tmp_path, attacks.get("PGD_N"), threats.WhiteBox())
    assert oblivious.defence == white.defence == "AT_PGD"
    assert (oblivious.attacked, white.attacked) == ("f", "the robust classifier")
    assert oblivious.error_rate == white.error_rate == pytest.approx(100 * float((split.labels != 0).float().mean()))
    assert any(flag.startswith("zero gradient") for flag in white.flags)


def test_the_expectation_over_a_random_purifier_is_steadier():
    torch.manual_seed(0)

    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    one, many = Noise(), threats.ExpectationOverTransformation(Noise(), 100)
    x = torch.zeros(1000, 10)
    assert many(x).std() < one(x).std() / 5


def test_a_random_purifier_is_flagged(split):
    class Noisy(nn.Module):
        def forward(self, x):
            return (x + 0.01 * torch.randn_like(x)).clamp(0, 1)

    assert any(flag.startswith("random") for flag in redflags.of_model(subject(Noisy()), split.batch(slice(0, 8))[0]))


def test_a_purifier_that_hides_its_gradient_is_flagged(split):
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach()

    for purifier in (Quantiser(), Detached()):
        flags = redflags.of_model(subject(purifier), split.batch(slice(0, 8))[0])
        assert any(flag.startswith("zero gradient") for flag in flags)


def test_the_shipped_purifier_raises_no_flag(split):
    chosen = subject(models.load("mnist-transparent"))
    assert redflags.of_model(chosen, split.batch(slice(0, 8))[0]) == ()


@pytest.mark.parametrize(("errors", "n", "low", "high"), [(0, 100, 0.0, 3.699), (100, 100, 96.301, 100.0)])
def test_wilson_intervals_at_the_ends(errors, n, low, high):
    assert records.wilson(errors, n) == pytest.approx((low, high), abs=2e-3)


@pytest.mark.parametrize(
    ("seen", "defence"),
    [(("PGD_N", "PGD_T"), "ARN_PP"), (("PGD_N", "DDN_N"), "ARN_DP"), (("PGD_N",), "ARN_PGD_N")],
)
def test_rows_are_named_by_what_was_seen(seen, defence):
    card = Card("x", "purifier", "arn", {}, "", (1, 28, 28), seen_attacks=tuple({"attack": name} for name in seen))
    assert subject(models.Identity(), card).name == defence


@pytest.fixture
def project(tmp_path, split):
    """A copy of what the tables are made of, with one record."""
    shutil.copytree(ROOT / "results" / "paper", tmp_path / "results" / "paper")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copy(ROOT / "docs" / "choosing.md", tmp_path / "docs")
    chosen = subject(models.Identity(), Card("identity", "purifier", "x", {}, "", (0, 0, 0)))
    record = dataclasses.replace(measure(chosen, split, tmp_path), dataset="mnist")
    return tmp_path, record.write(tmp_path / "results")


def test_a_table_older_than_its_records_is_caught(project):
    root, _path = project
    assert pages.update(root / "results")
    assert pages.update(root / "results", check=True) == []
    (record,) = records.read_all(root / "results")
    dataclasses.replace(record, attack="PGD_N").write(root / "results")
    assert pages.update(root / "results", check=True)
    assert main(["tables", "--results", str(root / "results"), "--check"]) == 1


def test_the_readme_shows_what_ships_and_no_robust_classifier(project):
    root, _path = project
    (record,) = records.read_all(root / "results")
    dataclasses.replace(record, defence="AT_PGD", checkpoint="a").write(root / "results")
    pages.update(root / "results")
    assert "| AT_PGD (a) |" in (root / "docs" / "results-mnist.md").read_text()
    readme = (root / "README.md").read_text()
    assert "| MNIST, `mnist-lenet5` alone |" in readme
    assert "AT_PGD (" not in readme


def test_a_row_bears_the_name_of_the_file_that_was_measured_and_never_two_files(project):
    root, _path = project
    (root / "results" / "checkpoints").mkdir()
    (root / "results" / "checkpoints" / "mnist-now.safetensors").write_bytes(b"x")
    measured = {"threat_model": "oblivious", "checkpoint": "mnist-then"}
    a_record(**measured, sha256={"checkpoint": hashlib.sha256(b"x").hexdigest()}).write(root / "results")
    pages.update(root / "results")
    page = (root / "docs" / "results-mnist.md").read_text()
    assert "| ARN_PP (mnist-now) |" in page
    assert "| `mnist-now` | `r` |" in page
    for recipe in ("r2", "r3"):  # no file has their hashes any more
        a_record(**measured, recipe=recipe, sha256={"checkpoint": recipe}).write(root / "results")
    pages.update(root / "results")
    page = (root / "docs" / "results-mnist.md").read_text()
    for row in ("mnist-now", "mnist-then, r2", "mnist-then, r3"):
        assert f"| ARN_PP ({row}) |" in page


def test_a_column_whose_attack_is_not_the_papers_is_named(project):
    root, _path = project
    bare = {"defence": "none", "recipe": "", "checkpoint": "identity", "threat_model": "oblivious"}
    a_record(**bare, attack="PGD_N", errors=991).write(root / "results")
    a_record(**bare, attack="FWA_N", errors=970).write(root / "results")
    pages.update(root / "results")
    page = (root / "docs" / "results-mnist.md").read_text()
    assert page.count("Not to be compared") == 1
    assert "paper's rows: FWA_N (undefended -1.6 points: a weaker attack)." in page


def test_a_record_edited_by_hand_is_caught(project):
    root, path = project
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "errors": fields["errors"] + 1}))
    with pytest.raises(ValueError, match="changed after it was written"):
        pages.update(root / "results")
    (record,) = records.read_all(_written(root, path, fields))
    dataclasses.replace(record, error_rate=0.1).write(root / "results")
    with pytest.raises(ValueError, match="does not follow from its counts"):
        pages.update(root / "results")
    _written(root, path, fields)
    path.rename(path.with_name("PGD_N-oblivious.json"))
    with pytest.raises(ValueError, match="belongs at"):
        pages.update(root / "results")


def _written(root, path, fields):
    path.write_text(json.dumps(fields))
    return root / "results"


def a_record(**changes):
    fields = {
        "dataset": "mnist", "classifier": "lenet5", "defence": "ARN_PP", "recipe": "r", "checkpoint": "c",
        "attack": "PGD_N", "eps": 0.3, "norm": "linf", "threat_model": "white_box", "attacked": "f after g",
        "goal": "untargeted", "iterations": 40, "n": 1000, "errors": 900, "attack_failures": 0,
        "settings": {"transport": "in-process"}, "seed": 0, "sha256": {}, "seconds": 0.0, "device": "cpu",
        "versions": {}, "command": "", **changes,
    }  # fmt: skip
    errors, n = fields["errors"], fields["n"]
    return records.Record(**fields, error_rate=100 * errors / n, ci95=records.wilson(errors, n))


@pytest.mark.parametrize(
    ("other", "place", "flag"),
    [
        ({"attack": "SQUARE_N", "errors": 950, "iterations": None}, 0, "SQUARE_N white_box does better"),
        ({"threat_model": "oblivious", "attacked": "f", "errors": 950}, 0, "PGD_N oblivious does better"),
        ({"attack": "PGD_N@0.4", "eps": 0.4, "errors": 800}, 1, "falls with the budget: 90.00 % at 0.3"),
        ({"attack": "PGD_N@0.5", "eps": 0.5, "errors": 930}, 1, "93.00 %, not 100 %, at a budget of 0.5"),
        ({"attack": "SQUARE_N", "errors": 910, "iterations": None}, 0, None),  # within the intervals
        ({"attack": "SQUARE_T", "goal": "targeted", "errors": 950, "iterations": None}, 0, None),
        ({"attack": "AA_N", "errors": 990, "iterations": None}, 0, "AA_N white_box does better"),
        ({"attack": "AA_N", "errors": 950, "iterations": None}, 0, None),  # it is the stronger attack
        ({"threat_model": "oblivious", "attack": "PGD_Nx10", "iterations": 10, "errors": 950}, 0, "PGD_Nx10 oblivious"),
        ({"attack": "PGD_N@0.4", "eps": 0.4, "errors": 890}, 1, None),
        ({"threat_model": "bpda", "errors": 990}, 0, "PGD_N bpda does better: 99.00 %"),
        ({"threat_model": "bpda", "attack": "PGDM_N", "errors": 990}, 0, None),
        ({"attack": "PGD_Nx100", "iterations": 100, "errors": 600}, 1, "falls with the iterations: 90.00 % after 40"),
        ({"attack": "PGD_Nx10", "iterations": 10, "errors": 600}, 0, None),
        ({"attack": "PGD_N@0.4", "eps": 0.4, "errors": 100, "defence": "another"}, 1, None),
    ],
)
def test_records_that_cannot_stand_beside_each_other_are_flagged(other, place, flag):
    found = redflags.between([a_record(), a_record(**other)])
    assert [f.removeprefix("beside the other records: ") for f in found[1 - place]] == []
    if flag is None:
        assert found[place] == ()
    else:
        assert found[place][0].startswith(f"beside the other records: {flag}")


def test_square_is_held_against_the_strongest_gradient_attack_alone():
    weak, strong = a_record(attack="PGD_Nx5", iterations=5, errors=500), a_record()
    whole = a_record(attack="AA_N", iterations=None, errors=950)
    square = a_record(attack="SQUARE_N", iterations=None, errors=890)
    assert set(redflags.between([weak, strong, whole, square]).values()) == {()}
    found = redflags.between(
        [weak, strong, whole, dataclasses.replace(square, errors=990, ci95=records.wilson(990, 1000))]
    )
    assert [index for index, flags in found.items() if flags] == [1]


def test_flags_are_written_into_the_records_and_their_absence_is_caught(project):
    root, path = project
    path.unlink()
    a_record().write(root / "results")
    a_record(attack="SQUARE_N", errors=990, iterations=None).write(root / "results")
    with pytest.raises(ValueError, match="flags that do not follow"):
        pages.update(root / "results", check=True)
    pages.update(root / "results")
    assert sum(bool(record.flags) for record in records.read_all(root / "results")) == 1
    assert "SQUARE_N white_box does better" in (root / "docs" / "results-mnist.md").read_text()


def test_evaluating_the_users_own_classifier(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text("import arn_purify\n\ndef load():\n    return arn_purify.load('mnist-lenet5')\n")
    monkeypatch.chdir(tmp_path)
    arguments = "evaluate --dataset digits --classifier mine:load --purifier identity --attacks none,PGD_N --every 30"
    assert main(arguments.split()) == 0
    assert "PGD_N" in capsys.readouterr().out
    (path,) = (tmp_path / "results").rglob("PGD_N-oblivious.json")
    assert json.loads(path.read_text())["classifier"] == "mine.load"
    assert main(arguments.split()) == 0
    assert "measured already" in capsys.readouterr().out
    assert main([*arguments.replace("--every 30", "--every 60").split(), "--seed", "1"]) == 0
    assert "PGD_N oblivious: measured already, n 10, with seed 0" in capsys.readouterr().out
    older = next(r for r in records.read_all(tmp_path / "results") if r.attack == "PGD_N")
    dataclasses.replace(older, measures={}).write(tmp_path / "results")
    assert main(arguments.replace("--every 30", "--every 60").split()) == 0
    assert "PGD_N oblivious: measured already, n 10" in capsys.readouterr().out
    assert main(arguments.split()) == 0
    assert "PGD_N oblivious: measured already" not in capsys.readouterr().out
    digits = DATASETS["digits"]
    changed = dataclasses.replace(digits, attacks=dataclasses.replace(digits.attacks, step=0.02))
    monkeypatch.setitem(DATASETS, "digits", changed)
    assert main(arguments.split()) == 0
    assert "PGD_N oblivious: measured already" not in capsys.readouterr().out


def test_code_without_weights_is_told_from_other_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = "from torch import nn\n\nclass Mine(nn.Module):\n    def forward(self, x):\n        return x * 0.9\n"
    (tmp_path / "first.py").write_text(module)
    (tmp_path / "second.py").write_text(module.replace("0.9", "0.8"))
    first, second = (load_model(f"{name}:Mine", "purifier", "digits", "cpu")[1] for name in ("first", "second"))
    assert first.sha256 != second.sha256


def test_a_row_holds_one_checkpoint(project):
    root, _ = project
    a_record(sha256={"checkpoint": "a"}).write(root / "results")
    a_record(attack="PGD_T", sha256={"checkpoint": "b"}).write(root / "results")
    with pytest.raises(ValueError, match="two checkpoints"):
        pages.update(root / "results")


def test_the_ablation_keeps_other_weights_apart(project):
    root, _path = project
    (record,) = records.read_all(root / "results")
    plain = dataclasses.replace(record, threat_model="oblivious", defence="ARN_PP")
    named = [
        dataclasses.replace(plain, recipe=recipe)
        for recipe in (
            "paper-att0.1-318",
            "paper-att5-318",
            "paper-att0-318-seed2",
            "paper-att0-from-mnist-seed1-seed2",
        )
    ]
    assert sorted(records.ablation(named)) == [
        ("paper-318", "all terms (att 0.1)", 0),
        ("paper-318", "all terms (att 5)", 0),
        ("paper-318", "without L_att", 2),
        ("paper-from-mnist-seed1", "without L_att", 2),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        "evaluate --purifier mnist-lenet5 --dataset digits",
        "evaluate --classifier nowhere:load --dataset digits",
        "train --seen CW_X --dataset digits --out run",
        "train --init missing.safetensors --dataset digits --out run",
        "export missing.safetensors --name x --dataset digits",
        "craft --every 0 --dataset digits",
        "evaluate --dataset digits --robust-classifier mnist-lenet5 --threat-models bpda",
        "evaluate --dataset digits --attacks none --every 100 --via http://127.0.0.1:9",
        "evaluate --dataset digits --attacks PGD_Nx0",
        "evaluate --dataset digits --attacks PGD_N@0.1.2",
        "train --dataset digits --arch lenet5 --epochs -1 --out run",
        "train --dataset digits-colour --arch lenet5 --epochs 1 --out run",
        "train --dataset digits --arch mlp --init models/zoo/mnist-lenet5.safetensors --out run",
        pytest.param(
            "craft --dataset digits --device cuda",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA"),
        ),
    ],
)
def test_mistakes_get_one_line_and_status_2(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments.replace("models/zoo", str(models.ZOO)).split()) == 2
    message = capsys.readouterr().err.rpartition("\r")[2]  # behind a progress bar, where there was one
    assert message.startswith("arn-train: ")
    assert message.count("\n") == 1


def test_the_hardened_profile_is_told_in_front_of_its_own_and_of_other_classifiers(project):
    root, _path = project
    white = {"threat_model": "white_box", "measures": {"loss": 0.4, "psnr": 21.5, "ssim": 0.91}}
    ours = {"defence": "ARN_W", "recipe": "hardened", "checkpoint": "mnist-hardened", **white}
    for fields in (
        {**ours, "threat_model": "oblivious", "attack": "none", "eps": None, "iterations": None, "errors": 12},
        {**ours, "errors": 70},
        {**ours, "attack": "PGD_T", "goal": "targeted", "errors": 40},
        {**ours, "attack": "PGDM_Nx100r10", "iterations": 100, "errors": 90},
        {**ours, "classifier": "mlp", "errors": 110},
        {**ours, "recipe": "hardened-kl3-100", "checkpoint": "mnist-hardened-kl", "errors": 80},
    ):
        a_record(**fields).write(root / "results")
    pages.update(root / "results")
    page = (root / "docs" / "results-mnist.md").read_text()
    own, reach, fidelity, choices = (
        page.split(f"## {title}")[1].split("## ")[0]
        for title in (
            "The hardened profile",
            "The hardened profile in front of other classifiers",
            "Image quality",
            "What each choice",
        )
    )
    assert "| PGD_N | white box | **7.00**" in own
    assert "loss 0.4" in own
    assert "11.00" not in own
    assert "| mlp | ARN_W (mnist-hardened) |" in reach
    assert "**11.00**" in reach
    assert "21.5 dB, 0.910" in fidelity
    assert "| mnist-hardened-kl | lenet5 |" in choices
    table3 = page.split("Table 3")[1].split("## ")[0]
    assert "| ARN + LeNet-5 | PGD_T | ARN_W (mnist-hardened) | white box | **4.00**" in table3
    assert "-kl" not in page.split("## The hardened profile")[0], "a choice is no row of the main tables"


def test_the_white_box_is_the_deployed_function_in_another_layout():
    """Normalisation folded and channels last: logits and input gradients as before, to rounding."""
    purifier, classifier = models.load("mnist-transparent"), models.load("mnist-lenet5")
    defended = threats.Defended(classifier, models.card_of(classifier), purifier, models.card_of(purifier))
    x = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    found = [module(x) for module in (threats.WhiteBox().target(defended).module, nn.Sequential(purifier, classifier))]
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-4)
    gradients = [torch.autograd.grad(logits.square().sum(), x)[0] for logits in found]
    torch.testing.assert_close(*gradients, atol=1e-2, rtol=1e-2)


def test_signs_are_not_tested_on_by_what_learned_from_them():
    """Most of the test images by track are training images by image."""
    for kind, name in (("classifier", "lisa-cnn"), ("purifier", "lisa-transparent")):
        assert load_model(name, kind, "lisa", "cpu")
        with pytest.raises(ValueError, match="learned from lisa: many of lisa-track's test images"):
            load_model(name, kind, "lisa-track", "cpu")


def test_a_model_for_other_images_is_refused_in_a_sentence(tmp_path, capsys):
    for command in (["evaluate", "--attacks", "none"], ["detect"], ["craft"], ["train", "--arch", "skips"]):
        out = ["--out", str(tmp_path)] if command[0] != "craft" else []
        assert main([*command, "--dataset", "digits-colour", "--classifier", "mnist-lenet5", *out]) == 2
        assert "mnist-lenet5 takes images of 1x28x28, digits-colour has 3x32x32" in capsys.readouterr().err
