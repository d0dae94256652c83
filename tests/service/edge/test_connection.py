"""Clients that wait at the door are let in together; a connection's requests are told apart, and all are answered."""

import asyncio
import contextlib
import json
import logging
import socket
from functools import partial

import pytest
import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from arn_purify.service import cli
from arn_purify.service.core.limits import Limits
from arn_purify.service.edge.admission import Admission
from arn_purify.service.edge.connection import MAX_HEAD_BYTES, Connection, check_uvicorn
from arn_purify.service.edge.server import Acceptor
from arn_purify.service.settings import Settings
from arn_purify.service.telemetry.metrics import Metrics
from tests.conftest import PATIENCE, PATIENT


def test_all_who_wait_come_in_at_once_and_nobody_after_the_door_is_closed():
    inside = []

    class Client(asyncio.Protocol):
        def connection_made(self, transport):
            inside.append(transport)

    async def scenario():
        with contextlib.ExitStack() as opened:
            listening = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
            listening.setblocking(False)
            acceptor = Acceptor(listening, Client, ssl=None)
            for _ in range(50):
                opened.enter_context(socket.create_connection(listening.getsockname()))
            for _ in range(10):  # turns of the loop, of which libuv would let in one each
                await asyncio.sleep(0)
            assert len(inside) == 50
            acceptor.close()
            opened.enter_context(socket.create_connection(listening.getsockname()))
            await asyncio.sleep(0.01)
            assert len(inside) == 50
            for transport in inside:
                transport.close()

    uvloop.run(scenario())


