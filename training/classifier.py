"""Training of the target classifiers, ordinary ones and the robust ones that the paper compares ARN with."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from models import LeNet5, LeNet5Config, Mlp, MlpConfig, ResNet8, ResNet8Config

from .attacks import Attack, get, seed_of
from .data import Dataset, Split, shift_images
from .recipes import one_cycle
from .state import load_state, save_state

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ClassifierRecipe:
    """LeNet-5 on MNIST: 12 epochs, two to three minutes on two CPU cores, validation error .5 to .6 %.

    ``shift`` is the largest random translation of a training image, in pixels. With an ``adversary`` every image is
    attacked first, through the network as it stands; ``ramp`` is the share of the run over which its budget grows.
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


def natural() -> ClassifierRecipe:
    """The ordinary classifier."""
    return ClassifierRecipe()


def at_pgd() -> ClassifierRecipe:
    """AT_PGD (Madry et al., ICLR 2018): PGD-10 at eps .3 from a random start, the budget grown over three tenths."""
    adversary = get("PGD_N").with_settings(iterations=10, step=0.075)
    return ClassifierRecipe("at-pgd", epochs=10, learning_rate=2e-3, adversary=adversary, ramp=0.3)


def doa() -> ClassifierRecipe:
    """DOA 7x7 (Wu, Tong & Vorobeychik, ICLR 2020), to go on from an ordinary classifier: SGD at .01 against ROA."""
    return ClassifierRecipe(
        "doa-7x7", epochs=1, learning_rate=0.01, weight_decay=0.0, shift=0, optimiser="sgd", adversary=get("ROA_N")
    )


CLASSIFIER_RECIPES = {"natural": natural, "at-pgd": at_pgd, "doa-7x7": doa}


def build(arch: str, dataset: Dataset) -> nn.Module:
    """A classifier for ``dataset`` with fresh weights."""
    channels, size, _ = dataset.shape
    classes = len(dataset.class_names)
    if arch == "mlp":
        return Mlp(MlpConfig(channels, size, classes))
    return ResNet8(ResNet8Config(channels, classes)) if arch == "resnet8" else LeNet5(LeNet5Config(channels, classes))


def train_classifier(
    dataset: Dataset, recipe: ClassifierRecipe, device: str = "cpu", initial: nn.Module | None = None,
    out: Path | None = None, arch: str = "lenet5",
) -> nn.Module:  # fmt: skip
    """Train a classifier on ``dataset``, from ``initial``'s weights if given, and return it frozen, in eval mode.

    With ``out`` the state is saved there after each epoch, and a run that was killed goes on from it.
    """
    torch.manual_seed(recipe.seed)
    model: nn.Module = build(arch, dataset)
    if initial is not None:
        model.load_state_dict(initial.state_dict())
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser: torch.optim.Optimizer
    if recipe.optimiser == "sgd":
        optimiser = torch.optim.SGD(model.parameters(), recipe.learning_rate, momentum=0.9)
    else:
        optimiser = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    batches = -(-len(dataset.train) // recipe.batch_size)
    total = recipe.epochs * batches
    state_path = out / "state.safetensors" if out else None
    fingerprint = repr((recipe, dataset.train.sha256()))
    step = load_state(state_path, {"model": model}, {"model": optimiser}, fingerprint) if state_path else 0
    for epoch in range(step // batches, recipe.epochs):
        generator = torch.Generator().manual_seed(seed_of(recipe.seed, "classifier", epoch))
        order = torch.randperm(len(dataset.train), generator=generator)
        progress = tqdm(order.split(recipe.batch_size), desc=f"classifier {epoch + 1}/{recipe.epochs}", mininterval=2)
        for indices in progress:
            images, labels = dataset.train.batch(indices, device)
            offsets = torch.randint(0, 2 * recipe.shift + 1, (len(indices), 2), generator=generator)
            images = shift_images(images, offsets, recipe.shift)
            if recipe.adversary:
                images = _attacked(recipe, model, images, labels, step, total)
            optimiser.param_groups[0]["lr"] = one_cycle(recipe.learning_rate, step, total)
            loss = F.cross_entropy(model(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
            progress.set_postfix(loss=f"{loss.item():.4f}")
        if state_path:
            save_state(state_path, {"model": model}, {"model": optimiser}, step, fingerprint)
    return model.eval().requires_grad_(False)


def _attacked(
    recipe: ClassifierRecipe, model: nn.Module, images: Tensor, labels: Tensor, step: int, total: int
) -> Tensor:
    assert recipe.adversary is not None
    attack = recipe.adversary
    if recipe.ramp and attack.eps:
        share = min(1.0, (step + 1) / (recipe.ramp * total))
        attack = attack.with_settings(eps=share * attack.eps, step=share * attack.settings["step"])
    model.requires_grad_(False)
    adversarial = attack(model, images, labels, seed_of(recipe.seed, "adversary", step)).images
    model.requires_grad_(True)
    return adversarial


@torch.inference_mode()
def error_rate(model: nn.Module, split: Split, device: str = "cpu", batch_size: int = 1000) -> float:
    """Classification error of ``model`` on natural images, in percent, the last partial batch included."""
    errors = 0
    for indices in torch.arange(len(split)).split(batch_size):
        images, labels = split.batch(indices, device)
        errors += int((model(images).argmax(1) != labels).sum())
    return 100 * errors / len(split)
