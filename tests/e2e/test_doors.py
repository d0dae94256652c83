"""Hostile clients over real sockets: those that send too slowly, too much, or never read; and TLS."""

import contextlib
import json
import os
import re
import shutil
import ssl
import subprocess
import threading
import time

import grpc
import httpx2
import numpy as np
import pytest

from arn_purify.service.core import codec

from ..conftest import PATIENCE
from .conftest import most_resident, serving, until

MIB = 2**20
CLOCKS = ("--head-seconds", "1", "--body-seconds", "2")
NPY = {"Content-Type": codec.NPY_TYPE}
BODY = codec.encode_npy(np.zeros((1, 1, 28, 28), np.float32))


def head(length, path="/purify", *more):
    given = f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {codec.NPY_TYPE}", given, *more]
    return "\r\n".join([*lines, "", ""]).encode()


def heard(connection):
    """Everything until the service closes the connection; a client that is cut off while sending may hear a reset."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            said += chunk
    return said


def dripped(connection, piece):
    """Send a piece ten times a second until the service has had enough."""
    end = time.monotonic() + PATIENCE
    with contextlib.suppress(OSError):
        while time.monotonic() < end:
            connection.sendall(piece)
            time.sleep(0.1)
        pytest.fail("it was listened to without end")


def answer(said):
    top, _, body = said.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(body)["code"]


def sample(served, name):
    found = re.search(rf"^{re.escape(name)} (\S+)", served.client.get("/metrics").text, re.M)
    return float(found[1]) if found else 0.0


@pytest.fixture(scope="module")
def clocked(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("clocked"), *CLOCKS, "--models", "mnist-transparent,identity") as served:
        yield served


def test_a_connection_that_says_nothing_is_closed(clocked):
    with clocked.connect() as connection:
        assert heard(connection) == b""


@pytest.mark.parametrize("start", [b"GET /health/live HTTP/1.1\r\nX-Slow: ", b"\r\n"])
@pytest.mark.parametrize("later", [False, True])
def test_a_head_that_trickles_in_is_cut_off(clocked, start, later):
    """At once or after an answer; also one that has yet to begin."""
    with clocked.connect() as connection:
        if later:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(start)
        dripped(connection, b"\r\n" if start == b"\r\n" else b"a")
    assert clocked.client.get("/health/ready").status_code == 200


@pytest.mark.parametrize("length", [100_000, None])
def test_a_body_that_trickles_in_is_told_and_cut_off(clocked, length):
    with clocked.connect() as connection:
        connection.sendall(head(length))
        piece = b"x" if length else b"1\r\nx\r\n"
        sender = threading.Thread(target=dripped, args=(connection, piece))
        sender.start()
        said = heard(connection)
        sender.join()
    assert answer(said) == (408, "body_timeout")
    assert b"connection: close" in said.lower()
    assert clocked.client.post("/purify", content=BODY, headers=NPY).status_code == 200


def test_a_body_goes_on_after_its_answer_for_as_long_and_no_longer(clocked):
    with clocked.connect() as connection:
        connection.sendall(head(10 * MIB, "/nowhere"))
        assert connection.recv(4096).startswith(b"HTTP/1.1 404 ")
        dripped(connection, b"x")


def test_trailers_without_end_are_cut_off(clocked):
    with clocked.connect() as connection:
        connection.sendall(head(None) + b"1\r\nx\r\n0\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                connection.sendall(b"X-More: " + b"a" * 16_000 + b"\r\n")
            pytest.fail("16 MB of trailers were taken")


def not_taken(served, connection, *more):
    """An answer of 16 MB, which no socket's buffers hold, takes room until the service gives it up."""
    asked = codec.encode_npy(np.zeros((16, 1, 500, 500), np.float32))
    encoded = 'arn_stage_seconds_count{stage="encode"}'
    before = sample(served, encoded)
    connection.sendall(head(len(asked), "/purify?model=identity", *more) + asked)
    until(lambda: sample(served, encoded) > before)
    assert sample(served, "arn_body_bytes") >= len(asked)
    until(lambda: not sample(served, "arn_body_bytes"))
    return len(heard(connection)) < len(asked)


def test_an_answer_that_nobody_takes_is_dropped(clocked):
    with clocked.connect() as connection:
        assert not_taken(clocked, connection)


def test_an_answer_that_nobody_takes_is_given_up_at_the_end(tmp_path):
    flags = ("--drain-seconds", "1", "--models", "mnist-transparent,identity")
    asked = codec.encode_npy(np.zeros((16, 1, 500, 500), np.float32))
    with serving(tmp_path, *flags) as served, served.connect() as connection:
        connection.sendall(head(len(asked), "/purify?model=identity") + asked)
        assert connection.recv(5) == b"HTTP/"
        assert served.stop() == 0
        assert "POST /purify 200" in served.said
        assert "Traceback" not in served.said


def test_what_is_no_http_is_told_so_in_our_form(clocked):
    with clocked.connect() as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert answer(heard(connection)) == (400, "bad_request")


def test_more_connections_than_may_be_are_told_and_closed(tmp_path):
    with serving(tmp_path, "--connections", "8") as served, contextlib.ExitStack() as opened:
        for _ in range(8):
            opened.enter_context(served.connect())
        with served.connect() as connection:
            assert answer(heard(connection)) == (503, "too_many_connections")
        opened.close()

        def admitted():
            with contextlib.suppress(httpx2.TransportError):
                return served.client.post("/purify", content=BODY, headers=NPY).status_code == 200

        until(admitted)
        assert sample(served, 'arn_rejected_total{reason="too_many_connections"}') >= 1


