"""Detection by local intrinsic dimensionality (LID), before and after purification (section 4.3 of the paper).

Source: Ma et al., "Characterizing adversarial subspaces using local intrinsic dimensionality", ICLR 2018. At every
layer an image's LID is estimated from its distances to the k nearest of a clean minibatch; a logistic regression on
these estimates is the detector.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .records import unseal, write_sealed

MINIBATCH = 100
NEIGHBOURS = 20


def intrinsic_dimensionality(points: Tensor, reference: Tensor, k: int = NEIGHBOURS, paired: bool = False) -> Tensor:
    """-k / sum_i log(r_i / r_k) of each of ``points`` ``(N, D)`` from its k nearest in ``reference`` ``(M, D)``.

    A point that is itself in ``reference`` is not its own neighbour. With ``paired`` the i-th of ``reference``, the
    natural image that the i-th point was made from, is not its neighbour either. Returns ``(N,)``.
    """
    distances = torch.cdist(points.double(), reference.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distances = torch.where(distances < 1e-9, torch.inf, distances)
    if paired:
        distances.fill_diagonal_(torch.inf)
    distances = distances.sort(1).values[:, :k]
    return (-k / (distances / distances[:, -1:]).log().sum(1).clamp(max=-1e-12)).float()


@torch.no_grad()
def layer_outputs(classifier: nn.Module, x: Tensor) -> list[Tensor]:
    """The output of every layer with weights for ``x`` ``(N, C, H, W)``, each flattened to ``(N, D)``."""
    found: list[Tensor] = []
    layers = [m for m in classifier.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(lambda _m, _i, out: found.append(out.flatten(1))) for layer in layers]
    try:
        classifier(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def counted(images: int) -> int:
    """How many of so many images an estimate is made of: a last minibatch with too few neighbours is left out."""
    left = images % MINIBATCH
    return images - left if left <= NEIGHBOURS else images


def characteristics(classifier: nn.Module, images: Tensor, natural: Tensor) -> NDArray[np.float32]:
    """The estimate at every layer, ``(N, layers)``, each minibatch against its own ``natural`` images.

    Raises:
        ValueError: too few images for the neighbours that an estimate takes.
    """
    if len(images) <= NEIGHBOURS:
        raise ValueError(f"{len(images)} images are too few: an estimate takes {NEIGHBOURS} neighbours")
    rows = []
    kept = counted(len(images))
    for x, clean in zip(images[:kept].split(MINIBATCH), natural[:kept].split(MINIBATCH), strict=True):
        pairs = zip(layer_outputs(classifier, x), layer_outputs(classifier, clean), strict=True)
        rows.append(torch.stack([intrinsic_dimensionality(a, b, paired=True) for a, b in pairs], 1))
    out: NDArray[np.float32] = torch.cat(rows).numpy()
    return out


@dataclasses.dataclass(frozen=True)
class Detection:
    """Shares in percent that the detector calls adversarial, and how well it ranks (area under the ROC curve)."""

    adversarial: float
    restored: float
    natural: float
    noisy: float
    area: float


def detect(
    classifier: nn.Module,
    purify: Callable[[Tensor], Tensor],
    fitted_on: tuple[Tensor, Tensor],
    measured_on: tuple[Tensor, Tensor],
    seed: int = 0,
) -> Detection:
    """Fit the detector on one pair of (natural, adversarial) images, measure it on another.

    Positives are adversarial; negatives are natural, and natural with Gaussian noise of the same l2 norm as the
    perturbation. ``restored`` is the recall when purified adversarial images are given as positives.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    generator = torch.Generator().manual_seed(seed)

    def sets(natural: Tensor, adversarial: Tensor) -> dict[str, NDArray[np.float32]]:
        size = (adversarial - natural).flatten(1).norm(dim=1)
        noise = torch.randn(natural.shape, generator=generator)
        noise *= (size / noise.flatten(1).norm(dim=1)).reshape(-1, 1, 1, 1)
        with torch.no_grad():
            restored = torch.cat([purify(x) for x in adversarial.split(500)])
        images = {
            "natural": natural, "noisy": (natural + noise).clamp(0, 1), "adversarial": adversarial, "restored": restored
        }  # fmt: skip
        return {name: characteristics(classifier, x, natural) for name, x in images.items()}

    fitted, measured = sets(*fitted_on), sets(*measured_on)
    negatives = np.concatenate([fitted["natural"], fitted["noisy"]])
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    labels = np.r_[np.zeros(len(negatives)), np.ones(len(fitted["adversarial"]))]
    model.fit(np.concatenate([negatives, fitted["adversarial"]]), labels)
    share = {name: 100 * float(model.predict(rows).mean()) for name, rows in measured.items()}
    ranked = np.concatenate([measured["natural"], measured["noisy"], measured["adversarial"]])
    truth = np.r_[np.zeros(len(ranked) - len(measured["adversarial"])), np.ones(len(measured["adversarial"]))]
    area = float(roc_auc_score(truth, model.decision_function(ranked)))
    return Detection(share["adversarial"], share["restored"], share["natural"], share["noisy"], area)


def record(detection: Detection, fields: dict[str, Any], path: Path) -> None:
    """Write a detection with ``fields`` that say what it was measured on."""
    write_sealed(path, {**fields, "detection": dataclasses.asdict(detection)})


def read(path: Path) -> dict[str, Any]:
    """Read what :func:`record` wrote.

    Raises:
        ValueError: it was changed since.
    """
    fields: dict[str, Any] = json.loads(path.read_text())
    unseal(path, fields)
    return fields
