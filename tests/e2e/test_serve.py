"""Starting, stopping and hanging up, with the real command over real sockets."""

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image

from arn_purify import models
from arn_purify.service.core import codec
from arn_purify.service.edge.connection import MAX_HEAD_BYTES

from ..conftest import PATIENCE, decoders_of
from ..fuzz import slow_png
from .conftest import serving

EXAMPLE = Path(__file__).parents[2] / "examples" / "adversarial_3.png"
NPY = {"Content-Type": codec.NPY_TYPE}
GATEWAY = ("--downstream-url", "http://127.0.0.1:9", "--downstream-protocol", "any")


def bulk(count):
    return codec.encode_npy(np.random.default_rng(0).random((count, 1, 28, 28), dtype=np.float32))


def test_an_attacked_digit_is_restored_over_http(served):
    answer = served.client.post("/purify", content=EXAMPLE.read_bytes())
    assert answer.status_code == 200
    assert Image.open(io.BytesIO(answer.content)).size == (28, 28)
    verdict = served.client.post("/classify?compare=true", content=EXAMPLE.read_bytes()).json()
    assert verdict["label"] == 3
    assert verdict["unpurified"]["label"] != 3
    request_id = answer.headers["x-request-id"]
    assert served.stop() == 0
    assert re.search(rf"{request_id} POST /purify 200", served.said)


def test_an_attacked_photograph_is_restored_over_http(served):
    photograph = EXAMPLE.parent / "photos" / "adversarial_cat.png"
    verdict = served.client.post("/classify?compare=true", content=photograph.read_bytes()).json()
    assert (verdict["model"], verdict["classifier"]) == ("cifar10-transparent", "cifar10-airbench-40")
    assert verdict["class_name"] == "cat"
    assert verdict["unpurified"]["class_name"] != "cat"


@pytest.fixture
def slow_purifier(tmp_path):
    """A checkpoint of a network so wide that 200 images take seconds on one thread."""
    model = models.Arn(models.ArnConfig(width=128, blocks=4))
    architecture, config, kind = models.checkpoint.architecture_of(model)
    card = models.Card("slow", kind, architecture, config, dataset="none", input_shape=(1, 28, 28))
    models.checkpoint.save(model, card, tmp_path / "slow.safetensors")
    return str(tmp_path / "slow.safetensors")


def test_sigterm_finishes_what_was_accepted_refuses_the_rest_and_exits_cleanly(tmp_path, slow_purifier):
    with serving(tmp_path, "--models", slow_purifier, "--max-batch-images", "8", "--threads", "1") as served:
        answers = []
        accepted = threading.Thread(
            target=lambda: answers.append(served.client.post("/purify", content=bulk(200), headers=NPY))
        )
        accepted.start()
        while "arn_batch_images_count 0.0" in served.client.get("/metrics").text:
            time.sleep(0.01)
        served.process.send_signal(signal.SIGTERM)
        while served.client.get("/health/ready").status_code == 200:
            time.sleep(0.01)
        served.process.send_signal(signal.SIGTERM)  # `timeout`, for one, sends it to the process and to its group
        assert served.client.get("/health/ready").json() == {"status": "draining"}
        refused = served.client.post("/purify", content=EXAMPLE.read_bytes())
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert not answers
        accepted.join()
        assert answers[0].status_code == 200
        assert np.load(io.BytesIO(answers[0].content)).shape == (200, 1, 28, 28)
        assert served.process.wait(PATIENCE) == 0
        assert "Traceback" not in served.said


