"""What each network costs: parameters, MFLOP an image, images a second.

``python -m benchmarks.networks`` takes turns between the purifiers that ship, those for colour, the authors' MNIST
network and HGD's U-Net at its own width, all in eager fp32 on one device, and writes the record and the table of
``docs/fidelity.md``.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
from typing import Any

import torch
from torch import Tensor, nn

from arn_purify import models
from arn_purify.models import Arn, ArnConfig, Hgd, HgdConfig

from . import common, engine

TABLE = common.Place(common.ROOT / "docs" / "fidelity.md", "networks", "networks")


def networks() -> dict[str, nn.Module]:
    """By name, those that ship first."""
    found = {name: models.load(name) for name in models.available()}
    others: dict[str, nn.Module] = {
        "colour": Arn(ArnConfig.preset("colour", 3, 32)),
        "skips": Arn(ArnConfig.preset("skips", 3, 32)),
        "the authors' on MNIST": Arn(ArnConfig.preset("released", 1, 28)),
        "HGD's U-Net on MNIST": Hgd(HgdConfig(1, 28, 64)),
        "HGD's U-Net on CIFAR-10": Hgd(HgdConfig(3, 32, 64)),
    }
    return {**{n: m for n, m in found.items() if models.card_of(m).kind == "purifier"}, **others}


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.networks", description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="torch's threads")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each network in one round")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    subjects = {}
    for name, model in networks().items():
        config: Any = model.config
        x = torch.rand(flags.batch, config.channels, config.size, config.size, device=flags.device)
        subjects[name] = (_ready(model, flags.device), x.contiguous(memory_format=torch.channels_last))
    rounds = [
        {n: engine.median_seconds(functools.partial(_answer, *s), flags.seconds) for n, s in subjects.items()}
        for _ in range(flags.rounds)
    ]
    rows = {}
    for name, (model, x) in subjects.items():
        rows[name] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "megaflops": common.flops(model, x[:1]) / 1e6,
            "images_per_second": flags.batch / statistics.median(seconds[name] for seconds in rounds),
        }
    lines = ["| network | parameters, M | MFLOP an image | images a second |", "| --- | ---: | ---: | ---: |"]
    lines.extend(
        f"| {name} | {r['parameters'] / 1e6:.2f} | {r['megaflops']:,.0f} | {r['images_per_second']:,.0f} |"
        for name, r in rows.items()
    )
    print("\n".join(lines))
    TABLE.fill("\n" + "\n".join(lines) + "\n\n")
    common.write(
        common.RESULTS / "networks.json",
        "Parameters, MFLOP (a multiplication and an addition are two) and images a second in eager fp32",
        common.versions("torch"),
        device=flags.device, threads=flags.threads, batch=flags.batch, networks=rows,
    )  # fmt: skip


def _ready(model: nn.Module, device: str) -> nn.Module:
    return model.eval().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _answer(model: nn.Module, x: Tensor) -> Tensor:
    """Brought to the host, so that a GPU's work is done when the clock is read."""
    with torch.inference_mode():
        out: Tensor = model(x)
        return out[0, 0, 0, 0].cpu()


if __name__ == "__main__":
    main()
