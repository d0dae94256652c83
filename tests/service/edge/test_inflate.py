"""Content codings: decoded in bounds, or refused. The gateway's tests hold the decoder to more."""

import gzip
import zlib

import pytest

from arn_purify.service.edge.inflate import check_coding, inflate
from arn_purify.service.errors import BodyTooLarge, BrokenBody, UnsupportedMedia


def test_what_is_not_encoded_stays_as_it_is():
    body = b"x" * 9
    for coding in ("", "identity", " Identity "):
        assert check_coding(coding) == ""
        assert inflate(body, coding, 1) is body


@pytest.mark.parametrize(
    ("coding", "code"), [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_a_body_is_decoded_up_to_the_limit(coding, code):
    assert inflate(code(b"x" * 100), coding, 100) == b"x" * 100
    with pytest.raises(BodyTooLarge):
        inflate(code(b"x" * 101), coding, 100)
    for broken in (b"junk", code(b"x")[:-1], code(b"x") + b"y"):
        with pytest.raises(BrokenBody):
            inflate(broken, coding, 100)


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, deflate", "\xff"])
def test_other_codings_are_refused(coding):
    with pytest.raises(UnsupportedMedia, match="gzip or deflate"):
        check_coding(coding)
