"""A time at which long work stops where it can be resumed, for machines that are lent for a limited time."""

from __future__ import annotations

import time

_due: float | None = None


class OutOfTime(Exception):
    """The time is up; the work so far is saved, and the same command resumes it."""


def set_deadline(seconds: float | None) -> None:
    """Stop ``seconds`` from now; ``None`` never."""
    global _due
    _due = None if seconds is None else time.monotonic() + seconds


def is_near(seconds: float = 0.0) -> bool:
    """Whether the time is up, or will be in ``seconds``."""
    return _due is not None and time.monotonic() + seconds >= _due
