"""Every data set in one table: a new one is a row here and a loader.

What attacks, recipes, tables and pages need to know of a data set is a field of its row.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from .image_files import Fit, TargetSize
from .loaders import cifar10, digits, image_folder, lisa, mnist, photos
from .splits import DataError, Dataset

Loader = Callable[[Path, TargetSize], Dataset]
"""From the data folder and the size that images are brought to, where they have none of their own."""

STICKERS = ("AP_1", "AP_2", "AP_3", "AP_4")
STICKERS_BY_PGD = ("APM_1", "APM_2", "APM_3", "APM_4")
_ON_SIGNS = (("none", *STICKERS), STICKERS_BY_PGD)
# The columns of the paper's Tables 1 and 2.
_IMPERCEPTIBLE = ("none", "PGD_N", "PGD_T", "CW_N", "DDN_N", "AA_N", "JSMA_T", "PGD_N_eps2", "AA_N_eps2")
_MOVING = ("STA_N", "STA_T", "FWA_N", "FWA_N_eps2")


@dataclasses.dataclass(frozen=True)
class AttackSettings:
    """The settings of attacks that differ from one data set to another; the defaults are those of colour images.

    ``linf_eps`` and ``wasserstein_eps`` are eps and eps' on [0, 1]; the latter is a share of the image's mass, in
    pixels. ``step`` of PGD and MATCH: 0 takes a share of the budget. ``jsma_gamma``: the share of pixels that JSMA may
    change.
    """

    linf_eps: tuple[float, float] = (8 / 255, 0.05)
    wasserstein_eps: tuple[float, float] = (8 / 255, 0.05)
    step: float = 0.0
    carlini_wagner_iterations: int = 100
    spatial_iterations: int = 100
    spatial_searches: int = 20
    jsma_gamma: float = 1.0
    rectangle_iterations: int = 30
    rectangle_step: float = 0.05


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """What is known of a data set beside its images.

    ``channels`` and ``size`` of its images: 0 where the user decides. ``classifier`` and ``purifier``: the models that
    are taken where none is named; empty where none fits. ``recipe``: that of a purifier of ours where none is named;
    those of the baselines begin with it. ``mirrored``: whether an image and its mirror image are of one class.
    ``seen``: attacks to learn from instead of a recipe's own, where these see the classifier alone.
    ``same_images_as``: data sets that split the same images otherwise, whose models may have learned from test images.
    ``kept_records``: whether a record stands for the data set, under ``results/``; not where its name says nothing of
    its images, which are the user's.

    ``from_disk``: whether training reads pictures from disk as it needs them, without labels
    (:mod:`training.learning.photos`).

    Of tables and pages: ``title``, where it is not the name; ``columns``, each a table's, of oblivious attacks;
    ``targets``, the classifier of the paper and those that stand in for it, as records name them, ``target_titles`` as
    people do, in the same order, and ``paper_target`` as the paper's tables do; ``overview``, the columns of the
    overview's table, where it is shown there, ``paper_row`` the paper's row below, and ``previews`` purifiers that are
    shown with the released ones. ``example_digits``: whether its
    purifiers take scikit-learn's digits in MNIST's frame, which may be shown.
    """

    name: str
    load: Loader
    title: str = ""
    channels: int = 0
    size: int = 0
    attacks: AttackSettings = AttackSettings()
    classifier: str = ""
    purifier: str = ""
    recipe: str = "transparent"
    mirrored: bool = False
    seen: tuple[str, ...] = ()
    same_images_as: tuple[str, ...] = ()
    kept_records: bool = True
    from_disk: bool = False
    columns: tuple[tuple[str, ...], ...] = (_IMPERCEPTIBLE, _MOVING, STICKERS)
    targets: tuple[str, ...] = ()
    target_titles: tuple[str, ...] = ()
    paper_target: str = ""
    overview: tuple[str, ...] = ()
    paper_row: str = "ARN_PP"
    previews: tuple[str, ...] = ()
    example_digits: bool = False

    def is_target(self, classifier: str) -> bool:
        """Whether the tables are about a classifier of this name; without targets they are about any."""
        return not self.targets or classifier.removeprefix(f"{self.name}-") in self.targets

    def title_of_target(self, classifier: str) -> str:
        """The classifier's name for readers; where the row has none, the one in records."""
        return dict(zip(self.targets, self.target_titles, strict=False)).get(classifier, classifier)


