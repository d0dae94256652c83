"""Settings that are more than one value."""

import argparse

import pytest
from pydantic import ValidationError

from arn_purify.service.cli import main
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
        pytest.raises(ValueError, match="ARN_PURIFIERS: 'lisa-transparent' is not loaded: identity"),
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
        {"downstream_url": "http://h :1"},
        {"downstream_url": "http://h:1/a b"},
        {"downstream_url": "http://h:1/a\x01"},
        {"downstream_url": "http://h:1\n"},
        *(
            {"downstream_grpc": address}
            for address in ("host", "host:port", ":", ":1", "h:123456", "h:0", "h:65536", "http://h:1", "h :1")
        ),
    ],
)
def test_an_address_that_cannot_be_asked_is_refused(settings):
    with pytest.raises(ValidationError, match=r"ARN_DOWNSTREAM_(URL|GRPC)"):
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
        with pytest.raises(ValidationError, match=f"ARN_{name.upper()} is shared out among 4 workers"):
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


@pytest.mark.parametrize("protocol", ["v1", "v2", "torchserve", "any"])
def test_a_protocol_needs_a_server_that_speaks_it(protocol):
    with pytest.raises(ValidationError, match=f"ARN_DOWNSTREAM_PROTOCOL={protocol} needs ARN_DOWNSTREAM_URL"):
        Settings(downstream_protocol=protocol)
    Settings(downstream_protocol=protocol, downstream_url="http://h:1")
    Settings(downstream_protocol=protocol, downstream_grpc="h:1")


def test_http_and_grpc_have_ports_of_their_own():
    with pytest.raises(ValidationError, match="ARN_PORT and ARN_GRPC_PORT are both 8001"):
        Settings(port=8001, downstream_grpc="h:1")
    Settings(port=8001)
    Settings(port=0, grpc_port=0, downstream_grpc="h:1")


def test_an_origin_is_written_as_browsers_do():
    origins = "https://app.example,http://[::1]:8080,chrome-extension://abc,null,*"
    assert Settings(cors_origins=origins).cors_origins == tuple(origins.split(","))
    for wrong in ("https://a.example/", "a.example", "https://A.example", "https://*.example", "https://a b", "//a"):
        with pytest.raises(ValidationError, match="an origin is"):
            Settings(cors_origins=f"https://app.example,{wrong}")


def kserve(*flags):
    parser = argparse.ArgumentParser()
    add_flags(parser)
    add_transformer_flags(parser)
    return from_flags(parser.parse_args(["--model_name", "m", "--predictor_host", "h", *flags]))


def test_kserves_workers_are_workers():
    assert kserve("--workers", "3").workers == 3


def test_beside_kserves_flags_the_environment_counts(monkeypatch):
    plain = kserve()
    assert (plain.host, plain.port, plain.downstream_protocol) == ("0.0.0.0", 8080, "any")
    monkeypatch.setenv("ARN_HOST", "127.0.0.1")
    monkeypatch.setenv("arn_port", "9")
    monkeypatch.setenv("ARN_DOWNSTREAM_PROTOCOL", "torchserve")
    monkeypatch.setenv("ARN_DOWNSTREAM_URL", "http://other:1")
    ours = kserve()
    assert (ours.host, ours.port, ours.downstream_protocol) == ("127.0.0.1", 9, "torchserve")
    assert ours.downstream_url == "http://h", "the flag wins"
    theirs = kserve("--http_port", "7", "--predictor_protocol", "v1")
    assert (theirs.port, theirs.downstream_protocol) == (7, "v1")


def test_whether_kserves_predictor_speaks_tls_is_true_or_false(capsys):
    for given, scheme in (("true", "https"), ("True", "https"), ("1", "https"), ("FALSE", "http"), ("0", "http")):
        assert kserve("--predictor_use_ssl", given).downstream_url == f"{scheme}://h"
    with pytest.raises(SystemExit):
        kserve("--predictor_use_ssl", "yes")
    assert "invalid choice: 'yes'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tls-cert", "c"], "arn: ARN_TLS_CERT and ARN_TLS_KEY come together"),
        (["--tls-cert", "c", "--tls-key", "k"], "arn: ARN_TLS_CERT: c: no such file"),
        (["--root-path", "a"], "arn: ARN_ROOT_PATH: a path prefix begins with a slash"),
        (["--port", "x"], "arn: ARN_PORT: Input should be a valid integer"),
        (["--input-mean", "1,x", "--input-std", "1,1"], "arn: ARN_INPUT_MEAN: Input should be a valid number"),
    ],
)
def test_what_is_wrong_is_named_by_its_variable(flags, said, capsys):
    assert main(["serve", *flags]) == 2
    assert capsys.readouterr().err.startswith(said)