def test_a_shutdown_gives_up_in_time_what_hangs_and_says_so(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        behind = f"http://127.0.0.1:{silent.getsockname()[1]}"
        flags = ("--downstream-url", behind, "--downstream-timeout-seconds", str(3 * PATIENCE), "--drain-seconds", "2")
        with serving(tmp_path, *flags) as served:
            answers = []
            asking = threading.Thread(
                target=lambda: answers.append(served.client.post("/classify", content=EXAMPLE.read_bytes()))
            )
            asking.start()
            with silent.accept()[0]:
                assert served.stop() == 0  # and not once the server's time is up
                asking.join()
            assert (answers[0].status_code, answers[0].json()["code"]) == (503, "draining")
            assert answers[0].headers["x-request-id"]


@contextlib.contextmanager
def decoding(tmp_path, chunks, *flags):
    """A service whose decoder is busy with a file; and the answer to it, once there is one."""
    with serving(tmp_path, "--models", "identity", "--classifier", "", *flags) as served:
        answers = []

        def ask():
            with contextlib.suppress(httpx2.TransportError):
                answers.append(served.client.post("/purify", content=slow_png(chunks)))

        asking = threading.Thread(target=ask)
        asking.start()
        while not (workers := decoders_of(served.process.pid)) or cpu_seconds(workers) < 0.1:
            assert asking.is_alive(), served.said
            time.sleep(0.01)
        yield served, workers, asking, answers
        asking.join()


def cpu_seconds(pids):
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) for field in fields) / os.sysconf("SC_CLK_TCK")


