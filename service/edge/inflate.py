"""Content codings of bodies: gzip and deflate, decoded in bounds."""

from __future__ import annotations

import zlib

from ..errors import BodyTooLarge, BrokenBody, UnsupportedCoding, shown

_IDENTITY, _GZIP, _DEFLATE = ("", "identity"), ("gzip", "x-gzip"), ("deflate",)
_INFLATED_AT_ONCE = 4096  # compressed bytes; what a member leaves of them is copied, and members can be tiny
_MAX_MEMBERS = 2**16


def check_coding(encoding: str) -> str:
    """A ``Content-Encoding`` in lower case; empty where the body is not encoded.

    Raises:
        UnsupportedCoding: one that is not read.
    """
    encoding = encoding.strip().lower()
    if encoding not in (*_IDENTITY, *_GZIP, *_DEFLATE):
        raise UnsupportedCoding(f"content encoding {shown(encoding)} is not read here: gzip or deflate")
    return "" if encoding in _IDENTITY else encoding


def inflate(body: bytes | bytearray, encoding: str, max_bytes: int) -> bytes | bytearray:
    """A gzip or deflate body decoded, never to more than ``max_bytes``.

    Raises:
        UnsupportedCoding: another content coding.
        BodyTooLarge: it grows beyond the limit.
        BrokenBody: truncated, corrupt, or followed by something.
    """
    encoding = check_coding(encoding)
    if not encoding:
        return body
    of_gzip = encoding in _GZIP
    decoder, members = zlib.decompressobj(31 if of_gzip else 15), 1
    out, position = bytearray(), 0
    while position < len(body):
        if decoder.eof and (not of_gzip or members == _MAX_MEMBERS):
            raise BrokenBody(f"the {encoding} body is followed by other bytes")
        if decoder.eof:  # another member (RFC 1952, section 2.2)
            decoder, members = zlib.decompressobj(31), members + 1
        chunk = body[position : position + _INFLATED_AT_ONCE]
        try:
            out += decoder.decompress(chunk, max_bytes + 1 - len(out))
        except zlib.error as error:
            raise BrokenBody(f"not a {encoding} body: {error}") from error
        if len(out) > max_bytes:
            raise BodyTooLarge(f"the body has more than the {max_bytes} bytes that are taken")
        position += len(chunk) - len(decoder.unused_data)
    if not decoder.eof:
        raise BrokenBody(f"the {encoding} body is cut off")
    return out
