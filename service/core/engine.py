"""The networks on their device. Everything here but construction runs on the one thread that owns the device."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
import math
import re
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from arn_purify import models
from arn_purify.models import Card
from arn_purify.models.inference import folded

from ..errors import ServiceError
from .attack import Attack, pgd
from .buckets import Backend, Buckets, Landed, Lane
from .codec import Images
from .cuda import Cuda
from .memory import raising_memory_errors
from .precision import PrecisionSetting, resolve, to_bf16
from .selection import choose_classifier, is_classifier_of
from .step import Step, traced, with_numbers

logger = logging.getLogger(__name__)

# With fewer pixel values (64 digits) one thread is faster: the others would take longer to wake than to compute, and
# then spin and take the cores from the event loop.
_VALUES_WORTH_THREADS = 64 * 28 * 28
# A batch of more requests leaves one core to the event loop, which reads and answers other requests meanwhile. It would
# idle half of the time beside images of more values than this: their networks cost more than all the rest.
_FEW_REQUESTS = 4
_VALUES_OF_SMALL_IMAGE = 3 * 64 * 64
# Large images go through the network in passes of so many pixel values: 20 of 224x224x3.
_VALUES_A_PASS = 3 * 2**20
# What a model's name may consist of, since X-ARN-Model holds it.
_IN_A_HEADER = re.compile(r"[ -~\xa0-\xff]+")
# The size at which a purifier of any size is warmed up and timed.
_OF_ANY_SIZE = (3, 32, 32)
# A single image that takes no longer may be purified on the event loop if no other request is under way.
_INLINE_SECONDS = 0.005


@dataclasses.dataclass(frozen=True)
class Work:
    """What to do with a batch; only entries with equal work share one."""

    model: str
    classify: bool = False
    compare: bool = False
    attack: Attack | None = None


@dataclasses.dataclass(frozen=True)
class Purified:
    """A batch's result: ``images`` in the dtype and layout of the input, and two residual norms an image, on [0, 1].

    ``probabilities`` ``(N, classes)`` are the classifier's for the purified images, with ``Work.classify``;
    ``unpurified`` those for the input, with ``Work.compare``. ``sha256`` and ``profile`` are the checkpoint's;
    ``classifier`` is the name of the one that was asked.
    """

    images: Images
    linf: NDArray[np.float32]
    l2: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None = None
    unpurified: NDArray[np.float32] | None = None
    sha256: str = ""
    profile: str = ""
    classifier: str = ""

    def __len__(self) -> int:
        return len(self.images)

    @staticmethod
    def join(pieces: Sequence[Purified]) -> Purified:
        """Pieces of one entry, concatenated."""
        if len(pieces) == 1:
            return pieces[0]

        def joined(name: str) -> Any:
            return np.concatenate([getattr(piece, name) for piece in pieces])

        return dataclasses.replace(pieces[0], **{name: joined(name) for name in pieces[0]._columns()})

    def part(self, start: int, stop: int) -> Purified:
        """Images ``start`` to ``stop``."""
        if not start and stop >= len(self):
            return self

        def cut(column: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
            return None if column is None else column[start:stop]

        columns = cut(self.probabilities), cut(self.unpurified)
        norms = self.linf[start:stop], self.l2[start:stop]
        return Purified(self.images[start:stop], *norms, *columns, self.sha256, self.profile, self.classifier)

    def split(self, counts: Iterable[int]) -> list[Purified]:
        """The first so many images, the next so many, and so on."""
        ends = list(itertools.accumulate(counts, initial=0))
        return [self.part(start, stop) for start, stop in itertools.pairwise(ends)]

    def _columns(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}


def stacked(parts: Sequence[Images]) -> Images:
    """The images of several entries as one batch."""
    return parts[0] if len(parts) == 1 else np.concatenate([*parts])


def _images_a_pass(shape: tuple[int, ...]) -> int:
    return max(1, _VALUES_A_PASS // math.prod(shape))


def resolve_device(device: str) -> str:
    """``auto`` is CUDA where there is one."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