@pytest.mark.parametrize("declared", [True, False])
def test_many_large_slow_uploads_take_no_more_memory_than_there_is_for_bodies(tmp_path, declared):
    size, room, clients = 7 * MIB, 32 * MIB, 40
    flags = ("--max-body-bytes", str(8 * MIB), "--bodies-bytes", str(room))
    with serving(tmp_path, *flags) as served, contextlib.ExitStack() as opened:
        assert served.client.post("/purify", content=BODY, headers=NPY).status_code == 200
        before = most_resident(served)
        connections = [opened.enter_context(served.connect()) for _ in range(clients)]

        def upload(connection):
            connection.sendall(head(size + 1 if declared else None))
            with contextlib.suppress(ConnectionError):
                for _ in range(size // 65536):  # all but the last byte, so that none is ever whole
                    connection.sendall(b"x" * 65536 if declared else b"10000\r\n" + b"x" * 65536 + b"\r\n")

        senders = [threading.Thread(target=upload, args=(connection,)) for connection in connections]
        for sender in senders:
            sender.start()
        fitting = room // size
        until(lambda: sample(served, 'arn_rejected_total{reason="bodies_full"}') >= clients - fitting)
        assert 0 < sample(served, "arn_body_bytes") <= room
        for sender in senders:
            sender.join()
        grown = most_resident(served) - before
        assert grown < 3 * room  # 280 MiB were sent
        opened.close()
        until(lambda: not sample(served, "arn_body_bytes"))
        assert served.client.post("/purify", content=BODY, headers=NPY).status_code == 200
        assert "Traceback" not in served.said


@pytest.mark.parametrize(("proxy", "status"), [("127.0.0.1", 200), ("10.9.9.9", 429)])
def test_behind_a_proxy_that_is_trusted_the_client_is_whom_it_names(tmp_path, proxy, status):
    environment = os.environ | {"FORWARDED_ALLOW_IPS": proxy}
    with serving(tmp_path, "--client-requests", "1", env=environment) as served, served.connect() as busy:
        busy.sendall(head(len(BODY), "/purify", "X-Forwarded-For: 192.0.2.9, 192.0.2.1"))
        until(lambda: sample(served, "arn_body_bytes"))

        def ask(*hops):
            return served.client.post("/purify", content=BODY, headers={**NPY, "X-Forwarded-For": ", ".join(hops)})

        assert ask("192.0.2.1").status_code == 429
        assert ask("192.0.2.9", "192.0.2.1").status_code == 429  # what a client claims itself stands further left
        assert ask("192.0.2.1", "192.0.2.2").status_code == status


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def test_http_and_grpc_speak_tls(tmp_path, certificate):
    cert, key = map(str, certificate)
    behind = ("--downstream-url", "http://x", "--downstream-protocol", "v2", "--downstream-grpc", "127.0.0.1:9")
    flags = ("--tls-cert", cert, "--tls-key", key, *behind, "--grpc-port", "0", "--api-key", "k", *CLOCKS)
    flags += ("--models", "mnist-transparent,identity")
    trusted = ssl.create_default_context(cafile=cert)
    with serving(tmp_path, *flags, trusted=trusted) as served:
        assert served.url.startswith("https://")
        assert served.client.post("/purify", content=BODY, headers=NPY | {"X-API-Key": "k"}).status_code == 200
        with served.connect() as plain:
            plain.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not heard(plain).startswith(b"HTTP")
        with served.connect() as silent:
            assert heard(silent) == b""  # no handshake, no connection
        with trusted.wrap_socket(served.connect(), server_hostname="127.0.0.1") as connection:
            assert not_taken(served, connection, "X-API-Key: k")
        port = re.search(r"gRPC on \S+:(\d+)", served.said)[1]
        roots = grpc.ssl_channel_credentials(certificate[0].read_bytes())
        with grpc.secure_channel(f"127.0.0.1:{port}", roots) as channel, pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"", timeout=PATIENCE)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert served.stop() == 0
        assert "Traceback" not in served.said


@pytest.mark.parametrize("last", [b"[1]", b"[1,2]", b"[NaN]"], ids=["regular", "ragged", "NaN"])
def test_json_of_many_small_lists_takes_no_more_memory_than_the_page_on_security_says(tmp_path, last):
    room = 32 * MIB
    flags = ("--max-body-bytes", str(16 * MIB), "--bodies-bytes", str(room), "--downstream-url", "http://127.0.0.1:9")
    body = b'{"instances":[[' + b"[1]," * 3_500_000 + last + b"]]}"  # 14 MB, as lists 400 MB
    with serving(tmp_path, *flags, "--downstream-protocol", "v1") as served:
        assert served.client.post("/purify", content=BODY, headers=NPY).status_code == 200
        before, said = most_resident(served), []

        def ask():
            with httpx2.Client(base_url=served.url, timeout=PATIENCE) as client:
                said.append(client.post("/v1/models/digits:predict", content=body))

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert {(answer.status_code, answer.json()["code"]) for answer in said} <= {
            (413, "body_too_large"),
            (429, "bodies_full"),
        }
        assert most_resident(served) - before < 3 * room
        until(lambda: not sample(served, "arn_body_bytes"))
        assert served.client.post("/purify", content=BODY, headers=NPY).status_code == 200
