"""What the tests marked ``gpu`` share. ``scripts/gpu-check --device cpu`` runs their lines on a CPU, at toy size."""

import os

import pytest
import torch

from arn_purify.service.core.buckets import Host
from arn_purify.service.core.engine import Engine

DEVICE = os.environ.get("GPU_CHECK_DEVICE", "cuda")
ON_CUDA = DEVICE == "cuda"
NEEDS_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(ON_CUDA and not torch.cuda.is_available(), reason="needs a CUDA device"),
]
cuda_only = pytest.mark.skipif(not ON_CUDA, reason="about CUDA's own memory")


def engine(*names, classifiers=(), precision="fp32", warm=32):
    """With recordings of up to ``warm`` images."""
    made = Engine(names, classifiers, DEVICE, precision, backend=None if ON_CUDA else Host)
    if warm:
        made.warm_up(warm)
    return made
