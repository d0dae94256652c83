"""A server that is down, slow or answers nonsense, and the breaker."""

import asyncio
import json

import aiohttp
import pytest
from multidict import CIMultiDict

from arn_purify.service.errors import DownstreamOpen, DownstreamTimeout, DownstreamUnreachable
from arn_purify.service.gateway.downstream import Breaker, Downstream, DownstreamAnswer

from ...conftest import PATIENCE, running
from .helpers import GARBAGE, HEAD, PNG, ROWS, SOUND, Says, sample


def test_a_server_that_is_down_or_slow_is_told_apart_and_left_alone_after_a_while(upstream):
    with running(downstream_url="http://127.0.0.1:9", downstream_protocol="v1") as client:
        answers = [client.post("/v1/models/m:predict", content=json.dumps({"instances": ROWS})) for _ in range(6)]
        assert [answer.status_code for answer in answers] == [502] * 5 + [503]
        assert answers[-1].json()["code"] == "downstream_open"
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert client.post("/predictions/m", content=PNG).status_code == 404  # another protocol than the one declared
    with running(downstream_url=upstream, downstream_protocol="v1", downstream_timeout_seconds=0.2) as client:
        answer = client.post("/v1/models/slow:predict", content=json.dumps({"instances": ROWS}))
        assert (answer.status_code, answer.json()["code"]) == (504, "downstream_timeout")


def test_a_clients_haste_is_no_failure_of_the_server(upstream):
    hasty = {"x-envoy-expected-rq-timeout-ms": "1"}
    with running(downstream_url=upstream, downstream_protocol="v1") as client:
        assert [client.get("/v1/models/slow", headers=hasty).status_code for _ in range(6)] == [504] * 6
        assert client.get("/v1/models/m").status_code == 200


async def test_a_server_that_takes_no_connection_is_asked_once_more_and_unreachable(monkeypatch):
    downstream = Downstream("http://127.0.0.1:9", 5.0)
    tried = []

    async def once(*_):
        tried.append(1)
        raise aiohttp.ConnectionTimeoutError

    monkeypatch.setattr(downstream, "_once", once)
    with pytest.raises(DownstreamUnreachable):
        await downstream.ask("GET", "/", {})
    await downstream.close()
    assert len(tried) == 2


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_a_request_that_the_server_has_read_is_not_sent_again(method):
    """On a kept connection that breaks then, aiohttp would send GET and PUT once more."""
    got = []

    async def once_then_gone(reader, writer):
        for number in range(2):
            got.append((await reader.readuntil(b"\r\n\r\n")).split()[0].decode())
            if not number:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(once_then_gone, "127.0.0.1", 0)
    downstream = Downstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", PATIENCE)
    await downstream.ask(method, "/", {})
    with pytest.raises(DownstreamUnreachable):
        await downstream.ask(method, "/", {})
    await downstream.close()
    server.close()
    assert got == [method, method]


