"""How fast this machine crafts and trains: PGD in image steps a second, and steps a second of the shipped recipe.

``python -m benchmarks.training`` takes seconds and needs no download: scikit-learn's digits in the shipped network.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import tempfile
from pathlib import Path

import torch

from arn_purify import models
from arn_purify.models import Arn, card_of
from arn_purify.models.inference import multiplies_bf16
from arn_purify.training import attacks, data
from arn_purify.training.attacks import for_crafting, for_training
from arn_purify.training.learning.config import Classifiers, RunOptions, TrainConfig
from arn_purify.training.learning.recipes import RECIPES
from arn_purify.training.learning.trainer import Trainer

from . import common, engine


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.training", description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="torch's threads")
    parser.add_argument("--batch", type=int, help="natural images a step, instead of the recipe's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1, help="of each of the two in one round")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "training.json")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    classifier = models.load("mnist-lenet5", flags.device).requires_grad_(False)
    purifier = models.load("mnist-transparent")
    assert isinstance(purifier, Arn)
    recipe = RECIPES[card_of(purifier).recipe]()
    batch = flags.batch or recipe.batch_size
    dataset, seen = data.load("digits"), tuple(for_training(attacks.get(name)) for name in ("PGD_N", "PGD_T"))
    natural, labels = dataset.train.batch(slice(0, batch), flags.device)
    bf16 = multiplies_bf16(flags.device)
    target = for_crafting(classifier, bf16)
    crafted = [attack(target, natural, labels, 0).images for attack in seen]
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(purifier.config, recipe, seen, device=flags.device, mixed_precision=bf16)
        trainer = Trainer(config, dataset, Classifiers(classifier, ""), RunOptions(Path(folder)))
        # Both end on the host, so that a GPU's work is done when the clock is read.
        craft = functools.partial(seen[0], target, natural, labels, 0)
        step = functools.partial(trainer.train_step, [natural, *crafted])
        step()
        crafting, training = [], []
        for _ in range(flags.rounds):
            crafting.append(engine.median_seconds(craft, flags.seconds))
            training.append(engine.median_seconds(step, flags.seconds))
    image_steps = len(natural) * int(seen[0].settings["iterations"]) / statistics.median(crafting)
    steps = 1 / statistics.median(training)
    print(f"{image_steps:,.0f} image steps a second of {seen[0].name} against mnist-lenet5, {len(natural)} at a time")
    print(f"{steps:.2f} steps a second of recipe {recipe.name}, {len(natural)} natural images, {1 + len(seen)} domains")
    common.write(
        flags.out,
        "PGD crafting in image steps a second, and training steps a second of the shipped recipe",
        common.versions("torch", "advertorch"),
        device=flags.device,
        threads=flags.threads,
        recipe=recipe.name,
        batch=len(natural),
        domains=1 + len(seen),
        image_steps_per_second=image_steps,
        steps_per_second=steps,
    )


if __name__ == "__main__":
    main()
