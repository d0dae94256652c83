"""``arn_bypassed_total`` and its line in the log: every image that the server may have got unpurified, and no other."""

import json
import logging

import grpc
import pytest

from ...conftest import running
from .grpc_upstream import asking, grpc_upstream
from .helpers import GARBAGE, Says, sample
from .test_outage import digit

SMALL = json.dumps({"instances": [[[0.5] * 9] * 9]})  # of a size that no purifier takes
DOWN = "http://127.0.0.1:9"
CANARY, WRONG_SIZE = {"purify_share": 0}, {"on_failure": "bypass", "models": "mnist-transparent"}


def bypassed(client, reason):
    return sample(client, f'arn_bypassed_total{{reason="{reason}"}}')


@pytest.fixture
def warned(caplog):
    caplog.set_level(logging.WARNING, logger="service.gateway")
    return lambda: sum("forwarded unpurified" in record.message for record in caplog.records)


@pytest.mark.parametrize(("settings", "reason"), [(CANARY, "canary"), (WRONG_SIZE, "wrong_size")])
def test_a_request_that_was_never_sent_is_not_counted(warned, settings, reason):
    with running(downstream_url=DOWN, downstream_protocol="v1", **settings) as client:
        statuses = [client.post("/v1/models/m:predict", content=SMALL).status_code for _ in range(6)]
        assert statuses == [502] * 5 + [503]  # the breaker has opened
        assert bypassed(client, reason) == 0
    assert not warned()


@pytest.mark.parametrize("said", ["nothing", "half a body", "a status far beyond"])
def test_a_request_that_the_server_took_is_counted_whatever_became_of_it(says, monkeypatch, warned, said):
    monkeypatch.setattr(Says, "what", GARBAGE[said])
    with running(downstream_url=says, downstream_protocol="v1", **WRONG_SIZE) as client:
        assert client.post("/v1/models/m:predict", content=SMALL).status_code == 502
        assert bypassed(client, "wrong_size") == 1
    assert warned() == 1


def test_a_request_that_the_server_does_not_answer_is_counted(upstream, warned):
    settings = {"downstream_url": upstream, "downstream_protocol": "v1", "downstream_timeout_seconds": 0.2}
    with running(**settings, **WRONG_SIZE) as client:
        assert client.post("/v1/models/slow:predict", content=SMALL).status_code == 504
        assert bypassed(client, "wrong_size") == 1
    assert warned() == 1


def test_over_grpc_only_what_was_sent_is_counted():
    with running(downstream_grpc="127.0.0.1:9", grpc_port=0, **CANARY) as client, asking(client) as ask:
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            ask(digit())
        assert bypassed(client, "canary") == 0
    with grpc_upstream() as (behind, address):
        behind.answer = lambda request, context: context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
        with running(downstream_grpc=address, grpc_port=0, **CANARY) as client, asking(client) as ask:
            with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                ask(digit())
            assert bypassed(client, "canary") == 1
