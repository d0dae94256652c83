"""What learns in a run: the purifier, its discriminators, a jointly tuned classifier, and their optimisers."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from arn_purify.models import (
    ApeG,
    ApeGConfig,
    ApeGDiscriminator,
    Arn,
    ArnConfig,
    AttackDiscriminator,
    Hgd,
    HgdConfig,
    ImageDiscriminator,
)

from .config import PurifierConfig, TrainConfig
from .distributed import average_gradients, world_size
from .recipes import Recipe, one_cycle
from .state import ConfigurationError

Purifier = Arn | ApeG | Hgd


def build(config: PurifierConfig) -> Purifier:
    """The purifier of a configuration, with fresh weights."""
    if isinstance(config, ApeGConfig):
        return ApeG(config)
    return Hgd(config) if isinstance(config, HgdConfig) else Arn(config)


def initialise(module: nn.Module, slip: bool) -> None:
    """DCGAN's initialisation: N(0, .02), BatchNorm's gamma N(1, .02), or with the authors' ``slip`` N(0, .02) too."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            nn.init.normal_(layer.weight, float(isinstance(layer, nn.BatchNorm2d) and not slip), 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The rate at ``step`` of ``steps``, a function of nothing else, so that a resumed run has the same."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    return one_cycle(recipe.learning_rate, step, steps)


class Networks:
    """The networks of a run by name, in training mode, each with an optimiser.

    ``modules`` learn; ``kept`` are the purifier and a jointly tuned classifier as they are evaluated and saved: the
    modules themselves, or a moving average of their weights.
    """

    def __init__(self, config: TrainConfig, classifier: nn.Module, initial: nn.Module | None) -> None:
        """``classifier`` is copied where the recipe tunes it; ``initial`` has the purifier's first weights."""
        self.recipe, device = config.recipe, torch.device(config.device)
        torch.manual_seed(config.seed)
        modules = _fresh(config, classifier)
        if initial is not None:
            held = getattr(initial, "config", type(initial).__name__)
            if held != config.arch:
                raise ConfigurationError(f"--init holds {held}, not {config.arch}")
            modules["purifier"].load_state_dict(initial.state_dict())
        if world_size() > 1 and device.type == "cuda":  # torch has it for GPUs only
            modules = {name: nn.SyncBatchNorm.convert_sync_batchnorm(module) for name, module in modules.items()}
        self.modules: dict[str, nn.Module] = {
            name: module.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
            for name, module in modules.items()
        }
        self.kept = {name: self.modules[name] for name in self.deployed}
        if self.recipe.ema:
            self.kept = {name: copy.deepcopy(module).requires_grad_(False).eval() for name, module in self.kept.items()}
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(module.parameters(), self.recipe.learning_rate, self.recipe.betas)
            for name, module in self.modules.items()
        }

    @property
    def purifier(self) -> Purifier:
        """The purifier that learns."""
        return self.modules["purifier"]  # type: ignore[return-value]

    @property
    def deployed(self) -> list[str]:
        """The names of what stands in a service: no discriminators."""
        return [name for name in ("purifier", "classifier") if name in self.modules]

    @property
    def held(self) -> dict[str, nn.Module]:
        """What a saved state holds: everything that learns, and the averages."""
        averages = {f"{name}_average": module for name, module in self.kept.items()} if self.recipe.ema else {}
        return {**self.modules, **averages}

    def set_learning_rate(self, rate: float) -> None:
        """For the coming step; a jointly tuned classifier has its share of it."""
        for name, optimiser in self.optimisers.items():
            optimiser.param_groups[0]["lr"] = rate * (self.recipe.joint if name == "classifier" else 1)

    def zero_grad(self, names: Iterable[str]) -> None:
        """Clear the gradients of some networks."""
        for name in names:
            self.optimisers[name].zero_grad()

    def step(self, names: Iterable[str]) -> None:
        """Move some networks along their gradients, averaged over the processes."""
        for name in names:
            average_gradients(self.modules[name])
            self.optimisers[name].step()

    @torch.no_grad()
    def update_averages(self, step: int) -> None:
        """Move the averages, where the recipe has them; early in the run they remember less."""
        if not self.recipe.ema:
            return
        decay = min(self.recipe.ema, (1 + step) / (10 + step))
        for name, average in self.kept.items():
            pairs = zip(average.state_dict().values(), self.modules[name].state_dict().values(), strict=True)
            for mean, now in pairs:
                mean.lerp_(now, 1 - decay) if mean.is_floating_point() else mean.copy_(now)

    def plain(self, name: str) -> nn.Module:
        """A network as its checkpoint holds it: under torchrun its BatchNorm layers are synchronised ones."""
        kept = self.kept[name]
        if world_size() == 1:
            return kept
        plain: nn.Module = type(kept)(kept.config)
        weights: dict[str, Tensor] = kept.state_dict()
        plain.load_state_dict(weights)
        return plain


def _fresh(config: TrainConfig, classifier: nn.Module) -> dict[str, nn.Module]:
    """The networks as they begin."""
    recipe = config.recipe
    modules: dict[str, nn.Module] = {"purifier": build(config.arch)}
    if recipe.weights.att:
        assert isinstance(config.arch, ArnConfig)  # config.check() refused others
        modules["attack_discriminator"] = AttackDiscriminator(config.arch, 1 + len(config.seen))
    if recipe.weights.adv:
        modules["image_discriminator"] = (
            ApeGDiscriminator(config.arch) if isinstance(config.arch, ApeGConfig) else ImageDiscriminator(config.arch)
        )
    if recipe.joint:
        modules["classifier"] = copy.deepcopy(classifier).requires_grad_(True)
    if recipe.initialisation != "torch":
        for module in modules.values():
            initialise(module, slip=recipe.initialisation == "released")
    return modules
