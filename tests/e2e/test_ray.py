"""Two replicas on a local Ray: the same answers as in process, and still right when one of them is killed."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image

from arn_purify.service.core import codec

from ..conftest import PATIENCE

pytestmark = pytest.mark.slow
pytest.importorskip("ray", reason="the extra ray is not installed")

ROOT = Path(__file__).parents[2]
PORT = 18123
URL = f"http://127.0.0.1:{PORT}"

SERVER = f"""
import ray, signal, sys
from ray import serve
ray.init(num_cpus=4, include_dashboard=False, logging_level="error")
serve.start(http_options={{"host": "127.0.0.1", "port": {PORT}}})
from arn_purify.service.ray_app import purifier
serve.run(purifier)
print("ready", flush=True)
for line in sys.stdin:
    replicas = [a for a in ray.util.list_named_actors(all_namespaces=True) if "SERVE_REPLICA" in a["name"]]
    print(len(replicas), flush=True)
    if line.strip() == "kill":
        ray.kill(ray.get_actor(replicas[0]["name"], namespace=replicas[0]["namespace"]), no_restart=False)
"""


@pytest.fixture(scope="module")
def ray_serve():
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "ARN_PRECISION": "fp32"}, start_new_session=True,
    )  # fmt: skip
    try:
        while (line := process.stdout.readline()).strip() != "ready":
            assert line, "Ray did not start"
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        process.stdin.close()
        process.stdout.close()


def tell(process, word):
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def png(name):
    return (ROOT / "examples" / name).read_bytes()


def pixels(content):
    return np.array(Image.open(io.BytesIO(content)), np.int32)


def test_a_large_image_is_decoded_beside_a_replica(ray_serve):
    large = codec.encode_image(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8))
    answer = httpx2.post(f"{URL}/purify?resize=true", content=large, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    assert pixels(answer.content).shape == (28, 28)


def test_a_replica_killed_under_load_makes_no_answer_wrong(ray_serve):
    assert tell(ray_serve, "count") == 2
    digits = [png(f"adversarial_{digit}.png") for digit in range(10)]
    expected = [pixels(png(f"purified_{digit}.png")) for digit in range(10)]
    answered, failed, wrong = [], [], []

    async def client(start, until):
        async with httpx2.AsyncClient(base_url=URL, timeout=PATIENCE) as http:
            number = start
            while time.monotonic() < until:
                digit, number = number % 10, number + 1
                try:
                    answer = await http.post("/purify", content=digits[digit])
                except httpx2.TransportError:
                    failed.append(time.monotonic())
                    continue
                if answer.status_code != 200:
                    failed.append(time.monotonic())
                elif np.abs(pixels(answer.content) - expected[digit]).max() > 1:
                    wrong.append(digit)
                else:
                    answered.append(time.monotonic())

    async def load():
        begin = time.monotonic()
        clients = [asyncio.create_task(client(i, begin + 20)) for i in range(8)]
        await asyncio.sleep(5)
        killed = time.monotonic()
        await asyncio.to_thread(tell, ray_serve, "kill")
        await asyncio.gather(*clients)
        return killed

    killed = asyncio.run(load())
    assert wrong == []
    assert len([t for t in answered if t < killed]) > 50
    assert len([t for t in answered if t > killed + 2]) > 50, "the other replica goes on, and a new one comes"
    assert len(failed) <= 16, "only what was under way in the killed replica"
    deadline = time.monotonic() + PATIENCE
    while tell(ray_serve, "count") < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert tell(ray_serve, "count") == 2
