"""A real Prometheus scrapes the running service and answers queries."""

import shutil
import subprocess
import time
from pathlib import Path

import httpx2
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "adversarial_3.png"
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
    target = served.url.removeprefix("http://")
    config = tmp_path / "prometheus.yml"
    config.write_text(
        (ROOT / "docker" / "prometheus.yml").read_text().replace("purifier:8000", target).replace("5s", "1s")
    )
    subprocess.run([programs["promtool"], "check", "config", config], check=True)
    log = tmp_path / "prometheus.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [programs["prometheus"], f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
             "--web.listen-address=127.0.0.1:19099"], stderr=file,
        )  # fmt: skip
    client = httpx2.Client(base_url="http://127.0.0.1:19099", timeout=10)

    def ask(expression, wanted):
        deadline = time.monotonic() + 40
        values = None
        while time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            try:
                answer = client.get("/api/v1/query", params={"query": expression}).json()
                values = [float(row["value"][1]) for row in answer["data"]["result"]]
            except (httpx2.TransportError, ValueError, KeyError):
                values = None  # still starting
            if values and wanted(values[0]):
                return values[0]
            time.sleep(0.3)
        raise AssertionError(f"{expression}: {values}")

    yield ask
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
    query(
        'histogram_quantile(0.5, sum by (le) (arn_stage_seconds_bucket{stage="infer"}))', lambda value: 0 < value < 10
    )
    query("count(arn_model_info)", lambda value: value == 1)
    text = served.client.get("/metrics").text
    lint = subprocess.run([programs["promtool"], "check", "metrics"], input=text, capture_output=True, text=True)
    assert (lint.returncode, lint.stdout + lint.stderr) == (0, "")
