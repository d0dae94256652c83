"""What lives as long as the process: made once, from the settings, and handed on in parts."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import suppress
from importlib import metadata

from .core.background import Background
from .core.batcher import Batcher
from .core.decoder import Decoder
from .core.engine import Engine
from .core.lifecycle import Lifecycle
from .core.limits import Limits
from .core.purifier import Purifier
from .errors import EngineFailure, Warming
from .gateway.downstream import Downstream
from .gateway.grpc import GrpcGateway
from .gateway.preprocessing import Preprocessing
from .gateway.rest import Gateway
from .settings import Settings
from .telemetry import tracing
from .telemetry.metrics import Metrics
from .telemetry.together import Together
from .workers.siblings import Siblings
from .workers.table import Worker

logger = logging.getLogger("service")

VERSION = metadata.version("arn-purify")


class State:
    """The parts of one app, in the order in which they stand on each other. Only the composition root sees it whole."""

    def __init__(self, settings: Settings, worker: Worker | None = None) -> None:
        self.settings, self.worker = settings, worker
        self.metrics = Metrics(VERSION, Together(worker) if worker else None)
        self.limits = Limits(settings)
        self.traces = tracing.start(VERSION)
        self.engine = Engine(
            settings.models, settings.classifier, settings.device, settings.precision, settings.threads
        )
        if worker:
            worker.hold_swaps()
            for name, path in worker.swapped().items():
                self.engine.adopt(self.engine.candidate(name, path))
        if not settings.forwards_classify and (worker is None or worker.speaks):
            self.engine.warn_of_purifiers_without_classifier()
        self.decoder = Decoder(
            settings.decode_seconds,
            settings.deadline_seconds,
            settings.max_pixels,
            settings.max_body_bytes,
            worker.count if worker else 1,
        )
        self.batcher = Batcher(
            self.engine.run,
            settings.max_batch_images,
            settings.max_wait_seconds,
            settings.queue_images,
            on_batch=self.metrics.batch_images.observe,
            on_halved=self.metrics.batches_halved.inc,
            warm_up=self._warm_up,
            under_way=lambda: self.lifecycle.in_flight,
            begin=self.engine.begin if self.engine.records else None,
            is_lost=lambda: self.engine.lost,
        )
        check_workers = worker.check_all if worker else lambda: None
        self.lifecycle = Lifecycle(self.batcher, settings.drain_seconds, check_workers)
        self.purifier = Purifier(
            settings, self.engine, self.batcher, self.decoder, self.lifecycle, self.metrics, tracing.stage
        )
        self.background = Background(self.limits.memory, lambda: self.metrics.shadowed.labels("dropped").inc())
        preprocessing = Preprocessing(
            settings.input_name,
            settings.input_layout,
            settings.input_range,
            settings.input_mean,
            settings.input_std,
            settings.input_colour,
        )
        self.gateway = Gateway(
            settings, self.purifier, self.lifecycle, self.limits, self.metrics, self.background, preprocessing
        )
        self.grpc: GrpcGateway | None = None
        self.failure: Exception | None = None
        """Why it could not start."""
        self._announcement: asyncio.Task[None] | None = None
        self.siblings = Siblings(worker) if worker and settings.admin_token else None
        self.metrics.set_models(self.engine.cards(), self.engine.device)
        self.metrics.watch(self.metrics.queue_images, lambda: self.batcher.waiting_images)
        self.metrics.watch(self.metrics.body_bytes, lambda: self.limits.memory.reserved_bytes)

    def _warm_up(self) -> None:
        self.engine.warm_up(self.settings.max_batch_images)
        # What lives now lives for good. Otherwise each full collection walks all of torch, 200 ms at a time.
        gc.collect()
        gc.freeze()

    async def start(self) -> None:
        """Start the device's thread, which warms up first, and what needs the event loop; all of it or nothing."""
        try:
            await self._start()
        except Exception as error:
            self.failure = error
            # An interpreter that ends while the thread computes may crash.
            await asyncio.to_thread(self.batcher.close, None)
            await self.stop()
            raise

    async def _start(self) -> None:
        self.batcher.start()
        if self.worker is None or self.worker.speaks:
            self._announcement = asyncio.create_task(self._announce())
        if self.worker and self.worker.successor:  # the others serve meanwhile
            await self._until_warm()
        if self.siblings:
            await self.siblings.start()
        if self.settings.downstream_url:
            self.gateway.downstream = Downstream(self.settings.downstream_url, self.settings.downstream_timeout_seconds)
        if self.settings.downstream_grpc:
            self.grpc = GrpcGateway(self.gateway, shares_port=self.worker is not None)
            await self.grpc.start()

    async def _announce(self) -> None:
        """Log what serves, once it does."""
        with suppress(EngineFailure):
            await self._until_warm()
            engine = self.engine
            purifiers, classifiers = (
                ", ".join(f"{card.name} {card.sha256[:12]}".strip() for card in cards) or "none"
                for cards in (engine.cards(), engine.classifier_cards())
            )
            text = "ready: version %s, purifiers %s, classifiers %s, on %s in %s, %d threads"
            logger.info(text, VERSION, purifiers, classifiers, engine.device, engine.precision, engine.threads)

    async def _until_warm(self) -> None:
        while True:
            try:
                self.batcher.check_warm()
            except Warming:
                await asyncio.sleep(0.05)
            else:
                return

    async def stop(self) -> None:
        """Finish what is queued and release everything."""
        self.lifecycle.draining = True
        if self._announcement:
            self._announcement.cancel()
        if self.siblings:
            self.siblings.stop()
        await asyncio.to_thread(self.batcher.close, self.lifecycle.seconds_left)
        await asyncio.to_thread(self.decoder.close)
        self.background.cancel()
        if self.gateway.downstream:
            await self.gateway.downstream.close()
        if self.grpc:
            await self.grpc.stop()
        if self.traces:
            await asyncio.to_thread(tracing.stop, self.traces)
        gc.unfreeze()  # a process that goes on may collect what it was
