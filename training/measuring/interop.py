"""Adapters: purifiers for RobustBench and the adversarial-robustness-toolbox."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class PurifiedClassifier(nn.Sequential):
    """Classifier after purifier as one module, ``(N, C, H, W)`` in [0, 1] to logits: what RobustBench evaluates.

    ``robustbench.benchmark(PurifiedClassifier(g, f), dataset="cifar10", threat_model="Linf", eps=8 / 255)``
    """

    def __init__(self, purifier: nn.Module, classifier: nn.Module) -> None:
        super().__init__(purifier, classifier)


def art_preprocessor(purifier: nn.Module, device: str = "cpu") -> Any:
    """An adversarial-robustness-toolbox preprocessor around ``purifier``, with its full gradient.

    Give it to ``PyTorchClassifier(..., preprocessing_defences=[...])``; without its gradient an attack of that toolbox
    would be an oblivious one.

    Raises:
        ImportError: adversarial-robustness-toolbox is not installed (``pip install '.[interop]'``).
    """
    from art.defences.preprocessor.preprocessor import PreprocessorPyTorch

    class Purification(PreprocessorPyTorch):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(is_fitted=True, apply_fit=False, apply_predict=True, device_type=device)
            self.purifier = purifier.to(device).eval()

        def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
            return self.purifier(x), y

    return Purification()
