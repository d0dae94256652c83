"""A time at which long work stops where it can go on later, for machines that are there for a limited time."""

from __future__ import annotations

import time

_due: float | None = None


class OutOfTime(Exception):
    """The time is up; what was done is kept, and the same command goes on from there."""


def set_deadline(seconds: float | None) -> None:
    """Work may go on for so many seconds from now; ``None`` for as long as it takes."""
    global _due
    _due = None if seconds is None else time.monotonic() + seconds


def is_near(seconds: float = 0.0) -> bool:
    """Whether the time is up, or will be in so many seconds."""
    return _due is not None and time.monotonic() + seconds >= _due
