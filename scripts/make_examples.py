"""Make ``examples/``: ten of scikit-learn's digits, one of each class, attacked, and what the purifier gives back.

The natural digits are fixed before anything is purified: of each class the one that the shipped LeNet-5 is surest of.
They are 8x8 in the source; here they are drawn into the middle of a 28x28 image as MNIST's are. The adversarial ones
are PGD_N at eps .3 (40 steps of .01) against that LeNet-5 alone, rounded to PNG's 256 levels, and still fool it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

import models
from training import attacks
from training.sheet import contact_sheet, save_png

ROOT = Path(__file__).parent.parent
OUT = ROOT / "examples"
PAGE = ROOT / "service" / "static" / "examples"  # which travels with the service


def natural_digits(classifier: torch.nn.Module) -> torch.Tensor:
    """Ten images ``(10, 1, 28, 28)``, the i-th of class i."""
    source = load_digits()
    large = np.zeros((len(source.images), 1, 28, 28), np.uint8)
    for image, small in zip(large, np.round(source.images * 255 / 16).astype(np.uint8), strict=True):
        image[0, 4:24, 4:24] = Image.fromarray(small).resize((20, 20), Image.Resampling.BICUBIC)
    images, labels = torch.from_numpy(large).float() / 255, torch.from_numpy(source.target)
    sure = classifier(images).softmax(1)
    return torch.stack([images[(sure[:, label] * (labels == label)).argmax()] for label in range(10)])


def main() -> None:
    """Write the thirty pictures, for the page those that it sends, and the sheet of them."""
    classifier = models.load("mnist-lenet5").requires_grad_(False)
    labels = torch.arange(10)
    natural = natural_digits(classifier)
    crafted = attacks.get("PGD_N")(classifier, natural, labels, seed=0).images
    adversarial = crafted.mul(255).round() / 255
    if bool((classifier(adversarial).argmax(1) == labels).any()):
        sys.exit("an adversarial digit does not fool the classifier")
    purified = models.purify(adversarial)
    for name, images in {"natural": natural, "adversarial": adversarial, "purified": purified}.items():
        for label, image in enumerate(images):
            for folder in (OUT,) if name == "purified" else (OUT, PAGE):
                save_png(image.mul(255).round().byte(), folder / f"{name}_{label}.png")
    save_png(contact_sheet(natural, adversarial, purified), OUT / "sheet.png")
    print("purified and classified:", classifier(purified).argmax(1).tolist())


if __name__ == "__main__":
    main()
