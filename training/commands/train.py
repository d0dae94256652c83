"""``arn-train train``: train a purifier or a classifier."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
from collections import ChainMap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from arn_purify.models import ApeGConfig, ArnConfig, Card, HgdConfig, card_of, checkpoint
from arn_purify.models.config import ARCHITECTURES
from arn_purify.models.inference import multiplies_bf16

from .. import attacks
from ..attacks.adaptive import as_learned
from ..attacks.craft import versions
from ..data import Dataset, spec_of
from ..learning.classifier import CLASSIFIER_RECIPES, NETWORKS, train_classifier
from ..learning.config import Classifiers, PurifierConfig, RunOptions, TrainConfig
from ..learning.distributed import join_process_group
from ..learning.photos import PhotoRecipe
from ..learning.recipes import RECIPES, LossWeights, Recipe, default_recipe
from ..learning.trainer import Trainer
from ..load import load_model
from ..run_name import RunName, describe
from . import options, train_photos

# Those that have a recipe of their own.
_OTHERS = ("released", "ape-g", "hgd")
# Live, since a module of the user's own may add to them after the flags were declared.
_NETWORKS: ChainMap[str, Any] = ChainMap(ARCHITECTURES, dict.fromkeys(_OTHERS), NETWORKS)
_RECIPES: ChainMap[str, Any] = ChainMap(RECIPES, CLASSIFIER_RECIPES)
# Each a flag and a field of a network's configuration.
_SHAPE = ("width", "code_channels", "blocks")
_OF_PURIFIERS = ("seen", "weights", "fields", "static", "surrogate", "pools", *_SHAPE)
_OF_PHOTOGRAPHS = ("numbers", "pictures")


def _weights(text: str) -> list[tuple[str, float]]:
    known = [field.name for field in dataclasses.fields(LossWeights)]
    return [(term, float(weight)) for term, weight in _pairs(text, known, "terms")]


def _fields(text: str, recipe: type[Recipe | PhotoRecipe] = Recipe) -> list[tuple[str, float | int]]:
    kinds = {f.name: {"int": int, "float": float}.get(str(f.type)) for f in dataclasses.fields(recipe)}
    numbers = {name: number for name, number in kinds.items() if number}
    return [(name, numbers[name](value)) for name, value in _pairs(text, list(numbers), "a recipe's numbers")]


def _photo_fields(text: str) -> list[tuple[str, float | int]]:
    return _fields(text, PhotoRecipe)


def _pairs(text: str, known: Sequence[str], what: str) -> list[tuple[str, str]]:
    """``NAME=NUMBER,...``; of the same name in a later flag, the later number counts."""
    pairs = [(name, value) for name, _, value in (part.partition("=") for part in options.names(text))]
    names = [name for name, _ in pairs]
    if not set(names) <= set(known):
        raise argparse.ArgumentTypeError(f"{what} are {', '.join(known)}")
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text} names a number twice")
    return pairs


def add_parser(commands: options.Commands[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser("train", parents=[common], help="train a purifier or a classifier, as --arch says")
    parser.add_argument(
        "--arch",
        help=f"{', '.join([*ARCHITECTURES, *_OTHERS[1:]])} (compact on grey, colour on colour); {', '.join(NETWORKS)}",
        choices=_NETWORKS,
        metavar="NAME",
    )
    parser.add_argument(
        "--recipe",
        choices=_RECIPES,
        metavar="NAME",
        help="by default that of the data set and the architecture; one of %(choices)s",
    )
    parser.add_argument(
        "--seen", type=options.names, metavar="A,B",
        help="attacks to learn from, instead of the recipe's; also module:function",
    )  # fmt: skip
    parser.add_argument("--init", type=Path, help="fine-tune this checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="run folder; a run that was killed continues there")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--batch-size", type=int, help="instead of the recipe's")
    parser.add_argument("--save-seconds", type=float, default=60.0, help="how often the state is saved")
    parser.add_argument(
        "--fp32", action="store_true", help="no bf16 autocast in training, though the device gains by it"
    )
    _add_flags_of_purifiers(parser)
    parser.add_argument("--compile", action="store_true", help="torch.compile a classifier's training step")
    parser.set_defaults(run=run)


def _add_flags_of_purifiers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=int, help="channels of the purifier's first stage, instead of its own")
    parser.add_argument("--code-channels", type=int, help="channels of its code, instead of its own")
    parser.add_argument("--blocks", type=int, help="residual blocks, instead of its own; released has none")
    parser.add_argument(
        "--weights",
        type=_weights,
        default=[],
        action="extend",
        help="of loss terms instead of the recipe's: att=0,adv=.1",
    )
    parser.add_argument(
        "--with", type=_fields, default=[], action="extend", dest="fields", metavar="FIELD=NUMBER,...",
        help="other numbers of the recipe: inner_steps=20,ema=0",
    )  # fmt: skip
    parser.add_argument(
        "--photo-recipe", type=_photo_fields, default=[], action="extend", dest="numbers", metavar="FIELD=NUMBER,...",
        help="of a run on photographs: steps=20000,crop=160",
    )  # fmt: skip
    parser.add_argument(
        "--pictures", type=Path, nargs="*", default=(), help="more folders of photographs to learn from, without labels"
    )
    parser.add_argument(
        "--watched", type=options.positive, default=1000, help="validation images evaluated after each epoch"
    )
    parser.add_argument("--static", action="store_true", help="craft the seen attacks once, against unshifted images")
    parser.add_argument("--pools", type=Path, help="keep what is crafted while training here, for other runs too")
    parser.add_argument(
        "--surrogate",
        metavar="SPEC",
        help="a second classifier, attacked for every other batch; of photographs several, with commas",
    )


def run(flags: argparse.Namespace, command: str) -> None:
    """Train to the end; the checkpoint is left in ``--out``."""
    if spec_of(flags.dataset).from_disk:
        train_photos.run(flags, command)
        return
    flags.device = join_process_group(flags.device)
    dataset = options.dataset(flags)
    dataset = dataclasses.replace(dataset, train=dataset.train.every(flags.every))
    arch = flags.arch or _usual_network(dataset)
    check(flags, arch)
    (_train_classifier if arch in NETWORKS else _train_purifier)(flags, dataset, arch, command)


def check(flags: argparse.Namespace, arch: str) -> None:
    """Refuse flags that the training of this network would not read.

    Raises:
        ValueError: one of them was given.
    """
    if arch in NETWORKS:
        options.refuse(flags, f"--arch {arch} is a classifier", ("classifier", *_OF_PURIFIERS, *_OF_PHOTOGRAPHS))
    else:
        options.refuse(flags, f"--arch {arch} is a purifier", ("compile",))
        options.refuse(flags, f"{flags.dataset} has labels", _OF_PHOTOGRAPHS)


def _usual_network(dataset: Dataset) -> str:
    return "compact" if dataset.shape[0] == 1 else "colour"


def _mixed_precision(flags: argparse.Namespace) -> bool:
    return multiplies_bf16(flags.device) and not flags.fp32


def _overrides(flags: argparse.Namespace) -> dict[str, Any]:
    given = {"epochs": flags.epochs, "batch_size": flags.batch_size}
    return {name: value for name, value in given.items() if value is not None}


def _shape(flags: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name in _SHAPE if (value := getattr(flags, name)) is not None}


def _train_classifier(flags: argparse.Namespace, dataset: Dataset, arch: str, command: str) -> None:
    if "RANK" in os.environ:
        raise ValueError("a classifier is trained by one process, not under torchrun")
    make = CLASSIFIER_RECIPES.get(flags.recipe or "natural")
    if make is None:
        raise ValueError(f"--arch {arch} takes --recipe {', '.join(CLASSIFIER_RECIPES)}, not {flags.recipe}")
    initial = load_model(str(flags.init), "classifier", dataset.name, "cpu", dataset.shape)[0] if flags.init else None
    recipe = dataclasses.replace(make(arch, dataset.name), seed=flags.seed, **_overrides(flags))
    recipe = dataclasses.replace(recipe, mixed_precision=recipe.mixed_precision and _mixed_precision(flags))
    model = train_classifier(dataset, recipe, flags.device, initial, flags.out, arch, flags.compile)
    architecture, config, kind = checkpoint.architecture_of(model)
    card = Card(
        flags.out.name, kind, architecture, config, dataset.name, dataset.shape, recipe=recipe.name,
        step=recipe.epochs * math.ceil(len(dataset.train) / recipe.batch_size),
        seen_attacks=(recipe.adversary.describe(),) if recipe.adversary else (),
        class_names=dataset.class_names, seed=flags.seed, command=command, versions=versions(),
    )  # fmt: skip
    checkpoint.save(model, card, flags.out / "classifier.safetensors")


def _train_purifier(flags: argparse.Namespace, dataset: Dataset, arch: str, command: str) -> None:
    initial = load_model(str(flags.init), "purifier", dataset.name, "cpu", dataset.shape)[0] if flags.init else None
    recipe, seen = _recipe(flags, dataset, arch)
    network = _network(flags, dataset, arch)
    by_name = [attacks.get(attack, dataset.name) for attack in seen]
    classifiers, cards = _classifiers(flags, dataset)
    run = _run_name(flags, dataset, arch, recipe, tuple(attack.name for attack in by_name), initial)
    if classifiers.surrogate:
        run = dataclasses.replace(run, surrogate=_own_name(card_of(classifiers.surrogate[0]), dataset))
    if len(cards) == 1 and not spec_of(dataset.name).is_target(cards[0].name):
        run = dataclasses.replace(run, before=_own_name(cards[0], dataset))
    weights = dataclasses.replace(recipe.weights, **dict(flags.weights))
    recipe = dataclasses.replace(recipe, name=describe(run), weights=weights)
    learned = [as_learned(a, recipe) if recipe.inner_steps else attacks.for_training(a) for a in by_name]
    Trainer(
        TrainConfig(network, recipe, tuple(learned), flags.seed, flags.device, _mixed_precision(flags)),
        dataset,
        classifiers,
        RunOptions(flags.out, command, run, flags.save_seconds, flags.pools, flags.crafted, flags.watched),
        initial,
    ).fit()


def _recipe(flags: argparse.Namespace, dataset: Dataset, arch: str) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe with the flags' numbers, and the attacks that are seen."""
    chosen = flags.recipe or default_recipe(arch, dataset.name)
    if chosen not in RECIPES:
        raise ValueError(f"recipe {chosen} is for a classifier")
    fields = dict(flags.fields)
    recipe = dataclasses.replace(RECIPES[chosen](), **{**_overrides(flags), **fields})
    if recipe.inner_steps and (flags.static or flags.surrogate or fields.get("refresh_epochs")):
        raise ValueError(f"recipe {chosen} attacks g as it stands: no --static, --surrogate or refresh_epochs")
    if flags.static:
        recipe = dataclasses.replace(recipe, refresh_epochs=0, shift=0, flip=False, budgets=None)
    usual = recipe.seen if recipe.inner_steps else spec_of(dataset.name).seen or recipe.seen
    return recipe, flags.seen or usual


