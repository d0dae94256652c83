"""Compressed bodies."""

import gzip
import zlib

import pytest

from arn_purify.service.edge.inflate import inflate
from arn_purify.service.errors import ServiceError


def test_compressed_bodies_are_bounded():

    assert inflate(gzip.compress(b"x" * 100), "gzip", 100) == b"x" * 100
    assert inflate(zlib.compress(b"x"), "deflate", 100) == b"x"
    assert inflate(gzip.compress(b"x" * 9) + gzip.compress(b"y"), "gzip", 100) == b"x" * 9 + b"y"
    many = gzip.compress(b"") * 10_000
    assert inflate(many, "gzip", 100) == b""
    bomb = gzip.compress(bytes(10**7))
    for body, encoding, status in [
        (bomb, "gzip", 413),
        (bomb[:-9], "gzip", 413),
        (gzip.compress(b"x" * 50)[:-9], "gzip", 400),
        (gzip.compress(b"x") + b"y", "gzip", 400),
        (zlib.compress(b"x") * 2, "deflate", 400),
        (gzip.compress(b"x" * 60) * 2, "gzip", 413),
        (gzip.compress(b"") * 70_000, "gzip", 400),
        (b"no", "gzip", 400),
        (b"no", "br", 415),
    ]:
        with pytest.raises(ServiceError) as told:
            inflate(body, encoding, 100)
        assert told.value.status == status
