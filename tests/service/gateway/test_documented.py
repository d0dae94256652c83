"""The table in docs/gateway.md is what the code does."""

from pathlib import Path

import numpy as np

from arn_purify.service.core import codec
from arn_purify.service.errors import ServiceError
from arn_purify.service.gateway.preprocessing import Preprocessing
from arn_purify.service.gateway.protocols import Message, torchserve, v1, v2, v2_grpc

from . import spellings
from .helpers import digit
from .spellings import PROTOCOLS, Tensor

PAGE = Path(__file__).parents[3] / "docs" / "gateway.md"
IMAGE = codec.encode_image(np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8))
MODULES = {"V1": v1, "V2": v2, "gR": v2_grpc, "To": torchserve}


def listed(names):
    return ", ".join(names)


def rows():
    """What a row of the table is about, and its values with their kind."""
    foreign, unread = spellings.FOREIGN, spellings.UNREADABLE_NUMBERS
    broken = {name: write for name, write in spellings.UNREADABLE_TEXTS.items() if name not in foreign}
    texts = {name: write for name, (write, _) in spellings.TEXTS.items()}
    numbers = {name: write for name, (write, _) in spellings.NUMBERS.items()}
    pixels = {name: write for name, (write, _) in spellings.PIXELS.items()}
    for what, kind, table in [
        (f"a file as text: {listed(texts)}", "texts", texts),
        ("a file's bytes", "files", {"a file": bytes}),
        (f"a file's bytes as numbers: {listed(numbers)}", "numbers", numbers),
        (f"a tensor of a purifier's shape: {listed(pixels)}", "numbers", pixels),
        (f"another format: {listed(foreign)}", "files", spellings.UNREADABLE_FILES),
        ("the same in base64", "texts", {name: spellings.UNREADABLE_TEXTS[name] for name in foreign}),
        (f"text that cannot be read: {listed(broken)}", "texts", broken),
        (
            f"numbers that cannot be read: {listed(unread)}",
            "numbers",
            unread,
        ),
    ]:
        yield what, [(kind, write(IMAGE)) for write in table.values()]
    yield "other text", [("texts", text) for text in spellings.PARAMETER_TEXTS]
    yield "other bytes", [("files", b"\x01\x02\x03"), ("files", b"text"), ("files", b"")]
    yield "other tensors", [("numbers", tensor) for tensor in spellings.PARAMETER_NUMBERS]


def outcome(name, kind, value):
    protocol = PROTOCOLS[name]
    if kind not in protocol.kinds or (isinstance(value, Tensor) and value.datatype in protocol.without):
        return None
    body, headers = protocol.write({"plain": spellings.b64(IMAGE), "other": value})
    message = Message(body, {key.lower(): text for key, text in headers.items()})
    request = MODULES[name[:2]].find(message)
    try:
        images = Preprocessing().find_images(request.slots, digit, digit)
        files = [data for image in images if image.encoded for data in image.encoded.files]
        for data in files:
            codec.open_image(data, 10**6).decode(1)
    except ServiceError:
        return "refused"
    return "purified" if len(images) == 2 else "unchanged"


def table():
    lines = [f"| beside an image | {' | '.join(PROTOCOLS)} |", "| --- |" + " --- |" * len(PROTOCOLS)]
    for what, values in rows():
        cells = [{outcome(name, kind, value) for kind, value in values} - {None} for name in PROTOCOLS]
        assert all(len(cell) <= 1 for cell in cells), (what, cells)
        lines.append(f"| {what} | {' | '.join(next(iter(cell), '-') for cell in cells)} |")
    return "\n".join(lines)


def test_the_page_says_what_becomes_of_each_value():
    assert f"\n\n{table()}\n\n" in PAGE.read_text(), f"docs/gateway.md needs this table:\n{table()}"
