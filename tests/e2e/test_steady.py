"""What goes on around a running service costs no answer: swaps, little memory, SIGTERM, a full disk."""

import io
import itertools
import os
import re
import resource
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np
import pytest
import torch
from PIL import Image

from arn_purify import models
from arn_purify.models.checkpoint import save
from arn_purify.service.core import codec
from arn_purify.service.core.engine import Engine, Work
from arn_purify.service.routes import page as demo
from examples.servers import free_port

from ..conftest import PATIENCE
from .conftest import serving

EXAMPLE = (Path(__file__).parents[2] / "examples" / "adversarial_3.png").read_bytes()
NPY = {"Content-Type": codec.NPY_TYPE, "Accept": codec.NPY_TYPE}
NAME = "mnist-transparent"


def metric(served, name):
    found = re.search(rf"^{re.escape(name)} ([\d.e+]+)$", served.client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@contextmanager
def load(url, threads, ask):
    """``ask(client, number)`` from so many threads, over and over until the block ends; what they gave back."""
    answers, over, numbers = [], threading.Event(), itertools.count()

    def run():
        with httpx2.Client(base_url=url, timeout=PATIENCE) as client:
            while not over.is_set():
                answers.append(ask(client, next(numbers)))

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(run) for _ in range(threads)]
        try:
            yield answers
        finally:
            over.set()
    for thread in running:
        thread.result()


# -- hot swap -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with the shipped checkpoint and another of the same network, by their hashes."""
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "a.safetensors").write_bytes((models.ZOO / f"{NAME}.safetensors").read_bytes())
    other = models.load(NAME)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1 + 0.05 * torch.randn_like(parameter))
    save(other, models.card_of(other), folder / "b.safetensors")
    return {models.card_of(models.load(path)).sha256: path for path in sorted(folder.iterdir())}


def answers_of(paths, images):
    """What each checkpoint answers, and the images for which a sum in another order cannot round to another level."""
    expected, margins = {}, []
    for sha256, path in paths.items():
        engine = Engine((str(path),), (), "cpu", "fp32")
        expected[sha256] = np.concatenate([engine.run(Work(NAME), image[None]).images for image in images])
        with torch.inference_mode():
            levels = models.load(path)(torch.from_numpy(images).permute(0, 3, 1, 2) / 255) * 255
        margins.append(((levels % 1) - 0.5).abs().flatten(1).amin(1))
    sure = (torch.stack(margins).amin(0) > 0.001).numpy()
    return {sha256: answer[sure] for sha256, answer in expected.items()}, images[sure]


def test_swaps_under_load_fail_no_request_and_every_answer_is_of_the_model_it_names(two, tmp_path):
    digits = [codec.open_image(f.content, 10**6).decode(1) for p, f in demo.files().items() if p.startswith("examples")]
    expected, images = answers_of(two, np.concatenate(digits))
    assert len(images) >= 5
    first, second = expected.values()
    assert (first != second).any((1, 2, 3)).all()
    bulk = codec.encode_npy(np.resize(images, (150, 28, 28, 1)))  # three passes of 64

    def ask(client, number):
        index = number % len(images)
        if number % 20 == 0:
            return None, client.post("/purify", content=bulk, headers=NPY)
        return index, client.post("/purify", content=codec.encode_image(images[index]))

    shipped, other = two
    folder = next(iter(two.values())).parent
    environment = {**os.environ, "ARN_ADMIN_TOKEN": "t", "ARN_ADMIN_FOLDER": str(folder)}
    flags = ["--threads", "1", "--precision", "fp32"]
    with serving(tmp_path, *flags, env=environment) as served, load(served.url, 4, ask) as answers:

        def swap(sha256):
            body = {"path": two[sha256].name, "sha256": sha256}
            return served.client.post(f"/admin/models/{NAME}", json=body, headers={"X-Admin-Token": "t"})

        for sha256 in [other, shipped] * 3:
            before = len(answers)
            assert swap(sha256).status_code == 200
            assert served.client.post("/purify", content=EXAMPLE).headers["x-arn-model-sha256"] == sha256
            assert served.client.get("/models").json()["purifiers"][0]["sha256"] == sha256
            told = re.findall(rf'arn_model_info{{.*model="{NAME}".*sha256="(\w+)"', served.client.get("/metrics").text)
            assert told == [sha256]
            while len(answers) < before + 20:
                time.sleep(0.01)
        (folder / "corrupt.safetensors").write_bytes(two[other].read_bytes()[:-9])
        refused = served.client.post(
            f"/admin/models/{NAME}", json={"path": "corrupt.safetensors"}, headers={"X-Admin-Token": "t"}
        )
        assert (refused.status_code, refused.json()["code"]) == (422, "swap_refused")
        with ThreadPoolExecutor(2) as pool:
            assert sorted(answer.status_code for answer in pool.map(swap, [other, other])) == [200, 409]
    assert len(answers) > 100
    assert {answer.status_code for _, answer in answers} == {200}
    assert {answer.headers["x-arn-model-sha256"] for index, answer in answers if index is not None} == set(two)
    for index, answer in answers:
        wanted = expected[answer.headers["x-arn-model-sha256"]]
        if index is None:
            assert np.array_equal(np.load(io.BytesIO(answer.content)), np.resize(wanted, (150, 28, 28, 1)))
        else:
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), wanted[index, ..., 0])