def _network(flags: argparse.Namespace, dataset: Dataset, arch: Any) -> PurifierConfig:
    channels, size, _ = dataset.shape
    shape = _shape(flags)
    if shape and arch not in ARCHITECTURES:
        raise ValueError(f"--arch {arch} has a shape of its own: no --width, --code-channels or --blocks")
    if "blocks" in shape and arch == "released":
        raise ValueError("--arch released has no residual blocks: no --blocks")
    match arch:
        case "ape-g":
            return ApeGConfig.preset(channels, size)
        case "hgd":
            return HgdConfig.preset(channels, size)
        case _:
            return dataclasses.replace(ArnConfig.preset(arch, channels, size), **shape)


def _classifiers(flags: argparse.Namespace, dataset: Dataset) -> tuple[Classifiers, list[Card]]:
    """Those of ``--classifier`` and ``--surrogate``, and the cards of the former."""
    surrogate: tuple[nn.Module, str] | None = None
    if flags.surrogate:
        second, second_card = options.load(flags, flags.surrogate, "classifier", dataset.shape)
        surrogate = (second, second_card.sha256)
    specs = options.names(options.classifier(flags))
    loaded = [options.load(flags, spec, "classifier", dataset.shape) for spec in specs]
    (first, *others), cards = [model for model, _ in loaded], [card for _, card in loaded]
    return Classifiers(first, "+".join(card.sha256 for card in cards), tuple(others), surrogate), cards


