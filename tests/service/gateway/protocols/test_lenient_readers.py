"""What a lenient reader takes for an image is found too: base64 and hexadecimal digits with more in between, forms that
end their parts at a bare line feed, formats that few programs write.
"""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from arn_purify.service.errors import BrokenBody
from arn_purify.service.gateway.protocols import Message, spelling, torchserve, v1
from arn_purify.service.gateway.protocols.formats import format_of
from arn_purify.service.gateway.protocols.spelling import read

from ..helpers import PNG

BASE64 = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "text",
    [
        BASE64[:2] + "-" + BASE64[2:],
        BASE64[:5] + "_" + BASE64[5:],
        "-".join(BASE64),
        "=" + BASE64,
        " " * 700 + "!" + BASE64[:3] + " " + BASE64[3:],
        BASE64[:1] + "é" * 1000 + BASE64[1:],
    ],
    ids=["hyphen", "underscore", "hyphens", "equals", "far", "accents"],
)
def test_base64_to_those_who_skip_what_is_none_is_refused(text):
    with_bytes_alone = text.encode("ascii", "ignore")
    assert base64.b64decode(with_bytes_alone) == PNG, "as Python reads it"
    assert read(text).reason
    found = v1.find(Message(f'{{"instances": [{{"b64": "{text}"}}]}}'.encode(), {}))
    assert [bool(read(slot.value) and read(slot.value).reason) for slot in found.slots] == [True]


@pytest.mark.parametrize("between", [" ", "\n", " " * 2000])
def test_hexadecimal_digits_with_white_space_are_read(between):
    text = between.join(f"{byte:02x}" for byte in PNG)
    assert bytes.fromhex(text) == PNG
    found = read(text)
    assert list(found.files) == [PNG]
    assert bytes.fromhex(found.write([b"other"])) == b"other"


@pytest.mark.parametrize("first", [b"\r\n", b"\n", b" \n"])
def test_a_part_within_a_part_is_refused(first):
    inner = b'--b\r\nContent-Disposition: form-data; name="x"; filename="f"\r\n\r\n' + PNG
    form = (
        b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + PNG
        + b'\r\n--b\r\nContent-Disposition: form-data; name="note"\r\n\r\nhi' + first + inner + b"\r\n--b--\r\n"
    )  # fmt: skip
    message = Message(form, {"content-type": "multipart/form-data; boundary=b"})
    if first == b"\r\n":
        assert len(torchserve.find(message).slots) == 3
    else:
        with pytest.raises(BrokenBody, match="boundary stands within a part"):
            torchserve.find(message)


def test_a_body_that_is_json_and_a_form_is_refused():
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = f'{{"data": "{BASE64}", "z": "x&data={BASE64}"}}'.encode()
    with pytest.raises(BrokenBody, match="JSON and a form"):
        torchserve.find(Message(body, form))
    assert torchserve.find(Message(body.replace(b"x&", b""), form)).slots, "as curl -d sends JSON"


def test_a_jpeg_within_other_bytes_is_found_whatever_its_first_segment():
    buffer = io.BytesIO()
    Image.new("L", (28, 28)).save(buffer, "JPEG", comment=b"a comment")
    plain = buffer.getvalue()
    at = plain.index(b"\xff\xfe")
    length = int.from_bytes(plain[at + 2 : at + 4], "big")
    comment_first = plain[:2] + plain[at : at + 2 + length] + plain[2:at] + plain[at + 2 + length :]
    assert Image.open(io.BytesIO(comment_first)).size == (28, 28)
    for value in (b"head" + comment_first, (b"head" + comment_first).decode("latin-1")):
        assert read(value).reason
    assert read("say: " + base64.b64encode(comment_first).decode() + " it is").reason


def test_a_jpeg_of_a_camera_within_other_bytes_is_found_whatever_follows_its_first_segment():
    first = b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
    for more in (b"\xff\xdb", b"\0\xff\xdb", b""):  # decoders skip what is no marker
        assert read(b"head" + first + more).reason


def _written():
    """The first bytes of an image in every format that Pillow can write, and read again."""
    Image.init()
    for kind in sorted(Image.SAVE):
        for mode in ("RGB", "L", "1", "F"):
            buffer = io.BytesIO()
            try:
                Image.new(mode, (28, 28)).save(buffer, kind)
                Image.open(io.BytesIO(buffer.getvalue())).load()
            except Exception:  # it needs another program, or has no such mode
                continue
            yield pytest.param(buffer.getvalue(), id=f"{kind}-{mode}", marks=_marks(kind))


def _marks(kind):
    nameless = kind in ("TGA", "SPIDER")
    return [pytest.mark.xfail(strict=True, reason="the format has no first bytes of its own")] if nameless else []


@pytest.mark.parametrize("data", list(_written()))
def test_every_format_that_pillow_writes_and_reads_is_named(data):
    assert format_of(data)
    assert read(base64.b64encode(data).decode())


def test_a_bitmap_with_a_header_of_another_size_is_one():
    buffer = io.BytesIO()
    Image.new("RGB", (28, 28)).save(buffer, "BMP")
    data = buffer.getvalue()
    assert format_of(data[:14] + b"\x6c\1\0\0" + data[18:]) == "BMP"


def test_many_rows_that_may_begin_as_images_are_not_looked_at(monkeypatch):
    rows = np.zeros((2**16 + 1, 12), np.uint8)
    rows[:, 2:4] = 1
    assert read(rows[:100]) is None
    monkeypatch.setattr(spelling, "format_of", lambda *_: pytest.fail("one by one"))
    assert read(rows).reason == "has more than 65536 rows that may begin as images"
