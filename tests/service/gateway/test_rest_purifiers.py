"""``ARN_PURIFIERS``: which of several purifiers of one size serves an input, or a model of the server."""

import json
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from arn_purify.service.core import codec
from arn_purify.service.core.engine import Engine, Work
from arn_purify.service.gateway.protocols import v2_grpc
from tests.conftest import PATIENCE, running
from tests.upstreams import Handler, listening

SIGN = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
MODELS = "cifar10-transparent,lisa-transparent"


@pytest.fixture(scope="module")
def upstream():
    """A server of V2 that remembers the requests."""
    asked = []

    class Server(Handler):
        def reply(self):
            asked.append(json.loads(self.asked()))
            self.answer(b"{}")

    with listening(Server) as server:
        yield server.url, asked


@pytest.fixture(scope="module")
def expected():
    engine = Engine(tuple(MODELS.split(",")), (), "cpu", "fp32")
    return {name: engine.run(Work(name), SIGN).images for name in engine.purifiers}


def ask(client, model, *names):
    inputs = [
        {"name": name, "datatype": "UINT8", "shape": SIGN.shape, "data": SIGN.flatten().tolist()} for name in names
    ]
    return client.post(f"/v2/models/{model}/infer", json={"inputs": inputs})


def test_an_input_or_a_model_has_the_purifier_that_the_setting_names(upstream, expected):
    url, asked = upstream
    rules = "signs=lisa-transparent,photo=cifar10-transparent,sign=lisa-transparent"
    settings = {"models": MODELS, "downstream_url": url, "downstream_protocol": "v2"}
    with running(**settings, purifiers=rules) as client:
        for model, names, purifiers in [
            ("animals", ["x"], ["cifar10-transparent"]),
            ("signs", ["x"], ["lisa-transparent"]),
            ("animals", ["sign"], ["lisa-transparent"]),
            ("signs", ["photo"], ["cifar10-transparent"]),
            ("animals", ["photo", "sign"], ["cifar10-transparent", "lisa-transparent"]),
        ]:
            answer = ask(client, model, *names)
            assert answer.headers["x-arn-model"] == ", ".join(f"{name}@fp32" for name in purifiers)
            for sent, purifier in zip(asked[-1]["inputs"], purifiers, strict=True):
                sent = np.array(sent["data"]).reshape(SIGN.shape)
                assert abs(sent - expected[purifier].astype(int)).max() <= 1
    with running(**settings) as client:
        assert ask(client, "signs", "sign").headers["x-arn-model"] == "cifar10-transparent@fp32"


def test_an_image_that_the_named_purifier_does_not_take_is_refused(upstream):
    url, asked = upstream
    asked.clear()
    settings = {"downstream_url": url, "downstream_protocol": "v2", "purifiers": "signs=mnist-transparent"}
    with running(models=f"{MODELS},mnist-transparent", **settings) as client:
        refused = ask(client, "signs", "x")
        assert (refused.status_code, refused.json()["code"]) == (422, "wrong_size")
        encoded = {
            "name": "x",
            "datatype": "BYTES",
            "shape": [1],
            "data": [codec.encode_base64(codec.encode_image(SIGN[0]))],
        }
        refused = client.post("/v2/models/signs/infer", json={"inputs": [encoded]})
        assert (refused.status_code, refused.json()["code"]) == (422, "wrong_size")
        assert "resize" not in refused.json()["error"], "there is no such parameter here"
    assert not asked


def test_over_grpc_too_and_the_message_is_parsed_once(expected, monkeypatch):
    asked, parsed = [], []
    parse = v2_grpc.parse
    monkeypatch.setattr(v2_grpc, "parse", lambda name, body: parsed.append(name) or parse(name, body))

    class Behind(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(lambda request, _: asked.append(request) or b"")

    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Behind(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    request = v2_grpc.parse("ModelInferRequest", b"")
    request.inputs.add(name="x", datatype="UINT8", shape=SIGN.shape)
    request.raw_input_contents.append(SIGN.tobytes())
    rules = {"purifiers": "signs=lisa-transparent", "downstream_grpc": f"127.0.0.1:{port}", "grpc_port": 0}
    try:
        with (
            running(models=MODELS, **rules) as client,
            grpc.insecure_channel(f"127.0.0.1:{client.app.state.service.grpc.port}") as channel,
        ):
            infer = channel.unary_unary(f"/{v2_grpc.SERVICE}/ModelInfer")
            for model, purifier in (("signs", "lisa-transparent"), ("animals", "cifar10-transparent")):
                request.model_name = model
                parsed.clear()
                infer(request.SerializeToString(), timeout=PATIENCE)
                assert parsed == ["ModelInferRequest"]
                sent = parse("ModelInferRequest", asked[-1]).raw_input_contents[0]
                sent = np.frombuffer(sent, np.uint8).reshape(SIGN.shape)
                assert abs(sent.astype(int) - expected[purifier]).max() <= 1
    finally:
        server.stop(None)
