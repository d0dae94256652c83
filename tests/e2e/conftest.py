"""The real command as a process of its own, on a loopback port."""

import os
import re
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc.aio
import httpx2
import pytest

from ..conftest import PATIENCE, PATIENT


def until(condition):
    """What ``condition`` answers, once that is true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


class Served:
    """A running ``arn serve``."""

    def __init__(self, process, log, url, trusted):
        self.process, self.log, self.url = process, log, url
        self.client = httpx2.Client(base_url=url, timeout=PATIENCE, verify=trusted)

    def connect(self):
        """A bare connection."""
        host, port = self.url.partition("://")[2].split(":")
        return socket.create_connection((host, int(port)), timeout=PATIENCE)

    @property
    def said(self):
        return self.log.read_text()

    def stop(self):
        """End it as an orchestrator does; a request's log line may come after its answer, but not after this."""
        self.process.terminate()
        return self.process.wait(PATIENCE)


@contextmanager
def serving(
    tmp_path, *flags, command=(sys.executable, "-m", "arn_purify.service"), trusted=True, env=os.environ, **how
):
    """``arn serve`` with flags, once it is ready; its clocks are slow unless a flag or ``env`` sets them."""
    environment = {f"ARN_{name.upper()}": str(seconds) for name, seconds in PATIENT.items()} | dict(env)
    log = tmp_path / "serve.log"
    served = None
    with log.open("w") as file:
        process = subprocess.Popen([*command, "serve", "--port", "0", *flags], stderr=file, env=environment, **how)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(r"running on (https?://[\d.:]+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        served = Served(process, log, found[1], trusted)
        while served.client.get("/health/ready").status_code != 200:
            time.sleep(0.05)
        yield served
    finally:
        if served:
            served.client.close()
        process.kill()
        process.wait()


def seen_by(served):
    """The worker of every ``GET /models`` that was answered."""
    return re.findall(r"\[worker (\d)\] service.access: \w+ GET /models", served.said)


@contextmanager
def connections(served, count):
    """Clients with a connection each that stays open, some to either of two workers."""
    clients = []

    def to_both():
        before = len(seen_by(served))
        for client in clients:
            client.close()
        clients[:] = [httpx2.Client(base_url=served.url, timeout=PATIENCE) for _ in range(count)]
        for client in clients:
            client.get("/models")
        until(lambda: len(seen_by(served)) == before + count)
        return len(set(seen_by(served)[before:])) == 2

    try:
        until(to_both)
        yield clients
    finally:
        for client in clients:
            client.close()


def most_resident(served):
    """The most memory that it has had, in bytes (Linux)."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{served.process.pid}/status").read_text())[1])


@asynccontextmanager
async def behind_grpc(answer):
    """A server whose every method is ``answer(request, context)``; gives its address."""

    class Behind(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Behind(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.fixture
def served(tmp_path):
    with serving(tmp_path) as served:
        yield served
