"""The same application as replicas of Ray Serve, with the same ``ARN_*``.

``serve run arn_purify.service.ray_app:purifier`` starts it.

Needs the extra ``ray``. Each replica is a process with an engine and a queue of its own.
"""

from __future__ import annotations

import asyncio

from fastapi import FastAPI
from ray import serve

from .app import create_app
from .errors import Warming
from .gateway import rest as gateway
from .state import State

_built: list[State] = []


def build() -> FastAPI:
    """The application, in a replica's own process."""
    app = create_app()
    gateway.check(app.state.service.gateway)
    _built.append(app.state.service)
    return app


@serve.deployment(
    name="purifier",
    num_replicas=2,
    # A replica's own queue refuses what it cannot answer in time; Ray should not hold requests back before it does.
    max_ongoing_requests=512,
    graceful_shutdown_timeout_s=30,
)
@serve.ingress(build)
class Purifier:
    """One replica."""

    async def check_health(self) -> None:
        """Ray sends nothing before the first check is through, so that one waits for warm models.

        Raises:
            EngineFailure: the device's thread is gone; Ray then starts another replica.
        """
        from arn_purify.service.ray_app import _built

        while True:
            try:
                _built[-1].lifecycle.check_ready()
            except Warming:
                await asyncio.sleep(0.1)
            else:
                return


purifier = Purifier.bind()  # type: ignore[attr-defined] # the decorator made it a Deployment
