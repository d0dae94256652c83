"""The time of a request, as its histogram has it."""

import asyncio
from functools import partial

import uvicorn
import uvloop
from uvicorn.server import ServerState

from arn_purify.service.edge.connection import Connection
from arn_purify.service.edge.http import RequestContext
from arn_purify.service.settings import Settings
from arn_purify.service.telemetry.metrics import Metrics
from tests.conftest import PATIENT, running
from tests.service.images import PNG, post

PAUSE = 0.1


async def slow(scope, receive, send):
    """An answer whose second byte comes a moment after the first."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"1", "more_body": True})
    await asyncio.sleep(PAUSE)
    await send({"type": "http.response.body", "body": b"2"})


def test_a_request_is_timed_from_its_first_byte_to_the_last_of_its_answer():
    async def scenario():
        settings, metrics = Settings(**PATIENT), Metrics("0")
        protocol = partial(Connection, settings, metrics)
        app = RequestContext(slow, metrics, draining=lambda: False)
        config = uvicorn.Config(app, http=protocol, ws="none", log_config=None, access_log=False, lifespan="off")
        config.load()
        made = partial(protocol, config=config, server_state=ServerState(), app_state={})
        server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for part in (b"GET / HTTP/1.1\r\n", b"Host: a\r\n\r\n"):
            writer.write(part)
            await asyncio.sleep(PAUSE)  # after the head too, which the answer does not wait for
        await reader.readuntil(b"12")
        writer.close()
        server.close()
        return metrics.registry

    registry = uvloop.run(scenario())
    assert registry.get_sample_value("arn_request_seconds_count", {"route": "unmatched"}) == 1
    assert registry.get_sample_value("arn_request_seconds_sum", {"route": "unmatched"}) >= 2 * PAUSE
    assert registry.get_sample_value("arn_request_seconds_bucket", {"route": "unmatched", "le": "0.1"}) == 0


def test_counters_of_known_reasons_begin_at_zero():
    """Of a series that first appears at 5, ``rate()`` does not see the five."""
    registry = Metrics("0").registry
    for metric, label, values in (
        ("arn_rejected_total", "reason", ("queue_full", "unauthorized", "internal", "bad_request", "body_too_large")),
        ("arn_bypassed_total", "reason", ("canary", "queue_full", "no_image", "warming")),
        ("arn_shadowed_total", "outcome", ("agree", "disagree", "error", "unreadable", "dropped")),
        ("arn_downstream_requests_total", "status", ("downstream_timeout", "downstream_open")),
    ):
        for value in values:
            assert registry.get_sample_value(metric, {label: value}) == 0, (metric, value)
    assert registry.get_sample_value("arn_bypassed_total", {"reason": "broken_image"}) is None  # never bypassed


def test_routes_are_templates():
    with running(models="identity") as client:
        for path in ("/purify", "/no/such", "/nor/this"):
            post(client, PNG, path=path)
        text = client.get("/metrics").text
    assert 'arn_request_seconds_count{route="/purify"} 1.0' in text
    assert 'arn_request_seconds_count{route="unmatched"} 2.0' in text
    assert "/no/such" not in text
