"""How an image begins that stands within other bytes or text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, AnyStr

# Long enough never to stand in something else by chance. Of each what is looked for, how far behind the image's first
# character it stands, and what must begin there.
_MARKS = (
    ("\x89PNG\r\n\x1a\n", 0, ""),
    ("\xff\xd8\xff", 0, "...(?:\xe0..JFIF|\xe1..(?:Exif|http:)|\xee..Adobe|\xdb\0[\x43\x84\xc5]\0)"),
    ("WEBPVP8", 8, "RIFF"),
    ("BM", 0, "BM.{4}\0{4}..\0\0[\x28\x6c\x7c]\0{3}"),
)
_GIF = (("GIF87a", 0, ""), ("GIF89a", 0, ""))  # in text they may be words
_DIGIT = "[A-Za-z0-9+/_-]"
_MARKS_IN_BASE64 = (
    *((start, 0, "") for start in ("iVBORw0KGgo", "R0lGODlh", "R0lGODdh")),
    *((start, 0, "") for start in ("/9j/2w", "/9j//g")),
    ("/9j/", 0, "/9j/[4-7][AQgw]"),
    ("RUJQVlA4", 12, "UklGR"),
    ("Qk", 0, f"Qk{_DIGIT}{{6}}AAAA{_DIGIT}{{4}}AA(?:Ao|Bs|B8)"),
)


class _Jpeg:
    """In a pattern's place: the first two markers of a JPEG file, whatever the segment between them is."""

    @staticmethod
    def match(data: bytes | str, at: int) -> bool:
        head = data[at : at + 6].encode("latin-1", "replace") if isinstance(data, str) else data[at : at + 6]
        if len(head) < 6 or head[3] < 0xC0:
            return False
        after = at + 4 + int.from_bytes(head[4:], "big")
        return data[after : after + 1] in (b"\xff", "\xff")


WITHIN_BYTES: list[tuple[bytes, int, Any]] = [
    (b"\xff\xd8\xff", 0, _Jpeg),
    *(
        (found.encode("latin-1"), behind, re.compile(start.encode("latin-1"), re.DOTALL))
        for found, behind, start in (*_MARKS, *_GIF)
    ),
]
WITHIN_TEXT: list[tuple[str, int, Any]] = [
    ("\xff\xd8\xff", 0, _Jpeg),
    *((found, behind, re.compile(start, re.DOTALL)) for found, behind, start in (*_MARKS, *_MARKS_IN_BASE64)),
]
MOST_PLACES = 2**16
"""So many places are looked at, of each mark."""


def place(data: AnyStr, marks: Sequence[tuple[AnyStr, int, Any]]) -> int | None:
    """Where an image begins within other bytes or text; of too much to look at, the last place that was."""
    for found, behind, start in marks:
        at = data.find(found, behind)
        for _ in range(MOST_PLACES):
            if at < 0 or start.match(data, at - behind):
                break
            at = data.find(found, at + 1)
        if at >= 0:
            return at - behind
    return None
