"""A run at toy size."""

import dataclasses

from arn_purify.models import ArnConfig
from arn_purify.training import attacks, data
from arn_purify.training.attacks import adaptive
from arn_purify.training.learning import recipes
from arn_purify.training.learning.config import Classifiers, RunOptions, TrainConfig
from arn_purify.training.learning.trainer import Trainer


def config(recipe="transparent", seen=("PGD_N", "PGD_T"), **changes):
    recipe = dataclasses.replace(recipes.RECIPES[recipe](), **{"epochs": 2, "batch_size": 32, **changes})
    chosen = tuple(attacks.get(name).with_settings(iterations=3, step=0.1) for name in seen)
    if recipe.inner_steps:
        chosen = tuple(adaptive.as_learned(attacks.get(name), recipe) for name in seen)
    return TrainConfig(ArnConfig(), recipe, chosen, mixed_precision=False)


def hardened(**changes):
    return config("hardened", seen=("PGD_N",), **{"inner_steps": 3, "ema": 0.5, **changes})


def small(dataset, n):
    return dataclasses.replace(dataset, train=data.Split(dataset.train.images[:n], dataset.train.labels[:n]))


def trainer(chosen, dataset, classifier, out, initial=None, others=(), surrogate=None, **options):
    classifiers = Classifiers(classifier, "f", others, surrogate)
    return Trainer(chosen, dataset, classifiers, RunOptions(out, **options), initial)
