"""The application: routes and middleware over the parts of :mod:`arn_purify.service.state`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from .edge.admission import Admission
from .edge.hot import Handlers, HotRoutes
from .edge.http import QUIET, Refusal, RequestContext, error_body, refusal, route_path
from .errors import OutOfMemory, ServiceError
from .gateway import rest
from .routes import admin, classify, page, purify, status
from .routes.openapi import key_of, with_heads
from .settings import Settings
from .state import VERSION, State
from .workers.table import Worker

logger = logging.getLogger("service")

_V1 = "/v1"


def create_app(settings: Settings | None = None, worker: Worker | None = None) -> FastAPI:
    """The ASGI app. Checkpoints are read here, so that a broken one stops the start with its own message.

    Args:
        settings: None reads them from the environment.
        worker: the process's place among those that share the port.
    """
    settings = settings or Settings()
    state = State(settings, worker)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001 (ASGI's signature)
        await state.start()
        yield
        await state.stop()

    # FastAPIOffline serves the documentation's scripts itself, without a CDN.
    build = FastAPIOffline if settings.docs else partial(FastAPI, openapi_url=None)
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
            "exclude": lambda scope: str(scope.get("path")).removeprefix(settings.root_path) in QUIET,
        },
    )
    app.state.service = state
    handlers = _error_handlers(state)
    # Each is added around those before it.
    app.add_middleware(HotRoutes, routes=_add_routes(app, state), handlers=handlers)
    app.add_middleware(Admission, limits=state.limits, settings=settings, metrics=state.metrics)
    if settings.cors_origins:  # outside of it: a browser asks first without the key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "PUT"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    app.add_middleware(
        RequestContext,
        metrics=state.metrics,
        draining=lambda: state.lifecycle.draining,
        root_path=settings.root_path,
        # A proxy that takes its prefix away may ask for a route of the same name.
        bare=not _serves(app, settings.root_path),
    )
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
    return app


def _add_routes(app: FastAPI, state: State) -> list[tuple[str, Route]]:
    """Add every route; returns those that take images, which are asked often, with their paths."""
    settings, purifier = state.settings, state.purifier
    with_heads(app.router)  # of the documentation
    often: list[tuple[str, Route]] = []
    for router in (purify.router(settings, purifier), classify.router(settings, purifier, state.gateway)):
        app.include_router(with_heads(router), dependencies=key_of(settings))
        app.include_router(router, prefix=_V1, include_in_schema=False)  # the same, under a name that stays
        own = [route for route in router.routes if isinstance(route, Route)]
        often += [(prefix + route.path, route) for prefix in ("", _V1) for route in own]
    for router in (
        page.router(settings, purifier),
        status.router(settings, state.engine, state.lifecycle, state.metrics.scraped),
    ):
        app.include_router(with_heads(router))
    if settings.downstream_url:
        served = rest.routes(settings.downstream_protocol, state.gateway)
        app.router.routes.extend(served)
        often += [(route.path, route) for route in served]
    if settings.admin_token:
        swap = admin.Swapper(settings, purifier, state.batcher, state.lifecycle, state.metrics, state.siblings)
        app.router.routes.append(swap.route())
    return [(path, route) for path, route in often if route.methods and "POST" in route.methods]


def _serves(app: FastAPI, path: str) -> bool:
    """Whether a route has this path."""
    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": [], "app": app}
    return any(route.matches(scope)[0] != Match.NONE for route in app.routes)


def _error_handlers(state: State) -> Handlers:
    async def refuse(request: Request, error: Any) -> Response:
        return refusal(route_path(request.scope), error, state.metrics)

    async def refuse_for_memory(request: Request, error: Exception) -> Response:
        logger.warning("no memory for a request", exc_info=error)
        return await refuse(request, OutOfMemory("no memory for this request now"))

    async def refuse_route(request: Request, error: Any) -> Response:  # noqa: ARG001 (Starlette's signature)
        code = error.detail.lower().replace(" ", "_")
        return Refusal(error_body(error.detail, code), error.status_code, error.headers or {}, code)

    return {ServiceError: refuse, MemoryError: refuse_for_memory, HTTPException: refuse_route}