_GREY_DIGITS = AttackSettings(
    linf_eps=(0.3, 0.4),
    # The paper names neither this budget nor CIFAR-10's: with them the undefended classifier has the paper's error on
    # the validation split (98.56 and 99.91 % on MNIST, 99.83 and 99.98 % on CIFAR-10).
    wasserstein_eps=(0.2, 0.25),
    step=0.01,
    carlini_wagner_iterations=500,
    spatial_iterations=200,
    spatial_searches=5,
)
_OVERVIEW = ("none", "PGD_N", "AA_N")
_SIGNS_OVERVIEW = ("none", "AP_2", "AP_3")
_SIGNS = AttackSettings(rectangle_iterations=50, rectangle_step=1 / 64)

# In the order of the pages.
DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            "mnist", mnist.load, "MNIST", 1, 28, _GREY_DIGITS, "mnist-lenet5", "mnist-transparent",
            targets=("lenet5",), target_titles=("LeNet-5",), paper_target="lenet5", overview=_OVERVIEW,
            example_digits=True,
        ),
        DatasetSpec(
            "cifar10", cifar10.load, "CIFAR-10", 3, 32, AttackSettings(wasserstein_eps=(0.004, 0.005)),
            "cifar10-airbench-40", "cifar10-transparent", "cifar10", mirrored=True,
            targets=("resnet110", "resnet18", "resnet20"), target_titles=("ResNet-110", "ResNet-18", "ResNet-20"),
            paper_target="resnet110", overview=_OVERVIEW,
        ),
        DatasetSpec(
            "lisa", lisa.load_by_image, "LISA", 3, 32, _SIGNS, "lisa-cnn", "lisa-transparent", "lisa",
            seen=("AP_1", "AP_2"), same_images_as=("lisa-track",), columns=_ON_SIGNS,
            targets=("cnn",), target_titles=("LISA-CNN",), paper_target="lisa-cnn", overview=_SIGNS_OVERVIEW,
            paper_row="ARN_AP",
        ),
        DatasetSpec(
            "lisa-track", lisa.load_by_track, "LISA by track", 3, 32, _SIGNS,
            "lisa-track-cnn", "lisa-track-transparent", "lisa",
            seen=("AP_1", "AP_2"), same_images_as=("lisa",), columns=_ON_SIGNS,
            targets=("cnn",), target_titles=("LISA-CNN",), overview=_SIGNS_OVERVIEW, paper_row="ARN_AP",
        ),
        DatasetSpec(
            "digits", digits.load_grey, "", 1, 28, _GREY_DIGITS, "mnist-lenet5", "mnist-transparent",
            example_digits=True,
        ),
        DatasetSpec(
            "digits-colour", digits.load_colour, "", 3, 32,
            # JSMA would search for hours for an image that it cannot change enough.
            dataclasses.replace(_GREY_DIGITS, jsma_gamma=0.02), "mnist-lenet5", "mnist-transparent", "cifar10",
        ),
        DatasetSpec(
            "photos", photos.load, "Photographs", 3, photos.SIZE, AttackSettings(linf_eps=(8 / 255, 16 / 255)),
            "photo-efficientnet-lite0", mirrored=True, from_disk=True,
            columns=(
                ("none", "PGD_N@0.0157", "PGD_N"),
                ("PGD_T", "PGD_N_eps2", "MI_FGSM", "DI_FGSM"),
                ("AA_N@0.0157", "CW_N", "DDN_N"),
            ),
            targets=("photo-efficientnet-lite0",), target_titles=("EfficientNet-Lite0",), overview=_OVERVIEW,
            previews=("photo-preview",),
        ),
        DatasetSpec(
            "folder", image_folder.load, classifier="mnist-lenet5", purifier="mnist-transparent",
            kept_records=False,
        ),
    )
}  # fmt: skip


def spec_of(name: str) -> DatasetSpec:
    """The row of that name.

    Raises:
        DataError: there is none.
    """
    if name not in DATASETS:
        raise DataError(f"no data set {name!r}: one of {', '.join(DATASETS)}")
    return DATASETS[name]


def folder(data_dir: str | Path | None = None) -> Path:
    """The data folder: the argument, ``ARN_DATA_DIR``, else ``data/``."""
    return Path(data_dir or os.environ.get("ARN_DATA_DIR") or "data")


def load(name: str, data_dir: str | Path | None = None, size: int = 28, fit: Fit = "crop") -> Dataset:
    """Load a data set by name.

    Args:
        name: one of :data:`DATASETS`.
        data_dir: where the data are, or are downloaded to, as :func:`folder` says.
        size: height and width in pixels that the images of ``folder`` are resized to; the others have their own.
        fit: ``crop`` or ``fit``, as :func:`.image_files.fit_image` says.

    Raises:
        DataError: an unknown name, a file that does not match its checksum, a folder that is not as its loader says.
    """
    return spec_of(name).load(folder(data_dir), TargetSize(size, fit))
