"""Which devices gain by bfloat16."""

from __future__ import annotations

import torch


def multiplies_bf16(device: str) -> bool:
    """Whether ``device`` (``cpu``, ``cuda``, ``cuda:N``) has instructions for bfloat16; elsewhere float32 is faster."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
