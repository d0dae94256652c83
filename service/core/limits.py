"""What all requests share: the keys, how many requests each client has under way, and the memory for their bodies."""

from __future__ import annotations

import hmac
import ipaddress
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Self

from ..errors import BodiesFull, ClientLimit, Unauthorized
from ..settings import Settings

_UNCOUNTED = nullcontext()


class MemoryBudget:
    """Bytes that all requests together may hold in memory."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.reserved_bytes = 0
        self.lock = Lock()  # bodies are parsed in threads

    def reserve(self, size: int = 0) -> Reservation:
        """``size`` bytes, reserved from when a ``with`` block begins until it ends."""
        return Reservation(self, size)


class Reservation:
    """A part of a :class:`MemoryBudget`, which may grow and is given back as a whole, when its ``with`` block ends.

    Raises:
        BodiesFull: at the block's begin, where the reservations under way leave less.
    """

    def __init__(self, budget: MemoryBudget, size: int) -> None:
        self._budget, self._at_first = budget, size
        self.size = 0
        self._ended = False

    def __enter__(self) -> Self:
        self.grow_to(self._at_first)
        return self

    def __exit__(self, *_: object) -> None:
        with self._budget.lock:
            self._budget.reserved_bytes -= self.size
            self._ended = True

    def grow_to(self, size: int, *, allocated: bool = False) -> None:
        """Make it ``size`` bytes in all; never fewer than before.

        Raises:
            BodiesFull: the budget is used up, or the block has ended. Not where ``allocated`` says that the bytes are
                in memory already.
        """
        budget = self._budget
        with budget.lock:
            more = max(0, size - self.size)
            if self._ended or (more and not allocated and budget.reserved_bytes + more > budget.max_bytes):
                raise BodiesFull("the requests under way fill the memory that there is for bodies")
            budget.reserved_bytes += more
            self.size += more

    def add(self, size: int) -> None:
        """Make it ``size`` bytes larger; raises as :meth:`grow_to` does."""
        self.grow_to(self.size + size)


class Limits:
    """Who may send requests, and how much at once."""

    def __init__(self, settings: Settings) -> None:
        self.memory = MemoryBudget(settings.bodies_bytes)
        self._client_requests = settings.client_requests
        self._keys = [key.get_secret_value().encode() for key in settings.api_key]
        self._under_way: Counter[str | bytes] = Counter()

    def authorise(self, key: bytes) -> None:
        """Raises ``Unauthorized`` unless ``key`` is one of the keys, or there are none."""
        if self._keys and not any(hmac.compare_digest(key, known) for known in self._keys):
            raise Unauthorized("a key that this service knows is needed in X-API-Key")

    def client(self, address: str) -> AbstractContextManager[None]:
        """Count one request of the client at ``address`` until the block ends, where their number has a limit.

        Raises:
            ClientLimit: at the block's begin, where as many are under way already.
        """
        return self._counted(_network(address)) if self._client_requests else _UNCOUNTED

    @contextmanager
    def _counted(self, network: str | bytes) -> Iterator[None]:
        if self._under_way[network] >= self._client_requests:
            raise ClientLimit(f"{self._client_requests} requests of this client are under way already")
        self._under_way[network] += 1
        try:
            yield
        finally:
            self._under_way[network] -= 1
            if not self._under_way[network]:
                del self._under_way[network]


def _network(address: str) -> str | bytes:
    """What counts as one client: an IPv4 address, or the /64 network of an IPv6 one, which one user may own."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if parsed.version == 4 or parsed.ipv4_mapped else parsed.packed[:8]
