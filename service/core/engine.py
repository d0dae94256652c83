"""The networks on their device. Everything here but construction runs on the one thread that owns the device."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from arn_purify import models
from arn_purify.models import Card
from arn_purify.models.folding import folded

from .attack import Attack, pgd
from .codec import Images
from .onednn import onednn
from .precision import PrecisionSetting, resolve, to_bf16

logger = logging.getLogger(__name__)

# Fewer pixel values than this (64 digits) are quicker on one thread than it takes to wake the others, which then spin
# for a while and take the cores from the event loop.
_VALUES_WORTH_THREADS = 64 * 28 * 28
# A batch of more requests leaves a core to the event loop, which reads and answers their likes meanwhile.
_FEW_REQUESTS = 4
# Images of a size that nobody evaluated go through the network so many pixel values at a time.
_VALUES_A_PASS = 3 * 2**20
# What a purifier of any size is warmed up with, and timed.
_OF_ANY_SIZE = (3, 32, 32)
# A single image that takes no longer may be purified on the event loop while nobody else waits for it.
_INLINE_SECONDS = 0.005
# What torch says on a CPU, in CUDA's libraries, and inside a traced graph, which forgets the exception's class.
_OUT_OF_MEMORY = re.compile(r"you tried to allocate|out of memory|ALLOC_FAILED")


@dataclasses.dataclass(frozen=True)
class Work:
    """What to do with a batch; entries travel together only when they ask for the same."""

    model: str
    classify: bool = False
    compare: bool = False
    attack: Attack | None = None


@dataclasses.dataclass(frozen=True)
class Purified:
    """A batch's result: ``images`` in the dtype and layout they came in, one residual norm an image on [0, 1].

    ``probabilities`` ``(N, classes)`` of the purified images where classification was asked for, ``unpurified`` of the
    images as they came where a comparison was. ``sha256`` and ``profile`` are those of the checkpoint that did it.
    """

    images: Images
    linf: NDArray[np.float32]
    l2: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None = None
    unpurified: NDArray[np.float32] | None = None
    sha256: str = ""
    profile: str = ""

    def __len__(self) -> int:
        return len(self.images)

    @staticmethod
    def join(pieces: Sequence[Purified]) -> Purified:
        """Pieces of one entry, put together again."""

        def joined(name: str) -> Any:
            return np.concatenate([getattr(piece, name) for piece in pieces])

        return dataclasses.replace(pieces[0], **{name: joined(name) for name in pieces[0]._columns()})

    def part(self, start: int, stop: int) -> Purified:
        """Images ``start`` to ``stop``."""
        return dataclasses.replace(self, **{name: column[start:stop] for name, column in self._columns().items()})

    def _columns(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}


@contextmanager
def _telling_of_memory() -> Iterator[None]:
    """Torch's ways to say that memory does not suffice as Python's own, which numpy says too."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        raise MemoryError(str(error).strip().splitlines()[-1]) from error


