"""What lives as long as the process: made once, from the settings, and handed on in parts."""

from __future__ import annotations

import asyncio
import gc
from importlib import metadata

from .core.background import Background
from .core.batcher import Batcher
from .core.decoder import Decoder
from .core.engine import Engine
from .core.lifecycle import Lifecycle
from .core.limits import Limits
from .core.purifier import Purifier
from .gateway.downstream import Downstream
from .gateway.grpc import GrpcGateway
from .gateway.preprocessing import Preprocessing
from .gateway.rest import Gateway
from .settings import Settings
from .telemetry import tracing
from .telemetry.metrics import Metrics

VERSION = metadata.version("arn-purify")


class State:
    """The parts of one app, in the order in which they stand on each other. Only the composition root sees it whole."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics(VERSION)
        self.limits = Limits(settings)
        self.traces = tracing.start(VERSION)
        self.engine = Engine(
            settings.models, settings.classifier, settings.device, settings.precision, settings.threads
        )
        if not settings.forwards_classify:
            self.engine.warn_of_purifiers_without_classifier()
        self.decoder = Decoder(
            settings.decode_seconds, settings.deadline_seconds, settings.max_pixels, settings.max_body_bytes
        )
        self.batcher = Batcher(
            self.engine.run,
            settings.max_batch_images,
            settings.max_wait_seconds,
            settings.queue_images,
            on_batch=self.metrics.batch_images.observe,
            on_halved=self.metrics.batches_halved.inc,
            warm_up=self._warm_up,
            begin=self.engine.begin if self.engine.records else None,
        )
        self.lifecycle = Lifecycle(self.batcher, settings.drain_seconds)
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
        self.metrics.set_models(self.engine.cards(), self.engine.device)
        self.metrics.watch_queue(lambda: self.batcher.waiting_images)
        self.metrics.body_bytes.set_function(lambda: self.limits.memory.reserved_bytes)

    def _warm_up(self) -> None:
        self.engine.warm_up(self.settings.max_batch_images)
        # What lives now lives for good. Otherwise each full collection walks all of torch, 200 ms at a time.
        gc.collect()
        gc.freeze()

    async def start(self) -> None:
        """Start the device's thread, which warms up first, and what needs the event loop."""
        self.batcher.start()
        if self.settings.downstream_url:
            self.gateway.downstream = Downstream(self.settings.downstream_url, self.settings.downstream_timeout_seconds)
        if self.settings.downstream_grpc:
            self.grpc = GrpcGateway(self.gateway)
            await self.grpc.start()

    async def stop(self) -> None:
        """Finish what is queued and release everything."""
        self.lifecycle.draining = True
        await asyncio.to_thread(self.batcher.close, self.lifecycle.seconds_left)
        await asyncio.to_thread(self.decoder.close)
        self.background.cancel()
        if self.gateway.downstream:
            await self.gateway.downstream.close()
        if self.grpc:
            await self.grpc.stop()
        if self.traces:
            await asyncio.to_thread(tracing.stop, self.traces)
