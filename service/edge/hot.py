"""The short way to the routes that are asked often: past the router of FastAPI and the layers around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .http import route_path

Handlers = Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]]
"""By the class of an error, what answers it."""


class HotRoutes:
    """Pure ASGI, inside :class:`arn_purify.service.edge.admission.Admission`: calls the endpoint of a route itself.

    Limits, metrics and logs are those of the middleware around it. Whatever matches none of the routes goes on to
    ``app``, as does a traced request: only FastAPI's router gives its span the name of the route.

    Args:
        app: FastAPI's router with its layers, which has the same routes.
        routes: each with its path, which may have a prefix that the route itself lacks. Endpoints map a request to a
            response; of two templates that match, the first is taken.
        handlers: ``app``'s own for the errors that endpoints raise.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[tuple[str, Route]], handlers: Handlers) -> None:
        self.app, self._handlers = app, handlers
        self._caught = tuple(handlers)
        every = tuple(routes)
        self._fixed = {(method, path): route for path, route in every for method in route.methods or ()}
        self._templates = [route for path, route in every if "{" in path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        route = self.route(scope) if scope["type"] == "http" and "fastapi.telemetry" not in scope else None
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive)
        try:
            response = await route.endpoint(request)
        except self._caught as error:
            handler = next(handler for kind, handler in self._handlers.items() if isinstance(error, kind))
            response = await handler(request, error)
        await response(scope, receive, send)

    def route(self, scope: Scope) -> Route | None:
        """The route that takes a request, if one does; the parts of its path are then in the scope."""
        if fixed := self._fixed.get((scope["method"], route_path(scope))):
            return fixed
        for template in self._templates:
            match, found = template.matches(scope)
            if match == Match.FULL:
                scope.update(found)
                return template
        return None
