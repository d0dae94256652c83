"""What the service says of itself: metrics, readiness, documents."""

from arn_purify.service.core import codec
from tests.service.images import PIXELS, PNG, post, sample


def test_warming_and_draining_are_503_and_not_ready(client, monkeypatch):
    service = client.app.state.service
    monkeypatch.setattr(service.batcher, "_warm", False)
    assert (client.get("/health/ready").status_code, post(client, PNG).json()["code"]) == (503, "warming")
    monkeypatch.setattr(service.batcher, "_warm", True)
    monkeypatch.setattr(service.lifecycle, "draining", True)
    refused = post(client, PNG)
    assert (client.get("/health/ready").status_code, refused.json()["code"]) == (503, "draining")
    for answer in (refused, client.get("/health/ready")):
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["connection"] == "close"
    assert client.get("/health/live").status_code == 200
    monkeypatch.setattr(service.lifecycle, "draining", False)
    monkeypatch.setattr(type(service.batcher), "ended", True)
    for path in ("/health/live", "/health/ready"):
        dead = client.get(path)
        assert (dead.status_code, int(dead.headers["retry-after"])) == (503, 1)


# -- about the service --------------------------------------------------------------------------------------------


def test_metrics_count_requests_images_and_refusals(client):
    names = {
        'arn_requests_total{route="/purify",status="200"}': 1,
        'arn_residual_linf_count{model="mnist-transparent"}': 7,
        'arn_stage_seconds_count{stage="queue"}': 1,
        'arn_rejected_total{reason="broken_image"}': 1,
        'arn_requests_total{route="unmatched",status="404"}': 2,
    }
    before = {name: sample(client, name) for name in names}
    post(client, codec.encode_npy(PIXELS), codec.NPY_TYPE)
    post(client, b"junk")
    client.get("/wp-login.php")
    client.get("/admin.php")
    assert {name: sample(client, name) - before[name] for name in names} == names
    assert "wp-login" not in client.get("/metrics").text
    assert sample(client, "arn_batch_images_count") >= 1
    assert sample(client, "arn_queue_images") == 0
    assert 'arn_model_info{device="cpu",model="identity"' in client.get("/metrics").text
    assert "arn_build_info{" in client.get("/metrics").text


def test_the_root_is_alive_and_the_documents_are_there(client):
    assert client.get("/").json()["status"] == "alive"
    assert "text/html" in client.get("/", headers={"Accept": "text/html"}).headers["content-type"]
    document = client.get("/openapi.json").json()
    assert {"/purify", "/classify", "/models", "/health/ready"} <= set(document["paths"])
    assert "image/png" in document["paths"]["/purify"]["post"]["requestBody"]["content"]
    assert client.get("/purify").status_code == 405
    assert client.get("/purify").json()["code"] == "method_not_allowed"
