"""Training of the target classifiers: Adam with a one-cycle schedule, small shifts, the whole data set in memory."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from models import LeNet5, LeNet5Config

from .data import Dataset, Split


@dataclasses.dataclass(frozen=True)
class ClassifierRecipe:
    """LeNet-5 on MNIST: 12 epochs, two to three minutes on two CPU cores, validation error .5 to .6 %.

    ``shift`` is the largest random translation of a training image, in pixels.
    """

    epochs: int = 12
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    shift: int = 2
    seed: int = 0


def shift_images(images: Tensor, offsets: Tensor, largest: int) -> Tensor:
    """Translate each image of ``(N, C, H, W)`` by its ``offsets`` ``(N, 2)`` in [0, 2 largest], filling with zeros."""
    if not largest:
        return images
    n, c, height, width = images.shape
    padded = F.pad(images, (largest,) * 4)
    top, left = offsets.to(images.device).unbind(1)
    rows = (top[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    batch = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(c, device=images.device)[None, :, None, None]
    return padded[batch, channel, rows, columns].contiguous(memory_format=torch.channels_last)


def train_classifier(dataset: Dataset, recipe: ClassifierRecipe, device: str = "cpu") -> nn.Module:
    """Train a LeNet-5 on ``dataset`` and return it frozen, in eval mode."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    model: nn.Module = LeNet5(LeNet5Config(dataset.shape[0], len(dataset.class_names)))
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = -(-len(dataset.train) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=recipe.epochs * steps)
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(dataset.train), generator=generator)
        progress = tqdm(order.split(recipe.batch_size), desc=f"classifier {epoch + 1}/{recipe.epochs}", mininterval=2)
        for indices in progress:
            images, labels = dataset.train.batch(indices, device)
            offsets = torch.randint(0, 2 * recipe.shift + 1, (len(indices), 2), generator=generator)
            loss = F.cross_entropy(model(shift_images(images, offsets, recipe.shift)), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            progress.set_postfix(loss=f"{loss.item():.4f}")
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def error_rate(model: nn.Module, split: Split, device: str = "cpu", batch_size: int = 1000) -> float:
    """Classification error of ``model`` on natural images, in percent, the last partial batch included."""
    errors = 0
    for indices in torch.arange(len(split)).split(batch_size):
        images, labels = split.batch(indices, device)
        errors += int((model(images).argmax(1) != labels).sum())
    return 100 * errors / len(split)
