"""The classifier that every example server serves: the released LeNet-5, from this project's own environment."""

import os
import sys

import numpy as np

# After the server's own packages, so that none of them is replaced.
sys.path += [path for path in os.environ.get("ARN_SITE", "").split(os.pathsep) if path]


class Classifier:
    """float32 ``(N, 1, 28, 28)`` in [0, 1] to softmax scores ``(N, 10)``."""

    def __init__(self) -> None:
        import torch

        from arn_purify import models

        torch.set_num_threads(1)
        self._torch, self._model = torch, models.load("mnist-lenet5")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Classify."""
        x = np.ascontiguousarray(images, dtype=np.float32)
        if x.ndim != 4 or x.shape[1:] != (1, 28, 28):
            raise ValueError(f"images of shape (N, 1, 28, 28) are expected, not {x.shape}")
        with self._torch.inference_mode():
            return self._model(self._torch.from_numpy(x)).softmax(1).numpy()


def decode(data: bytes) -> np.ndarray:
    """A PNG or JPEG as one image of a batch."""
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("L"), np.float32)[None, None] / 255
