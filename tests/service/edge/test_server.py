"""Where the server listens."""

import asyncio
import contextlib
import socket
from functools import partial

import pytest
import uvicorn

from arn_purify.service.core.lifecycle import Lifecycle
from arn_purify.service.edge.connection import Connection
from arn_purify.service.edge.server import Server
from arn_purify.service.settings import Settings
from arn_purify.service.telemetry.metrics import Metrics
from arn_purify.service.workers.ports import listen
from tests.conftest import PATIENT
from tests.service.core.device import Device, batcher


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


async def say_who_asked(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["client"][0].encode()})


@pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")
async def test_all_addresses_are_those_of_both_families():
    queue, settings = batcher(Device()), Settings(**PATIENT, host="::", port=0)
    protocol = partial(Connection, settings, Metrics("0"))
    config = uvicorn.Config(say_who_asked, http=protocol, ws="none", log_config=None, lifespan="off")
    server = Server(config, Lifecycle(queue, 0), settings.head_seconds)
    with contextlib.ExitStack() as ports:
        (listening,) = listen(settings, ports)
        port = listening.getsockname()[1]
        running = asyncio.create_task(server.serve([listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        for address in ("127.0.0.1", "::1"):
            reader, writer = await asyncio.open_connection(address, port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert address.encode() in answer, "an IPv4 client has its own address, which limits and proxies go by"
            assert b"ffff" not in answer
            writer.close()
        server.should_exit = True
        await running
    queue.close(5)
