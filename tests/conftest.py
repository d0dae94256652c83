"""What every test shares: one torch thread, so that the suite's processes do not fight over the cores."""

import ctypes
import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fastapi.dependencies.models
import hypothesis
import pytest
import torch
from starlette.testclient import TestClient

from arn_purify.service.app import create_app
from arn_purify.service.settings import Settings

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
torch.set_num_threads(1)
with suppress(OSError, AttributeError):  # glibc's: the threads of hundreds of services would each leave memory behind
    ctypes.CDLL("libc.so.6").mallopt(-8, 2)  # M_ARENA_MAX

# The same examples on every machine, however slow it is. For others: --hypothesis-profile random
hypothesis.settings.register_profile("random", deadline=None)
hypothesis.settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("repeatable")

# Seconds that a test waits for what must come, however busy the machine is.
PATIENCE = 300.0
# The service's own clocks, as slow; a test of one sets it.
PATIENT = {
    "deadline_seconds": PATIENCE, "downstream_timeout_seconds": PATIENCE, "drain_seconds": PATIENCE,
    "decode_seconds": PATIENCE, "head_seconds": PATIENCE, "body_seconds": PATIENCE,
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first: begun last, it would run alone while the other processes wait for it."""
    items.sort(key=lambda item: item.path.name != "test_reproduce.py")


def decoders_of(pid: int) -> set[int]:
    """The decoding processes of a service (Linux)."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):  # it may end while we look
            parent = int((process / "status").read_text().split("PPid:")[1].split()[0])
            if parent == pid and b"arn_purify.service.core.decode_worker" in (process / "cmdline").read_bytes():
                found.add(int(process.name))
    return found


@pytest.fixture(autouse=True, scope="module")
def _little_memory() -> Iterator[None]:
    """What a file's tests have freed goes back to the system, so that no process grows with the number of files."""
    yield
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc's
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def running(**settings) -> Iterator[TestClient]:
    """The service in this process, warm, over ASGI; in float32, so that its answers are the same on every machine."""
    settings = Settings(**{"precision": "fp32", **PATIENT, **settings})
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        while (ready := client.get("/health/ready")).status_code != 200:
            assert ready.json()["status"] != "engine_failure", "the device's thread died while it warmed up"
            time.sleep(0.02)
        yield client
    for function in vars(fastapi.dependencies.models).values():  # it remembers the endpoints of every app
        if hasattr(function, "cache_clear"):
            function.cache_clear()
    del client
    gc.collect()  # a service takes up to 30 MB


@pytest.fixture(scope="session")
def client() -> Iterator[TestClient]:
    """The service with MNIST's purifier and the identity."""
    with running(models="mnist-transparent,identity") as client:
        yield client