def _own_name(card: Card, dataset: Dataset) -> str:
    return card.name.removeprefix(f"{dataset.name}-")


def _run_name(
    flags: argparse.Namespace, dataset: Dataset, arch: str, recipe: Recipe, seen: tuple[str, ...],
    initial: nn.Module | None,
) -> RunName:  # fmt: skip
    """How the run departs from its recipe, but for its classifiers."""
    usual = default_recipe(arch, dataset.name)
    if arch in _OTHERS:
        departs = recipe.name != (arch if arch == "released" else usual)
    else:
        departs = arch != _usual_network(dataset)
    start = ""
    if initial is None:
        start = "nothing" if recipe.continues else ""
    elif not recipe.continues or recipe.continues != card_of(initial).recipe:
        start = card_of(initial).name
    steps = recipe.epochs * (len(dataset.train) // recipe.batch_size)
    return RunName(
        recipe.name,
        arch=arch if departs else "",
        weights=tuple(dict(flags.weights).items()),
        fields=tuple(dict(flags.fields).items()),
        shape=tuple(_shape(flags).items()),
        static=flags.static,
        steps=steps if _overrides(flags) or flags.static or flags.every > 1 else 0,
        seen=seen if recipe.inner_steps and seen != recipe.seen else (),
        classifiers=len(options.names(options.classifier(flags))),
        start=start,
        seed=flags.seed,
    )
