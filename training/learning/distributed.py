"""Training in several processes, as torchrun starts them; in one process nothing here does anything."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import nn


def join_process_group(device: str) -> str:
    """Under torchrun, join the other processes and return this one's device; elsewhere return ``device``."""
    if "RANK" not in os.environ:
        return device
    on_gpu = device.startswith("cuda")
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    return device


def rank() -> int:
    """The number of this process among the others, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait_for_all() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        dist.barrier()


def average_gradients(module: nn.Module) -> None:
    """Each parameter's gradient becomes its mean over the processes."""
    if world_size() == 1:
        return
    for parameter in module.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world_size()
