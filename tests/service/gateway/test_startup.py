"""The declaration, held against the model server's metadata at start."""

import argparse
import json
import socketserver
import threading
from types import SimpleNamespace

import pytest

from arn_purify.service.gateway.preprocessing import Preprocessing
from arn_purify.service.gateway.startup import _inputs, check, mismatch
from arn_purify.service.settings import Settings, add_flags, add_transformer_flags, from_flags

from ...conftest import running
from ...upstreams import Handler, listening


def digits(channels, height, width):
    return (channels, height, width) == (1, 28, 28)


@pytest.mark.parametrize(
    ("preprocessing", "inputs", "reason"),
    [
        (Preprocessing(), {"x": ("FP32", [-1, 1, 28, 28])}, None),
        (Preprocessing(layout="nhwc"), {"x": ("FP32", [-1, 28, 28, 1])}, None),
        (Preprocessing(layout="nhwc"), {"x": ("FP32", [-1, 1, 28, 28])}, "has the shape"),
        (Preprocessing(input="y"), {"x": ("FP32", [-1, 1, 28, 28])}, "no input 'y'"),
        (Preprocessing(), {"x": ("FP32", [-1, 3, 32, 32])}, "has the shape"),
        (Preprocessing(), {"x": ("BOOL", [-1, 1, 28, 28])}, "no type that images have"),
        (Preprocessing(), {"x": ("BYTES", [-1])}, None),
        (Preprocessing(), {"x": ("FP32", [-1, 784]), "y": ("INT64", [-1])}, None),
        (Preprocessing(), {"x": ("FP32", [-1, -1, -1, -1])}, None),
    ],
)
def test_metadata_are_held_against_the_declaration(preprocessing, inputs, reason):
    found = mismatch(preprocessing, inputs, digits)
    assert (found is None) if reason is None else (reason in found)


@pytest.mark.parametrize(
    "inputs", [None, [], [{"name": "x", "datatype": "FP32", "shape": None}], [{"name": "x", "datatype": "FP32"}]]
)
def test_metadata_that_tell_nothing_are_no_mismatch(inputs):
    assert mismatch(Preprocessing(), _inputs({"name": "m", "inputs": inputs}), digits) is None


@pytest.mark.parametrize(
    "odd",
    [
        [],
        "m",
        {"inputs": ["x"]},
        {"inputs": {"a": 1}},
        {"inputs": 7},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [None, 1]}]},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": ["a"]}]},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [float("inf")]}]},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": 7}]},
    ],
)
def test_metadata_of_another_form_are_a_warning(odd, caplog):
    class Metadata(Handler):
        def reply(self):
            self.answer(json.dumps(odd).encode())

    with listening(Metadata) as server:
        settings = Settings(downstream_url=server.url, downstream_protocol="v2", downstream_model="m")
        check(SimpleNamespace(settings=settings))
    assert "the preprocessing is not checked" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input_mean": "0.5"}, "come together"),
        ({"input_mean": "0.5", "input_std": "0"}, "greater than 0"),
        ({"input_mean": "0.5,x", "input_std": "1,1"}, "unable to parse"),
        ({"input_mean": "0.5", "input_std": "0.5", "input_range": "0-1"}, "exclude each other"),
        ({"input_mean": "0.5", "input_std": "nan"}, "finite"),
        ({"input_mean": "0.5,0.5", "input_std": "1,1"}, "one or three"),
        ({"downstream_url": "http://user:secret@host"}, "holds a user"),
        ({"downstream_url": "localhost:8500"}, "http://HOST:PORT"),
        ({"downstream_url": "ftp://host"}, "http://HOST:PORT"),
        ({"downstream_url": "http://"}, "http://HOST:PORT"),
        ({"downstream_grpc": "http://host:8001"}, "HOST:PORT"),
    ],
)
def test_declarations_that_contradict_themselves_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Settings(**values)


@pytest.mark.parametrize(
    ("host", "url", "grpc"),
    [("m.ns", "http://m.ns", "m.ns:80"), ("m.ns:8033", "http://m.ns:8033", "m.ns:8033")],
)
def test_kserves_flags_name_a_predictor_as_its_own_client_asks_it(host, url, grpc):
    parser = argparse.ArgumentParser()
    add_flags(parser)
    add_transformer_flags(parser)
    flags = ["--predictor_host", host, "--predictor_protocol", "grpc-v2"]
    settings = from_flags(parser.parse_args(flags))
    assert (settings.downstream_url, settings.downstream_grpc) == (url, grpc)
    with pytest.raises(ValueError, match="in plain text"):
        from_flags(parser.parse_args([*flags, "--predictor_use_ssl", "true"]))


class Frames(socketserver.StreamRequestHandler):
    """Speaks something else than HTTP/1, as a gRPC port does."""

    def handle(self):
        self.rfile.readline()
        self.wfile.write(b"\0\0\x12\x04 a frame\r\n\r\n")


def test_a_server_that_speaks_no_http_is_a_warning(caplog):
    with socketserver.TCPServer(("127.0.0.1", 0), Frames) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with running(downstream_url=url, downstream_protocol="v2", downstream_model="m") as client:
            check(client.app.state.service.gateway)
        server.shutdown()
        thread.join()
    assert "the preprocessing is not checked" in caplog.text
