"""A real Prometheus scrapes the running service and answers queries."""

import asyncio
import json
import math
import os
import re
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np
import pytest
import torch
from PIL import Image

from arn_purify import models
from arn_purify.service.core import codec

from ..conftest import PATIENCE
from ..upstreams import Handler, listening
from .conftest import serving

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "adversarial_3.png"
CONFIGS = ROOT / "docker" / "prometheus"
CACHE = ROOT / "build" / "prometheus"


@pytest.fixture(scope="session")
def programs():
    """``prometheus`` and ``promtool``: installed, or Debian's package unpacked without root."""
    installed = {name: shutil.which(name) for name in ("prometheus", "promtool")}
    if all(installed.values()):
        return installed
    unpacked = {name: CACHE / "usr" / "bin" / name for name in installed}
    if not all(path.exists() for path in unpacked.values()):
        if not (shutil.which("apt-get") and shutil.which("dpkg")):
            pytest.skip("no Prometheus, and no apt-get to fetch Debian's package with")
        CACHE.mkdir(parents=True, exist_ok=True)
        for command in (["apt-get", "update"], ["apt-get", "download", "prometheus"]):
            done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"Debian's package prometheus cannot be fetched: {done.stderr.strip()[-200:]}")
        (package,) = CACHE.glob("*.deb")
        subprocess.run(["dpkg", "-x", str(package), str(CACHE)], check=True)
    return unpacked


@pytest.fixture
def query(programs, served, tmp_path):
    """Ask a Prometheus that scrapes the service."""
    with prometheus(programs, served, tmp_path) as ask:
        yield ask


@contextmanager
def prometheus(programs, served, tmp_path):
    target = served.url.removeprefix("http://")
    config = tmp_path / "prometheus.yml"
    config.write_text((CONFIGS / "prometheus.yml").read_text().replace("purifier:8000", target).replace("5s", "1s"))
    rules = (CONFIGS / "rules.yml").read_text()
    (tmp_path / "rules.yml").write_text(re.sub(r"\bfor: \d+m", "for: 1s", rules))
    subprocess.run([programs["promtool"], "check", "config", config], check=True)
    log = tmp_path / "prometheus.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [programs["prometheus"], f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
             "--web.listen-address=127.0.0.1:19099"], stderr=file,
        )  # fmt: skip
    client = httpx2.Client(base_url="http://127.0.0.1:19099", timeout=PATIENCE)

    def ask(expression, wanted=lambda value: True, within=PATIENCE):
        deadline = time.monotonic() + within
        values = None
        while time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            try:
                answer = client.get("/api/v1/query", params={"query": expression}).json()
                values = [float(row["value"][1]) for row in answer["data"]["result"]]
            except (httpx2.TransportError, ValueError, KeyError):
                values = None  # still starting
            if values and wanted(values[0]) and not math.isnan(values[0]):
                return values[0]
            time.sleep(0.3)
        raise AssertionError(f"{expression}: {values}")

    try:
        yield ask
    finally:
        client.close()
        process.terminate()
        process.wait()


def test_prometheus_scrapes_the_service_and_answers(query, served, programs):
    for _ in range(5):
        assert served.client.post("/purify", content=EXAMPLE.read_bytes()).status_code == 200
    served.client.post("/purify", content=b"junk")
    query("up", lambda value: value == 1)
    query('sum(arn_requests_total{route="/purify",status="200"})', lambda value: value == 5)
    query('arn_rejected_total{reason="broken_image"}', lambda value: value == 1)
    query('arn_residual_linf_count{model="mnist-transparent"}', lambda value: value == 5)
    query('histogram_quantile(0.5, sum by (le) (arn_stage_seconds_bucket{stage="infer"}))', lambda value: value > 0)
    query("count(arn_model_info)", lambda value: value == 2)
    text = served.client.get("/metrics").text
    lint = subprocess.run([programs["promtool"], "check", "metrics"], input=text, capture_output=True, text=True)
    assert (lint.returncode, lint.stdout + lint.stderr) == (0, "")


