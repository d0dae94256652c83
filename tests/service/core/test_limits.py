"""Each client's share of requests, and the memory for bodies."""

import contextlib

import pytest

from arn_purify.service.core.limits import Limits, MemoryBudget, _network
from arn_purify.service.errors import BodiesFull, ClientLimit
from arn_purify.service.settings import Settings


def test_a_client_has_so_many_requests_under_way_and_others_are_not_concerned():
    limits = Limits(Settings(client_requests=2))
    with limits.client("10.0.0.1"), limits.client("10.0.0.1"):
        with pytest.raises(ClientLimit) as refused, limits.client("10.0.0.1"):
            pass
        assert refused.value.headers["Retry-After"] == "1"
        with limits.client("10.0.0.2"), limits.client(""):
            pass
    with contextlib.suppress(RuntimeError), limits.client("10.0.0.1"):
        raise RuntimeError
    with limits.client("10.0.0.1"), limits.client("10.0.0.1"):
        pass


@pytest.mark.parametrize(
    ("one", "another", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("unix", "testclient", False),
    ],
)
def test_what_counts_as_one_client(one, another, same):
    assert (_network(one) == _network(another)) is same


def test_memory_for_bodies_is_reserved_and_given_back():
    budget = MemoryBudget(20)
    with budget.reserve(10), budget.reserve() as grows:
        grows.grow_to(6)
        grows.grow_to(10)
        grows.grow_to(3)  # never less than it was
        assert budget.reserved_bytes == 20
        for more in (lambda: grows.grow_to(11), lambda: grows.add(1)):
            with pytest.raises(BodiesFull):
                more()
        with pytest.raises(BodiesFull), budget.reserve(1):
            pass
        with budget.reserve(0):
            pass
        grows.grow_to(30, allocated=True)
        assert budget.reserved_bytes == 40
    assert budget.reserved_bytes == 0
    with budget.reserve(20):
        pass
