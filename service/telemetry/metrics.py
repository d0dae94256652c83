"""Prometheus metrics, in one registry an app. Names are fixed in ``docs/metrics.md``; label values are bounded."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.registry import Collector

from arn_purify.models import Card

from .. import errors

disable_created_metrics()  # type: ignore[no-untyped-call] # a second series beside each, which nothing here reads

# 15 microseconds upward by 1.5, to about 10 s: fine enough for stages that take less than a millisecond.
STAGE_BUCKETS = tuple(15e-6 * 1.5**i for i in range(34))
LINF_BUCKETS = (0.004, 0.008, 0.016, 0.031, 0.063, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0)
L2_BUCKETS = (0.1, 0.2, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 10, 12, 15, 20, 30)
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Every metric of one app.

    Args:
        version: the package's.
        workers: what a scrape of any worker answers, where several count together; None: this process alone.
    """

    def __init__(self, version: str, workers: Collector | None = None) -> None:
        self.registry = CollectorRegistry()
        self.scraped = self.registry
        self._together = workers is not None
        if workers is not None:
            self.scraped = CollectorRegistry()
            self.scraped.register(workers)
        self._watched: list[tuple[Gauge, Callable[[], float]]] = []
        self._models: list[tuple[str, ...]] = []
        counter = partial(Counter, registry=self.registry)
        # Only where several workers count together has a gauge a mode; those of a worker that has ended are removed.
        gauge = partial(Gauge, registry=self.registry, multiprocess_mode="livesum")
        info = partial(Gauge, registry=self.registry, multiprocess_mode="livemax")
        histogram = partial(Histogram, registry=self.registry)
        self.requests = counter("arn_requests", "Answered requests", ["route", "status"])
        self.request = histogram(
            "arn_request_seconds",
            "From a request's first byte to its answer's last",
            ["route"],
            buckets=REQUEST_BUCKETS,
        )
        self.rejected = counter("arn_rejected", "Requests refused, by reason", ["reason"])
        self.stage = histogram("arn_stage_seconds", "Time a request spent in a stage", ["stage"], buckets=STAGE_BUCKETS)
        self.batch_images = histogram(
            "arn_batch_images", "Images in one pass through the network", buckets=BATCH_BUCKETS
        )
        self.batches_halved = counter("arn_batches_halved", "Batches that did not fit into the device's memory")
        self.queue_images = gauge("arn_queue_images", "Images waiting for the device")
        self.body_bytes = gauge(
            "arn_body_bytes", "Bytes of bodies in memory or announced, and of large answers until they are taken"
        )
        self.residual_linf = histogram(
            "arn_residual_linf", "Largest change of a pixel, on [0, 1]", ["model"], buckets=LINF_BUCKETS
        )
        self.residual_l2 = histogram(
            "arn_residual_l2", "Euclidean norm of the change, on [0, 1]", ["model"], buckets=L2_BUCKETS
        )
        self.downstream_requests = counter(
            "arn_downstream_requests", "Answers of the model server, by status", ["status"]
        )
        self.bypassed = counter("arn_bypassed", "Requests forwarded unpurified, by reason", ["reason"])
        self.shadowed = counter("arn_shadowed", "Requests asked about with both images, by outcome", ["outcome"])
        self.label_flips = counter(
            "arn_label_flips", "Images whose label purification changed, where both were asked about", ["model"]
        )
        self.model_info = info("arn_model_info", "Loaded purifiers; always 1", ["model", "sha256", "profile", "device"])
        self.build_info = info("arn_build_info", "This build; always 1", ["version", "torch", "python"])
        self.build_info.labels(version, torch.__version__, platform.python_version()).set(1)
        ProcessCollector(registry=self.registry)
        # The series of labels, looked up once: the library's own look-up takes longer than to count.
        self._of_answer = cache(lambda route, status: (self.requests.labels(route, status), self.request.labels(route)))
        self._of_stage = cache(self.stage.labels)
        self._of_model = cache(lambda model: (self.residual_linf.labels(model), self.residual_l2.labels(model)))
        self._at_zero()

    def _at_zero(self) -> None:
        """Make the series of known labels: of one that first appears at 5, ``rate()`` would not see the five."""
        self.bypassed.labels("canary")
        for kind in errors.kinds():
            self.rejected.labels(kind.code)
            if issubclass(kind, errors.BYPASSABLE) and kind is not errors.Draining:
                self.bypassed.labels(kind.code)
            if issubclass(kind, errors.DownstreamError):
                self.downstream_requests.labels(kind.code)
        for outcome in ("agree", "disagree", "error", "unreadable", "dropped"):
            self.shadowed.labels(outcome)

    def answered(self, route: str, status: int | str, seconds: float) -> None:
        """A request to ``route``, which is a template, was answered after so long."""
        count, duration = self._of_answer(route, status)
        count.inc()
        duration.observe(seconds)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """A request spent so long in a stage."""
        self._of_stage(stage).observe(seconds)

    def observe_residuals(self, model: str, linf: Sequence[float], l2: Sequence[float]) -> None:
        """How far ``model`` moved each image, on [0, 1]."""
        largest, euclidean = self._of_model(model)
        for value in linf:
            largest.observe(value)
        for value in l2:
            euclidean.observe(value)

    def set_models(self, cards: Iterable[Card], device: str) -> None:
        """The purifiers that are loaded now."""
        if self._together:  # the client library cannot remove a label then; what is 0 is not shown
            for labels in self._models:
                self.model_info.labels(*labels).set(0)
        else:
            self.model_info.clear()
        self._models = [(card.name, card.sha256, card.profile, device) for card in cards]
        for labels in self._models:
            self.model_info.labels(*labels).set(1)
            self.label_flips.labels(labels[0])

    def watch(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """Read a gauge's value at each scrape; where several workers count together, at each :meth:`refresh`."""
        if self._together:
            self._watched.append((gauge, read))
        else:
            gauge.set_function(read)

    def refresh(self) -> None:
        """Tell the other workers what only this process can read."""
        for gauge, read in self._watched:
            gauge.set(read())
