"""A classifier of three classes that every attack can win against, and images to attack it at."""

import pytest
import torch
from torch import nn


class Linear(nn.Module):
    """Three classes, each the brightness of its own third of an image."""

    def forward(self, x):
        thirds = x.flatten(1)[:, :144].reshape(len(x), 3, 48)
        return 10 * thirds.mean(2)


class Spot(nn.Module):
    """Class 0 while the 2x2 pixels at (3, 5) are bright, class 1 once they are not."""

    def forward(self, x):
        bright = 10 * x[:, :, 3:5, 5:7].mean((1, 2, 3))
        return torch.stack([bright, 7 - bright], 1)


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(12, 1, 12, 12, generator=generator) * 0.5 + 0.25
    model = Linear()
    return model, images, model(images).argmax(1)
