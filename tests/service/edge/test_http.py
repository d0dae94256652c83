"""Forms are read in pieces, between which other requests have their turns."""

import asyncio

import pytest

from arn_purify.service.edge import http
from arn_purify.service.errors import BrokenBody, TooManyImages

FORM = "multipart/form-data; boundary=b"
HEAD = b'--b\r\nContent-Disposition: form-data; name="a"; filename="%b"\r\nContent-Type: image/png\r\n\r\n'
FIELD = b'\r\n--b\r\nContent-Disposition: form-data; name="k"\r\n\r\nv\r\n--b--\r\n'


@pytest.mark.parametrize("piece", [*range(1, 9), 64])
async def test_where_the_pieces_of_a_form_end_makes_no_difference(monkeypatch, piece):
    monkeypatch.setattr(http, "_PIECE", piece)
    first, second = b"\r\n--\r\n-\r\r\n--bx"[:-2] + bytes(range(256)), b"\r\n\r\n--x\r"
    body = HEAD % b"1.png" + first + b"\r\n" + HEAD % b"2.png" + second + FIELD
    files, fields = await http.read_multipart(FORM, bytearray(body), 2)
    assert files == [("1.png", first), ("2.png", second)]
    assert fields == [("k", "v")]
    with pytest.raises(TooManyImages):
        await http.read_multipart(FORM, body, 1)
    with pytest.raises(BrokenBody):
        await http.read_multipart(FORM, body.replace(b"--b\r\n", b"--c\r\n"), 2)


async def test_others_have_their_turns_while_a_large_form_is_read():
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    size = 20 * http._PIECE
    files, _ = await http.read_multipart(FORM, HEAD % b"x" + bytes(size) + FIELD, 1)
    assert len(files[0][1]) == size
    assert turns >= 20
    task.cancel()
