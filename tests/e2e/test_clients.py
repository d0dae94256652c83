"""The example clients, and the code that the page on clients shows, against the real service."""

import contextlib
import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from ..conftest import PATIENCE
from ..upstreams import Handler, listening
from .conftest import serving

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "examples" / "clients"
NODE, CHROMIUM = shutil.which("node"), shutil.which("chromium") or shutil.which("chromium-browser")
needs_node = pytest.mark.skipif(NODE is None, reason="Node is not installed")
PROGRAMS = {
    "urllib": [sys.executable, CLIENTS / "urllib_client.py"],
    "httpx": [sys.executable, CLIENTS / "httpx_client.py"],
    "node": [NODE, CLIENTS / "node_client.mjs"],
}
each = pytest.mark.parametrize(
    "program", [pytest.param(name, marks=[needs_node] if name == "node" else []) for name in PROGRAMS]
)
BLOCKS = dict(re.findall(r"```(python|js|html)\n(.*?)```", (ROOT / "docs" / "clients.md").read_text(), re.S))


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    flags = ("--precision", "fp32", "--api-key", "a-key", "--client-requests", "4", "--cors-origins", "*")
    with serving(tmp_path_factory.mktemp("service"), *flags) as served:
        served.client.headers["X-API-Key"] = "a-key"
        yield served


@pytest.fixture(scope="module")
def open_service(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("open"), "--precision", "fp32", "--cors-origins", "*") as served:
        yield served


@pytest.fixture
def images(tmp_path):
    """Ten attacked digits under names of their own."""
    for digit in range(10):
        shutil.copy(ROOT / "examples" / f"adversarial_{digit}.png", tmp_path / f"{digit}.png")
    return sorted(tmp_path.glob("?.png"))


def run(program, url, *names, key="a-key"):
    environment = {**os.environ, "ARN_CLIENT_KEY": key}
    command = [*PROGRAMS[program], url, *names]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)


@contextlib.contextmanager
def busy(service, requests=4):
    """The client's share is taken by requests whose bodies do not come, though the service asks for them."""
    head = "POST /purify HTTP/1.1\r\nHost: x\r\nX-API-Key: a-key\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    with contextlib.ExitStack() as held:
        while requests:
            connection = held.enter_context(service.connect())
            connection.sendall(head.encode())
            requests -= connection.recv(4096).startswith(b"HTTP/1.1 100 ")  # not where another has just its place
        yield


def rejected(service):
    found = re.search(r'arn_rejected_total\{reason="client_limit"\} (\S+)', service.client.get("/metrics").text)
    return float(found[1]) if found else 0.0


@each
def test_every_image_is_purified_and_classified(program, service, images):
    done = run(program, service.url, *images)
    assert done.returncode == 0, done.stderr
    labels = re.findall(r"(?m)(\d)\.png: label (\d), changed by at most (\d+) of 255$", done.stdout)
    assert len(labels) == 10
    assert sum(digit == label for digit, label, _ in labels) >= 9
    for path in images:
        body = service.client.post("/purify", content=path.read_bytes()).content
        assert path.with_suffix(".purified.png").read_bytes() == body


@each
def test_a_busy_service_is_asked_again(program, service, images):
    """The refusals end while the client waits for as long as Retry-After says."""
    found = []
    with busy(service):
        before = rejected(service)
        thread = threading.Thread(target=lambda: found.append(run(program, service.url, images[3])))
        thread.start()
        deadline = time.monotonic() + PATIENCE
        while rejected(service) == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    thread.join()
    assert found[0].returncode == 0, found[0].stderr
    assert "label 3" in found[0].stdout


@each
def test_a_refusal_is_told_in_the_services_words(program, service, tmp_path, images):
    Image.new("L", (40, 40)).save(tmp_path / "large.png")
    done = run(program, service.url, tmp_path / "large.png")
    assert done.returncode == 1
    assert "422 wrong_size: no model takes 40x40" in done.stdout + done.stderr
    without = run(program, service.url, images[0], key="another")
    assert without.returncode == 1
    assert "401 unauthorized" in without.stdout + without.stderr


class Careless(Handler):
    """A proxy that passes images on as they came, or is busy for ever, as the path says."""

    def reply(self):
        body = self.asked()
        if self.path.startswith("/busy"):
            self.answer(b'{"error": "warming up", "code": "warming"}', 503, Retry_After="0")
        else:
            self.answer(body, X_ARN_Purified="false")


@pytest.fixture
def careless():
    with listening(Careless) as server:
        yield server.url


@each
@pytest.mark.parametrize(
    ("path", "said"), [("", "not_purified: X-ARN-Purified is false"), ("/busy", "503 warming: warming up")]
)
def test_what_was_not_purified_or_stays_busy_is_an_error(program, path, said, careless, images):
    done = run(program, careless + path, images[0])
    assert done.returncode == 1
    assert said in done.stdout + done.stderr
    assert not images[0].with_suffix(".purified.png").exists()


def test_another_checkpoint_than_the_expected_one_is_an_error(open_service, images, monkeypatch):
    monkeypatch.syspath_prepend(CLIENTS)
    import urllib_client

    image = images[3].read_bytes()
    png, headers = urllib_client.purify(open_service.url, image)
    assert png.startswith(b"\x89PNG")
    urllib_client.classify(open_service.url, image, sha256=headers["X-ARN-Model-SHA256"])
    with pytest.raises(urllib_client.ArnError, match="other_checkpoint"):
        urllib_client.purify(open_service.url, image, sha256="0" * 64)


@pytest.mark.parametrize(
    ("language", "file"), [("python", "mine.py"), pytest.param("js", "mine.mjs", marks=needs_node)]
)
def test_the_pages_code_runs(language, file, open_service, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for path in CLIENTS.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / file).write_text(BLOCKS[language].replace("http://localhost:8000", open_service.url))
    program = sys.executable if language == "python" else NODE
    done = subprocess.run([program, file], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("mnist-transparent@fp32 3")
    assert second == ("404 unknown_model" if language == "python" else "400 broken_image")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_page_of_another_origin_purifies_a_file(open_service, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="the extra dev is not installed")
    shutil.copy(CLIENTS / "arn.mjs", tmp_path)
    (tmp_path / "index.html").write_text(BLOCKS["html"].replace("http://localhost:8000", open_service.url))
    Quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})  # noqa: N806
    with listening(functools.partial(Quiet, directory=tmp_path)) as server, sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(f"{server.url}/")
        page.set_input_files("#file", ROOT / "examples" / "adversarial_3.png")
        sync_api.expect(page.locator("#said")).to_contain_text("mnist-transparent@fp32: changed by", timeout=60_000)
        assert page.eval_on_selector("#purified", "image => image.decode().then(() => image.naturalWidth)") == 28
        browser.close()