class Engine:
    """Purifiers and embedded classifiers by name, in the order of the settings.

    ``backend`` makes what records the batches of a purifier at warm-up (:mod:`.buckets`); without one they are CUDA
    graphs on CUDA, and on a CPU nothing is recorded.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        classifiers: tuple[str, ...],
        device: str,
        precision: PrecisionSetting,
        threads: int = 0,
        backend: Callable[[], Backend] | None = None,
    ) -> None:
        self.threads = threads or torch.get_num_threads()
        self._steps: dict[tuple[str, torch.dtype, bool], nn.Module] = {}
        self._inline: set[str] = set()
        self.device = resolve_device(device)
        self.precision = resolve(precision, self.device)
        self._backend = backend or (Cuda if self.device == "cuda" else None)
        self._buckets: dict[str, Buckets] = {}
        if self.device == "cuda":  # fp32 keeps its 23 bits; in bf16 the outer convolutions may do with TF32's 10
            torch.backends.cudnn.allow_tf32 = self.precision == "bf16"
        self.purifiers = {
            models.card_of(model).name: model for model in (_load(name, "purifier", self.device) for name in names)
        }
        if len(self.purifiers) < len(names):
            raise ValueError(f"two of the models {', '.join(names)} have the same name")
        self.classifiers = {
            models.card_of(model).name: model
            for model in (_load(name, "classifier", self.device) for name in classifiers)
        }
        kinds = {(card.dataset, card.class_names, card.input_shape) for card in self.classifier_cards()}
        if len(kinds) < len(classifiers):
            raise ValueError(f"two of the classifiers {', '.join(classifiers)} are of one data set and size")

    def card(self, name: str) -> Card:
        """The card of a loaded purifier."""
        return models.card_of(self.purifiers[name])

    def cards(self) -> Iterator[Card]:
        """The cards of the loaded purifiers, in the order of the settings."""
        return map(self.card, self.purifiers)

    def classifier_cards(self) -> Iterator[Card]:
        """The cards of the embedded classifiers, in the order of the settings."""
        return map(models.card_of, self.classifiers.values())

    def classifier_of(self, purifier: str, shape: tuple[int, ...]) -> Card:
        """The card of the purifier's classifier for (C, H, W); raises as :func:`choose_classifier` does."""
        return choose_classifier(self.classifier_cards(), self.card(purifier), shape)

    def warn_of_purifiers_without_classifier(self) -> None:
        """A line in the log for each purifier whose images /classify will refuse."""
        classifiers = list(self.classifier_cards())
        for card in self.cards() if classifiers else ():
            if not any(is_classifier_of(classifier, card) for classifier in classifiers):
                names = ", ".join(f"{classifier.name} ({classifier.dataset})" for classifier in classifiers)
                logger.warning(
                    "/classify refuses images of %s: no classifier of %s is loaded, only %s",
                    card.name, card.dataset, names,
                )  # fmt: skip

    def warm_up(self, max_batch_images: int) -> None:
        """Run every purifier once at a single image and once at a full batch, so that no request has to wait for it."""
        for name in self.purifiers:
            card = self.card(name)
            channels, height, width = card.input_shape if all(card.input_shape) else _OF_ANY_SIZE
            classify = self._classifier(name, (channels, height, width)) is not None
            if self._backend:
                self._record(name, (channels, height, width), max_batch_images)
            for count in (1, 2, min(max_batch_images, _images_a_pass((channels, height, width)))):
                self.run(Work(name, classify, classify), np.zeros((count, height, width, channels), np.uint8))
                self.run(Work(name), np.zeros((count, channels, height, width), np.float32))
            seconds = math.inf
            for _ in range(5):  # the best of five: a candidate is warmed up beside an engine that serves
                started = time.perf_counter()
                self.run(Work(name, classify, classify), np.zeros((1, height, width, channels), np.uint8))
                seconds = min(seconds, time.perf_counter() - started)
            if self.device == "cpu" and seconds < _INLINE_SECONDS:
                self._inline.add(name)

    def runs_inline(self, work: Work, images: Images) -> bool:
        """Whether this takes so few milliseconds that it may run on the event loop."""
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
        other.purifiers, other._steps, other._buckets, other._inline = {name: model}, {}, {}, set()
        return other

    def adopt(self, candidate: Engine) -> None:
        """Replace the purifier of the candidate's name by the candidate's, with its compiled graph and recordings."""
        kept = {key: step for key, step in self._steps.items() if key[0] not in candidate.purifiers}
        self.purifiers, self._steps = self.purifiers | candidate.purifiers, kept | candidate._steps
        self._buckets = {name: b for name, b in self._buckets.items() if name not in candidate.purifiers}
        if self.device == "cuda":  # what the old graphs alone have used
            torch.cuda.empty_cache()
        self._buckets |= candidate._buckets
        self._inline = self._inline - candidate.purifiers.keys() | candidate._inline

    @property
    def lost(self) -> bool:
        """Whether CUDA has failed in a way that lasts until the process ends, as after an illegal memory access.

        Every call of CUDA fails then. After most other failures the next batch is purified as usual.
        """
        if self.device != "cuda":
            return False
        try:
            torch.cuda.current_stream().synchronize()
        except torch.AcceleratorError:
            return True
        return False

    @property
    def records(self) -> bool:
        """Whether batches are recorded at warm-up, so that :meth:`begin` is of use."""
        return self._backend is not None

    def recorded(self, name: str) -> int:
        """Images of a purifier's largest recorded batch; 0 where it runs eagerly."""
        return self._buckets[name].largest if name in self._buckets else 0

    @raising_memory_errors()
    def begin(self, work: Work, images: Images) -> Callable[[], Purified] | None:
        """Start a batch that was recorded and return a call that waits for it; None where :meth:`run` has to do it.

        The images are copied at once. Results may be taken in any order.
        """
        buckets, key = self._buckets.get(work.model), (images.dtype, work.classify, work.compare)
        if buckets is None or work.attack or not buckets.takes(key, images):
            return None
        card, most = self.card(work.model), buckets.lanes[key].largest
        channels_first = (images.shape[-1], *images.shape[1:-1])  # only uint8 is recorded with a classifier
        classifier = (self._classifier(work.model, channels_first) or "") if work.classify else ""
        parts = [buckets.begin(key, images[start : start + most]) for start in range(0, len(images), most)]

        def finish() -> Purified:
            return Purified.join([_purified(part(), work, card, classifier) for part in parts])

        return finish

    @raising_memory_errors()
    def run(self, work: Work, images: Images, requests: int = 1) -> Purified:
        """Purify a batch, uint8 ``(N, H, W, C)`` or float32 ``(N, C, H, W)`` in [0, 1], from so many requests.

        Raises:
            MemoryError: the batch does not fit into the device's memory.
        """
        if self._buckets and (finish := self.begin(work, images)):
            return finish()
        most = _images_a_pass(images.shape[1:])
        if len(images) > most and any(self.card(work.model).input_shape):  # identity needs no memory of its own
            parts = range(0, len(images), most)
            return Purified.join([self.run(work, images[start : start + most], requests) for start in parts])
        leave_one = requests > _FEW_REQUESTS and images[0].size <= _VALUES_OF_SMALL_IMAGE
        threads = self.threads - 1 if leave_one else self.threads
        torch.set_num_threads(max(1, threads) if images.size >= _VALUES_WORTH_THREADS else 1)
        if work.attack:
            return self._attacked(work.model, work.attack, images)
        with torch.inference_mode():
            # A tensor shares the array's memory, which torch wants writable and a request's bytes are not.
            given = torch.from_numpy(images if images.flags.writeable else images.copy()).to(self.device)
            x, purified, answer, linf, l2 = self._step(work.model, given)(given)
            classifier = self._classifier(work.model, tuple(x.shape[1:])) if work.classify else None
            probabilities = self._probabilities(classifier, purified) if classifier else None
            unpurified = self._probabilities(classifier, x) if classifier and work.compare else None
            norms = linf.cpu().numpy(), l2.cpu().numpy()
            card = self.card(work.model)
            of = card.sha256, card.profile, classifier or ""
            return Purified(answer.cpu().numpy(), *norms, probabilities, unpurified, *of)

    def _attacked(self, model: str, attack: Attack, images: Images) -> Purified:
        """Adversarial images instead of purified ones, uint8 ``(N, H, W, C)``, within the budget after rounding."""
        x = torch.from_numpy(images.copy()).to(self.device).permute(0, 3, 1, 2).float() / 255
        classifier = self.classifiers[self.classifier_of(model, tuple(x.shape[1:])).name]
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
            step = Step(network.to(memory_format=torch.channels_last), given.dtype == torch.uint8).eval()  # type: ignore[call-overload]
            self._steps[key] = traced(step, given) if self.device == "cpu" and key[2] else step
        return self._steps[key]

    def _record(self, name: str, shape: tuple[int, int, int], max_batch_images: int) -> None:
        """Record the purifier's usual batches of images ``shape`` (C, H, W); where that fails, they run eagerly."""
        assert self._backend
        channels, height, width = shape
        pixels, values = np.zeros((1, height, width, channels), np.uint8), np.zeros((1, *shape), np.float32)
        asked = self._classifier(name, shape)
        kinds: list[tuple[Images, bool, bool]] = [(pixels, False, False), (values, False, False)]
        kinds += [(pixels, True, False), (pixels, True, True)] if asked else []
        lanes: dict[Hashable, Lane] = {}
        try:
            with raising_memory_errors():
                for images, classify, compare in kinds:
                    given = torch.from_numpy(images).to(self.device)
                    with torch.inference_mode():
                        step = self._step(name, given)
                        compute = with_numbers(step, self.classifiers[asked] if classify and asked else None, compare)
                        numbers = compute(given)[1].shape[1]
                    lanes[images.dtype, classify, compare] = Lane(compute, images.shape[1:], given.dtype, numbers)
                self._buckets[name] = Buckets(self._backend(), lanes, max_batch_images)
        except (RuntimeError, MemoryError):
            logger.warning("%s: its batches cannot be recorded and run eagerly", name, exc_info=True)

    def _classifier(self, purifier: str, shape: tuple[int, ...]) -> str | None:
        """The name of the purifier's classifier; None where it has none, perhaps since a swap."""
        try:
            return self.classifier_of(purifier, shape).name
        except ServiceError:
            return None

    def _probabilities(self, classifier: str, x: Tensor) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = self.classifiers[classifier](x).softmax(1).cpu().numpy()
        return probabilities


def _purified(landed: Landed, work: Work, card: Card, classifier: str) -> Purified:
    """The result of a batch that :func:`.step.with_numbers` did."""
    images, numbers = landed
    asked = np.split(numbers[:, 2:], 1 + work.compare, 1) if work.classify else []
    probabilities, unpurified, *_ = [*asked, None, None]
    norms = numbers[:, 0], numbers[:, 1]
    return Purified(images, *norms, probabilities, unpurified, card.sha256, card.profile, classifier)


def _load(name: str, kind: str, device: str) -> nn.Module:
    model = models.load(name, device)
    card = models.card_of(model)
    if card.kind != kind:
        raise models.CheckpointError(f"{name} is a {card.kind}, not a {kind}")
    if not _IN_A_HEADER.fullmatch(card.name):
        raise models.CheckpointError(f"{name}: no header can hold its name {card.name!r}; export it under another")
    return model.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
