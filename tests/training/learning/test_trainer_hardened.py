"""Runs that attack the purifier as it stands, and joint ones."""

import json

import pytest
import torch

from arn_purify import models
from arn_purify.training import attacks
from arn_purify.training.attacks import adaptive
from arn_purify.training.learning import recipes
from arn_purify.training.learning.validation import Validation

from .toy import config, hardened, small
from .toy import trainer as make


def test_hardening_attacks_through_the_purifier_as_it_stands(digits, classifier, tmp_path):
    """What it is shown stays in the budget of the ramp, fools the pair better than f alone, and moves with g."""
    start = models.load("mnist-transparent")
    trainer = make(hardened(shift=0, ramp=1.0, inner_steps=10), small(digits, 64), classifier, tmp_path, initial=start)
    source, (indices, labels) = trainer.source(), (torch.arange(64), digits.train.labels[:64])
    natural, early = source.batch(indices, 0, 0)
    _, late = source.batch(indices, 0, trainer.steps - 1)
    assert torch.equal(natural, digits.train.batch(indices)[0])
    assert (early - natural).abs().max() <= 0.3 * (0.3 + 0.77 / 4) + 1e-6
    assert (late - natural).abs().max() == pytest.approx(0.3 * 1.07, abs=1e-4)
    assert 0 <= late.min() <= late.max() <= 1
    pair = adaptive.frozen(start, classifier)
    (attack,) = trainer.config.seen
    oblivious = adaptive.attacked(adaptive.frozen(classifier), natural, labels, attack, 1.0, 0)
    wrong = [(pair(x).argmax(1) != labels).float().mean() for x in (late, oblivious)]
    assert wrong[0] > wrong[1] + 0.3
    before = source.batch(indices, 0, 5)[1]
    assert torch.equal(before, source.batch(indices, 0, 5)[1])
    trainer.train_step([natural, late], labels)
    assert not torch.equal(before, source.batch(indices, 0, 5)[1])


def test_a_classifier_that_does_not_learn_is_folded_once(digits, classifier, tmp_path):
    x, seen = digits.train.batch(slice(0, 8))[0], []
    f = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4 * 26 * 26, 10)
    )
    for target in (f.eval().requires_grad_(False), classifier):
        run = make(hardened(), small(digits, 64), target, tmp_path)
        through = run.source().through
        assert torch.equal(through()(x), adaptive.frozen(run.purifier, target)(x))
        seen.append(through()[1] is through()[1])
    joint = make(config("joint", seen=("PGD_N",), inner_steps=2), small(digits, 64), classifier, tmp_path)
    assert joint.source().through()[1] is not joint.source().through()[1]
    assert seen == [True, True]


def test_hardening_mirrors_half_of_the_images_where_its_recipe_does(digits, classifier, tmp_path):
    trainer = make(hardened(shift=0, flip=True), small(digits, 64), classifier, tmp_path)
    indices = torch.arange(64)
    found, natural = trainer.source().batch(indices, 0, 0)[0], digits.train.batch(indices)[0]
    kept, mirrored = ((found == x).flatten(1).all(1) for x in (natural, natural.flip(3)))
    assert bool((kept | mirrored).all())
    assert 16 < int((mirrored & ~kept).sum()) < 48
    assert torch.equal(found, trainer.source().batch(indices, 0, 0)[0])


def test_hardening_at_many_budgets_draws_one_for_each_batch(digits, classifier, tmp_path):
    start = models.load("mnist-transparent")
    chosen = config("hardened-wide", seen=("PGD_N",), shift=0, inner_steps=4, batch_size=8)
    run = make(chosen, small(digits, 64), classifier, tmp_path, initial=start)
    assert run.card({}, run.purifier).seen_attacks[0]["budgets"] == [0.05, 0.42]
    source, indices = run.source(), torch.arange(8)
    batches = [source.batch(indices, 0, step) for step in range(16)]
    spent = torch.stack([(attacked - natural).abs().max() for natural, attacked in batches])
    assert 0.03 <= spent.min() < 0.2
    assert 0.3 < spent.max() <= 0.42 + 1e-6
    assert torch.equal(batches[3][1], source.batch(indices, 0, 3)[1])


def test_the_card_names_the_budgets_that_were_drawn_on_data_of_another_budget(digits, classifier, tmp_path):
    chosen = config("hardened-wide", seen=("PGD_N@0.03",), batch_size=8)
    run = make(chosen, small(digits, 64), classifier, tmp_path, initial=models.load("mnist-transparent"))
    assert run.card({}, run.purifier).seen_attacks[0]["budgets"] == [0.005, 0.042]


