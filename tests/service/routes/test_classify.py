"""/classify: the embedded classifiers, and the model server of the protocol raw."""

import contextlib
import gzip
import io
import json
import threading

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from arn_purify.models import Card, LisaCnn, LisaCnnConfig, checkpoint
from arn_purify.service.core import codec
from arn_purify.service.core.engine import Engine
from tests.conftest import running
from tests.service.images import PIXELS, PNG, post, sample
from tests.upstreams import Handler, listening


def test_classify_names_the_label_and_compares(client):
    answer = post(client, PNG, path="/classify?compare=true").json()
    assert answer["label"] == int(np.argmax(answer["probabilities"]))
    assert answer["class_name"] == str(answer["label"])
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-4)
    assert (answer["model"], answer["classifier"]) == ("mnist-transparent", "mnist-lenet5")
    assert len(answer["unpurified"]["probabilities"]) == 10
    assert "unpurified" not in post(client, PNG, path="/classify").json()
    several = post(client, codec.encode_npy(PIXELS), codec.NPY_TYPE, "/classify?compare=true").json()
    assert len(several["results"]) == 7
    assert several["results"][0]["label"] == answer["label"]


# -- forwarding ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def upstream():
    """A classifier over real HTTP that remembers what it was asked and answers as told."""
    asked = []

    class Classifier(Handler):
        protocol_version = "HTTP/1.1"

        def reply(self):
            asked.append((dict(self.headers), self.asked()))
            if self.path == "/slow":
                threading.Event().wait(2)
            answer = gzip.compress(b'{"label": 7}') if self.path == "/gzip" else b'{"label": 7}'
            headers = {"/busy": {"Retry_After": "17"}, "/gzip": {"Content_Encoding": "gzip"}}.get(self.path, {})
            with contextlib.suppress(ConnectionError):  # the impatient client of /slow has left
                self.answer(answer, 503 if self.path == "/busy" else 200, Content_Type="application/json", **headers)

    with listening(Classifier) as server:
        yield server.url, asked


@pytest.mark.parametrize("path", ["/ok", "/gzip", "/busy"])
def test_the_classifier_behind_us_sees_the_purified_png_and_its_answer_comes_back(upstream, expected, path):
    url, asked = upstream
    asked.clear()
    with running(downstream_url=url + path) as client:
        secret = {"Authorization": "Bearer t", "traceparent": "00-1-2-01", "X-API-Key": "ours", "X-Request-ID": "r1"}
        secret["Content-Digest"] = "sha-256=:x:"
        answer = post(client, PNG, path="/classify", **secret)
        failed = sample(client, 'arn_downstream_requests_total{status="503"}')
    (headers, body) = asked[0]
    assert abs(np.asarray(Image.open(io.BytesIO(body)))[..., None].astype(int) - expected[0]).max() <= 1
    lowered = {name.lower(): value for name, value in headers.items()}
    assert (lowered["authorization"], lowered["traceparent"], lowered["x-request-id"]) == (
        "Bearer t",
        "00-1-2-01",
        "r1",
    )
    assert "x-api-key" not in lowered
    assert lowered["content-type"] == "image/png"
    assert "content-digest" not in lowered  # of other bytes
    assert answer.status_code == (503 if path == "/busy" else 200)
    assert answer.json() == {"label": 7}
    assert answer.headers["x-arn-purified"] == "true"
    assert "downstream;dur=" in answer.headers["server-timing"]
    if path == "/busy":
        assert (answer.headers["retry-after"], failed) == ("17", 1)


def test_an_image_is_forwarded_with_the_channels_that_it_came_with(upstream):
    url, asked = upstream
    asked.clear()
    large = PngImagePlugin.PngInfo()
    large.add_text("Comment", "a", zip=True)  # which another process decodes
    sent = [
        (mode, side, info) for mode in ("L", "LA", "RGB", "RGBA", "P") for side in (28, 32) for info in (None, large)
    ]
    with running(models="mnist-transparent,cifar10-transparent", downstream_url=url) as client:
        for mode, side, info in sent:
            body = io.BytesIO()
            Image.linear_gradient("L").resize((side, side)).convert(mode).save(body, "PNG", pnginfo=info)
            answer = post(client, body.getvalue(), path="/classify")
            assert answer.headers["x-arn-purified"] == "true", answer.text
        tensor = codec.encode_npy(np.zeros((1, 32, 32, 3), np.uint8))
        assert post(client, tensor, codec.NPY_TYPE, "/classify").status_code == 200
    forwarded = [Image.open(io.BytesIO(body)) for _, body in asked]
    expected = [("L" if mode in ("L", "LA") else "RGB", (side, side)) for mode, side, _ in sent]
    assert [(image.mode, image.size) for image in forwarded] == [*expected, ("RGB", (32, 32))]


