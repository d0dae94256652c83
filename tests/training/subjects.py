"""What the tests of measuring and reporting share: a defence, a measured record, a made-up record."""

from torch import nn

from arn_purify import models
from arn_purify.models import Card
from arn_purify.training.measuring import evaluate, records, threats


class Quantiser(nn.Module):
    """Gradient masking by rounding to a few levels."""

    def forward(self, x):
        return (x * 4).round() / 4


def subject(purifier, card=None):
    classifier = models.load("mnist-lenet5").requires_grad_(False)
    card = card or Card("x", "purifier", "x", {}, "digits", (1, 28, 28), seen_attacks=({"attack": "PGD_N"},))
    return evaluate.Subject(classifier, models.card_of(classifier), purifier, card)


def measure(chosen, split, tmp_path, attack=None, threat_model=None):
    threat_model = threat_model or threats.Oblivious()
    return evaluate.evaluate(chosen, split, attack, threat_model, dataset="digits", crafted=tmp_path / "crafted")


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
