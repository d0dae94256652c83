"""The paper's pictures, of scikit-learn's digits, which may be published.

The metadata of each file has a hash of what it was made from, so that an outdated figure is noticed.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from arn_purify.models import Card, checkpoint
from arn_purify.models.files import write_atomically

from .. import attacks
from ..attacks import seed_of
from ..data.datasets import DATASETS
from ..measuring.threats import Defended, WhiteBox
from ..sheet import contact_sheet, save_png

# The page's pictures: examples/ of the repository is not in a wheel. A path, since training must not import service.
EXAMPLES = Path(__file__).parents[2] / "service" / "static" / "examples"
_PICTURED = ("PGD_N", "PGD_T", "DDN_N", "AA_N", "STA_N", "FWA_N")


def pictures(classifier: Card, purifier: Card) -> dict[str, str]:
    """File name of each picture, and the hash of what it was made with."""
    made_with = {"classifier": classifier.sha256, "purifier": purifier.sha256, "attacks": _PICTURED}
    return {name: hash_of([name, made_with]) for name in ("features.png", "oblivious.png", "white-box.png")}


def has_sheet(card: Card) -> bool:
    """Whether a checkpoint is a purifier that takes the example digits, the only images that may be published."""
    example_digits = card.dataset in DATASETS and DATASETS[card.dataset].example_digits
    return card.kind == "purifier" and example_digits and bool(card.seen_attacks)


def sheets(classifier: Card, cards: Sequence[Card]) -> dict[str, str]:
    """File name of each contact sheet, and the hash of what it was made with."""
    return {
        f"{card.name}.png": hash_of(["named rows", classifier.sha256, card.sha256]) for card in cards if has_sheet(card)
    }


def stale(folder: Path, wanted: Mapping[str, str]) -> list[Path]:
    """Those of ``wanted`` (file name to hash) that are missing in ``folder`` or were made from something else."""
    found = []
    for name, digest in wanted.items():
        path = folder / name
        if not path.is_file():
            found.append(path)
            continue
        with Image.open(path) as image:
            if image.info.get("made-from") != digest:
                found.append(path)
    return found


def draw_pictures(classifier: nn.Module, purifier: nn.Module, folder: Path, seed: int = 0) -> None:
    """Draw the pictures that are out of date: the paper's Figures 1 and 3, and its appendix C."""
    f_card, g_card = checkpoint.card_of(classifier), checkpoint.card_of(purifier)
    wanted = pictures(f_card, g_card)
    out_of_date = {path.name: path for path in stale(folder, wanted)}
    if not out_of_date:
        return
    natural, labels = example_digits()

    def crafted(module: nn.Module, name: str) -> Tensor:
        return attacks.get(name)(module, natural, labels, seed_of(seed, "picture", name)).images

    if {"features.png", "oblivious.png"} & set(out_of_date):
        oblivious = {name: crafted(classifier, name) for name in _PICTURED}
    if "features.png" in out_of_date:
        save(_features_figure(classifier, natural, oblivious), out_of_date["features.png"], wanted["features.png"])
    for name, through in (("oblivious.png", classifier), ("white-box.png", None)):
        if name in out_of_date:
            if through is None:
                target = WhiteBox().target(Defended(classifier, f_card, purifier, g_card)).module
                adversarial = {n: crafted(target, n) for n in ("PGD_N", "PGD_T", "DDN_N", "AA_N")}
            else:
                adversarial = oblivious
            save(_purified_figure(purifier, classifier, natural, adversarial), out_of_date[name], wanted[name])


def draw_sheet(classifier: nn.Module, purifier: nn.Module, folder: Path, seed: int = 0) -> None:
    """Draw a purifier's contact sheet where it is out of date: four rows for each seen attack."""
    card = checkpoint.card_of(purifier)
    wanted = sheets(checkpoint.card_of(classifier), [card])
    for path in stale(folder, wanted):
        natural, labels = example_digits()
        rows = []
        for seen in card.seen_attacks:
            name = str(seen["attack"])
            target = nn.Sequential(purifier, classifier) if "through" in seen else classifier
            adversarial = attacks.get(name)(target, natural, labels, seed_of(seed, "picture", name)).images
            with torch.no_grad():
                rows.append(contact_sheet(natural, adversarial, purifier(adversarial), name))
        save_png(torch.cat(rows, dim=1), path, wanted[path.name])


def example_digits() -> tuple[Tensor, Tensor]:
    """The ten example digits ``(10, 1, 28, 28)``, scikit-learn's in MNIST's frame, and their labels."""
    paths = [EXAMPLES / f"natural_{digit}.png" for digit in range(10)]
    images = [torch.from_numpy(np.array(Image.open(path), np.float32))[None] / 255 for path in paths]
    return torch.stack(images), torch.arange(10)


def figure_of(width: float, height: float, **grid: Any) -> tuple[Any, Any]:
    """A figure of so many inches and its axes."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained", **grid)


def _features_figure(classifier: nn.Module, natural: Tensor, adversarial: Mapping[str, Tensor]) -> Any:
    """The paper's Figure 1: image, a feature of the first layer after ReLU, and its difference to the natural one."""
    digit, names = 7, [name for name in ("PGD_N", "AA_N", "STA_N") if name in adversarial]
    layer = next(m for m in classifier.modules() if isinstance(m, nn.Conv2d))
    columns = [("natural", natural[digit]), *((name, adversarial[name][digit]) for name in names)]
    with torch.no_grad():
        features = [layer(image[None]).relu()[0] for _, image in columns]
    strongest = int(features[0].flatten(1).std(1).argmax())
    figure, axes = figure_of(1.9 * len(columns), 5.6, nrows=3, ncols=len(columns))
    largest = max(float((f - features[0])[strongest].abs().max()) for f in features)
    for index, (name, image) in enumerate(columns):
        rows = (image[0], features[index][strongest], (features[index] - features[0])[strongest])
        for row, values in enumerate(rows):
            style = {"cmap": "gray"} if row < 2 else {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
            axes[row, index].imshow(values, **style)
            axes[row, index].set(xticks=[], yticks=[])
        axes[0, index].set_title(name)
    for row, label in enumerate(("image", "feature", "change of the feature")):
        axes[row, 0].set_ylabel(label)
    return figure


def _purified_figure(
    purifier: nn.Module, classifier: nn.Module, natural: Tensor, adversarial: Mapping[str, Tensor]
) -> Any:
    """For each attack a row of adversarial and one of purified images, with the predicted classes."""
    from matplotlib.patheffects import withStroke

    rows: list[tuple[str, Tensor]] = [("natural", natural)]
    with torch.no_grad():
        for name, images in adversarial.items():
            rows += [(name, images), ("purified", purifier(images))]
        predicted = [classifier(images).argmax(1) for _, images in rows]
    figure, axes = figure_of(8, 0.82 * len(rows), nrows=len(rows), ncols=10)
    for row, (name, images) in enumerate(rows):
        for column in range(10):
            axis = axes[row, column]
            axis.imshow(images[column, 0], cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            right = int(predicted[row][column]) == column
            axis.text(
                26, 6, int(predicted[row][column]), ha="right", fontsize=8, color="#7fd08f" if right else "#ff7b5a",
                path_effects=[withStroke(linewidth=2.5, foreground="black")],
            )  # fmt: skip
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def save(figure: Any, path: Path, digest: str) -> None:
    """Write a figure as PNG, with the hash of what it shows."""
    from matplotlib import pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"made-from": digest, "Software": None})
    plt.close(figure)
    write_atomically(path, buffer.getvalue())


def hash_of(what: Any) -> str:
    """A short hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