def test_a_classifier_that_is_down_or_slow_is_told_apart(upstream):
    url, _ = upstream
    with running(downstream_url="http://127.0.0.1:9/") as client:
        answer = post(client, PNG, path="/classify")
        assert (answer.status_code, answer.json()["code"]) == (502, "downstream_unreachable")
        assert answer.headers["x-arn-refused-by"] == "downstream"
        assert post(client, PNG, path="/classify?compare=true").status_code == 422
    with running(downstream_url=url + "/slow", downstream_timeout_seconds=0.2) as client:
        answer = post(client, PNG, path="/classify")
        assert (answer.status_code, answer.json()["code"]) == (504, "downstream_timeout")


def test_without_a_classifier_classify_says_so():
    with running(classifier="") as client:
        assert post(client, PNG, path="/classify").status_code == 422
        assert json.loads(client.get("/models").text)["classifiers"] == []


def test_a_purifier_is_never_paired_with_a_classifier_of_another_data_set(caplog):
    sign = codec.encode_image(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    with running(models="lisa-transparent") as client:  # beside the classifiers of mnist and cifar10
        answer = post(client, sign, path="/classify")
        assert (answer.status_code, answer.json()["code"]) == (422, "no_classifier")
        assert "no classifier of lisa is embedded for lisa-transparent" in answer.json()["error"]
        assert post(client, sign).status_code == 200
    assert "/classify refuses images of lisa-transparent: no classifier of lisa is loaded" in caplog.text
    both = {"models": "cifar10-transparent,lisa-transparent", "classifier": "cifar10-airbench-40,lisa-cnn"}
    caplog.clear()
    with running(**both) as client:
        for name, classifier in zip(*(names.split(",") for names in both.values()), strict=True):
            answer = post(client, sign, path=f"/classify?model={name}&compare=true").json()
            assert (answer["model"], answer["classifier"]) == (name, classifier)
            assert len(answer["probabilities"]) == len(answer["unpurified"]["probabilities"])
        paired = {card["name"]: card["purifiers"] for card in client.get("/models").json()["classifiers"]}
        assert paired == {"cifar10-airbench-40": ["cifar10-transparent"], "lisa-cnn": ["lisa-transparent"]}
    assert "refuses images" not in caplog.text


def test_each_image_meets_the_classifier_of_its_size(tmp_path):
    network, path = LisaCnn(LisaCnnConfig(3)), tmp_path / "colour-classifier.safetensors"
    architecture, config, kind = checkpoint.architecture_of(network)
    checkpoint.save(network, Card(path.stem, kind, architecture, config, "signs", (3, 32, 32)), path)
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    with running(models="mnist-transparent,identity", classifier=f"mnist-lenet5,{path}") as client:
        assert [c["name"] for c in client.get("/models").json()["classifiers"]] == ["mnist-lenet5", "colour-classifier"]
        assert post(client, PNG, path="/classify").json()["classifier"] == "mnist-lenet5"
        answer = post(client, codec.encode_image(np.asarray(colour)), path="/classify?compare=true").json()
        assert (answer["classifier"], len(answer["probabilities"])) == ("colour-classifier", 3)
        grey = post(client, codec.encode_image(np.asarray(colour.convert("L"))[..., None]), path="/classify").json()
        assert grey["classifier"] == "colour-classifier", "in as many channels as the classifier of that size takes"
        other = post(client, codec.encode_image(np.zeros((30, 30, 3), np.uint8)), path="/classify")
        assert other.status_code == 422
        assert "(1, 28, 28) or (3, 32, 32)" in other.json()["error"]
    with pytest.raises(ValueError, match="of one data set and size"):
        Engine(("identity",), ("mnist-lenet5", "mnist-lenet5"), "cpu", "fp32")
