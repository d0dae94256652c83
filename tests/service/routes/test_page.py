"""The page's files and the attack that it may show."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from arn_purify import models
from arn_purify.service.core import codec
from arn_purify.service.core.attack import pgd
from arn_purify.service.routes import page as demo
from arn_purify.training import attacks, data
from tests.conftest import running

HTML = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture(scope="module")
def attackable():
    with running(demo_attacks=True) as client:
        yield client


def png(name):
    return (demo.STATIC / "examples" / name).read_bytes()


def pixels(content):
    return np.array(Image.open(io.BytesIO(content)), np.int32)


@pytest.mark.parametrize("eps", [0.1, 0.3])
def test_the_pages_attack_is_the_pgd_that_purifiers_are_measured_with(eps):
    classifier = models.load("mnist-lenet5").requires_grad_(False)
    images, labels = data.load("digits").test.batch(slice(0, 20))
    theirs = attacks.get(f"PGD_N@{eps}")(classifier, images.contiguous(), labels, seed=0).images
    ours = pgd(classifier, images.contiguous(), labels, eps)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_browser_gets_the_page_and_anything_else_a_sign_of_life(client):
    page = client.get("/", headers=HTML)
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.get("/").json()["status"] == "alive"
    assert page.headers["vary"] == client.get("/").headers["vary"] == "Accept"


def test_the_pages_files_come_with_their_types_and_are_asked_for_once(client):
    for name, kind in (("app.js", "javascript"), ("style.css", "css"), ("examples/natural_0.png", "image/png")):
        answer = client.get(f"/static/{name}")
        assert kind in answer.headers["content-type"]
        again = client.get(f"/static/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["nothing.js", "../demo.py", "%2e%2e/demo.py", "examples", ""])
def test_nothing_but_the_pages_files_is_served(client, path):
    assert client.get(f"/static/{path}").status_code == 404


def test_the_page_asks_nobody_else():
    for name in ("index.html", "style.css", "app.js"):
        assert "://" not in (demo.STATIC / name).read_text().replace("http://www.w3.org/", "")


def test_attacks_are_off_unless_asked_for(client):
    assert client.post("/demo/attack", content=png("natural_3.png")).status_code == 404
    assert client.get("/models").json()["demo_attacks"] is False


def test_an_attack_stays_in_its_budget_and_fools_the_classifier(attackable):
    natural = png("natural_3.png")
    answer = attackable.post("/demo/attack?eps=0.3", content=natural)
    assert answer.headers["x-arn-purified"] == "false"
    assert np.abs(pixels(answer.content) - pixels(natural)).max() <= round(0.3 * 255)
    seen = attackable.post("/classify?compare=true", content=answer.content).json()
    assert seen["label"] == 3
    assert seen["unpurified"]["label"] != 3


def test_an_attacker_who_sees_the_purifier_wins(attackable):
    answer = attackable.post("/demo/attack?eps=0.3&through_purifier=true", content=png("natural_3.png"))
    assert attackable.post("/classify", content=answer.content).json()["label"] != 3


@pytest.mark.parametrize("eps", ["x", "nan", "inf", "-0.1", "1.1"])
def test_a_budget_that_is_none_is_refused(attackable, eps):
    answer = attackable.post(f"/demo/attack?eps={eps}", content=png("natural_3.png"))
    assert answer.status_code == 422
    assert "eps" in answer.json()["error"]


def test_only_one_image_of_the_classifiers_size_is_attacked(attackable):
    body = codec.encode_npy(np.zeros((1, 1, 28, 28), np.float32))
    tensor = attackable.post("/demo/attack", content=body, headers={"Content-Type": codec.NPY_TYPE})
    assert tensor.status_code == 422
    assert attackable.post("/demo/attack", content=b"junk").status_code == 400


def test_attacks_are_not_counted_as_purification(attackable):
    def count():
        text = attackable.get("/metrics").text
        return [line for line in text.splitlines() if line.startswith("arn_residual_l2_count")]

    before = count()
    attackable.post("/demo/attack", content=png("natural_3.png"))
    assert count() == before
    assert 'arn_stage_seconds_count{stage="attack"}' in attackable.get("/metrics").text
