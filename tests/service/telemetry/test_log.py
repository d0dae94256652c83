"""Log lines that machines read."""

import json
import logging
from datetime import datetime

import pytest

from arn_purify.service.telemetry.log import REQUEST_ID, TRACE_ID, JsonFormatter, access


@pytest.fixture
def request_id():
    tokens = REQUEST_ID.set("r-1"), TRACE_ID.set("t-1")
    yield "r-1"
    REQUEST_ID.reset(tokens[0])
    TRACE_ID.reset(tokens[1])


def test_a_line_is_one_json_object_with_its_requests_ids(request_id, caplog):
    with caplog.at_level(logging.INFO):
        access(logging.INFO, request_id, "POST", "/purify", 200, 0.01234)
    line = json.loads(JsonFormatter().format(caplog.records[-1]))
    assert datetime.fromisoformat(line.pop("time")).utcoffset().total_seconds() == 0
    assert line == {
        "level": "info", "logger": "service.access", "message": "r-1 POST /purify 200 12.3ms", "request_id": "r-1",
        "trace_id": "t-1", "method": "POST", "route": "/purify", "status": 200, "ms": 12.3,
    }  # fmt: skip


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
