"""Training of the target classifiers, ordinary ones and the robust ones that the paper compares ARN with."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from arn_purify.models import (
    Airbench,
    AirbenchConfig,
    LeNet5,
    LeNet5Config,
    LisaCnn,
    LisaCnnConfig,
    Mlp,
    MlpConfig,
    ResNet,
    ResNet8,
    ResNet8Config,
    ResNetConfig,
    Vgg19,
    Vgg19Config,
    WideResNet,
    WideResNetConfig,
)

from ..attacks import Attack, at_budget, for_crafting, get, seed_of
from ..data import Dataset, Split, augment, spec_of
from ..deadline import OutOfTime, is_near
from .recipes import check_length, one_cycle
from .state import ConfigurationError, check_finite, load_state, log_row, save_state, weights_sha256

logger = logging.getLogger(__name__)

# From the images' (channels, height, width) and the number of classes.
NETWORKS: dict[str, Callable[[tuple[int, int, int], int], nn.Module]] = {
    "lenet5": lambda shape, classes: LeNet5(LeNet5Config(shape[0], classes)),
    "mlp": lambda shape, classes: Mlp(MlpConfig(shape[0], shape[1], classes)),
    "resnet8": lambda shape, classes: ResNet8(ResNet8Config(shape[0], classes)),
    "resnet20": lambda _, classes: ResNet(ResNetConfig(20, classes)),
    "resnet32": lambda _, classes: ResNet(ResNetConfig(32, classes)),
    "resnet110": lambda _, classes: ResNet(ResNetConfig(110, classes)),
    "resnet18": lambda _, classes: ResNet(ResNetConfig(18, classes)),
    "wrn28-10": lambda _, classes: WideResNet(WideResNetConfig(28, 10, classes)),
    "wrn28-20": lambda _, classes: WideResNet(WideResNetConfig(28, 20, classes)),
    "vgg19": lambda _, classes: Vgg19(Vgg19Config(classes)),
    "airbench": lambda _, classes: Airbench(AirbenchConfig(classes=classes)),
    "lisa-cnn": lambda _, classes: LisaCnn(LisaCnnConfig(classes)),
}
# Those that train as LeNet-5 does.
_SMALL = ("lenet5", "mlp", "resnet8")


@dataclasses.dataclass(frozen=True)
class ClassifierRecipe:
    """LeNet-5 on MNIST: 12 epochs, two to three minutes on two CPU cores, validation error .5 to .6 %.

    ``shift`` is the largest random translation of a training image, in pixels; ``flip`` mirrors half of them. With an
    ``adversary`` every image is attacked first, through the network as it stands; ``ramp`` is the share of the run over
    which its budget grows. ``smoothing`` of the labels. ``mixed_precision``: bf16 autocast.
    """

    name: str = ""
    epochs: int = 12
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    shift: int = 2
    seed: int = 0
    optimiser: Literal["adamw", "sgd"] = "adamw"
    adversary: Attack | None = None
    ramp: float = 0.0
    flip: bool = False
    smoothing: float = 0.0
    mixed_precision: bool = False

    def __post_init__(self) -> None:
        check_length(self.epochs, self.batch_size, self.learning_rate)


def natural(arch: str = "lenet5", dataset: str = "mnist") -> ClassifierRecipe:
    """The ordinary classifier of an architecture. Images are mirrored where the data set allows it.

    On colour: SGD with Nesterov's momentum over one cycle in bf16. Targets keep hard labels: smoothed ones change the
    loss that attacks climb. The wide ones, which no purifier is trained with, take .1.
    """
    if arch in _SMALL:
        return ClassifierRecipe()
    flip = spec_of(dataset).mirrored
    if arch == "lisa-cnn":
        return ClassifierRecipe(
            epochs=60, batch_size=128, learning_rate=1e-3, weight_decay=0.01, shift=3, flip=flip, mixed_precision=True
        )
    rate, epochs, smoothing = {
        "resnet20": (0.4, 40, 0.0), "resnet32": (0.4, 40, 0.0), "resnet110": (0.4, 100, 0.0),
        "resnet18": (0.2, 40, 0.0), "airbench": (0.4, 20, 0.0),
        "vgg19": (0.1, 60, 0.0), "wrn28-10": (0.2, 40, 0.1), "wrn28-20": (0.2, 30, 0.1),
    }[arch]  # fmt: skip
    return ClassifierRecipe(
        epochs=epochs, batch_size=256, learning_rate=rate, weight_decay=5e-4, shift=4, optimiser="sgd", flip=flip,
        smoothing=smoothing, mixed_precision=True,
    )  # fmt: skip


def at_pgd(arch: str = "lenet5", dataset: str = "mnist") -> ClassifierRecipe:
    """AT_PGD (Madry et al., ICLR 2018): PGD-10 from a random start, the budget grown over three tenths."""
    adversary = get("PGD_N", dataset)
    assert adversary.eps is not None
    adversary = adversary.with_settings(iterations=10, step=adversary.eps / 4)
    base = natural(arch, dataset)
    # Adversarial training over-fits where ordinary training does not: as long at most, and no faster.
    epochs = 10 if arch in _SMALL else min(base.epochs, 40)
    return dataclasses.replace(base, name="at-pgd", epochs=epochs, adversary=adversary, ramp=0.3, smoothing=0.0)


def doa(arch: str = "lenet5", dataset: str = "mnist", rows: int = 7, columns: int = 7) -> ClassifierRecipe:
    """DOA (Wu, Tong & Vorobeychik, ICLR 2020), fine-tuned from an ordinary classifier: SGD at .01 against ROA.

    LISA-CNN, trained by AdamW before, predicted one class for all signs at that rate. By SGD at .001 it had 31.4 %
    error on the validation signs after 48 steps, by AdamW at 3e-4 9.4 %.
    """
    of_signs = arch == "lisa-cnn"
    return ClassifierRecipe(
        f"doa-{rows}x{columns}", epochs=1 if arch in _SMALL else 30 if of_signs else 10,
        learning_rate=3e-4 if of_signs else 0.01, weight_decay=0.0, shift=0,
        optimiser="adamw" if of_signs else "sgd",
        adversary=get("ROA_N", dataset).with_settings(rows=rows, columns=columns),
        flip=spec_of(dataset).mirrored, mixed_precision=arch not in _SMALL,
    )  # fmt: skip


CLASSIFIER_RECIPES: dict[str, Callable[[str, str], ClassifierRecipe]] = {
    "natural": natural,
    "at-pgd": at_pgd,
    "doa-7x7": doa,
    "doa-9x5": lambda arch, dataset: doa(arch, dataset, 9, 5),
}


def train_classifier(
    dataset: Dataset, recipe: ClassifierRecipe, device: str = "cpu", initial: nn.Module | None = None,
    out: Path | None = None, arch: str = "lenet5", compiled: bool = False,
) -> nn.Module:  # fmt: skip
    """Train an ``arch`` on ``dataset``, from ``initial``'s weights if given, and return it frozen, in eval mode.

    With ``out`` the state is saved there after each epoch, and a run that was killed continues from it;
    ``metrics.jsonl`` gets the error on the validation split. ``compiled`` runs forward and backward through
    torch.compile.

    Raises:
        ConfigurationError: ``arch`` cannot take the images or ``initial``'s weights.
        OutOfTime: the deadline would come before the next epoch's end.
    """
    model: nn.Module = _network(arch, dataset, recipe.seed, initial)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = _optimiser(model, recipe)
    batches = -(-len(dataset.train) // recipe.batch_size)
    state_path = out / "state.safetensors" if out else None
    # An attack's own repr holds addresses, which differ from process to process.
    plain, attacked = dataclasses.replace(recipe, adversary=None), recipe.adversary and recipe.adversary.describe()
    fingerprint = repr((arch, weights_sha256(initial), plain, attacked, dataset.train.sha256()))
    step = load_state(state_path, {"model": model}, {"model": optimiser}, fingerprint) if state_path else 0
    epochs = _Epochs(recipe, dataset.train.to(device), model, optimiser, device, compiled)
    seconds = 0.0
    for epoch in range(step // batches, recipe.epochs):
        if is_near(seconds):
            raise OutOfTime(f"{epoch} of {recipe.epochs} epochs")
        started = time.monotonic()
        mean = epochs.train(epoch)
        check_finite({"loss/classifier": mean}, (epoch + 1) * batches)
        if state_path:
            step, error = (epoch + 1) * batches, _validated(model, dataset.validation, device)
            log_row(state_path.parent, {"epoch": epoch + 1, "step": step, "loss/classifier": mean, **error})
            save_state(state_path, {"model": model}, {"model": optimiser}, step, fingerprint)
        seconds = time.monotonic() - started
        speed = len(dataset.train) / seconds
        logger.info("epoch %d of %d: loss %.4f, %.0f images a second", epoch + 1, recipe.epochs, mean, speed)
    model.eval().requires_grad_(False)
    return model


def _network(arch: str, dataset: Dataset, seed: int, initial: nn.Module | None) -> nn.Module:
    """The network as training begins with it."""
    torch.manual_seed(seed)
    model: nn.Module = NETWORKS[arch](dataset.shape, len(dataset.class_names))
    try:
        if initial is not None:
            model.load_state_dict(initial.state_dict())
        with torch.no_grad():
            model.eval()(dataset.train.images_of(slice(0, 2)))
    except RuntimeError as error:
        what = str(error).splitlines()[0]
        raise ConfigurationError(
            f"{arch} does not fit {dataset.name}'s images, or not --init's weights: {what}"
        ) from None
    model.train()
    return model


def _validated(model: nn.Module, validation: Split, device: str) -> dict[str, float]:
    """The error of the network as it stands; empty where there are no validation images."""
    error = {"error/none": error_rate(model.eval(), validation, device)} if len(validation) else {}
    model.train()
    return error


def _optimiser(model: nn.Module, recipe: ClassifierRecipe) -> torch.optim.Optimizer:
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            model.parameters(), recipe.learning_rate, 0.9, weight_decay=recipe.weight_decay,
            nesterov=bool(recipe.weight_decay),
        )  # fmt: skip
    return torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)


class _Epochs:
    """Epochs over ``train`` by a recipe."""

    def __init__(
        self, recipe: ClassifierRecipe, train: Split, model: nn.Module, optimiser: torch.optim.Optimizer,
        device: str, compiled: bool,
    ) -> None:  # fmt: skip
        self.recipe, self.split, self.model, self.optimiser = recipe, train, model, optimiser
        self.device, self.batches = device, -(-len(train) // recipe.batch_size)
        self.steps = recipe.epochs * self.batches
        self.forward = torch.compile(model) if compiled else model
        self.attacked = for_crafting(model, recipe.mixed_precision)  # once: on CUDA a graph belongs to it

    def train(self, epoch: int) -> float:
        """One epoch; returns its mean loss."""
        recipe, step = self.recipe, epoch * self.batches
        generator = torch.Generator().manual_seed(seed_of(recipe.seed, "classifier", epoch))
        order = torch.randperm(len(self.split), generator=generator)
        autocast = torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=recipe.mixed_precision)
        losses = []
        batches = order.split(recipe.batch_size)
        for indices in tqdm(batches, desc=f"classifier {epoch + 1}/{recipe.epochs}", mininterval=2):
            images, labels = self._batch(indices, generator, step)
            self.optimiser.param_groups[0]["lr"] = one_cycle(recipe.learning_rate, step, self.steps)
            with autocast:
                logits = self.forward(images)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.smoothing)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            step += 1
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def _batch(self, indices: Tensor, generator: torch.Generator, step: int) -> tuple[Tensor, Tensor]:
        """Images shifted, mirrored and attacked as the recipe says, and their labels."""
        recipe = self.recipe
        images, labels = self.split.batch(indices, self.device)
        images = augment(images, recipe.shift, recipe.flip, generator)
        if recipe.adversary:
            images = self._attack(recipe.adversary, images, labels, step)
        return images, labels

    def _attack(self, attack: Attack, images: Tensor, labels: Tensor, step: int) -> Tensor:
        if self.recipe.ramp and attack.eps:
            attack = at_budget(attack, min(1.0, (step + 1) / (self.recipe.ramp * self.steps)) * attack.eps)
        # The network as it will be deployed; crafting must not move BatchNorm's statistics.
        self.model.eval().requires_grad_(False)
        adversarial: Tensor = attack(self.attacked, images, labels, seed_of(self.recipe.seed, "adversary", step)).images
        self.model.train().requires_grad_(True)
        return adversarial


@torch.inference_mode()
def error_rate(model: nn.Module, split: Split, device: str = "cpu") -> float:
    """Classification error of ``model`` on natural images, in percent, the last partial batch included."""
    errors = 0
    for indices in torch.arange(len(split)).split(1000):
        images, labels = split.batch(indices, device)
        errors += int((model(images).argmax(1) != labels).sum())
    return 100 * errors / len(split)