def test_the_rules_are_sound_and_fire_when_they_should(programs):
    for arguments in (["check", "rules", "rules.yml"], ["test", "rules", "rules-test.yml"]):
        done = subprocess.run([programs["promtool"], *arguments], cwd=CONFIGS, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_alerts_links_can_be_set_in_one_place(programs, tmp_path):
    for name in ("scripts/rules", *(str(path.relative_to(ROOT)) for path in CONFIGS.iterdir())):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    written = tmp_path / "docker" / "kubernetes" / "monitoring" / "rules.yaml"
    written.parent.mkdir(parents=True)
    for address in ("https://a.example/x.html", "https://b.example/runbooks"):
        subprocess.run([tmp_path / "scripts" / "rules"], env=os.environ | {"RUNBOOKS": address}, check=True)
    links = re.findall(r'runbook_url: "(.*)"', written.read_text())
    alerts = re.findall(r"alert: (\w+)", written.read_text())
    assert links == [f"https://b.example/runbooks#{name.lower()}" for name in alerts]
    tests = [programs["promtool"], "test", "rules", "rules-test.yml"]
    subprocess.run(tests, cwd=tmp_path / "docker" / "prometheus", check=True)


def test_what_the_pages_show_to_prometheus_is_sound(programs, tmp_path):
    """Their queries, and what sends alerts to Alertmanager."""
    queries = [
        {"record": f"query:{number}", "expr": line}
        for page in ("metrics", "on-call")
        for block in re.findall(r"(?ms)^ *```promql\n(.*?)^ *```", (ROOT / "docs" / f"{page}.md").read_text())
        for number, line in enumerate(block.splitlines())
        if not line.startswith("#")
    ]
    assert len(queries) > 12
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "pages", "rules": queries}]}))
    shown = re.findall(r"(?ms)^```yaml\n(.*?)^```", (ROOT / "docs" / "on-call.md").read_text())[0]
    (tmp_path / "prometheus.yml").write_text((CONFIGS / "prometheus.yml").read_text() + shown)
    done = subprocess.run(
        [programs["promtool"], "check", "config", "prometheus.yml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_alert_fires_once_the_service_is_gone(query, served):
    query('up{job="purifier"}', lambda value: value == 1)
    served.stop()
    query('ALERTS{alertname="ArnDown",alertstate="firing",severity="page"}', lambda value: value == 1)


@contextmanager
def classifier():
    """A LeNet-5 that answers KServe V1, and is out of order every tenth time."""
    network, asked = models.load("mnist-lenet5"), []

    class Classifier(Handler):
        def reply(self):
            images = json.loads(self.asked())["instances"]
            asked.append(1)
            with torch.no_grad():
                labels = network(torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 28, 28)).argmax(1).tolist()
            body, status = json.dumps({"predictions": labels}).encode(), 503 if len(asked) % 10 == 0 else 200
            self.answer(body, status, Content_Type="application/json")

    with listening(Classifier) as server:
        server.handle_error = lambda *_: None  # it hangs up on an image of the wrong size
        yield server.url


def expressions():
    """Every expression of the dashboard and of the rules; of an alert, what it compares."""
    board = json.loads((ROOT / "docker/grafana/dashboards/arn-purify.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "20s")
    for name, expression in re.findall(r"(?:alert|record): (\S+)\n\s+expr: (.*)", (CONFIGS / "rules.yml").read_text()):
        compared = re.sub(r"^absent\((.*)\)$", r"\1", re.sub(r" (>|<|==) [0-9.]+$", "", expression))
        yield name, re.sub(r"\[(2|5|15)m\]", "[20s]", compared)


async def load(url, stop, seen):
    """Digits one at a time and many at once, broken ones, ones of a wrong size, and more than the queue holds."""
    digit = EXAMPLE.read_bytes()
    pixels = (np.array(Image.open(EXAMPLE), np.float32) / 255).tolist()
    flood = codec.encode_npy(np.zeros((8, 1, 28, 28), np.float32))
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE) as client:
        while not stop.is_set():
            answers = await asyncio.gather(
                *(client.post("/purify", content=digit) for _ in range(8)),
                *(client.post("/purify", content=flood) for _ in range(8)),
                client.post("/purify", content=b"junk"),
                *(client.post("/v1/models/digits:predict", json={"instances": [pixels]}) for _ in range(4)),
                client.post("/v1/models/digits:predict", json={"instances": [[[0.5] * 20] * 20]}),
            )
            seen.update(answer.status_code for answer in answers)


def answered(ask, expression):
    try:
        ask(expression, within=0.5)
    except AssertionError:
        return False
    return True


def test_every_panel_and_every_alert_has_data_under_load(programs, tmp_path):
    with classifier() as address:
        flags = ("--downstream-url", address, "--downstream-protocol", "v1", "--shadow-share", "1",
                 "--on-failure", "bypass", "--queue-images", "16")  # fmt: skip
        with serving(tmp_path, *flags) as served, prometheus(programs, served, tmp_path) as ask:
            stop, seen = threading.Event(), set()
            thread = threading.Thread(target=lambda: asyncio.run(load(served.url, stop, seen)))
            thread.start()
            try:
                ask("up", lambda value: value == 1)
                empty, deadline = list(expressions()), time.monotonic() + PATIENCE
                while empty and time.monotonic() < deadline:
                    empty = [pair for pair in empty if not answered(ask, pair[1])]
            finally:
                stop.set()
                thread.join()
            assert empty == []
            assert seen == {200, 400, 429, 502, 503}
