"""Evaluate a classifier behind a purifier: error rates, each with its threat model, as records."""

from __future__ import annotations

import dataclasses
import io
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..attacks import Attack
from ..attacks.craft import chunk_of, crafted_set, versions
from ..data import Split
from .records import Record, wilson
from .redflags import of_model as red_flags
from .threats import Defended, ThreatModel

Purify = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Subject(Defended):
    """What is evaluated, and how images reach the purifier.

    ``transport`` is ``in-process``, or the form that :func:`over_http` sends. In the latter case ``purify`` asks the
    service, and ``purifier`` is the network that a white-box attacker differentiates through.
    """

    purify: Purify | None = None
    transport: str = "in-process"


def over_http(url: str, form: str, sha256: str = "") -> Purify:
    """A purifier that is a running service: float32 ``.npy`` bodies, or one PNG upload an image.

    Args:
        url: the service, ``http://host:port``; with ``?model=`` where it holds several.
        form: ``npy`` or ``png``.
        sha256: of the checkpoint that the service must answer with; empty accepts any.

    Raises:
        ValueError: no such form. The purifier raises it too: the service cannot be reached, refuses, or has another
            checkpoint.
    """
    client = httpx2.Client(timeout=60)
    base, _, query = url.partition("?")
    address = f"{base.rstrip('/')}/purify" + (f"?{query}" if query else "")

    def post(body: bytes, content_type: str) -> bytes:
        try:
            answer = client.post(address, content=body, headers={"Content-Type": content_type})
            answer.raise_for_status()
        except httpx2.HTTPError as error:
            raise ValueError(f"{address}: {error}") from error
        serves = answer.headers.get("X-ARN-Model-SHA256", "")
        if sha256 and serves != sha256:
            raise ValueError(f"{address} answers with the checkpoint {serves[:12]}, not with {sha256[:12]}: --purifier")
        return answer.content

    def npy(x: Tensor) -> Tensor:
        buffer = io.BytesIO()
        np.save(buffer, x.cpu().contiguous().numpy())
        return torch.from_numpy(np.load(io.BytesIO(post(buffer.getvalue(), "application/x-npy"))))

    def one_png(image: Tensor) -> Tensor:
        pixels = image.mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
        answer = np.array(Image.open(io.BytesIO(post(buffer.getvalue(), "image/png"))))
        return torch.from_numpy(answer).reshape(pixels.shape).permute(2, 0, 1).float() / 255

    def png(x: Tensor) -> Tensor:
        with ThreadPoolExecutor(4) as pool:
            return torch.stack(list(pool.map(one_png, x)))

    if form not in ("npy", "png"):
        raise ValueError(f"transport {form!r}: npy or png")
    return npy if form == "npy" else png


@torch.no_grad()
def measure(
    subject: Subject, images: Tensor, natural: Tensor, labels: Tensor, device: str
) -> tuple[int, dict[str, float]]:
    """How many of ``images`` ``(N, C, H, W)`` f gets wrong after purification, and a record's ``measures``.

    Every image counts. PSNR is that of the mean squared error over all images, which is lower than the mean of their
    PSNRs; there is none where nothing was changed.

    Raises:
        ValueError: the logits are not finite.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    errors, loss, squared, similar = 0, 0.0, 0.0, 0.0
    chunk = chunk_of(images.shape[1:])
    parts = zip(images.split(chunk), natural.split(chunk), labels.split(chunk), strict=True)
    # A short pass shows no bar, so that a log of both streams holds none.
    for x, x_natural, y in tqdm(list(parts), desc=f"purify {subject.transport}", mininterval=2, delay=2, leave=False):
        purified = (subject.purify or subject.purifier)(x.to(device, copy=True)).to(device)  # it may work in place
        logits, target = subject.deployed(purified).float(), x_natural.to(device)
        errors += int((logits.argmax(1) != y.to(device)).sum())
        loss += float(F.cross_entropy(logits, y.to(device), reduction="sum"))
        squared += float((purified - target).square().flatten(1).mean(1).sum())
        similar += len(x) * float(ssim(purified, target, data_range=1.0))  # type: ignore[arg-type]
    if not math.isfinite(loss):
        raise ValueError(f"{subject.name}: the logits are not finite for some images, so there is nothing to measure")
    n = len(images)
    psnr = {"psnr": round(-10 * math.log10(squared / n), 3)} if squared else {}
    return errors, {"loss": round(loss / n, 5), **psnr, "ssim": round(similar / n, 5)}


def evaluate(
    subject: Subject,
    split: Split,
    attack: Attack | None,
    threat_model: ThreatModel,
    *,
    dataset: str,
    crafted: Path,
    seed: int = 0,
    device: str = "cpu",
    command: str = "",
) -> Record:
    """One number: the error rate under one attack (``None`` for natural images) and one threat model."""
    started = time.monotonic()
    labels = split.labels
    target = threat_model.target(subject)
    attacked = target.by(attack) if attack is not None and threat_model.name != "oblivious" else None
    failures, flags = 0, red_flags(subject, split.batch(slice(0, 32), device)[0], attacked)
    natural = split.batch(slice(None))[0]
    if attack is None:
        images: Tensor = natural
    else:
        # The attack goes through the target; errors are counted through the transport, as in every other row.
        found = crafted_set(split, attack, target.by(attack), target.identity, crafted, seed, device)
        images, failures = found.images, int((~found.succeeded).sum())
        flags = (*flags, *found.provenance.get("flags", ()))
    answering = subject if subject.purify else dataclasses.replace(subject, purify=target.purify)
    errors, measures = measure(answering, images, natural, labels, device)
    settings: dict[str, Any] = {} if attack is None else dict(attack.settings)
    card = subject.defence_card
    return Record(
        dataset=dataset,
        classifier=subject.classifier_card.name.removeprefix(f"{dataset}-"),
        defence=subject.name,
        recipe=card.recipe if card.kind == "purifier" else "",
        checkpoint=card.name,
        run=card.run if card.kind == "purifier" else {},
        attack=attack.name if attack else "none",
        eps=attack.eps if attack else None,
        norm=attack.norm if attack else None,
        threat_model=threat_model.name,
        attacked=target.attacked,
        goal=attack.goal if attack else "none",
        iterations=int(settings["iterations"]) if "iterations" in settings else None,
        n=len(split),
        errors=errors,
        error_rate=100 * errors / len(split),
        ci95=wilson(errors, len(split)),
        attack_failures=failures,
        settings={**settings, **target.settings, "transport": subject.transport},
        seed=seed,
        sha256=_hashes(subject, split, attack),
        seconds=round(time.monotonic() - started, 1),
        device=device,
        versions=versions(attack),
        command=command,
        flags=flags,
        measures=measures,
    )


def _hashes(subject: Subject, split: Split, attack: Attack | None) -> dict[str, str]:
    """Of classifier, defence and data, and of the attack's code."""
    hashes = {"classifier": subject.classifier_card.sha256, "checkpoint": subject.defence_card.sha256}
    code = {"attack": attack.code_sha256} if attack else {}
    return {**hashes, "data": split.sha256(), **code}
