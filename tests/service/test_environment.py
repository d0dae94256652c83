"""What an operator may have overlooked is said at the start."""

import logging

import pytest

from arn_purify.service.environment import unknown, warn
from arn_purify.service.settings import Settings


def test_each_misspelled_variable_is_named_with_what_was_meant():
    given = {
        "ARN_API_KEYS": "k",
        "ARN_QUEUE_IMAGE": "9",
        "ARN_XYZZY": "1",
        "ARN_PORT": "1",
        "arn_host": "::",
        "PATH": "",
    }
    assert dict(unknown(given)) == {
        "ARN_API_KEYS": "ARN_API_KEY",
        "ARN_QUEUE_IMAGE": "ARN_QUEUE_IMAGES",
        "ARN_XYZZY": "",
    }


def test_what_others_read_and_what_kubernetes_sets_is_known():
    link = {"ARN_PURIFY_SERVICE_HOST": "", "ARN_PURIFY_SERVICE_PORT_HTTP": "", "ARN_PURIFY_PORT_8000_TCP_ADDR": ""}
    assert not list(unknown({"ARN_DATA_DIR": "", "ARN_PYTHON": "", "ARN_PURIFY_PORT": "", **link}))
    assert [name for name, _ in unknown({"ARN_PURIFY_PORT": ""})] == ["ARN_PURIFY_PORT"]


SERVER = {"downstream_url": "http://h:1"}
CANARY = {"purify_share": 0.5, "input_mean": "0.5", "input_std": "0.5", "purifiers": "a=b"}
NAMES = "ARN_PURIFIERS, ARN_INPUT_MEAN, ARN_INPUT_STD, ARN_PURIFY_SHARE"


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ""),
        (CANARY, NAMES),
        (CANARY | SERVER, NAMES),  # /classify alone asks the server
        (CANARY | SERVER | {"downstream_protocol": "v1"}, ""),
        (CANARY | {"downstream_grpc": "h:1"}, ""),
        ({"purify_share": 1, "compare": False, "on_failure": "reject"}, ""),
        ({"downstream_model": "m"}, "ARN_DOWNSTREAM_MODEL"),
        ({"downstream_model": "m", "downstream_protocol": "torchserve"} | SERVER, "ARN_DOWNSTREAM_MODEL"),
        ({"downstream_model": "m", "downstream_protocol": "v2"} | SERVER, ""),
        ({"downstream_grpc": "h:1", "downstream_protocol": "v2"}, "ARN_DOWNSTREAM_PROTOCOL"),
        ({"admin_folder": "."}, "ARN_ADMIN_FOLDER"),
        ({"admin_folder": ".", "admin_token": "t"}, ""),
    ],
)
def test_settings_without_effect_are_named_in_one_warning(settings, names, caplog):
    with caplog.at_level(logging.WARNING):
        warn(Settings(**settings), {})
    assert [record.getMessage() for record in caplog.records] == (
        [f"without effect as things are set: {names}"] if names else []
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"host": "0.0.0.0"}, 1),
        ({"host": "::"}, 1),
        ({}, 0),
        ({"host": "localhost"}, 0),
        ({"host": "::", "api_key": "k"}, 0),
    ],
)
def test_a_service_without_a_key_that_others_reach_is_warned_of(settings, said, caplog):
    with caplog.at_level(logging.WARNING):
        warn(Settings(**settings), {"ARN_API_KEYS": "k"} if said else {})
    assert len(caplog.records) == 2 * said
    assert not said or "anyone who reaches" in caplog.records[1].getMessage()
