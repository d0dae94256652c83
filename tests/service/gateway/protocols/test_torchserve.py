"""TorchServe's forms."""

import contextlib
import email
import io

import pytest
from PIL import Image

from arn_purify.service.errors import BrokenBody
from arn_purify.service.gateway.protocols import Message, torchserve

from ..helpers import FORM, PNG, through, traced


def test_a_form_keeps_its_other_parts_byte_for_byte_and_names_the_new_type():
    jpeg = io.BytesIO()
    Image.new("L", (28, 28), 9).save(jpeg, "JPEG")
    text = b'--b\r\nContent-Disposition: form-data; name="k"\r\n\r\n 1.0 \r\n'
    body = (
        text + b'--b\r\nContent-Disposition: form-data; name="data"; filename="a.jpg"\r\n'
        + b"content-type: image/jpeg\r\n\r\n" + jpeg.getvalue() + b"\r\n--b--\r\n"
    )  # fmt: skip
    back, count = through(torchserve, Message(body, {"content-type": "multipart/form-data; boundary=b"}))
    assert count == 1
    assert back.body.startswith(text)
    assert b"\r\ncontent-type: image/png\r\n\r\n\x89PNG" in back.body
    assert back.body.endswith(b"\r\n--b--\r\n")
    untouched, none = through(
        torchserve, Message(text + b"--b--", {"content-type": 'multipart/form-data; boundary="b"'})
    )
    assert (untouched.body, none) == (text + b"--b--", 0)


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Disposition: form-data; name="data"; filename="a; name=other"',
        b'content-disposition:form-data;filename=a ;name=data',
        b'Content-Type: image/png\r\nContent-Disposition: form-data; name="data";',
    ],
)  # fmt: skip
def test_a_parts_field_is_read_as_its_quotes_say(head):
    (slot,) = torchserve.find(Message(b"--b\r\n" + head + b"\r\n\r\nx\r\n--b--", FORM)).slots
    assert slot.name == "data"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Type: image/png",
        b'Content-Disposition : form-data; name="data"',
        b'Content-Disposition: form-data;\r\n name="data"',
        b'Content-Disposition: form-data; name="a"; name="data"',
        b"Content-Disposition: form-data; name=\"a\"; name*=UTF-8''data",
        b'Content-Disposition: form-data; name="a"\r\ncontent-disposition: form-data; name="data"',
        b'Content-Disposition: form-data; filename="a\\"; name=b; x="; name=data',
        b'Content-Disposition: form-data; filename="a',
    ],
)
def test_a_part_whose_field_two_readers_may_read_differently_is_refused(head):
    with pytest.raises(BrokenBody):
        torchserve.find(Message(b"--b\r\n" + head + b"\r\n\r\nx\r\n--b--", FORM))


def test_a_parts_own_length_is_that_of_the_new_image():
    buffer = io.BytesIO()
    Image.new("L", (28, 28)).save(buffer, "PNG")
    image = buffer.getvalue()
    head = b'Content-Disposition: form-data; name="data"\r\nContent-Length: 9\r\nContent-MD5: x\r\n\r\n'
    found = torchserve.find(Message(b"--b\r\n" + head + image + b"\r\n--b--", FORM))
    part = email.message_from_bytes(found.replace_images({0: image + b"more"}).body.split(b"--b")[1].lstrip())
    assert (part["Content-Length"], part["Content-MD5"]) == (str(len(image) + 4), None)


FIELD = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\ny\r\n--b--'


@pytest.mark.parametrize(
    "parameters",
    ["boundary=b", 'Boundary="b"', "boundary=b;", "charset=utf-8; boundary=b ", 'x="; boundary=c"; boundary=b; y='],
)
def test_a_boundary_is_read_wherever_it_stands(parameters):
    (slot,) = torchserve.find(Message(FIELD, {"content-type": f"multipart/form-data; {parameters}"})).slots
    assert (slot.name, slot.value) == ("x", b"y")


@pytest.mark.parametrize(
    "parameters",
    [
        *(f"boundary*={charset}''b" for charset in ("undefined", "idna", "punycode", "utf-8", "x")),
        "boundary*0=b", "boundary*0*=undefined''b", "boundary=b; boundary*=utf-8''c", "BOUNDARY*1=c; boundary=b",
        "boundary=b; boundary=c", "boundary=b; boundary=b", "boundary=b, multipart/form-data; boundary=c",
        "boundary=b, text/plain", "boundary = b", 'boundary="b', 'boundary="\\b"', "boundary=b (c)", "boundary=",
        "boundary=" + "b" * 71, "boundary=\xe4", "",
    ],
)  # fmt: skip
def test_a_boundary_that_two_readers_may_read_differently_is_refused(parameters):
    with pytest.raises(BrokenBody, match="without a boundary"):
        torchserve.find(Message(FIELD, {"content-type": f"multipart/form-data; {parameters}"}))


@pytest.mark.parametrize(
    "behind", [PNG, b'--b\r\nContent-Disposition: form-data; name="y"\r\n\r\n' + PNG + b"\r\n--b--"]
)
def test_a_form_that_goes_on_behind_its_end_is_refused(behind):
    form = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + PNG + b"\r\n--b--\r\n"
    assert len(torchserve.find(Message(form + b"\r\n", FORM)).slots) == 1
    with pytest.raises(BrokenBody, match="behind its end"):
        torchserve.find(Message(form + behind, FORM))


URLENCODED = {"content-type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"data=" + b"%41" * 300_000, URLENCODED),
        (b"data=aaaa" + b"+a" * 300_000, URLENCODED),
        (b"a=" + b"&a=" * 300_000, URLENCODED),
        (b"&" * 600_000, URLENCODED),
        (b"--b\r\n" + b"a:\r\n" * 300_000 + b"\r\nx\r\n--b--", FORM),
        (b"--b\r\nContent-Disposition: form-data" + b";a=" * 300_000 + b"\r\n\r\nx\r\n--b--", FORM),
    ],
    ids=["escapes", "spaces", "fields", "empty fields", "headers", "parameters"],
)
def test_a_form_of_many_pieces_takes_little_memory(body, headers):
    with traced() as most:
        with contextlib.suppress(BrokenBody):
            torchserve.find(Message(body, headers))
        assert most() < 10 * len(body)
