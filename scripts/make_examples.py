"""Make ``examples/``: ten of scikit-learn's digits and a photograph, attacked, and what the purifiers give back.

The natural digits are fixed before anything is purified: of each class the one that the shipped LeNet-5 is surest of.
They are 8x8 in the source; here they are drawn into the middle of a 28x28 image as MNIST's are. The adversarial ones
are PGD_N at eps .3 (40 steps of .01) against that LeNet-5 alone, rounded to PNG's 256 levels, and still fool it.
Beside them a photograph as CIFAR-10's are, at eps 8/255 against the shipped ResNet-20.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from arn_purify import models
from arn_purify.training import attacks
from arn_purify.training.sheet import contact_sheet, save_png

ROOT = Path(__file__).parent.parent
OUT = ROOT / "examples"
PAGE = ROOT / "service" / "static"  # which travels with the service


def natural_digits(classifier: torch.nn.Module) -> torch.Tensor:
    """Ten images ``(10, 1, 28, 28)``, the i-th of class i."""
    source = load_digits()
    large = np.zeros((len(source.images), 1, 28, 28), np.uint8)
    for image, small in zip(large, np.round(source.images * 255 / 16).astype(np.uint8), strict=True):
        image[0, 4:24, 4:24] = Image.fromarray(small).resize((20, 20), Image.Resampling.BICUBIC)
    images, labels = torch.from_numpy(large).float() / 255, torch.from_numpy(source.target)
    sure = classifier(images).softmax(1)
    return torch.stack([images[(sure[:, label] * (labels == label)).argmax()] for label in range(10)])


def photograph() -> torch.Tensor:
    """The cat ``(1, 3, 32, 32)``."""
    small = Image.open(OUT / "photos" / "cat.png").resize((32, 32), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 255


def write(dataset: str, f: str, g: str, natural: torch.Tensor, labels: dict[str, int], out: Path, page: Path) -> None:
    """Three pictures of each image, for the page those that it sends, and the sheet."""
    classifier, right = models.load(f).requires_grad_(False), torch.tensor(list(labels.values()))
    crafted = attacks.get("PGD_N", dataset)(classifier, natural, right, seed=0).images
    adversarial = crafted.mul(255).round() / 255
    if bool((classifier(adversarial).argmax(1) == right).any()):
        sys.exit(f"an adversarial image of {dataset} does not fool the classifier")
    pictures = {"natural": natural, "adversarial": adversarial, "purified": models.purify(adversarial, g)}
    save_png(contact_sheet(*pictures.values()), out / "sheet.png")
    for name, images in pictures.items():
        for label, image in zip(labels, images, strict=True):
            for folder in (out,) if name == "purified" else (out, page):
                save_png(image.mul(255).round().byte(), folder / f"{name}_{label}.png")
    print(dataset, {name: classifier(images).argmax(1).tolist() for name, images in pictures.items()})


def main() -> None:
    """Write all of them."""
    classifier = models.load("mnist-lenet5").requires_grad_(False)
    digits = {str(digit): digit for digit in range(10)}
    write("mnist", "mnist-lenet5", "mnist-transparent", natural_digits(classifier), digits, OUT, PAGE / "examples")
    write(
        "cifar10", "cifar10-resnet20", "cifar10-transparent", photograph(), {"cat": 3}, OUT / "photos", PAGE / "photos"
    )


if __name__ == "__main__":
    main()
