"""The application: what lives as long as the process, and how it starts and stops."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from importlib import metadata
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .core.batcher import Batcher
from .core.decoder import Decoder
from .core.engine import Engine
from .edge.http import QUIET, RequestContext, refusal
from .edge.limits import Admission, Doors
from .errors import BodiesFull, Draining, EngineFailure, OutOfMemory, ServiceError, Warming
from .gateway import rest as gateway
from .gateway.downstream import Downstream
from .gateway.grpc import GrpcGateway
from .gateway.preprocessing import Preprocessing
from .routes import admin
from .routes.purify import router
from .settings import Settings
from .telemetry import tracing
from .telemetry.metrics import Metrics

logger = logging.getLogger("service")

_MOST_IN_BACKGROUND = 64

VERSION = metadata.version("arn-purify")


class Service:
    """Engine, queue, metrics and downstream client of one app, and whether it takes requests now."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics(VERSION)
        self.doors = Doors(settings, self.metrics)
        self.traces = tracing.start(VERSION)
        self.engine = Engine(
            settings.models, settings.classifier, settings.device, settings.precision, settings.threads
        )
        self.tell_models()
        self.decoder = Decoder(
            settings.decode_seconds, settings.deadline_seconds, settings.max_pixels, settings.max_body_bytes
        )
        self.batcher: Batcher | None = None
        self.downstream: Downstream | None = None
        self.preprocessing = Preprocessing(
            settings.input_name,
            settings.input_layout,
            settings.input_range,
            settings.input_mean,
            settings.input_std,
            settings.input_colour,
        )
        self.grpc: GrpcGateway | None = None
        self.draining = False
        self.in_flight = 0
        self._ends = math.inf
        self._background: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the device's thread, which warms up first, and the downstream client."""
        settings, engine = self.settings, self.engine

        def warm_up() -> None:
            engine.warm_up(settings.max_batch_images)
            # What lives now lives for good. Otherwise each full collection walks all of torch, 200 ms at a time.
            gc.collect()
            gc.freeze()

        self.batcher = Batcher(
            engine.run,
            settings.max_batch_images,
            settings.max_wait_seconds,
            settings.queue_images,
            on_batch=self.metrics.batch_images.observe,
            on_halved=self.metrics.batches_halved.inc,
            warm_up=warm_up,
        )
        self.metrics.watch_queue(lambda: self.batcher.waiting_images if self.batcher else 0)
        if settings.downstream_url:
            self.downstream = Downstream(settings.downstream_url, settings.downstream_timeout_seconds)
        if settings.downstream_grpc:
            self.grpc = GrpcGateway(self)
            await self.grpc.start()

    def tell_models(self) -> None:
        """Write down which purifiers are loaded."""
        self.metrics.model_info.clear()
        for card in self.engine.cards():
            self.metrics.model_info.labels(card.name, card.sha256, card.profile, self.engine.device).set(1)

    def background(self, work: Callable[[], Coroutine[Any, Any, None]], size: int) -> None:
        """Let something finish that no answer waits for and that holds a body of ``size`` bytes.

        Dropped where too much of it is under way already, or bodies leave no room for another.
        """

        async def with_room() -> None:
            try:
                with self.doors.room(size):
                    await work()
            except BodiesFull:
                self.metrics.shadowed.labels("dropped").inc()

        if len(self._background) >= _MOST_IN_BACKGROUND:
            self.metrics.shadowed.labels("dropped").inc()
            return
        task = asyncio.create_task(with_room())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def drain(self) -> None:
        """Refuse new work and wait for the accepted requests, at most ``drain_seconds``."""
        self.draining, self._ends = True, time.monotonic() + self.settings.drain_seconds
        while self.in_flight and time.monotonic() < self._ends:
            await asyncio.sleep(0.01)

    @property
    def seconds_left(self) -> float:
        """What remains of ``drain_seconds``, but one second at least."""
        return max(1.0, min(self.settings.drain_seconds, self._ends - time.monotonic()))

    async def stop(self) -> None:
        """Finish what is queued and release everything."""
        self.draining = True
        if self.batcher:
            await asyncio.to_thread(self.batcher.close, self.seconds_left)
        await asyncio.to_thread(self.decoder.close)
        for task in self._background:
            task.cancel()
        if self.downstream:
            await self.downstream.close()
        if self.grpc:
            await self.grpc.stop()
        if self.traces:
            await asyncio.to_thread(tracing.stop, self.traces)

    def ready_batcher(self) -> Batcher:
        """The queue, if the service takes work now.

        Raises:
            Draining: the service is shutting down.
            Warming, EngineFailure: as :meth:`warm_batcher` says.
        """
        if self.draining:
            raise Draining("the service is shutting down")
        return self.warm_batcher()

    def warm_batcher(self) -> Batcher:
        """The queue, for a request that was accepted, be it before a shutdown began.

        Raises:
            Warming: the models are not warm yet.
            EngineFailure: the device's thread is gone; only a restart helps.
        """
        if self.batcher is None or (self.batcher.alive and not self.batcher.warm):
            raise Warming("the models are being warmed up")
        if not self.batcher.alive:
            raise EngineFailure("the device's thread has stopped")
        return self.batcher


def create_app(settings: Settings | None = None) -> FastAPI:
    """The ASGI app. Checkpoints are read here, so that a broken one stops the start with its own message."""
    service = Service(settings or Settings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001 (ASGI's signature)
        await service.start()
        yield
        await service.stop()

    # Its documentation's scripts come from here, not from a CDN.
    build = FastAPIOffline if service.settings.docs else partial(FastAPI, openapi_url=None)
    app = build(
        title="ARN Purify",
        version=VERSION,
        summary="Removes adversarial noise from images before a classifier sees them.",
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry={
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": lambda scope: scope.get("path") in QUIET,
        },
    )
    app.state.service = service
    app.include_router(router)
    if service.settings.downstream_url:
        app.router.routes.extend(gateway.routes(service.settings.downstream_protocol))
    if service.settings.admin_token:
        app.router.routes.append(admin.route())
    app.add_middleware(Admission, doors=service.doors, settings=service.settings, metrics=service.metrics)
    # The last one added is the outermost.
    app.add_middleware(RequestContext, metrics=service.metrics, draining=lambda: service.draining)

    async def refuse(request: Request, error: Any) -> Response:
        return refusal(request.scope["path"], error, service.metrics)

    async def refuse_for_memory(request: Request, error: Exception) -> Response:
        logger.warning("no memory for a request", exc_info=error)
        return await refuse(request, OutOfMemory("no memory for this request now"))

    async def refuse_route(request: Request, error: Any) -> Response:  # noqa: ARG001 (Starlette's signature)
        code = error.detail.lower().replace(" ", "_")
        return JSONResponse({"error": error.detail, "code": code}, error.status_code, error.headers)

    app.add_exception_handler(ServiceError, refuse)
    app.add_exception_handler(MemoryError, refuse_for_memory)
    app.add_exception_handler(HTTPException, refuse_route)
    return app
