"""The alert rules, held against the routes that there are."""

import re
from pathlib import Path

import pytest

from arn_purify.service.edge.http import QUIET
from arn_purify.service.gateway import grpc, rest

RULES = Path(__file__).parents[3] / "docker" / "prometheus" / "rules.yml"


def names(methods):
    return {"grpc:" + method.rpartition("/")[2] for method in methods}


PROBES = {path for rows in rest._ROUTES.values() for path, _, _, health in rows if health} | set(QUIET)
PROBES |= names(grpc._OPEN) | names(method for method, ready in grpc._PASSED.items() if ready)
INFERENCES = {path for rows in rest._ROUTES.values() for path, _, module, _ in rows if module}
INFERENCES |= {"/purify", "/classify", *names([grpc._INFER])}


@pytest.fixture(scope="module")
def left_out():
    """What the error ratio and the rate of requests leave out, which is the same."""
    found = set(re.findall(r'arn_requests_total\{route!~"([^"]*)"', RULES.read_text()))
    (pattern,) = found
    return re.compile(pattern)


@pytest.mark.parametrize("route", sorted(PROBES))
def test_a_probe_is_no_traffic(left_out, route):
    assert left_out.fullmatch(route)


@pytest.mark.parametrize("route", sorted(INFERENCES))
def test_an_inference_is_traffic(left_out, route):
    assert not left_out.fullmatch(route)
