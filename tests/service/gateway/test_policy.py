"""Canary, bypass, shadow and compare, over HTTP and gRPC alike."""

import gzip
import json

from ...conftest import running
from .helpers import ROWS, sample


def test_both_images_are_compared_only_where_that_is_allowed(upstream, asked):
    rows = json.dumps({"instances": ROWS})
    for allowed in (False, True):
        with running(downstream_url=upstream, downstream_protocol="v1", compare=allowed) as client:
            answer = client.post("/v1/models/m:predict", content=rows, headers={"X-ARN-Compare": "true"})
            assert ("x-arn-unpurified-label" in answer.headers) == allowed
    assert sum(body == rows.encode() for _, _, _, body in asked) == 1


def test_a_full_queue_is_refused_or_bypassed_as_declared(upstream, asked):
    rows = json.dumps({"instances": ROWS * 9})
    for policy, status in [("reject", 413), ("bypass", 200)]:
        with running(downstream_url=upstream, downstream_protocol="v1", queue_images=8, on_failure=policy) as client:
            answer = client.post("/v1/models/m:predict", content=rows)
            assert answer.status_code == status
            bypassed = sample(client, 'arn_bypassed_total{reason="too_many_images"}')
            assert bypassed == (policy == "bypass")
    ((_, _, _, body),) = asked
    assert body == rows.encode()
    assert (answer.headers["x-arn-purified"], answer.headers["x-arn-bypass"]) == ("false", "too_many_images")


def test_a_canary_share_of_nothing_purifies_nothing(upstream, asked):
    with running(downstream_url=upstream, downstream_protocol="v1", purify_share=0) as client:
        body = gzip.compress(json.dumps({"instances": ROWS}).encode())
        answer = client.post("/v1/models/m:predict", content=body, headers={"Content-Encoding": "gzip"})
        assert answer.headers["x-arn-purified"] == "false"
        assert sample(client, 'arn_bypassed_total{reason="canary"}') == 1
    assert asked[0][3] == body
    assert asked[0][2]["content-encoding"] == "gzip"
