"""Every image is purified or refused, whatever its spelling: what the server receives is looked at, value by value."""

import functools

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arn_purify.service.core import codec

from ...conftest import running
from . import spellings
from .grpc_upstream import asking, grpc_upstream
from .helpers import Upstream
from .spellings import PROTOCOLS, Tensor

READABLE = {"texts": spellings.TEXTS, "files": spellings.FILES, "numbers": {**spellings.NUMBERS, **spellings.PIXELS}}
UNREADABLE = {
    "texts": spellings.UNREADABLE_TEXTS,
    "files": spellings.UNREADABLE_FILES,
    "numbers": spellings.UNREADABLE_NUMBERS,
}
PARAMETERS = {"texts": spellings.PARAMETER_TEXTS, "files": (), "numbers": spellings.PARAMETER_NUMBERS}
IMAGES = [codec.encode_image(np.random.default_rng(seed).integers(0, 256, (28, 28, 1), np.uint8)) for seed in range(4)]


class Chain:
    """The gateway with a real server behind it over HTTP, and one over gRPC."""

    def __init__(self, client, ask, behind):
        self.client, self._ask, self._behind = client, ask, behind

    def send(self, name, values):
        """Whether it was answered, with ``X-ARN-Purified`` or the refusal's sentence; and the values that arrived."""
        protocol = PROTOCOLS[name]
        body, headers = protocol.write(values)
        Upstream.asked.clear()
        self._behind.asked.clear()
        if not protocol.path:
            passed, told = self._call(body)
            arrived = [(request, {}) for _, _, request in self._behind.asked]
        else:
            answer = self.client.post(protocol.path, content=body, headers=headers)
            passed = answer.status_code == 200
            assert passed or answer.headers["x-arn-refused-by"] == "purifier"
            told = answer.headers["x-arn-purified"] if passed else answer.text
            arrived = [(sent, received) for _, _, received, sent in Upstream.asked]
        return passed, told, [protocol.read(sent, received, values) for sent, received in arrived]

    def _call(self, body):
        try:
            _, call = self._ask(body)
        except grpc.RpcError as refused:
            by, told = dict(refused.trailing_metadata())["x-arn-refused-by"], refused.details()
        else:
            return True, dict(call.initial_metadata())["x-arn-purified"]
        assert by == "purifier", told
        return False, told

    @functools.cache  # noqa: B019 (as long as the module)
    def purified(self, image):
        """The pixels that an image must have become."""
        return spellings.picture(self.client.post("/purify", content=image).content)


@pytest.fixture(scope="module")
def chain(upstream):
    with grpc_upstream() as (behind, address):
        flags = {"downstream_url": upstream, "downstream_protocol": "any", "downstream_grpc": address, "grpc_port": 0}
        with running(models="mnist-transparent", **flags) as client, asking(client) as ask:
            yield Chain(client, ask, behind)


def writable(protocol, value):
    """Whether a protocol has this value: JSON has no raw characters beyond Latin-1, typed contents no BF16."""
    return not (isinstance(value, Tensor) and value.datatype in PROTOCOLS[protocol].without)


def cases(table):
    return [
        pytest.param(name, kind, spelling, id=f"{name}: {spelling}")
        for name, protocol in PROTOCOLS.items()
        for kind in protocol.kinds
        for spelling in table[kind]
    ]


def assert_purified(chain, read, value, image):
    coarse = isinstance(value, Tensor) and value.datatype == "BF16"  # what the purifier makes of rounded pixels
    pixels = read(value)
    pixels = spellings.picture(pixels) if isinstance(pixels, bytes) else pixels
    assert np.abs(np.asarray(pixels, np.float32) - chain.purified(image)).max() <= (40 if coarse else 1.6)


@pytest.mark.parametrize(("name", "kind", "spelling"), cases(READABLE))
def test_an_image_in_another_images_company_is_purified_and_keeps_its_spelling(chain, name, kind, spelling):
    write, read = READABLE[kind][spelling]
    values = {"plain": spellings.b64(IMAGES[0]), "other": write(IMAGES[1])}
    if not writable(name, values["other"]):
        pytest.skip("not a value of this protocol")
    passed, told, arrived = chain.send(name, values)
    assert (passed, told) == (True, "true"), told
    assert_purified(chain, spellings.TEXTS["base64"][1], arrived[0]["plain"], IMAGES[0])
    assert_purified(chain, read, arrived[0]["other"], IMAGES[1])


@pytest.mark.parametrize(("name", "kind", "spelling"), cases(UNREADABLE))
def test_what_cannot_be_read_is_refused_by_name(chain, name, kind, spelling):
    values = {"plain": spellings.b64(IMAGES[0]), "other": UNREADABLE[kind][spelling](IMAGES[1])}
    passed, told, arrived = chain.send(name, values)
    assert not passed
    assert "'other'" in told
    assert not arrived


@st.composite
def requests(draw):
    """A protocol, and named values: readable ones with their image and reader, unreadable ones, and parameters."""
    name = draw(st.sampled_from(sorted(PROTOCOLS)))
    values, readers, spoilt = {}, {}, False
    for index in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(PROTOCOLS[name].kinds))
        what = draw(st.sampled_from(["readable", "readable", "readable", "parameter", "parameter", "unreadable"]))
        key, image = f"k{index}", draw(st.sampled_from(IMAGES))
        if what == "readable":
            write, read = READABLE[kind][draw(st.sampled_from(sorted(READABLE[kind])))]
            value = write(image)
        elif what == "unreadable":
            value = UNREADABLE[kind][draw(st.sampled_from(sorted(UNREADABLE[kind])))](image)
        else:
            value = draw(st.sampled_from(PARAMETERS[kind] or (b"\x01\x02", b"", b"text")))
        if not writable(name, value):
            continue
        values[key] = value
        spoilt |= what == "unreadable"
        if what == "readable":
            readers[key] = (read, image)
    return name, values, readers, spoilt


@settings(max_examples=250)
@given(requests())
def test_true_means_every_image_and_nothing_else_is_touched(chain, request_):
    name, values, readers, spoilt = request_
    passed, told, arrived = chain.send(name, values)
    assert passed == bool(readers and not spoilt), told
    if not passed:
        assert not arrived
        return
    assert told == "true"
    for key, value in arrived[0].items():
        if key in readers:
            assert_purified(chain, readers[key][0], value, readers[key][1])
        elif isinstance(values[key], Tensor):
            assert np.array_equal(value.array, values[key].array)
        else:
            assert value == values[key]
