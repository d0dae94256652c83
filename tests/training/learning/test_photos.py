import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

import arn_purify
from arn_purify.models import Airbench, AirbenchConfig, Arn, ArnConfig
from arn_purify.training import cli, deadline
from arn_purify.training.commands.train_photos import training_pictures
from arn_purify.training.deadline import OutOfTime
from arn_purify.training.learning.photos import KINDS, PhotoRecipe, PhotoTrainer, Pool, attacked
from arn_purify.training.run_name import RunName, describe, from_json

RECIPE = PhotoRecipe(steps=12, crop=32, batch_size=4, pool=24, crafted=4, crafted_every=4, pixels_only=4, ramp=2)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The two photographs that scikit-learn brings, cut into pieces of 128 pixels."""
    root = tmp_path_factory.mktemp("photographs")
    for number, pixels in enumerate(load_sample_images().images):
        for top in range(0, 384, 128):
            for left in range(0, 640, 128):
                piece = Image.fromarray(pixels[top : top + 128, left : left + 128])
                piece.save(root / f"{number}-{top}-{left}.png")
    return sorted(root.iterdir())


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return Airbench(AirbenchConfig(8)).eval().requires_grad_(False)


def trainer(classifier, out, recipe=RECIPE):
    torch.manual_seed(0)
    purifier = Arn(ArnConfig.preset("photo", 3, 32))
    return PhotoTrainer(purifier, recipe, {"0" * 64: classifier}, out, RunName("photos"), workers=0)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_an_attack_keeps_to_its_budget_and_raises_the_loss(classifier, kind):
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits, eps = classifier(x), 8 / 255
    moved = attacked(classifier, x, logits, kind, eps, 5, np.random.default_rng(0))
    assert moved.min() >= 0
    assert moved.max() <= 1
    if kind == "L2_N":
        assert (moved - x).flatten(1).norm(dim=1).max() <= 0.35 * eps * 3072**0.5 + 1e-5
    else:
        assert (moved - x).abs().max() <= eps + 1e-6
    if kind != "PGD_T":
        before, after = (torch.nn.functional.cross_entropy(classifier(z), logits.argmax(1)) for z in (x, moved))
        assert after > before


def test_the_oldest_crops_are_replaced(classifier):
    crops = (torch.full((3, 32, 32), n, dtype=torch.uint8) for n in range(100))
    pool = Pool(RECIPE, classifier, crops, torch.device("cpu"), np.random.default_rng(0))
    for _ in range(7):
        pool.craft()
    assert pool.filled == 24
    assert sorted(pool.natural[:, 0, 0, 0].tolist()) == list(range(4, 28))


def test_a_batch_tells_natural_crops_from_attacked_ones(classifier):
    crops = iter(torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8))
    pool = Pool(RECIPE, classifier, crops, torch.device("cpu"), np.random.default_rng(0))
    for _ in range(6):
        pool.craft()
    natural, x, domains, wanted = pool.batch()
    changed = (x != natural).flatten(1).any(1)
    assert torch.equal(changed, domains > 0)
    assert torch.allclose(wanted[-1], classifier(natural), atol=0.02)


def test_a_run_learns_and_leaves_a_checkpoint(classifier, pictures, tmp_path):
    trainer(classifier, tmp_path).fit(pictures, pictures[:4])
    loaded = arn_purify.load(tmp_path / "purifier.safetensors")
    assert loaded.card.step == 12
    assert {"error/natural", "error/PGD_N 4", "l1/PGD_N 8"} <= set(loaded.card.metrics)
    x = torch.rand(1, 3, 40, 40)
    assert not torch.equal(loaded(x), x)
    (row,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert {"l1", "feature", "logit", "att", "d_a", "error/natural"} <= set(row)


def test_a_run_that_was_stopped_continues(classifier, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(deadline, "_due", 0.0)
    with pytest.raises(OutOfTime, match="1 of 12 steps"):
        trainer(classifier, tmp_path).fit(pictures, pictures[:4])
    monkeypatch.setattr(deadline, "_due", None)
    resumed = trainer(classifier, tmp_path)
    resumed.fit(pictures, pictures[:4])
    assert resumed.step == 12
    assert (tmp_path / "purifier.safetensors").exists()


def test_classifiers_take_turns(classifier, pictures, tmp_path):
    """One that shows its features, one that shows its logits alone; both are asked about purified images."""
    asked = []
    second = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10)).requires_grad_(False)
    second.register_forward_hook(lambda *_: asked.append(True))
    run = trainer(classifier, tmp_path)
    run.classifiers = {"0": classifier, "1": second}
    run.fit(pictures, pictures[:4])
    assert len(asked) > RECIPE.steps // 2
    assert arn_purify.load(tmp_path / "purifier.safetensors").card.classifier_sha256 == "0, 1"


def test_no_picture_that_is_measured_on_is_learned_from(pictures, tmp_path):
    folders = ("other/test", "photos/test", "test/cat", "train/cat", "val/cat")
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(pictures[0], tmp_path / folder / "1.png")
    other, _, test, train, _ = (tmp_path / folder / "1.png" for folder in folders)
    assert training_pictures(tmp_path, []) == [other, train]
    assert training_pictures(tmp_path, [tmp_path / "test"]) == [other, train, test], "where it is asked for"
    assert training_pictures(tmp_path, [tmp_path]) == 2 * [other, train], "of a further folder too"
    (own := tmp_path / "photos" / "train").mkdir()
    shutil.copy(pictures[0], own / "1.png")
    assert training_pictures(tmp_path, []) == [own / "1.png"]


def test_the_command_trains_on_any_folder(pictures, tmp_path, monkeypatch):
    (tmp_path / "photo_classifier.py").write_text(
        "from arn_purify.models import ResNet, ResNetConfig\n\ndef load():\n    return ResNet(ResNetConfig(8))\n"
    )
    monkeypatch.chdir(tmp_path)
    numbers = "steps=4,crop=32,batch_size=2,pool=8,crafted=2,pixels_only=2"
    arguments = [
        "train",
        "--dataset",
        "photos",
        "--data-dir",
        str(pictures[0].parent),
        "--classifier",
        "photo_classifier:load",
    ]
    assert cli.main([*arguments, "--photo-recipe", numbers, "--watched", "2", "--out", "run"]) == 0
    card = arn_purify.load("run/purifier.safetensors").card
    changed = "photos-steps4-crop32-batch_size2-pool8-crafted2-pixels_only2"
    assert (card.dataset, card.recipe) == ("photos", f"{changed}-before-photo_classifier.load")
    again = ["--init", "run/purifier.safetensors", "--photo-recipe", numbers, "--watched", "2", "--out", "again"]
    again += ["--seed", "3"]
    assert cli.main([*arguments, *again]) == 0
    again = arn_purify.load("again/purifier.safetensors").card
    assert again.recipe == f"{changed}-from-run-seed3-before-photo_classifier.load", "its records are its own"
    assert describe(from_json(again.run)) == again.recipe
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--photo-recipe", "stesp=4", "--out", "other"])
