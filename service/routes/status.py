"""What the service says of itself: health, metrics, the loaded models."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..core.engine import Engine
from ..core.lifecycle import Lifecycle
from ..core.selection import is_classifier_of
from ..errors import ServiceError
from ..settings import Settings
from . import schemas
from .openapi import DirectRoute, key_of

_LATER = {"Retry-After": "1"}  # every 503 has it


def router(settings: Settings, engine: Engine, lifecycle: Lifecycle, registry: CollectorRegistry) -> APIRouter:
    """The routes over their parts."""
    routes = APIRouter(route_class=DirectRoute)

    @routes.get(
        "/health/live",
        summary="200 while the process can still serve",
        responses={503: {"description": "the device's thread is gone"}},
    )
    async def live(request: Request) -> Response:  # noqa: ARG001
        """503 once the device's thread is gone: only a restart helps then."""
        alive = lifecycle.alive
        if alive:
            return JSONResponse({"status": "alive"})
        return JSONResponse({"status": "dead"}, 503, _LATER)

    @routes.get(
        "/health/ready",
        summary="200 when requests are taken",
        responses={503: {"description": "warming up or shutting down"}},
    )
    async def ready(request: Request) -> Response:  # noqa: ARG001
        """For load balancers."""
        try:
            lifecycle.check_all_ready()
        except ServiceError as error:
            return JSONResponse({"status": error.code}, 503, _LATER | error.headers)
        return JSONResponse({"status": "ready"})

    @routes.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics(request: Request) -> Response:  # noqa: ARG001
        """Prometheus text format."""
        text = generate_latest(registry)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get(
        "/models",
        summary="The loaded purifiers and the embedded classifiers",
        response_model=schemas.ModelsAnswer,
        dependencies=key_of(settings),
    )
    async def models(request: Request) -> Response:  # noqa: ARG001
        """Cards of the loaded purifiers, in the order in which they are tried, and of the classifiers."""
        return JSONResponse(_models(engine, settings.demo_attacks))

    return routes


def _models(engine: Engine, demo_attacks: bool) -> Any:
    purifiers = [
        {
            **{name: getattr(card, name) for name in schemas.ModelInfo.model_fields if hasattr(card, name)},
            "precision": engine.precision,
            "device": engine.device,
            "recorded_images": engine.recorded(card.name),
        }
        for card in engine.cards()
    ]
    classifiers = [
        {
            **{name: getattr(card, name) for name in schemas.ClassifierInfo.model_fields if hasattr(card, name)},
            "purifiers": [purifier.name for purifier in engine.cards() if is_classifier_of(card, purifier)],
        }
        for card in engine.classifier_cards()
    ]
    answer = schemas.ModelsAnswer.model_validate(
        {"purifiers": purifiers, "classifiers": classifiers, "demo_attacks": demo_attacks and bool(classifiers)}
    )
    return json.loads(answer.model_dump_json())
