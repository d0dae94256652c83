"""Content negotiation on ``Accept`` (RFC 9110 section 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import NotAcceptable, shown


def choose(accept: str | None, offered: Sequence[str]) -> str:
    """The offered media type that ``accept`` prefers; the first offered where it has no preference.

    Raises:
        NotAcceptable: it excludes every one.
    """
    if not accept or accept == "*/*":
        return offered[0]
    ranges = [_parse(part) for part in accept.split(",") if part.strip()]
    if not ranges:  # a list of nothing says nothing
        return offered[0]
    best, best_quality = "", 0.0
    for media_type in offered:
        quality = _quality(media_type, ranges)
        if quality > best_quality:
            best, best_quality = media_type, quality
    if not best:
        raise NotAcceptable(f"nothing in Accept: {shown(accept)} is among {', '.join(offered)}")
    return best


def _parse(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 0.0
    return media_range, quality


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The quality of the most specific range that matches."""
    major = media_type.partition("/")[0]
    for wanted in (media_type, f"{major}/*", "*/*"):
        for media_range, quality in ranges:
            if media_range == wanted:
                return quality
    return 0.0
