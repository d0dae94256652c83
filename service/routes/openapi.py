"""What the OpenAPI document says of the routes that take images."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Security, params
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader
from starlette.requests import Request
from starlette.responses import Response

from ..core import codec
from ..settings import Settings
from . import schemas

MULTIPART = "multipart/form-data"


class DirectRoute(APIRoute):
    """FastAPI's documentation of a route without its dependency injection: each endpoint maps Request to Response."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint itself."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


def with_heads(router: APIRouter) -> APIRouter:
    """The router with HEAD beside each GET (RFC 9110 section 9.3.2); the server leaves the body out.

    The route for both is before the documented one, whose methods a 405 would name otherwise.
    """
    for at, route in reversed(list(enumerate(router.routes))):
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            router.add_api_route(route.path, route.endpoint, methods=["GET", "HEAD"], include_in_schema=False)
            router.routes.insert(at, router.routes.pop())
    return router


def key_of(settings: Settings) -> list[params.Depends]:
    """What says in the document that routes ask for the key; it is Admission that does."""
    return [Security(APIKeyHeader(name="X-API-Key", auto_error=False))] if settings.api_key else []


QUERY: list[dict[str, Any]] = [
    {"name": "model", "in": "query", "schema": {"type": "string"}, "description": "a loaded purifier; see /models"},
    {
        "name": "resize",
        "in": "query",
        "schema": {"type": "string", "enum": ["crop", "fit", "true", "false"]},
        "description": "bring an image to the model's size: crop (or true) to its centre, or fit it between borders",
    },
]
COMPARE = {"name": "compare", "in": "query", "schema": {"type": "boolean"}, "description": "the unpurified label too"}
_FIELDS = {parameter["name"]: parameter["schema"] for parameter in QUERY}
BINARY = {"schema": {"type": "string", "format": "binary"}}
BODY = {
    "required": True,
    "content": {
        **dict.fromkeys((*codec.IMAGE_TYPES[:4], codec.NPY_TYPE), BINARY),
        MULTIPART: {"schema": {"type": "object", "properties": _FIELDS, "additionalProperties": BINARY["schema"]}},
    },
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorAnswer, "description": description}
    for status, description in {
        400: "a broken image or body",
        401: "no key in X-API-Key, where one is asked for",
        404: "no such model",
        406: "nothing acceptable",
        408: "the body was not whole in time",
        413: "too many bytes or images",
        415: "a content type that is not read",
        422: "a size, a number of pixels or a parameter that is not taken",
        429: "the queue, the client's share or the memory for bodies is full; Retry-After says when to come back",
        500: "the network failed on the batch",
        503: "warming up or shutting down",
        504: "the deadline passed",
    }.items()
}
