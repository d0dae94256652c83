"""Settings that are more than one value."""

import argparse

import pytest
from pydantic import ValidationError

from arn_purify.service.settings import (
    SHARED_OUT,
    Settings,
    add_flags,
    add_transformer_flags,
    as_json,
    from_flags,
    from_json,
    shares,
)
from tests.conftest import running


def test_purifiers_are_pairs_of_a_name_and_a_purifier():
    assert Settings(purifiers="a:0 = mnist-transparent, b=c=identity,").purifiers == (
        ("a:0", "mnist-transparent"), ("b=c", "identity"),
    )  # fmt: skip
    assert Settings(purifiers="").purifiers == ()
    for wrong in ("identity", "=identity", "a=", "a=identity,a=other"):
        with pytest.raises(ValidationError, match="NAME=PURIFIER, each name once"):
            Settings(purifiers=wrong)


def test_a_purifier_that_is_not_loaded_ends_the_start():
    with (
        pytest.raises(ValueError, match="purifiers: 'lisa-transparent' is not loaded: identity"),
        running(models="identity", purifiers="signs=lisa-transparent"),
    ):
        pass


def test_a_path_prefix_begins_with_a_slash_and_ends_without():
    assert Settings(root_path="/a/b/").root_path == "/a/b"
    with pytest.raises(ValidationError, match="begins with a slash"):
        Settings(root_path="a")


@pytest.mark.parametrize("seconds", ["inf", "nan", "1e300", "-1"])
@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name.endswith("_seconds")])
def test_seconds_are_numbers_of_a_day_at_most(name, seconds):
    with pytest.raises(ValidationError, match=name):
        Settings(**{name: seconds})


@pytest.mark.parametrize(
    "settings",
    [
        {"downstream_url": "http://127.0.0.1:99999"},
        {"downstream_url": "http://127.0.0.1:abc"},
        {"downstream_url": "http://127.0.0.1:0"},
        {"downstream_url": "http://h:1/a?b=c", "downstream_protocol": "v2"},
        {"downstream_url": "http://h:1#a"},
        *(
            {"downstream_grpc": address}
            for address in ("host", "host:port", ":", ":1", "h:123456", "http://h:1", "h :1")
        ),
    ],
)
def test_an_address_that_cannot_be_asked_is_refused(settings):
    with pytest.raises(ValidationError, match=r"downstream_(url|grpc)"):
        Settings(**settings)
    assert Settings(downstream_url="http://h:1/a?b=c").downstream_url == "http://h:1/a?b=c"
    assert Settings(downstream_grpc="[::1]:9001").downstream_grpc == "[::1]:9001"


def test_what_the_workers_get_adds_up_to_what_was_asked_for(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    asked = Settings(workers=3, queue_images=100, connections=7, client_requests=4, bodies_bytes=10**9, threads=8)
    own = shares(asked)
    assert [one.queue_images for one in own] == [34, 33, 33]
    assert [one.threads for one in own] == [3, 3, 2]
    for name in SHARED_OUT:
        assert sum(getattr(one, name) for one in own) == getattr(asked, name)
    assert {one.workers for one in own} == {1}
    assert [one.client_requests for one in shares(Settings(workers=2))] == [0, 0], "no limit stays none"
    assert [one.threads for one in shares(Settings(workers=2, threads=1))] == [1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert [one.threads for one in shares(Settings(workers=4))] == [2, 2, 1, 1]
    assert len(shares(Settings())) == 1


def test_a_limit_that_cannot_be_shared_out_is_refused():
    for name, most in (
        ("queue_images", 3),
        ("connections", 3),
        ("client_requests", 3),
        ("bodies_bytes", 4 * 2**26 - 1),
    ):
        with pytest.raises(ValidationError, match=f"{name} is shared out among 4 workers"):
            Settings(workers=4, **{name: most})
        Settings(workers=4, **{name: most + 1})


def test_another_process_gets_the_same_settings_with_their_secrets(monkeypatch, tmp_path):
    given = Settings(
        api_key="a,b",
        admin_token="t",
        admin_folder=str(tmp_path),
        purifiers="x=identity",
        input_mean="0.5",
        input_std="2",
    )
    text = as_json(given)
    monkeypatch.setenv("ARN_QUEUE_IMAGES", "5")
    assert from_json(text) == given
    assert from_json(text).admin_token.get_secret_value() == "t"
    assert [key.get_secret_value() for key in from_json(text).api_key] == ["a", "b"]


def test_kserves_workers_are_workers():
    parser = argparse.ArgumentParser()
    add_flags(parser)
    add_transformer_flags(parser)
    assert from_flags(parser.parse_args(["--model_name", "m", "--predictor_host", "h", "--workers", "3"])).workers == 3
