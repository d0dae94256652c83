"""Make ``examples/``: ten of scikit-learn's digits and a photograph, attacked, and what the purifiers give back.

The natural digits are fixed before anything is purified: of each class the one that the released LeNet-5 is surest of.
They are 8x8 in the source; here they are drawn into the middle of a 28x28 image as MNIST's are. The adversarial ones
are PGD_N at eps .3 (40 steps of .01) against that LeNet-5 alone, rounded to PNG's 256 levels, and still fool it.
Beside them a photograph as CIFAR-10's are, at eps 8/255 against cifar10-airbench-40, and two of 224x224 at eps 4/255
against EfficientNet-Lite0, with the purifier that ``--photos`` names. The first of them heads the README.
"""

from __future__ import annotations

import argparse
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
# Photographs whose subject is an ImageNet class, and the number of that class.
PHOTOS = {"coffee": 967, "chelsea": 285}
PHOTO_ATTACK = f"PGD_N@{4 / 255:.4f}"  # RobustBench's budget for ImageNet


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


def photographs() -> torch.Tensor:
    """``(N, 3, 224, 224)``, in the order of ``PHOTOS``."""
    images = [np.array(Image.open(OUT / "photos" / f"natural_{name}.png")) for name in PHOTOS]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def attacked(dataset: str, attack: str, f: str, natural: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The images after an attack on the classifier ``f`` alone, rounded to PNG's 256 levels; each fools it."""
    classifier = models.load(f).requires_grad_(False)
    crafted = attacks.get(attack, dataset)(classifier, natural, right, seed=0).images
    adversarial = crafted.mul(255).round() / 255
    if bool((classifier(adversarial).argmax(1) == right).any()):
        sys.exit(f"an adversarial image of {dataset} does not fool the classifier")
    return adversarial


def write(pictures: dict[str, torch.Tensor], names: list[str], out: Path, page: Path) -> None:
    """Three pictures of each image; for the page the two that it sends."""
    for kind, images in pictures.items():
        for name, image in zip(names, images, strict=True):
            for folder in (out,) if kind == "purified" else (out, page):
                save_png(image.mul(255).round().byte(), folder / f"{kind}_{name}.png")


def make(dataset: str, f: str, g: str, natural: torch.Tensor, labels: dict[str, int], out: Path, page: Path) -> None:
    """The pictures of each image and their sheet."""
    adversarial = attacked(dataset, "PGD_N", f, natural, torch.tensor(list(labels.values())))
    pictures = {"natural": natural, "adversarial": adversarial, "purified": models.purify(adversarial, g)}
    save_png(contact_sheet(*pictures.values()), out / "sheet.png")
    write(pictures, list(labels), out, page)


def make_photos(g: str) -> None:
    """The photographs of 224x224, and the picture of the README."""
    natural, right = photographs(), torch.tensor(list(PHOTOS.values()))
    adversarial = attacked("photos", PHOTO_ATTACK, "photo-efficientnet-lite0", natural, right)
    pictures = {"natural": natural, "adversarial": adversarial, "purified": models.purify(adversarial, g)}
    write(pictures, list(PHOTOS), OUT / "photos", PAGE / "photos")
    titles = {"natural": "natural", "attacked": "adversarial", "purified": "purified"}
    first = {title: pictures[kind][0] for title, kind in titles.items()}
    draw(first, int(right[0]), ROOT / "docs" / "figures" / "photo.png")


def draw(pictures: dict[str, torch.Tensor], right: int, path: Path) -> None:
    """Each picture ``(3, 224, 224)`` with its title and what the classifier sees in it."""
    from matplotlib import pyplot as plt

    plt.switch_backend("agg")
    classifier, names = models.load("photo-efficientnet-lite0"), models.imagenet.class_names()
    figure, axes = plt.subplots(1, len(pictures), figsize=(9, 3.6), layout="constrained")
    for axis, (title, image) in zip(axes, pictures.items(), strict=True):
        with torch.no_grad():
            probabilities = classifier(image[None]).softmax(1)[0]
        label = int(probabilities.argmax())
        axis.imshow(image.permute(1, 2, 0))
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=15)
        colour = "#1d7a45" if label == right else "#b3321b"
        axis.set_xlabel(f"{names[label]}, {100 * float(probabilities[label]):.0f} %", fontsize=15, color=colour)
        print(title, names[label], f"{float(probabilities[label]):.3f}")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    """Write all of them, or with ``--only-photos`` those of 224x224."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", default="photo-preview")
    parser.add_argument("--only-photos", action="store_true")
    flags = parser.parse_args()
    make_photos(flags.photos)
    if flags.only_photos:
        return
    classifier = models.load("mnist-lenet5").requires_grad_(False)
    digits = {str(digit): digit for digit in range(10)}
    make("mnist", "mnist-lenet5", "mnist-transparent", natural_digits(classifier), digits, OUT, PAGE / "examples")
    make(
        "cifar10",
        "cifar10-airbench-40",
        "cifar10-transparent",
        photograph(),
        {"cat": 3},
        OUT / "photos",
        PAGE / "photos",
    )


if __name__ == "__main__":
    main()
