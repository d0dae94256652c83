"""What decides the weights of a run, and the checks that refuse a wrong one before any work."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from arn_purify.models import ApeGConfig, ArnConfig, HgdConfig, checkpoint

from ..attacks import Attack
from ..data import Dataset
from ..run_name import RunName
from .recipes import Recipe
from .state import ConfigurationError

PurifierConfig = ArnConfig | ApeGConfig | HgdConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the weights of a run, but the data and the classifier themselves."""

    arch: PurifierConfig
    recipe: Recipe
    seen: tuple[Attack, ...]
    seed: int = 0
    device: str = "cpu"
    mixed_precision: bool = True

    def fingerprint(self, dataset: Dataset, classifier_sha256: Sequence[str], world_size: int, initial: str) -> str:
        """A text that two runs share exactly when they would give the same weights; ``initial`` hashes the first."""
        described = {
            **dataclasses.asdict(dataclasses.replace(self, seen=())),
            "device": torch.device(self.device).type,  # under torchrun each process has one of its own
            "network": type(self.arch).__name__,
            "initial": initial,
            "seen": [attack.describe() for attack in self.seen],
            "data": dataset.train.sha256(),
            "classifier": ", ".join(classifier_sha256),
            "world_size": world_size,
        }
        return json.dumps(described, sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Classifiers:
    """The classifiers that a purifier learns in front of.

    ``first`` is the target, ``sha256`` of all of them; ``others`` take turns with it from step to step. ``surrogate``,
    a classifier and its hash, is attacked for every other batch by recipes that craft while they train.
    """

    first: nn.Module
    sha256: str
    others: tuple[nn.Module, ...] = ()
    surrogate: tuple[nn.Module, str] | None = None

    @property
    def all(self) -> list[nn.Module]:
        """Those that take turns."""
        return [self.first, *self.others]

    @property
    def attacked(self) -> Mapping[str, nn.Module]:
        """Those that are attacked while g learns, by their hashes."""
        return {self.sha256: self.first, **({self.surrogate[1]: self.surrogate[0]} if self.surrogate else {})}


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Where a run leaves its files, and what does not change its weights.

    ``out``: the run folder. ``command`` and ``run`` go into the card. The state is saved every ``save_seconds``.
    ``pools``: a folder in which runs share what they craft while they train; ``crafted``: one of crafted sets, beside
    ``out`` by default. ``watched`` validation images are evaluated after each epoch.
    """

    out: Path
    command: str = ""
    run: RunName | None = None
    save_seconds: float = 60.0
    pools: Path | None = None
    crafted: Path | None = None
    watched: int = 1000

    def __post_init__(self) -> None:
        if self.watched < 1:
            raise ConfigurationError(f"{self.watched} watched validation images: at least 1")


def check(config: TrainConfig, dataset: Dataset, classifiers: Classifiers) -> None:
    """Refuse a wrong configuration before any work.

    Raises:
        ConfigurationError: naming what does not fit.
    """
    recipe = config.recipe
    if len(dataset.train) < recipe.batch_size:
        raise ConfigurationError(f"{len(dataset.train)} training images are fewer than one batch")
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError("device cuda was asked for, but torch sees no CUDA device")
    if classifiers.surrogate and not recipe.refresh_epochs:
        raise ConfigurationError("a second classifier is attacked by recipes that craft while they train")
    _check_attacks(config)
    _check_purifier(config, dataset)
    if len(classifiers.all) > 1 and (recipe.joint or not recipe.inner_steps):
        raise ConfigurationError("several classifiers are for a recipe that attacks through f after g, and frozen ones")
    if recipe.joint:
        try:
            checkpoint.architecture_of(classifiers.first)
        except TypeError as error:
            raise ConfigurationError(f"a joint run keeps its classifier: {error}") from None
    for classifier in classifiers.all:
        _check_classifier(classifier, config, dataset)


def _check_attacks(config: TrainConfig) -> None:
    if not config.seen:
        raise ConfigurationError("no seen attack: ARN learns from at least one")
    names = [attack.name for attack in config.seen]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"a seen attack is named twice: {', '.join(names)}")
    if config.recipe.inner_steps and not all(name.startswith("PGD") for name in names):
        raise ConfigurationError(f"through f after g training attacks by PGD alone, not by {', '.join(names)}")


def _check_purifier(config: TrainConfig, dataset: Dataset) -> None:
    channels, height, width = dataset.shape
    if (channels, height, width) != (config.arch.channels, config.arch.size, config.arch.size):
        raise ConfigurationError(
            f"the network takes {config.arch.channels}x{config.arch.size}x{config.arch.size} "
            f"images, {dataset.name} has {channels}x{height}x{width}"
        )
    weights = config.recipe.weights
    if not isinstance(config.arch, ArnConfig) and (weights.att or weights.nor):
        raise ConfigurationError(f"recipe {config.recipe.name} needs an ARN: no other purifier has a code")


def _check_classifier(classifier: nn.Module, config: TrainConfig, dataset: Dataset) -> None:
    if config.recipe.weights.feature and not hasattr(classifier, "forward_with_features"):
        raise ConfigurationError(
            f"the recipe's feature loss needs a classifier with forward_with_features, not {type(classifier).__name__}"
        )
    with torch.no_grad():
        logits = classifier(dataset.train.images_of(slice(0, 2), config.device))
    if logits.shape != (2, len(dataset.class_names)):
        raise ConfigurationError(
            f"the classifier answers {tuple(logits.shape)} for two images, {dataset.name} has "
            f"{len(dataset.class_names)} classes"
        )
