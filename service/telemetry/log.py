"""Log lines as text or as JSON objects, each with the id of its request."""

from __future__ import annotations

import logging
import os
import re
from contextvars import ContextVar
from datetime import UTC, datetime
from ipaddress import ip_address

import orjson

_access = logging.getLogger("service.access")

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
TRACE_ID: ContextVar[str] = ContextVar("trace_id", default="")

# What clients send and lines contain: nothing that could be read as another part of a line.
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_ADDRESS = re.compile(r"[\w.:]+(%[\w.-]+)?", re.ASCII)  # `ip_address` takes any text as the name of a zone


def request_id(given: str) -> str:
    """A request's id: the client's own, where it may stand in a log, else a new one."""
    return given if _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()


def _address(client: str) -> str:
    """A client's address; ``-`` for other text, which a proxy may have passed on in ``X-Forwarded-For``."""
    try:
        ip_address(client)
    except ValueError:
        return "-"
    return client if _ADDRESS.fullmatch(client) else "-"


class JsonFormatter(logging.Formatter):
    """``time`` (RFC 3339), ``level``, ``logger``, ``message``, the request's and trace's ids, a line's ``fields``.

    ``worker`` is the number of the process, where several share the port.
    """

    def __init__(self, worker: int = 0) -> None:
        super().__init__()
        self._worker = {"worker": worker} if worker else {}

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._worker,
        }
        if REQUEST_ID.get():
            line["request_id"] = REQUEST_ID.get()
        if TRACE_ID.get():
            line["trace_id"] = TRACE_ID.get()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps({**line, **getattr(record, "fields", {})}, default=str).decode()


def access(
    level: int, request_id: str, method: str, route: str, status: int | str, seconds: float, client: str, code: str = ""
) -> None:
    """One line for an answered request; ``code`` is that of the error that the service answered."""
    if not _access.isEnabledFor(level):
        return
    client, milliseconds = _address(client), 1000 * seconds
    fields = {"method": method, "route": route, "status": status, "ms": round(milliseconds, 1), "client": client}
    if code:
        fields["code"] = code
    said = f"{status} {code}" if code else str(status)
    text = "%s %s %s %s %.1fms %s"
    _access.log(level, text, request_id, method, route, said, milliseconds, client, extra={"fields": fields})


def configure(level: str, form: str, worker: int = 0) -> None:
    """Log to standard error, as ``text`` or ``json``; with the number of the process where several share the port."""
    handler = logging.StreamHandler()
    name = f" [worker {worker}]" if worker else ""
    text = logging.Formatter(f"%(asctime)s %(levelname)s{name} %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter(worker) if form == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