# -- memory -------------------------------------------------------------------------------------------------------


def test_a_batch_that_memory_does_not_hold_is_halved_and_an_image_that_it_does_not_hold_is_refused(tmp_path):
    # So that what is freed goes back and an arena for each thread is not counted as used.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    flags = ["--models", f"{NAME},identity", "--max-batch-images", "16", "--threads", "1"]
    with serving(tmp_path, *flags, env=environment) as served:
        pixels = np.random.default_rng(0).integers(0, 256, (16, 700, 700, 3), dtype=np.uint8)  # 24 MB, as floats 94
        body = codec.encode_npy(pixels)
        whole = served.client.post("/purify", content=body, headers=NPY)
        assert (whole.status_code, metric(served, "arn_batches_halved_total")) == (200, 0)
        status = Path(f"/proc/{served.process.pid}/status").read_text()
        held = 1024 * int(re.search(r"VmSize:\s+(\d+) kB", status)[1])
        resource.prlimit(served.process.pid, resource.RLIMIT_AS, (held + 200 * 2**20, resource.RLIM_INFINITY))
        for _ in range(3):
            answer = served.client.post("/purify", content=body, headers=NPY)
            assert answer.status_code == 200
            assert np.array_equal(np.load(io.BytesIO(answer.content)), pixels)
        assert 1 <= metric(served, "arn_batches_halved_total") < 4, "nothing was halved, or the limit is forgotten"
        large = np.zeros((1, 4000, 4000, 3), np.uint8)  # 48 MB, as floats 192
        for content, headers in [(codec.encode_image(large[0]), {}), (codec.encode_npy(large), NPY)]:
            refused = served.client.post("/purify", content=content, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (503, "out_of_memory")
            assert int(refused.headers["retry-after"]) >= 1
        assert served.client.post("/purify", content=EXAMPLE).status_code == 200
        assert served.stop() == 0
        assert served.said.count("smaller batches for a while") == 1
        assert served.said.count("a batch of 1 images failed for want of memory") == 2


# -- the end ------------------------------------------------------------------------------------------------------


def test_sigterm_under_load_loses_nothing_that_was_accepted(tmp_path):
    def ask(client, number):
        try:
            answer = client.post("/purify", content=EXAMPLE, headers={"Connection": "close"})
        except (httpx2.ConnectError, httpx2.ReadError, httpx2.RemoteProtocolError) as error:
            time.sleep(0.01)
            return type(error).__name__
        return answer.status_code, answer.json()["code"] if answer.is_error else answer.content

    with serving(tmp_path) as served:
        purified = served.client.post("/purify", content=EXAMPLE).content
        with load(served.url, 8, ask) as answers:
            while len(answers) < 50:
                time.sleep(0.01)
            assert served.stop() == 0
        assert "Traceback" not in served.said
        told = [answer for answer in answers if isinstance(answer, tuple)]
        assert {status for status, _ in told} <= {200, 503}
        assert {what for status, what in told if status == 200} == {purified}
        assert {what for status, what in told if status == 503} <= {"draining"}
        # A refused connection carried no request: each answer that was logged has arrived.
        assert len(re.findall(r"POST /purify 200", served.said)) == 1 + sum(status == 200 for status, _ in told)
        assert len(re.findall(r"POST /purify \d", served.said)) == 1 + len(told)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_full_disk_for_the_log_costs_no_answer(form, tmp_path):
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "arn_purify.service", "serve", "--port", str(port), "--log-format", form]
    with Path("/dev/full").open("w") as full, httpx2.Client(base_url=url, timeout=PATIENCE) as client:
        process = subprocess.Popen(command, stderr=full)
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    if client.get("/health/ready").status_code == 200:
                        break
                except httpx2.ConnectError:
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                time.sleep(0.05)
            statuses = [client.post("/purify", content=body).status_code for body in [EXAMPLE, b"junk"] * 100]
            assert statuses == [200, 400] * 100
            process.terminate()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.wait()
