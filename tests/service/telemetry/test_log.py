"""Log lines that machines read."""

import json
import logging
import re
import time
from datetime import datetime

import pytest

from arn_purify.service.gateway.downstream import Breaker
from arn_purify.service.telemetry.log import REQUEST_ID, TRACE_ID, JsonFormatter, access
from tests.conftest import PATIENCE, running
from tests.service.images import post


@pytest.fixture
def request_id():
    tokens = REQUEST_ID.set("r-1"), TRACE_ID.set("t-1")
    yield "r-1"
    REQUEST_ID.reset(tokens[0])
    TRACE_ID.reset(tokens[1])


def test_a_line_is_one_json_object_with_its_requests_ids(request_id, caplog):
    with caplog.at_level(logging.INFO):
        access(logging.INFO, request_id, "POST", "/purify", 200, 0.01234, "192.0.2.1")
    line = json.loads(JsonFormatter().format(caplog.records[-1]))
    assert datetime.fromisoformat(line.pop("time")).utcoffset().total_seconds() == 0
    assert line == {
        "level": "info", "logger": "service.access", "message": "r-1 POST /purify 200 12.3ms 192.0.2.1",
        "request_id": "r-1", "trace_id": "t-1", "method": "POST", "route": "/purify", "status": 200, "ms": 12.3,
        "client": "192.0.2.1",
    }  # fmt: skip


def test_a_refused_request_s_line_has_the_error_s_code_and_the_client(client, caplog):
    with caplog.at_level(logging.INFO):
        post(client, b"junk")
        client.get("/nowhere")
    refused, missing = (record for record in caplog.records if record.name == "service.access")
    assert re.fullmatch(r"\w+ POST /purify 4\d\d \w+ [\d.]+ms -", refused.getMessage())
    assert refused.fields["code"] == "broken_image"
    assert (missing.fields["code"], missing.fields["client"]) == ("not_found", "-")


@pytest.mark.parametrize(
    ("client", "shown"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("9.9.9.9 INFO forged line", "-"),
        ("fe80::1%eth0 INFO forged line", "-"),
        ("9.9.9.9\nforged", "-"),
        ("testclient", "-"),
        ("", "-"),
    ],
)
def test_a_client_is_an_address_or_nothing(caplog, client, shown):
    """A trusted proxy may pass on whatever a client wrote into ``X-Forwarded-For``."""
    with caplog.at_level(logging.INFO):
        access(logging.INFO, "r-1", "POST", "/purify", 200, 0.01, client)
    assert caplog.records[-1].getMessage() == f"r-1 POST /purify 200 10.0ms {shown}"
    assert caplog.records[-1].fields["client"] == shown


def test_the_breaker_says_when_it_opens_and_closes(caplog):
    breaker = Breaker()
    with caplog.at_level(logging.WARNING):
        for _ in range(7):
            breaker.failed()
        breaker.succeeded()
        breaker.succeeded()
    assert [record.getMessage() for record in caplog.records] == [
        "the model server failed 5 times in a row: it is tried again now and then",
        "the model server answers again, after 7 failures in a row",
    ]


def test_what_serves_is_said_once_it_does(caplog):
    def lines():
        return [record.getMessage() for record in caplog.records if record.getMessage().startswith("ready: ")]

    with caplog.at_level(logging.INFO), running(models="identity"):
        end = time.monotonic() + PATIENCE
        while not lines() and time.monotonic() < end:
            time.sleep(0.02)
    (said,) = lines()
    assert re.fullmatch(r"ready: version \S+, purifiers identity, classifiers .*, on cpu in fp32, \d+ threads", said)


def test_an_exception_is_a_field_and_ids_are_left_out_where_there_is_no_request(caplog):
    try:
        raise ValueError("broken\nin two lines")
    except ValueError:
        logging.getLogger("x").exception("it failed")
    text = JsonFormatter().format(caplog.records[-1])
    line = json.loads(text)
    assert "\n" not in text
    assert "ValueError: broken" in line["exception"]
    assert not {"request_id", "trace_id"} & line.keys()


def test_a_worker_names_itself(caplog):
    with caplog.at_level(logging.INFO):
        logging.getLogger("x").info("up")
    assert json.loads(JsonFormatter(2).format(caplog.records[-1]))["worker"] == 2
    assert "worker" not in json.loads(JsonFormatter().format(caplog.records[-1]))