@pytest.mark.parametrize(
    ("protocol", "path", "body"),
    [
        ("raw", "/classify", PNG),
        ("v1", "/v1/models/m:predict", json.dumps({"instances": ROWS}).encode()),
        ("torchserve", "/predictions/m", PNG),
    ],
)
def test_a_server_that_answers_garbage_is_a_502_in_our_own_form(says, monkeypatch, protocol, path, body):
    with running(downstream_url=says, downstream_protocol=protocol) as client:
        for name, garbage in GARBAGE.items():
            monkeypatch.setattr(Says, "what", garbage)
            answer = client.post(path, content=body)
            assert answer.status_code == 502, name
            code = answer.json()["code"]
            assert code == ("downstream_unreachable" if protocol != "torchserve" else 502)
            assert answer.headers["x-arn-refused-by"] == "downstream"
            monkeypatch.setattr(Says, "what", SOUND)
            assert client.post(path, content=body).content == b"{}", f"after {name}"
        assert sample(client, 'arn_requests_total{route="' + path.replace("/m", "/{model}") + '",status="500"}') == 0


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: a\x01b", b"HTTP/1.1 600 Odd"])
async def test_a_connection_on_which_garbage_came_is_not_used_again(head):
    connections = []

    async def answer(reader, writer):
        connections.append(writer)
        for say in (head if len(connections) == 1 else b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK"):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(say + b"\r\nContent-Length: 2\r\n\r\n{}")

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    downstream = Downstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", PATIENCE)
    with pytest.raises(DownstreamUnreachable):
        await downstream.ask("GET", "/", {})
    assert (await downstream.ask("GET", "/", {})).body == b"{}"
    assert len(connections) == 2
    assert (await downstream.ask("GET", "/", {})).body == b"{}"
    assert len(connections) == 2
    await downstream.close()
    for writer in connections:
        writer.close()
    server.close()


def test_what_follows_an_answer_is_never_taken_for_the_next_one(says, monkeypatch):
    smuggled = HEAD + b"Content-Length: 8\r\n\r\nsmuggled"
    monkeypatch.setattr(Says, "stays", True)
    with running(downstream_url=says) as client:
        for _ in range(3):
            monkeypatch.setattr(Says, "what", SOUND + smuggled)
            first = client.post("/classify", content=PNG)
            assert first.status_code == 502 or first.content == b"{}"
            monkeypatch.setattr(Says, "what", SOUND)
            assert client.post("/classify", content=PNG).content == b"{}"


@pytest.mark.parametrize("size", [9_000, 65_536, 200_000])
async def test_a_long_header_of_the_server_comes_back_whole(says, monkeypatch, size):
    """A redirect repeats the client's query, for which 64 KiB are taken; it may spell one byte as three."""
    location = b"/" + b"a" * size
    what = b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"
    monkeypatch.setattr(Says, "what", what)
    downstream = Downstream(says, PATIENCE)
    answer = await downstream.ask("POST", "/", {})
    await downstream.close()
    assert (answer.status, answer.headers["location"].encode()) == (302, location)


async def test_many_headers_of_the_server_come_back(says, monkeypatch):
    monkeypatch.setattr(Says, "what", HEAD + b"X: 1\r\n" * 500 + b"Content-Length: 2\r\n\r\n{}")
    downstream = Downstream(says, PATIENCE)
    assert len((await downstream.ask("POST", "/", {})).headers.getall("x")) == 500
    await downstream.close()


NO_ANSWER = ("nothing", "half a head")  # the connection ends before one begins


async def test_an_answer_that_cannot_be_read_does_not_open_the_breaker(says, monkeypatch):
    downstream = Downstream(says, PATIENCE)
    for name in GARBAGE.keys() - NO_ANSWER:
        monkeypatch.setattr(Says, "what", GARBAGE[name])
        for _ in range(6):
            with pytest.raises(DownstreamUnreachable):
                await downstream.ask("POST", "/", {})
    await downstream.close()


@pytest.mark.parametrize("name", NO_ANSWER)
async def test_connections_that_end_before_an_answer_begins_open_the_breaker(says, monkeypatch, name):
    monkeypatch.setattr(Says, "what", GARBAGE[name])
    downstream = Downstream(says, PATIENCE)
    for error in [DownstreamUnreachable] * 5 + [DownstreamOpen]:
        with pytest.raises(error):
            await downstream.ask("POST", "/", {})
    await downstream.close()


@pytest.fixture
def now(monkeypatch):
    """The breaker's clock, to be moved."""
    clock = [100.0]
    monkeypatch.setattr("arn_purify.service.gateway.downstream.time.monotonic", lambda: clock[0])
    return clock


def test_the_breaker_lets_one_probe_through_a_pause_and_closes_at_the_first_answer(now):
    breaker = Breaker()
    for _ in range(5):
        breaker.admit()
        breaker.failed()
    with pytest.raises(DownstreamOpen):
        breaker.admit()
    now[0] += 0.6
    breaker.admit()  # the probe
    with pytest.raises(DownstreamOpen):
        breaker.admit()
    breaker.failed()
    now[0] += 0.6  # the pause has doubled
    with pytest.raises(DownstreamOpen):
        breaker.admit()
    now[0] += 0.5
    breaker.admit()
    breaker.succeeded()
    breaker.admit()


def test_a_probe_that_its_client_gave_up_leaves_its_turn_to_the_next(now):
    breaker = Breaker()
    for _ in range(5):
        breaker.failed()
    now[0] += 0.6
    breaker.admit()
    breaker.unsettled()
    breaker.admit()
    with pytest.raises(DownstreamOpen):
        breaker.admit()


def test_many_that_fail_at_once_open_the_breaker_for_one_pause(now):
    breaker = Breaker()
    for _ in range(16):
        breaker.admit()
    for _ in range(16):
        breaker.failed()
    now[0] += 0.6
    breaker.admit()


@pytest.fixture
async def slow(monkeypatch):
    """A client of a server that answers at once, but to paths with ``slow`` never."""
    downstream = Downstream("http://x", 0.05)

    async def once(method, path, *_):
        await (asyncio.Event().wait() if "slow" in path else asyncio.sleep(0))
        return DownstreamAnswer(200, CIMultiDict(), b"")

    monkeypatch.setattr(downstream, "_once", once)
    yield downstream
    await downstream.close()


async def outcomes(downstream, path, count):
    """What becomes of so many requests at once: their statuses, or the names of their errors."""
    asked = [downstream.ask("GET", path, {}) for _ in range(count)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    return [answer.status if isinstance(answer, DownstreamAnswer) else type(answer) for answer in answers]


async def test_a_slow_model_keeps_no_requests_from_the_others(slow, monkeypatch):
    assert await outcomes(slow, "/v1/models/slow:predict?x=1", 5) == [DownstreamTimeout] * 5
    assert await outcomes(slow, "/v1/models/slow:predict", 1) == [DownstreamOpen]
    monkeypatch.setattr(slow, "_timeout_seconds", PATIENCE)
    for path in ("/v1/models/m:predict", "/v1/models/slo", "/v2/health/ready"):
        assert await outcomes(slow, path, 1) == [200]


async def test_a_slow_model_that_answers_is_asked_again(slow, monkeypatch):
    path = "/v1/models/slow"
    assert await outcomes(slow, path, 5) == [DownstreamTimeout] * 5

    async def once(*_):
        await asyncio.sleep(0)
        return DownstreamAnswer(200, CIMultiDict(), b"")

    monkeypatch.setattr(slow, "_once", once)
    monkeypatch.setattr(slow, "_timeout_seconds", PATIENCE)
    monkeypatch.setattr(slow._slow[path], "_until", 0.0)  # the pause is over
    assert await outcomes(slow, path, 2) == [200, DownstreamOpen]  # the probe, and who comes meanwhile
    assert await outcomes(slow, path, 6) == [200] * 6


async def test_a_server_that_is_down_is_open_for_every_model(monkeypatch):
    downstream = Downstream("http://127.0.0.1:9", PATIENCE)
    for number in range(5):
        assert await outcomes(downstream, f"/v1/models/m{number}", 1) == [DownstreamUnreachable]
    assert await outcomes(downstream, "/v1/models/m9", 1) == [DownstreamOpen]
    await downstream.close()


async def test_clients_that_choose_names_take_no_memory(slow):
    for number in range(100):
        assert await outcomes(slow, f"/v1/models/slow{number}", 1) == [DownstreamTimeout]
    assert len(slow._slow) == 64