def gone(pids):
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sigterm_finishes_what_is_being_decoded_and_leaves_no_process(tmp_path):
    with decoding(tmp_path, 800) as (served, workers, asking, answers):
        for pid in (*workers, served.process.pid):  # to all of them, as a terminal or a supervisor sends it
            os.kill(pid, signal.SIGTERM)
        assert served.process.wait(PATIENCE) == 0
        asking.join()
        assert answers[0].status_code == 200
        assert gone(workers)
        assert "Traceback" not in served.said


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_service_that_is_killed_leaves_no_decoder(tmp_path):
    with decoding(tmp_path, 5000, "--decode-seconds", "5") as (served, workers, _, _):
        served.process.kill()
        served.process.wait()
        deadline = time.monotonic() + PATIENCE
        while not gone(workers):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_client_that_hangs_up_takes_its_images_out_of_the_queue(tmp_path, slow_purifier):
    with serving(
        tmp_path, "--models", slow_purifier, "--max-batch-images", "8", "--threads", "1", "--queue-images", "200"
    ) as served:
        host, port = served.url.removeprefix("http://").split(":")
        body = bulk(200)
        head = (
            f"POST /purify HTTP/1.1\r\nHost: x\r\nContent-Type: {codec.NPY_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        sockets = []
        for _ in range(2):  # which have their turns; the rest of the one that was begun first does not count
            sockets.append(socket.create_connection((host, int(port))))
            sockets[-1].sendall(head.encode() + body)
            while "arn_batch_images_count 0.0" in served.client.get("/metrics").text:
                time.sleep(0.01)
        while "arn_queue_images 0.0" in served.client.get("/metrics").text:
            time.sleep(0.01)
        sockets.append(socket.create_connection((host, int(port))))
        sockets[-1].sendall(head.encode())  # there is no room for as many, so it is refused before its body has come
        assert sockets[-1].recv(4096).startswith(b"HTTP/1.1 429 ")
        for connection in sockets:
            connection.close()
        while (answer := served.client.post("/purify", content=EXAMPLE.read_bytes())).status_code == 429:
            time.sleep(0.01)
        assert answer.status_code == 200
        metrics = served.client.get("/metrics").text
        assert 'arn_requests_total{route="/purify",status="499"} 2.0' in metrics
        assert float(re.search(r"arn_batch_images_sum ([\d.]+)", metrics)[1]) < 200  # nor was the first finished
        assert "Traceback" not in served.said


def test_a_head_without_end_is_cut_off_before_it_takes_memory(served):
    host, port = served.url.removeprefix("http://").split(":")
    start = b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Big: "
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client, contextlib.suppress(ConnectionError):
        client.sendall(start)
        for _ in range(200):  # the end may come while we still send
            client.sendall(b"a" * 65536)
        pytest.fail("13 MB of one header were taken")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
        # One byte too many: nothing is left unread when the connection closes, so that the answer is not lost.
        client.sendall(start.ljust(MAX_HEAD_BYTES + 1, b"a"))
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(body)["code"] == "head_too_large"
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
        client.sendall(start + b"a" * 40_000 + b"\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_connection_that_is_idle_is_closed_once_the_time_has_passed(tmp_path):
    flags = ("--models", "identity", "--classifier", "", "--keep-alive-seconds", "0.5")
    with serving(tmp_path, *flags) as served, served.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--purifiers", "signs=nobody", *GATEWAY], "ARN_PURIFIERS: 'nobody' is not loaded"),
        (["--models", "corrupt.safetensors"], "truncated"),
        (["--models", "nobody"], "no model 'nobody'"),
        (["--models", "mnist-lenet5"], "is a classifier, not a purifier"),
        (["--max-batch-images", "0"], "ARN_MAX_BATCH_IMAGES: Input should be greater than or equal to 1"),
        (["--device", "tpu"], "ARN_DEVICE: Input should be"),
    ],
)
def test_a_start_that_cannot_be_ends_with_one_line_and_status_2(flags, message, tmp_path):
    whole = (models.ZOO / "mnist-transparent.safetensors").read_bytes()
    (tmp_path / "corrupt.safetensors").write_bytes(whole[: len(whole) // 2])
    command = [sys.executable, "-m", "arn_purify.service", "serve", "--port", "0", *flags]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith("arn: ")
    assert message in line


def test_a_folder_is_purified_into_pngs_of_the_same_names(tmp_path):
    source = tmp_path / "in" / "deep"
    source.mkdir(parents=True)
    for number in range(70):
        Image.new("L", (28, 28), number).save(source / f"{number}.bmp")
    command = [sys.executable, "-m", "arn_purify.service", "purify", str(tmp_path / "in"), str(tmp_path / "out")]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "70 image(s) purified" in finished.stdout
    assert "70/70" in finished.stderr
    assert len(list((tmp_path / "out" / "deep").glob("*.png"))) == 70
    Image.new("L", (28, 28), 99).save(source / "7.png")
    subprocess.run(command, capture_output=True, text=True, check=True)
    assert {path.name for path in (tmp_path / "out" / "deep").glob("7.*")} == {"7.png", "7.bmp.png"}
    wrong = subprocess.run([*command[:3], "purify", str(EXAMPLE.parent / "sheet.png"), "x.png"], capture_output=True)
    assert wrong.returncode == 2
    assert b"--resize" in wrong.stderr
    wide = tmp_path / "wide.png"
    Image.fromarray(np.repeat(np.uint8([[0] * 20 + [255] * 40 + [0] * 20]), 40, axis=0)).save(wide)
    for flag, least, most in (("--resize", 100, 255), ("--fit", 0, 99)):
        done = subprocess.run([*command[:3], "purify", flag, str(wide), str(tmp_path / "x.png")], capture_output=True)
        assert done.returncode == 0, done.stderr
        purified = Image.open(tmp_path / "x.png")
        assert purified.size == (28, 28)
        assert least < np.asarray(purified).mean() < most, flag


def test_json_logs_carry_the_id_of_their_request(tmp_path):
    with serving(tmp_path, "--log-format", "json") as served:
        served.client.get("/models", headers={"X-Request-ID": "mine-1"})
        served.client.post("/purify", content=b"junk", headers={"X-Request-ID": "mine-2"})
        assert served.stop() == 0
    lines = [json.loads(line) for line in served.said.splitlines()]
    by_id = {line["request_id"]: line for line in lines if "request_id" in line}
    assert {key: by_id["mine-1"][key] for key in ("method", "route", "status", "logger", "level")} == {
        "method": "GET", "route": "/models", "status": 200, "logger": "service.access", "level": "info"
    }  # fmt: skip
    assert by_id["mine-2"]["status"] == 400


def test_the_list_of_models_may_be_cut_short():
    listed = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m arn_purify.service models | head -1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout.split()[:3] == ["cifar10-airbench-40", "classifier", "cifar10"]
