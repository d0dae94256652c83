"""The engine: how it runs out of memory, and what may run on the event loop."""

import numpy as np
import pytest
import torch

from arn_purify.service.core.engine import Engine, Work
from tests.service.core.device import batcher, images, submit


def _allocates():
    torch.empty(2**50, dtype=torch.uint8)


def _cuda():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("fail", [_allocates, _cuda])
async def test_the_networks_ways_to_run_out_of_memory_are_known(fail, monkeypatch):
    engine = Engine(("identity",), (), "cpu", "fp32")
    monkeypatch.setattr(engine.purifiers["identity"], "forward", lambda x: fail() if len(x) > 2 else x)
    queue = batcher(engine.run)
    answer = await submit(queue, *range(4), work=Work("identity"))
    assert np.array_equal(answer.result.images, images(*range(4)))
    queue.close(5)


def test_an_image_of_any_size_is_quick_only_where_it_is_small(monkeypatch):
    engine = Engine(("identity", "mnist-transparent"), (), "cpu", "fp32")
    monkeypatch.setattr(engine, "_inline", {"identity", "mnist-transparent"})
    for model, shape, quick in [
        ("identity", (1, 32, 32, 3), True),
        ("identity", (1, 4000, 4000, 3), False),
        ("mnist-transparent", (1, 28, 28, 1), True),
        ("mnist-transparent", (1, 32, 32, 1), False),
    ]:
        assert engine.runs_inline(Work(model), np.zeros(shape, np.uint8)) is quick