class Server:
    """Connections to an app that says what it was asked; at ``/slow`` once it may, at ``/large`` 8 MB of it."""

    LARGE = 8 * 2**20

    def __init__(self, **settings):
        self.settings, self.metrics = Settings(**{**PATIENT, **settings}), Metrics("0")
        self.asked, self.hung_up, self.may, self.clients = [], [], asyncio.Event(), []

    async def __aenter__(self):
        limits = Limits(self.settings)
        self.metrics.body_bytes.set_function(lambda: limits.memory.reserved_bytes)
        app = Admission(self.app, limits, self.settings, self.metrics)
        protocol = partial(Connection, self.settings, self.metrics)
        config = uvicorn.Config(app, http=protocol, ws="none", log_config=None, access_log=False, lifespan="off")
        config.timeout_keep_alive = 0.5
        config.load()
        self.state = ServerState()
        made = partial(protocol, config=config, server_state=self.state, app_state={})
        self.server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for writer in self.clients:
            writer.close()
        for connection in tuple(self.state.connections):
            connection.transport.abort()
        while self.state.connections or self.state.tasks:
            await asyncio.sleep(0.01)

    async def app(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.asked.append((scope["path"], body))
        if scope["path"] == "/slow":
            waits = [asyncio.ensure_future(what) for what in (receive(), self.may.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if waits[0].done():
                self.hung_up.append(body)
            for wait in waits:
                wait.cancel()
        if scope["path"] == "/left":
            await scope["state"]["left"]
            self.hung_up.append(body)
        said = b"x" * self.LARGE if scope["path"] == "/large" else json.dumps(self.told(scope, body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
        await send({"type": "http.response.body", "body": said})

    @staticmethod
    def told(scope, body):
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        return {"path": scope["path"], "body": body.decode(), "headers": headers, "client": scope["client"][0]}

    async def connect(self):
        reader, writer = await asyncio.open_connection(*self.server.sockets[0].getsockname())
        self.clients.append(writer)
        return reader, writer

    async def say(self, *parts):
        """The statuses and bodies that come back until the connection is closed."""
        reader, writer = await self.connect()
        for part in parts:
            if not writer.is_closing():  # it may have heard enough
                writer.write(part)
            await asyncio.sleep(0.02)
        asyncio.get_running_loop().call_later(0.1, self.may.set)
        return await self.answers(reader)

    @staticmethod
    async def answers(reader):
        answers = []
        with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
                length = int(head.lower().split(b"content-length: ")[1].split()[0])
                answers.append((int(head.split()[1]), json.loads(await reader.readexactly(length))))
        return answers

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.01)

    def sample(self, name, **labels):
        return self.metrics.registry.get_sample_value(name, labels)


def served(scenario, **settings):
    async def run():
        async with Server(**settings) as server:
            await scenario(server)

    uvloop.run(run())


def post(path, body=b"", *lines):
    """A request; of chunks where the body is a list."""
    framing = b"Transfer-Encoding: chunked" if isinstance(body, list) else b"Content-Length: %d" % len(body)
    if isinstance(body, list):
        body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in body) + b"0\r\n\r\n"
    return b"\r\n".join([b"POST %b HTTP/1.1" % path, b"Host: x", framing, *lines, b"", body])


def get(path, *lines):
    return b"\r\n".join([b"GET %b HTTP/1.1" % path, b"Host: x", *lines, b"", b""])


@pytest.mark.parametrize("size", [0, 2**24])  # of the larger one more arrives at once than is buffered
def test_a_request_is_told_that_its_client_has_left(size):
    async def scenario(server):
        for _ in range(5):
            server.asked.clear()
            server.hung_up.clear()
            _, writer = await server.connect()
            writer.write(post(b"/left", bytes(size)))
            await server.until(lambda: server.asked)
            writer.close()
            await server.until(lambda: server.hung_up)

    served(scenario)


# -- a head that offers another protocol ----------------------------------------------------------------------------

H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__")


@pytest.mark.parametrize("cut", [None, 0, 1, 10])
@pytest.mark.parametrize("body", [b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n", [b"ab", b"GET / HTTP/1.1\r\n\r\n"], b""])
@pytest.mark.parametrize("connection", [H2C, (b"Connection: close, upgrade", b"Upgrade: websocket")])
def test_a_body_is_read_though_its_head_offers_another_protocol(cut, body, connection):
    """In one piece with the head and what follows, or cut in two so many bytes behind it."""
    whole = post(b"/first", body, *connection)
    at = len(whole) if cut is None else whole.index(b"\r\n\r\n") + 4 + cut
    data = whole + get(b"/second", *H2C) + post(b"/third", b"3", *H2C) + get(b"/fourth")

    async def scenario(server):
        answers = await server.say(data[:at], data[at:])
        asked = b"".join(body).decode() if isinstance(body, list) else body.decode()
        expected = [("/first", asked), ("/second", ""), ("/third", "3"), ("/fourth", "")]
        if connection is not H2C:
            expected = expected[:1]
        assert [(said["path"], said["body"]) for _, said in answers] == expected
        assert answers[0][1]["headers"]["upgrade"] == connection[1].decode().split()[1]

    served(scenario)


# -- what is no head ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False])
def test_trailers_are_no_headers(together):
    trailers = b"X-API-Key: secret\r\nAuthorization: me\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
    parts = [post(b"/", [b"body"]).removesuffix(b"\r\n"), trailers, get(b"/", b"X-Kept: 1")]

    async def scenario(server):
        answers = await server.say(*([b"".join(parts)] if together else parts))
        assert [(said["body"], set(said["headers"])) for _, said in answers] == [
            ("body", {"host", "transfer-encoding"}),
            ("", {"host", "x-kept"}),
        ]

    served(scenario)


def test_a_key_in_a_trailer_opens_nothing():
    async def scenario(server):
        asked = post(b"/x", [b"body"]).removesuffix(b"\r\n")
        assert (await server.say(asked + b"X-API-Key: secret\r\n\r\n"))[0][0] == 401
        assert (await server.say(post(b"/x", [b"body"], b"X-API-Key: secret")))[0][0] == 200

    served(scenario, api_key="secret")


@pytest.mark.parametrize("size", [60_000, 66_000, 120_000, 250_000])
@pytest.mark.parametrize("where", ["url", "header", "headers", "trailer", "behind a body", "trickling"])
def test_a_head_may_have_64_kib_however_it_comes(size, where):
    long = b"a" * size
    parts = {
        "url": [get(b"/" + long)],
        "header": [get(b"/", b"X-Long: " + long)],
        "headers": [get(b"/", *[b"a:b"] * (size // 6))],
        "trailer": [post(b"/", [b"1"]).removesuffix(b"\r\n") + b"X-Long: " + long + b"\r\n\r\n"],
        "behind a body": [post(b"/", b"1") + get(b"/", b"X-Long: " + long)],
        "trickling": [get(b"/", b"X-Long: " + long)[i : i + 10_000] for i in range(0, size + 100, 10_000)],
    }[where]

    async def scenario(server):
        answers = await server.say(*parts)
        statuses = [status for status, _ in answers]
        first = [200] if where == "behind a body" else []
        if size < MAX_HEAD_BYTES:
            assert statuses == [*first, 200]
        else:  # or nothing more, where that is cut off while it is sent, or an answer is due before
            assert statuses in ([*first, 431], first)
        refused = server.sample("arn_rejected_total", reason="head_too_large")
        assert (refused == 1) is (size > MAX_HEAD_BYTES)

    served(scenario)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 200),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", 200),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
    ],
)
def test_a_head_names_one_host_and_no_transfer_coding_but_chunked(head, status):
    async def scenario(server):
        answers = await server.say(head)
        assert [found for found, _ in answers] == [status]
        code = {400: "bad_request", 501: "unknown_transfer_coding"}.get(status)
        assert code is None or answers[0][1]["code"] == code

    served(scenario)


# -- what comes behind a request ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behind",
    [
        [b"!"],
        [b"", b"!"],
        [b"", b"!" * 300_000, b"!" * 300_000],
        [b"GET /next HTTP/1.1\r\nHo"],
        [b"GET /next HTTP/1.1\r\nX: " + b"a" * 70_000],
        [b"GET /next HTTP/1.1\r\nX: ", *[b"a" * 60_000] * 3],
        [post(b"/next", [b"1"]).removesuffix(b"0\r\n\r\n") + b"no chunk"],
        [post(b"/next", [b"1"]).removesuffix(b"0\r\n\r\n"), b"no chunk", get(b"/")],
    ],
)
@pytest.mark.parametrize("size", [10, 100_000])
def test_a_request_gets_its_answer_whatever_comes_behind_it(behind, size):
    first = post(b"/slow", b"x" * size)

    async def scenario(server):
        answers = await server.say(first + behind[0], *behind[1:])
        assert [(status, len(said["body"])) for status, said in answers] == [(200, size)]

    served(scenario, head_seconds=2)


def test_of_three_requests_with_something_broken_behind_each_is_answered_and_then_the_connection_is_closed():
    async def scenario(server):
        reader, writer = await server.connect()
        writer.write(post(b"/slow", b"1") + get(b"/2") + get(b"/3") + b"!")
        await server.until(lambda: server.sample("arn_rejected_total", reason="bad_request"))
        server.may.set()
        assert [said["path"] for _, said in await server.answers(reader)] == ["/slow", "/2", "/3"]
        assert reader.at_eof()

    served(scenario)


def test_a_request_that_breaks_off_in_its_own_body_is_told_so():
    async def scenario(server):
        answers = await server.say(post(b"/", [b"1"]).removesuffix(b"0\r\n\r\n"), b"no chunk")
        assert [(status, said["code"]) for status, said in answers] == [(400, "bad_request")]

    served(scenario)


@pytest.mark.parametrize("behind", [[], [get(b"/next")], [b"", get(b"/next")], [get(b"/next") + get(b"/next")]])
def test_a_client_that_hangs_up_is_noticed_whatever_it_asked_for_next(behind, caplog):
    async def scenario(server):
        _, writer = await server.connect()
        for part in [post(b"/slow", b"first") + b"".join(behind[:1]), *behind[1:]]:
            writer.write(part)
            await asyncio.sleep(0.05)
        await server.until(lambda: server.asked)
        writer.close()
        await server.until(lambda: server.hung_up)
        await asyncio.sleep(0.05)
        assert server.asked == [("/slow", b"first")]

    with caplog.at_level(logging.WARNING):
        served(scenario)
    assert not caplog.records


# -- answers that are not taken -------------------------------------------------------------------------------------


def test_an_answer_takes_room_and_its_clients_turn_until_it_is_taken():
    async def scenario(server):
        reader, writer = await server.connect()
        writer.write(get(b"/large"))
        await server.until(lambda: server.sample("arn_body_bytes"))
        await asyncio.sleep(0.1)
        assert server.sample("arn_body_bytes") == server.LARGE
        assert (await server.say(get(b"/x")))[0][1]["code"] == "client_limit"
        assert (await server.say(get(b"/ping")))[0][0] == 200  # asks for no room, where there is none
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(server.LARGE) == b"x" * server.LARGE
        assert not server.sample("arn_body_bytes")
        assert (await server.say(get(b"/x")))[0][0] == 200

    served(scenario, client_requests=1, max_body_bytes=2**20, bodies_bytes=2**20)


def test_an_answer_that_is_not_taken_in_time_gives_them_back():
    async def scenario(server):
        reader, writer = await server.connect()
        writer.write(get(b"/large"))
        await server.until(lambda: server.sample("arn_body_bytes"))
        for _ in range(12):  # now and then a little of it is taken
            await asyncio.sleep(0.05)
            await reader.read(1000)
        assert not server.sample("arn_body_bytes")

    served(scenario, body_seconds=0.5)


def test_a_uvicorn_without_what_the_limits_hook_into_is_refused_at_start(monkeypatch, capsys):
    check_uvicorn()
    monkeypatch.delattr(HttpToolsProtocol, "_start_asgi_task")
    assert cli.main(["serve", "--models", "identity", "--classifier", ""]) == 2
    assert "lacks _start_asgi_task" in capsys.readouterr().err
