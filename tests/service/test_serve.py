"""What the server's process is made with."""

import ctypes
from types import SimpleNamespace

from arn_purify.service import serve
from arn_purify.service.settings import Settings


def test_a_connection_waits_for_its_next_request_as_long_as_is_set(monkeypatch):
    """By default longer than a load balancer keeps one, which is up to a minute; uvicorn's own default is 5 s."""
    seen = []

    def server(config, *_):
        seen.append(config.timeout_keep_alive)
        return SimpleNamespace(run=lambda _: None, force_exit=False, started=True, failed=False)

    monkeypatch.setattr(serve, "Server", server)
    for name in ("configure", "_few_arenas", "warn"):  # they are for a whole process
        monkeypatch.setattr(serve, name, lambda *_: None)
    for set_to in ({}, {"keep_alive_seconds": 0.5}):
        assert serve.serve(Settings(models="identity", classifier="", **set_to)) == 0
    assert seen == [75.0, 0.5]


def test_a_system_without_glibc_keeps_its_heaps(monkeypatch):
    def refuse(_):
        raise TypeError("LoadLibrary() argument 1 must be str, not None")  # as on Windows

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    serve._few_arenas()