def test_hardening_lowers_the_error_of_the_pair(digits, classifier, tmp_path):
    chosen = hardened(epochs=5, eps_from=0.3, eps_to=0.3, ramp=0.0, ema=0.9)
    start = models.load("mnist-transparent")
    trainer = make(chosen, small(digits, 256), classifier, tmp_path, initial=start)
    f_before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    before = trainer.validate(Validation(chosen, trainer.dataset, classifier, 1000))
    trainer.fit()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/ce", "loss/clean", "loss/l1", "train/clean error", "train/adversarial error"} <= rows[0].keys()
    assert rows[-1]["error/PGD_N white_box"] < before["error/PGD_N white_box"] - 5
    assert all(torch.equal(f_before[name], tensor) for name, tensor in classifier.state_dict().items())
    loaded = models.load(tmp_path / "purifier.safetensors")
    card = models.card_of(loaded)
    assert (card.profile, card.recipe, card.seen_attacks[0]["through"]) == ("hardened", "hardened", "f after g")
    average, last = loaded.state_dict(), trainer.purifier.state_dict()
    assert all(torch.equal(average[k], v) for k, v in trainer.networks.kept["purifier"].state_dict().items())
    assert not all(torch.equal(average[k], last[k]) for k in last), "the average is what is kept"


@pytest.mark.parametrize(
    "terms", [{"kl": 6.0}, {"margin": 1.0, "ce": 1.0}, {"l1": 1.0, "feature": 1.0, "att": 0.1, "nor": 1e-4}]
)
def test_other_terms_of_hardening(terms, digits, classifier, tmp_path):
    chosen = hardened(weights=recipes.LossWeights(**terms), corrupted=0.5)
    trainer = make(chosen, small(digits, 64), classifier, tmp_path)
    batch = trainer.source().batch(torch.arange(32), 0, 0)
    values = trainer.train_step(batch, digits.train.labels[:32])
    assert terms.keys() <= values.keys()
    assert all(torch.isfinite(p).all() for p in trainer.purifier.parameters())


def test_a_single_step_keeps_the_smallest_part_that_is_misclassified(digits, classifier):
    """Catastrophic overfitting is a network that is wrong half way and not at the end of the step."""
    x, labels = digits.train.batch(slice(0, 32))
    attack = attacks.get("PGD_N").with_settings(iterations=1, step=0.3)

    class Masked(torch.nn.Module):
        def forward(self, image):
            if image.requires_grad:  # where the step is taken from
                return classifier(image)
            far = ((image - x).abs().flatten(1).amax(1) > 0.25).float()[:, None]
            one_hot = torch.nn.functional.one_hot(labels, 10).float()
            return classifier(image) * (1 - far) + 100 * far * one_hot

    found = adaptive.attacked(Masked(), x, labels, attack, 1.0, 0, mixed_precision=False)
    wrong = Masked()(found).argmax(1) != labels
    assert wrong.float().mean() > 0.5, "the whole step alone would never be misclassified"
    spent = (found - x).abs().flatten(1).amax(1)[wrong]
    assert ((spent - 0.1).abs().minimum((spent - 0.2).abs()) < 1e-3).all(), "a third or two of the step"
    assert ((spent - 0.1).abs() < 1e-3).any()


@pytest.mark.parametrize("name", ["PGD_N", "PGD_T", "PGDM_N"])
def test_what_is_attacked_in_training_is_misclassified(digits, classifier, name):
    x, labels = digits.train.batch(slice(0, 64))
    attack = adaptive.as_learned(attacks.get(name), recipes.RECIPES["hardened"]())
    found = adaptive.attacked(classifier, x, labels, attack, 1.0, 0, mixed_precision=False)
    before, after = (float((classifier(images).argmax(1) != labels).float().mean()) for images in (x, found))
    assert after > before + 0.5


def test_a_jointly_tuned_classifier_is_left_beside_its_purifier(digits, classifier, tmp_path):
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    chosen = config("joint", seen=("PGD_N",), inner_steps=2)
    make(chosen, small(digits, 64), classifier, tmp_path / "run").fit()
    f = models.load(tmp_path / "run" / "classifier.safetensors")
    g = models.card_of(models.load(tmp_path / "run" / "purifier.safetensors"))
    card = models.card_of(f)
    assert (card.kind, card.profile, g.kind, g.profile) == ("classifier", "joint", "purifier", "joint")
    assert not all(torch.equal(before[name], tensor) for name, tensor in f.state_dict().items())
    assert all(torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items())
