"""The metadata of gRPC: a request's id on the way to the server, in the log and back to the client."""

import logging

import grpc
import pytest

from ...conftest import running
from .grpc_upstream import asking, grpc_upstream
from .test_outage import digit


@pytest.fixture
def behind():
    with grpc_upstream() as (handler, handler.address):
        yield handler


@pytest.fixture
def ask(behind):
    settings = {"models": "mnist-transparent", "downstream_grpc": behind.address, "grpc_port": 0}
    with running(**settings) as client, asking(client) as call:
        yield call


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "service.access"]


def test_an_answer_has_the_requests_id_once(behind, ask):
    def answer(request, context):
        context.send_initial_metadata([("x-request-id", "theirs"), ("x-theirs", "1")])
        return b""

    behind.answer = answer
    _, call = ask(digit(), ("x-request-id", "r-1"))
    initial = list(call.initial_metadata())
    assert [value for name, value in initial if name == "x-request-id"] == ["r-1"]
    assert ("x-theirs", "1") in initial
    _, call = ask(digit())
    ((_, sent, _), (_, made, _)) = behind.asked
    assert sent["x-request-id"] == "r-1"
    assert dict(call.initial_metadata())["x-request-id"] == made["x-request-id"] != ""


@pytest.mark.parametrize("body", [digit(), b""])
def test_an_error_has_it_too_the_servers_and_ours(behind, ask, body):
    def answer(request, context):
        context.set_trailing_metadata([("x-request-id", "theirs")])
        context.abort(grpc.StatusCode.NOT_FOUND, "no such model")

    behind.answer = answer
    with pytest.raises(grpc.RpcError) as told:
        ask(body, ("x-request-id", "r-1"))
    assert [value for name, value in told.value.trailing_metadata() if name == "x-request-id"] == ["r-1"]


@pytest.mark.parametrize("given", ["r-1 gRPC ModelInfer OK 1.0ms 9.9.9.9", "x" * 129, ""])
def test_an_id_that_could_forge_a_line_is_replaced_everywhere(behind, ask, caplog, given):
    with caplog.at_level(logging.INFO):
        _, call = ask(digit(), ("x-request-id", given))
    made = dict(call.initial_metadata())["x-request-id"]
    ((_, sent, _),) = behind.asked
    assert made not in (given, "")
    assert sent["x-request-id"] == made
    (line,) = lines(caplog)
    assert line.startswith(f"{made} gRPC ModelInfer OK ")
    assert line.endswith(" 127.0.0.1")
