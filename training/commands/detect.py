"""``arn-train detect``: whether LID detection still sees purified images."""

from __future__ import annotations

import argparse
import dataclasses

from .. import attacks
from ..attacks.craft import crafted_set, versions
from ..load import load_model, try_out
from ..measuring import lid
from ..measuring.threats import Defended, Oblivious
from . import options


def add_parser(commands: options.Commands[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser("detect", parents=[common], help="whether LID detection still sees purified images")
    parser.add_argument("--purifier", help="name, path or module:function (the data set's released one)")
    parser.add_argument("--attack", default="PGD_N", help="name or module:function")
    options.add_results_folder(parser)
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace, command: str) -> None:
    """Fit the detector on the validation split, measure it on the test split, and write a record."""
    dataset, attack = options.dataset(flags), attacks.get(flags.attack, flags.dataset)
    f, f_card = options.load(flags, options.classifier(flags), "classifier", dataset.shape)
    g, g_card = load_model(options.purifier(flags), "purifier", flags.dataset, "cpu", dataset.shape)
    try_out({"classifier": (f, f_card)}, dataset, flags.device)
    try_out({"purifier": (g, g_card)}, dataset, "cpu")
    defended, pairs = Defended(f, f_card, g, g_card), []
    target = Oblivious().target(defended)
    for split in (dataset.validation.every(flags.every), dataset.test.every(flags.every)):
        found = crafted_set(split, attack, target.by(attack), target.identity, flags.crafted, flags.seed, flags.device)
        pairs.append((split.images_of(slice(None)), found.images))
    detection = lid.detect(f.cpu(), g, pairs[0], pairs[1], flags.seed)
    row = defended.name
    fields = {
        "dataset": dataset.name, "classifier": f_card.name.removeprefix(f"{dataset.name}-"), "defence": row,
        "recipe": g_card.recipe,
        "run": dict(g_card.run), "checkpoint": g_card.name, "attack": attack.name,
        "fitted_on": lid.counted(len(pairs[0][0])), "n": lid.counted(len(pairs[1][0])),
        "seed": flags.seed, "command": command, "versions": versions(),
        "sha256": {"classifier": f_card.sha256, "checkpoint": g_card.sha256},
    }  # fmt: skip
    folder = f"{row}-{g_card.recipe}" if g_card.recipe else row
    place = options.results_folder(flags) / dataset.name / str(fields["classifier"]) / folder
    lid.record(detection, fields, place / f"lid-{attack.name}.json")
    print(" ".join(f"{k} {v:.2f}" for k, v in dataclasses.asdict(detection).items()))