def resolve_device(device: str) -> str:
    """``auto`` is CUDA where there is one."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


class Engine:
    """Purifiers by name, in the order they were asked for, and the embedded classifiers by what they take."""

    def __init__(
        self,
        names: tuple[str, ...],
        classifiers: tuple[str, ...],
        device: str,
        precision: PrecisionSetting,
        threads: int = 0,
    ) -> None:
        self._threads = threads or torch.get_num_threads()
        self._steps: dict[tuple[str, torch.dtype, bool], nn.Module] = {}
        self._inline: set[str] = set()
        self.device = resolve_device(device)
        self.precision = resolve(precision, self.device)
        self.purifiers = {
            models.card_of(model).name: model for model in (_load(name, "purifier", self.device) for name in names)
        }
        if len(self.purifiers) < len(names):
            raise ValueError(f"two of the models {', '.join(names)} have the same name")
        self.classifiers = {
            models.card_of(model).input_shape: model
            for model in (_load(name, "classifier", self.device) for name in classifiers)
        }
        if len(self.classifiers) < len(classifiers):
            raise ValueError(f"two of the classifiers {', '.join(classifiers)} take images of the same size")

    def card(self, name: str) -> Card:
        """The card of a loaded purifier."""
        return models.card_of(self.purifiers[name])

    def cards(self) -> Iterator[Card]:
        """The cards of the loaded purifiers, in the order they were asked for."""
        return map(self.card, self.purifiers)

    def classifier_cards(self) -> Iterator[Card]:
        """The cards of the embedded classifiers, in the order they were asked for."""
        return map(models.card_of, self.classifiers.values())

    def warm_up(self, max_batch_images: int) -> None:
        """Run every purifier once at a single image and once at a full batch, so that no request pays for it."""
        for name in self.purifiers:
            card = self.card(name)
            channels, height, width = card.input_shape if all(card.input_shape) else _OF_ANY_SIZE
            classify = (channels, height, width) in self.classifiers
            for count in (1, 2, max_batch_images):
                self.run(Work(name, classify, classify), np.zeros((count, height, width, channels), np.uint8))
                self.run(Work(name), np.zeros((count, channels, height, width), np.float32))
            seconds = math.inf
            for _ in range(5):  # the best of some, as a candidate is warmed up beside one that serves
                started = time.perf_counter()
                self.run(Work(name, classify, classify), np.zeros((1, height, width, channels), np.uint8))
                seconds = min(seconds, time.perf_counter() - started)
            if self.device == "cpu" and seconds < _INLINE_SECONDS:
                self._inline.add(name)

    def runs_inline(self, work: Work, images: Images) -> bool:
        """Whether this takes so few milliseconds that the event loop may run it itself."""
        known = self._evaluated(work.model, images)
        timed = any(self.card(work.model).input_shape) or images.size <= math.prod(_OF_ANY_SIZE)
        return len(images) == 1 and work.attack is None and work.model in self._inline and known and timed

    def _evaluated(self, model: str, images: Images | Tensor) -> bool:
        """Whether ``images`` are of the size that the purifier was evaluated, warmed up and traced at."""
        channels, height, width = self.card(model).input_shape
        either = ((channels, height, width), (height, width, channels))
        return not height or tuple(images.shape[1:]) in either

    def candidate(self, name: str, path: Path) -> Engine:
        """The checkpoint at ``path`` in an engine of its own, under the name of the purifier that it may replace.

        Raises:
            FileNotFoundError, CheckpointError: as ``arn_purify.load`` says, or not a purifier.
        """
        model = _load(str(path), "purifier", self.device)
        model.card = dataclasses.replace(models.card_of(model), name=name)  # type: ignore[assignment]
        other = copy.copy(self)
        other.purifiers, other._steps, other._inline = {name: model}, {}, set()
        return other

    def adopt(self, candidate: Engine) -> None:
        """Take a candidate's purifier, with its fast path, in the place of the one of its name."""
        kept = {key: step for key, step in self._steps.items() if key[0] not in candidate.purifiers}
        self.purifiers, self._steps = self.purifiers | candidate.purifiers, kept | candidate._steps
        self._inline = self._inline - candidate.purifiers.keys() | candidate._inline

    @_telling_of_memory()
    def run(self, work: Work, images: Images, requests: int = 1) -> Purified:
        """Purify a batch, uint8 ``(N, H, W, C)`` or float32 ``(N, C, H, W)`` in [0, 1], of so many requests.

        Raises:
            MemoryError: more than the device's memory holds.
        """
        most = max(1, _VALUES_A_PASS // math.prod(images.shape[1:]))
        if len(images) > most and not self._evaluated(work.model, images):
            parts = range(0, len(images), most)
            return Purified.join([self.run(work, images[start : start + most], requests) for start in parts])
        threads = self._threads if requests <= _FEW_REQUESTS else self._threads - 1
        torch.set_num_threads(max(1, threads) if images.size >= _VALUES_WORTH_THREADS else 1)
        if work.attack:
            return self._attacked(work.model, work.attack, images)
        with torch.inference_mode():
            # A tensor shares the array's memory; torch asks that it be writable, which a request's bytes are not.
            given = torch.from_numpy(images if images.flags.writeable else images.copy()).to(self.device)
            x, purified, answer, linf, l2 = self._step(work.model, given)(given)
            probabilities = self._probabilities(purified) if work.classify else None
            unpurified = self._probabilities(x) if work.compare else None
            norms = linf.cpu().numpy(), l2.cpu().numpy()
            card = self.card(work.model)
            return Purified(answer.cpu().numpy(), *norms, probabilities, unpurified, card.sha256, card.profile)

    def _attacked(self, model: str, attack: Attack, images: Images) -> Purified:
        """Adversarial images in the place of purified ones, uint8 ``(N, H, W, C)``, inside the budget as rounded."""
        x = torch.from_numpy(images.copy()).to(self.device).permute(0, 3, 1, 2).float() / 255
        classifier = self._classifier_of(x)
        with torch.no_grad():
            labels = classifier(x).argmax(1)
        target = nn.Sequential(self.purifiers[model], classifier) if attack.through_purifier else classifier
        levels, most = x.mul(255).round(), math.floor(attack.eps * 255 + 1e-6)
        adversarial = pgd(target, x, labels, attack.eps).mul(255).round().clamp(levels - most, levels + most)
        residual = (adversarial / 255 - x).flatten(1)
        answer = adversarial.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return Purified(answer, residual.abs().amax(1).cpu().numpy(), residual.norm(dim=1).cpu().numpy())

    def _step(self, model: str, given: Tensor) -> nn.Module:
        """The whole pass for a model and a dtype, compiled at its first use; images of another size run eagerly."""
        key = (model, given.dtype, self._evaluated(model, given))
        if key not in self._steps:
            network = (to_bf16 if self.precision == "bf16" else folded)(self.purifiers[model])
            step = _Step(network.to(memory_format=torch.channels_last), given.dtype == torch.uint8).eval()  # type: ignore[call-overload]
            self._steps[key] = _traced(step, given) if self.device == "cpu" and key[2] else step
        return self._steps[key]

    def _probabilities(self, x: Tensor) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = self._classifier_of(x)(x).softmax(1).cpu().numpy()
        return probabilities

    def _classifier_of(self, x: Tensor) -> nn.Module:
        channels, height, width = x.shape[1:]
        return self.classifiers[channels, height, width]


class _Step(nn.Module):
    """Everything between two arrays: scaling, the network, rounding, residual norms."""

    def __init__(self, purifier: nn.Module, integral: bool) -> None:
        super().__init__()
        self.purifier, self.integral = purifier, integral

    def scaled(self, given: Tensor) -> Tensor:
        """The network's input on [0, 1], NCHW by shape, in the order of memory that convolutions are fastest in."""
        x = given.permute(0, 3, 1, 2).float() / 255 if self.integral else given
        return x.contiguous(memory_format=torch.channels_last)

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """uint8 NHWC or float32 NCHW to input, purified image (both NCHW on [0, 1]), answer, l-inf and l2 norms."""
        x = self.scaled(given)
        purified = self.purifier(x).float().clamp(0, 1)
        answer = purified.contiguous()
        if self.integral:  # what is sent is what is measured and classified
            levels = purified.mul(255).round()
            purified = levels / 255
            answer = levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        residual = (purified - x).flatten(1)
        return x, purified, answer, residual.abs().amax(1), torch.linalg.vector_norm(residual, 2, dim=1)


def _traced(step: _Step, example: Tensor) -> nn.Module:
    """One graph that runs without Python, and so without the interpreter's lock that the event loop needs meanwhile.

    Where it cannot be had, or disagrees with the module on another batch size, the module itself.
    """
    other = torch.rand(3, *example.shape[1:]).mul(255 if example.dtype == torch.uint8 else 1).to(example.dtype)
    try:
        fast = _Step(onednn(step.purifier, step.scaled(example)), step.integral).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the shape checks of Arn.forward are the same for every batch
            graph: nn.Module = torch.jit.trace(fast, example, check_trace=False)
        for ours, theirs in zip(graph(other), step(other), strict=True):
            level = 1 if ours.dtype == torch.uint8 else 1 / 255
            torch.testing.assert_close(ours.float(), theirs.float(), atol=1.01 * level, rtol=1e-3)
    except Exception:
        # Operators that are torch's own may change; and where warnings are errors, the tracer's may become one after
        # all, since the filters belong to every thread. The plain module serves as well, more slowly.
        logger.warning("the network cannot be traced and runs eagerly", exc_info=True)
        return step
    return graph


def _load(name: str, kind: str, device: str) -> nn.Module:
    model = models.load(name, device)
    card = models.card_of(model)
    if card.kind != kind:
        raise models.CheckpointError(f"{name} is a {card.kind}, not a {kind}")
    return model.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
