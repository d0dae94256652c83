"""Hot swap, in process: who may, what is refused and why, and that whatever is wrong the old purifier stays."""

import base64
import hashlib
import io
import logging

import numpy as np
import pytest
import torch

from arn_purify import models
from arn_purify.models.checkpoint import architecture_of, save
from arn_purify.service.core import codec
from arn_purify.service.core.engine import Engine, Work
from arn_purify.service.routes import page as demo
from arn_purify.service.settings import Settings
from tests.conftest import running

TOKEN = {"X-Admin-Token": "open sesame"}
NAME = "mnist-transparent"
ROUTE = f"/admin/models/{NAME}"
PIXELS = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1), dtype=np.uint8)
PNG = codec.encode_image(PIXELS[0])


def write(folder, name, model, input_shape=(1, 28, 28)):
    architecture, config, kind = architecture_of(model)
    card = models.Card(name, kind, architecture, config, dataset="none", input_shape=input_shape)
    save(model, card, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints to swap in, good and bad, and one that lies outside."""
    folder = tmp_path_factory.mktemp("admin") / "checkpoints"
    folder.mkdir()
    torch.manual_seed(0)
    other = models.load(NAME)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1 + 0.05 * torch.randn_like(parameter))
    whole = write(folder, "other", other).read_bytes()
    (folder / "shipped.safetensors").write_bytes((models.ZOO / f"{NAME}.safetensors").read_bytes())
    (folder / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "changed.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (folder / "empty.safetensors").write_bytes(b"")
    write(folder, "classifier", models.load("mnist-lenet5"))
    write(folder, "wide", other, (1, 32, 32))
    write(folder, "lying", models.Arn(models.ArnConfig(channels=3)))
    with torch.no_grad():
        next(other.parameters()).fill_(torch.nan)
    write(folder, "nan", other)
    (folder.parent / "outside.safetensors").write_bytes(whole)
    (folder / "link.safetensors").symlink_to(folder.parent / "outside.safetensors")
    (folder / "circle.safetensors").symlink_to(folder / "circle.safetensors")
    return folder


@pytest.fixture(scope="module")
def admin(folder):
    with running(admin_token=TOKEN["X-Admin-Token"], admin_folder=str(folder), models=f"{NAME},identity") as client:
        yield client


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def loaded(client):
    (told,) = {
        client.get("/models").json()["purifiers"][0]["sha256"],
        client.post("/purify", content=PNG).headers["x-arn-model-sha256"],
    }
    assert f'arn_model_info{{device="cpu",model="{NAME}"' in client.get("/metrics").text
    assert client.get("/metrics").text.count(f'arn_model_info{{device="cpu",model="{NAME}"') == 1
    assert f'sha256="{told}"' in client.get("/metrics").text
    return told


def golden(path, offset=0, image=PIXELS):
    """An image and what the checkpoint makes of it, some grey levels off."""
    engine = Engine((str(path),), (), "cpu", "fp32")
    (card,) = engine.cards()
    answer = engine.run(Work(card.name), image).images[0]
    moved = np.where(answer > 127, answer - offset, answer + offset).astype(np.uint8)
    pair = {"input": image[0], "expected": moved}
    return {name: base64.b64encode(codec.encode_image(pixels)).decode() for name, pixels in pair.items()}


def test_a_checkpoint_takes_over_and_everything_names_it(admin, folder, caplog):
    caplog.set_level(logging.INFO)
    for name in ("other", "shipped"):
        path, before = folder / f"{name}.safetensors", loaded(admin)
        body = {"path": path.name, "sha256": sha256(path), "golden": golden(path, offset=1)}
        answer = admin.post(ROUTE, json=body, headers=TOKEN)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"model": NAME, "sha256": sha256(path), "replaced": before}
        assert loaded(admin) == sha256(path)
        assert f"{NAME} was {before[:12]} and is {sha256(path)[:12]} now" in caplog.text
        assert admin.post("/purify", content=PNG).headers["x-arn-model"] == f"{NAME}@fp32"
        expected = models.load(path)(torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255)[0]
        back = np.load(io.BytesIO(admin.post("/purify", content=PNG, headers={"Accept": codec.NPY_TYPE}).content))
        assert abs(back - expected.detach().mul(255).permute(1, 2, 0).numpy()).max() <= 1


REFUSALS = [
    ({"path": "truncated.safetensors"}, "not a safetensors file"),
    ({"path": "empty.safetensors"}, "not a safetensors file"),
    ({"path": "changed.safetensors"}, "changed after it was written"),
    ({"path": "classifier.safetensors"}, "is a classifier, not a purifier"),
    ({"path": "wide.safetensors"}, "takes (1, 32, 32)"),
    ({"path": "lying.safetensors"}, "its card contradicts its network: 1 channels"),
    ({"path": "nan.safetensors"}, "not finite"),
    ({"path": "other.safetensors", "sha256": "0" * 64}, "has the hash"),
    ({"path": "other.safetensors", "golden": ("shipped", 0)}, "grey levels away from the expected one"),
    ({"path": "other.safetensors", "golden": ("other", 2)}, "up to 2 grey levels away from the expected one"),
    ({"path": "missing.safetensors"}, "no file below"),
    ({"path": "../outside.safetensors"}, "no file below"),
    ({"path": "OUTSIDE"}, "no file below"),
    ({"path": "link.safetensors"}, "no file below"),
    ({"path": "circle.safetensors"}, "no file below"),
    ({"path": "."}, "no file below"),
    ({"path": "a\0b"}, "no file below"),
    ({"path": "x" * 5000}, "no file below"),
]


@pytest.mark.parametrize(("body", "reason"), REFUSALS, ids=lambda value: str(value)[:60])
def test_what_cannot_take_over_is_refused_with_its_reason_and_the_old_one_stays(admin, folder, caplog, body, reason):
    if "golden" in body:
        name, offset = body["golden"]
        body = {**body, "golden": golden(folder / f"{name}.safetensors", offset)}
    body = {**body, "path": body["path"].replace("OUTSIDE", str(folder.parent / "outside.safetensors"))}
    before = loaded(admin)
    answer = admin.post(ROUTE, json=body, headers=TOKEN)
    assert (answer.status_code, answer.json()["code"]) == (422, "swap_refused")
    assert reason in answer.json()["error"]
    assert f"{NAME} stays {before[:12]}: {answer.json()['error']}" in caplog.text
    assert loaded(admin) == before


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "code"),
    [
        (ROUTE, b'{"path": "other.safetensors"}', {}, 401, "wrong_admin_token"),
        (ROUTE, b'{"path": "other.safetensors"}', {"X-Admin-Token": "open sesam"}, 401, "wrong_admin_token"),
        (ROUTE, b'{"path": "other.safetensors"}', {"X-Admin-Token": "\xfc"}, 401, "wrong_admin_token"),
        ("/admin/models/nobody", b'{"path": "other.safetensors"}', TOKEN, 404, "unknown_model"),
        (ROUTE, b"", TOKEN, 422, "bad_parameter"),
        (ROUTE, b"[]", TOKEN, 422, "bad_parameter"),
        (ROUTE, b"{}", TOKEN, 422, "bad_parameter"),
        (ROUTE, b'{"path": 7}', TOKEN, 422, "bad_parameter"),
        (ROUTE, b'{"path": "other.safetensors", "sha": "0"}', TOKEN, 422, "bad_parameter"),
        (ROUTE, b'{"path": "other.safetensors", "sha256": "0"}', TOKEN, 422, "bad_parameter"),
        (ROUTE, b'{"path": "x", "golden": {"input": "eA==", "expected": "eA=="}}', TOKEN, 400, "broken_image"),
        (ROUTE, b'{"path": "x", "golden": {"input": "eA=="}}', TOKEN, 422, "bad_parameter"),
    ],
)
def test_requests_that_cannot_be_meant_are_refused(admin, path, body, headers, status, code):
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = admin.post(path, content=body, headers=encoded)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert ("www-authenticate" in answer.headers) == (status == 401)


def test_without_a_token_the_route_does_not_exist(client):
    answer = client.post(ROUTE, json={"path": "other.safetensors"}, headers={"X-Admin-Token": ""})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_token_without_a_folder_ends_the_start(tmp_path):
    for folder in ("", str(tmp_path / "none")):
        with pytest.raises(ValueError, match="needs a folder"):
            Settings(admin_token="t", admin_folder=folder)
    assert "secret" not in repr(Settings(admin_token="secret", admin_folder=str(tmp_path)))


def test_in_bf16_a_checkpoint_is_held_to_what_bf16_promises(folder):
    digit = codec.open_image(demo.files()["examples/natural_3.png"].content, 10**6).decode(1)
    with running(precision="bf16", admin_token="t", admin_folder=str(folder)) as client:
        for offset, status in ((None, 200), (0, 200), (5, 422)):
            body = {"path": "other.safetensors"}
            if offset is not None:
                body["golden"] = golden(folder / body["path"], offset, digit)
            answer = client.post(ROUTE, json=body, headers={"X-Admin-Token": "t"})
            assert answer.status_code == status, answer.text
        assert "grey levels away from the expected one" in answer.json()["error"]
        assert client.post("/purify", content=PNG).headers["x-arn-model"] == f"{NAME}@bf16"


def test_a_model_of_any_other_size_is_examined_with_a_pattern(tmp_path):
    torch.manual_seed(0)
    for name in ("a", "b"):
        write(tmp_path, name, models.Arn(models.ArnConfig(channels=3)).eval(), (3, 40, 36))
    settings = {"admin_token": "t", "admin_folder": str(tmp_path), "models": str(tmp_path / "a.safetensors")}
    with running(**settings) as client:
        answer = client.post("/admin/models/a", json={"path": "b.safetensors"}, headers={"X-Admin-Token": "t"})
        assert answer.status_code == 200, answer.text
        assert client.get("/models").json()["purifiers"][0]["sha256"] == sha256(tmp_path / "b.safetensors")
