"""Several processes at one port: the same answers as one, and nothing is lost when one of them dies."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx2
import numpy as np
import pytest

from arn_purify import models
from arn_purify.service.core import codec
from arn_purify.service.workers.table import Table

from ..conftest import PATIENCE
from .conftest import connections, serving, until
from .test_serve import bulk, gone, slow_purifier  # noqa: F401 (a fixture)
from .test_steady import load, metric, two  # noqa: F401 (a fixture)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

EXAMPLES = [path.read_bytes() for path in sorted((Path(__file__).parents[2] / "examples").glob("*_[0-9].png"))]
NPY = {"Content-Type": codec.NPY_TYPE, "Accept": codec.NPY_TYPE}
NAME = "mnist-transparent"
ONE_MODEL = ("--models", NAME, "--classifier", "", "--precision", "fp32")


def workers_of(served):
    """The processes of the workers by their numbers, once all of them have logged."""
    said = re.findall(r"\[worker (\d)\] uvicorn.error: Started server process \[(\d+)\]", served.said)
    return {int(number): int(pid) for number, pid in said}


def ready(served):
    """The status on a new connection, which a worker that is stopped or busy leaves to another."""
    return httpx2.get(f"{served.url}/health/ready", timeout=PATIENCE).status_code


@pytest.fixture
def served(tmp_path):
    with serving(tmp_path, "--workers", "2", "--threads", "2", *ONE_MODEL) as served:
        yield served


# -- together as one ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Two workers for the tests that leave them as they are."""
    with serving(tmp_path_factory.mktemp("together"), "--workers", "2", "--threads", "2", *ONE_MODEL) as served:
        yield served


def test_answers_are_those_of_one_process_bit_for_bit(together, tmp_path):
    def ask(client):
        tensors = [codec.encode_npy(np.random.default_rng(n).random((n, 1, 28, 28), np.float32)) for n in (1, 7, 64)]
        answers = [client.post("/purify", content=body) for body in EXAMPLES]
        answers += [client.post("/purify", content=body, headers=NPY) for body in tensors]
        assert {answer.status_code for answer in answers} == {200}
        return [(answer.headers["x-arn-residual-l2"], answer.content) for answer in answers]

    with serving(tmp_path, "--threads", "1", *ONE_MODEL) as one:
        expected = ask(one.client)
        assert "[worker" not in one.said
        assert not Path(f"/proc/{one.process.pid}/task/{one.process.pid}/children").read_text(), "no supervisor"

    with connections(together, 4) as clients:
        for client in clients:
            assert ask(client) == expected


def test_metrics_are_the_sums_whichever_worker_is_scraped(together):
    names = {
        'arn_requests_total{route="/purify",status="200"}': 18,
        'arn_requests_total{route="/purify",status="400"}': 6,
        'arn_rejected_total{reason="broken_image"}': 6,
        f'arn_residual_l2_count{{model="{NAME}"}}': 18,
        'arn_stage_seconds_bucket{le="+Inf",stage="infer"}': 18,
        "arn_batch_images_sum": 18,
        "arn_queue_images": 0,
        "arn_body_bytes": 0,
    }

    def told(client):
        return dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")

    with connections(together, 6) as clients:
        begun = told(clients[0])
        for client in clients:
            for body in (*EXAMPLES[:3], b"junk"):
                client.post("/purify", content=body)
        for client in clients:
            until(
                lambda client=client: (
                    {name: float(told(client)[name]) - float(begun.get(name, 0)) for name in names} == names
                )
            )
        info = [line for line in clients[0].get("/metrics").text.splitlines() if line.startswith("arn_model_info{")]
        (model,) = clients[0].get("/models").json()["purifiers"]
        assert info == [
            f'arn_model_info{{device="cpu",model="{NAME}",profile="transparent",sha256="{model["sha256"]}"}} 1.0'
        ]
    resident = metric(together, "process_resident_memory_bytes")
    alone = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in workers_of(together).values()]
    assert resident > 0.9 * 4096 * sum(alone)


def test_limits_are_those_of_all_workers_together(tmp_path):
    flags = ("--queue-images", "9", "--connections", "6", *ONE_MODEL)
    with serving(tmp_path, "--workers", "2", *flags) as served:
        served.client.close()
        until(lambda: httpx2.get(f"{served.url}/health/ready").status_code == 200)
        answers = [httpx2.post(f"{served.url}/purify", content=bulk(n), headers=NPY) for n in (4, 6)]
        assert [answer.status_code for answer in answers] == [200, 413]
        with contextlib.ExitStack() as held:

            def hold_one():
                client = httpx2.Client(timeout=PATIENCE)
                taken = client.get(f"{served.url}/health/live").status_code == 200
                held.callback(client.close)
                return taken

            for _ in range(6):  # a busy worker may leave more than its share to the other one, which refuses
                until(hold_one)
            refused = httpx2.get(f"{served.url}/health/live", timeout=PATIENCE)
            assert (refused.status_code, refused.json()["code"]) == (503, "too_many_connections")


# -- one of them dies ---------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_under_load_loses_its_own_connections_only_and_comes_back(served):
    expected = {body: served.client.post("/purify", content=body).content for body in EXAMPLES}

    def ask(client, number):
        body = EXAMPLES[number % len(EXAMPLES)]
        try:
            answer = client.post("/purify", content=body)
        except httpx2.TransportError as error:
            return type(error)
        return (answer.status_code, answer.content == expected[body])

    before, folder = workers_of(served), folder_of(served)
    until(lambda: metric(served, 'arn_requests_total{route="/purify",status="200"}') == len(EXAMPLES))
    with load(served.url, 8, ask) as answers:
        until(lambda: len(answers) > 100)
        held = Table(folder, 2).connections(2)
        os.kill(before[2], signal.SIGKILL)
        until(lambda: ready(served) == 503)
        assert [path.name[:10] for path in folder.glob("gauge_live*_1.db")] == ["gauge_live"] * 2
        assert not list(folder.glob("gauge_live*_2.db")), "what it had waiting waits no more"
        count = len(answers)
        until(lambda: ready(served) == 200)
        until(lambda: len(answers) > count + 100)
    lost = [answer for answer in answers if isinstance(answer, type)]
    assert len(lost) <= held
    assert set(lost) <= {httpx2.ReadError, httpx2.RemoteProtocolError, httpx2.WriteError}, "none was refused"
    assert {answer for answer in answers if not isinstance(answer, type)} == {(200, True)}
    after = workers_of(served)
    assert (after[1], after[2] == before[2]) == (before[1], False)
    assert f"worker 2 (process {before[2]}) is restarted: it ended with SIGKILL" in served.said
    # What the dead one had counted still counts, except what it answered and had no time to count.
    answered = len(EXAMPLES) + sum(isinstance(answer, tuple) for answer in answers)
    counted = metric(served, 'arn_requests_total{route="/purify",status="200"}')
    assert answered - held <= counted <= answered + len(lost)

    with connections(served, 4):  # the new one answers too
        pass


def folder_of(served):
    """The folder of the run, which its workers have files open in."""
    (pid, *_) = workers_of(served).values()
    (table,) = re.findall(r"\S+/arn-\w+/workers", Path(f"/proc/{pid}/maps").read_text())
    return Path(table).parent


STUCK = """
import sys
from arn_purify.service.workers import supervisor
supervisor._SECONDS_STUCK = 8.0
from arn_purify.service.cli import main
sys.exit(main())
"""


def test_a_worker_that_is_stuck_is_not_ready_and_is_replaced(tmp_path):
    with serving(tmp_path, "--workers", "2", *ONE_MODEL, command=(sys.executable, "-c", STUCK)) as served:
        served.client.close()
        stuck = workers_of(served)[1]
        os.kill(stuck, signal.SIGSTOP)
        until(lambda: ready(served) == 503)
        assert httpx2.post(f"{served.url}/purify", content=EXAMPLES[0]).status_code == 200, "the other one serves"
        until(lambda: workers_of(served)[1] != stuck)
        until(lambda: ready(served) == 200)
        assert f"worker 1 (process {stuck}) is stuck and is killed" in served.said


def test_workers_do_not_outlive_their_supervisor(served):
    pids = workers_of(served).values()
    folder = folder_of(served)
    served.process.kill()
    until(lambda: gone(pids))
    assert not folder.exists()


# -- the end ------------------------------------------------------------------------------------------------------


def test_sigterm_answers_what_every_worker_has_accepted(tmp_path, slow_purifier):  # noqa: F811
    flags = ("--models", slow_purifier, "--classifier", "", "--max-batch-images", "8", "--threads", "2")
    with serving(tmp_path, "--workers", "2", *flags) as served, connections(served, 4) as clients:
        pids, folder = workers_of(served).values(), folder_of(served)
        answers = []
        asking = [
            threading.Thread(
                target=lambda client=client: answers.append(client.post("/purify", content=bulk(40), headers=NPY))
            )
            for client in clients
        ]
        for thread in asking:
            thread.start()
        # Both work on a request while another one waits, of 40 images at most: the two have their turns.
        until(lambda: metric(served, "arn_queue_images") > 40)
        served.process.send_signal(signal.SIGTERM)
        until(lambda: ready(served) == 503)
        served.process.send_signal(signal.SIGTERM)  # `timeout`, for one, sends it to the process and to its group
        refused = httpx2.post(f"{served.url}/purify", content=EXAMPLES[0])
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert not answers
        for thread in asking:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 4
        assert all(np.load(io.BytesIO(answer.content)).shape == (40, 1, 28, 28) for answer in answers)
        assert served.process.wait(PATIENCE) == 0
        assert gone(pids)
        assert not folder.exists()
        assert "Traceback" not in served.said


def test_a_second_interrupt_ends_all_of_them_at_once(tmp_path, slow_purifier):  # noqa: F811
    flags = (
        "--models",
        slow_purifier,
        "--classifier",
        "",
        "--max-batch-images",
        "8",
        "--queue-images",
        "8000",
    )  # each has room for both
    with serving(tmp_path, "--workers", "2", *flags) as served, connections(served, 2) as clients:
        statuses = []
        asking = [
            threading.Thread(
                target=lambda client=client: statuses.append(
                    client.post("/purify", content=bulk(2000), headers=NPY).status_code
                )
            )
            for client in clients
        ]
        for thread in asking:
            thread.start()
        until(lambda: metric(served, "arn_batch_images_count") >= 2)
        served.process.send_signal(signal.SIGINT)
        until(lambda: ready(served) == 503)
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(PATIENCE) == 0
        for thread in asking:
            thread.join()
        assert statuses == [503, 503], "what is given up is told so"
        assert gone(workers_of(served).values())


# -- hot swap -----------------------------------------------------------------------------------------------------


def test_a_swap_is_taken_over_by_all_or_by_none_and_by_those_that_come_later(two, tmp_path):  # noqa: F811
    shipped, other = two
    folder = next(iter(two.values())).parent
    environment = {**os.environ, "ARN_ADMIN_TOKEN": "t", "ARN_ADMIN_FOLDER": str(folder)}

    def swap(client, path):
        return client.post(f"/admin/models/{NAME}", json={"path": path}, headers={"X-Admin-Token": "t"})

    def told(clients):
        return {client.post("/purify", content=EXAMPLES[0]).headers["x-arn-model-sha256"] for client in clients}

    with serving(tmp_path, "--workers", "2", *ONE_MODEL, env=environment) as served:
        with connections(served, 4) as clients:
            for sha256, client in zip([other, shipped, other], clients, strict=False):
                answer = swap(client, two[sha256].name)
                assert answer.status_code == 200, answer.text
                assert told(clients) == {sha256}
                assert re.findall(r'arn_model_info{.*sha256="(\w+)"', client.get("/metrics").text) == [sha256]
            (folder / "corrupt.safetensors").write_bytes(two[other].read_bytes()[:-9])
            refused = swap(clients[0], "corrupt.safetensors")
            assert (refused.status_code, refused.json()["code"]) == (422, "swap_refused")
            assert told(clients) == {other}
        kept = [path.name for path in folder_of(served).glob("swap-*/*")]
        assert kept == [two[other].name]
        served.process.send_signal(signal.SIGSTOP)  # who would start a successor
        os.kill(workers_of(served)[1], signal.SIGKILL)
        until(lambda: ready(served) == 503)
        with httpx2.Client(base_url=served.url, timeout=PATIENCE) as client:
            early = swap(client, two[shipped].name)
            assert (early.status_code, early.json()["code"]) == (503, "warming")
        served.process.send_signal(signal.SIGCONT)
        until(lambda: ready(served) == 200)
        with connections(served, 4) as clients:
            assert told(clients) == {other}
        assert served.stop() == 0
    assert len(re.findall("is [0-9a-f]{12} now", served.said)) == 2 * 3


def test_a_swap_that_one_worker_cannot_take_over_changes_none(two, tmp_path):  # noqa: F811
    shipped, other = two
    folder = next(iter(two.values())).parent
    environment = {**os.environ, "ARN_ADMIN_TOKEN": "t", "ARN_ADMIN_FOLDER": str(folder)}
    with serving(tmp_path, "--workers", "2", *ONE_MODEL, env=environment) as served:
        for number in (1, 2):  # whichever is asked, the other cannot be reached
            (folder_of(served) / f"{number}.socket").unlink()
        answer = served.client.post(
            f"/admin/models/{NAME}", json={"path": two[other].name}, headers={"X-Admin-Token": "t"}
        )
        assert (answer.status_code, answer.json()["code"]) == (503, "warming")
        assert "does not answer; no model was swapped" in answer.json()["error"]
        with connections(served, 4) as clients:
            for client in clients:
                purified = client.post("/purify", content=EXAMPLES[0])
                assert purified.headers["x-arn-model-sha256"] == shipped
        assert not list(folder_of(served).glob("swap-*"))


# -- the start ----------------------------------------------------------------------------------------------------


GRPC = ("--downstream-grpc", "127.0.0.1:9", "--grpc-port", "0")


def start(*flags, **how):
    command = [sys.executable, "-m", "arn_purify.service", "serve", "--workers", "2", "--port", "0", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, **how)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--models", "nobody"], "no model 'nobody'"),
        (["--purifiers", "signs=nobody", *GRPC], "ARN_PURIFIERS: 'nobody' is not loaded"),
        (["--queue-images", "1"], "ARN_QUEUE_IMAGES is shared out among 2 workers, and too small for that"),
        (["--host", "192.0.2.1"], "Cannot assign requested address"),
        (["--workers", "0"], "ARN_WORKERS: Input should be greater than or equal to 1"),
    ],
)
def test_a_start_that_cannot_be_ends_with_one_line_status_2_and_nothing_left(flags, message, tmp_path):
    finished = start(*flags, env={**os.environ, "TMPDIR": str(tmp_path), "ARN_API_KEY": "k"})
    assert finished.returncode == 2
    (line,) = [line for line in finished.stderr.splitlines() if "uvicorn.error" not in line]
    assert line.startswith("arn: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_workers_that_die_again_and_again_before_they_serve_end_the_service(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'arn_purify.service.workers.process' in sys.orig_argv:\n    os.kill(os.getpid(), 9)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(models.__file__).parents[1])])
    finished = start(*ONE_MODEL, env={**os.environ, "PYTHONPATH": path}, cwd=Path(__file__).parents[2])
    assert finished.returncode == 2
    *restarts, last = finished.stderr.splitlines()
    found = re.fullmatch(r"arn: worker (\d) has failed 3 times in a row: it ended with SIGKILL", last)
    assert found
    restarted = [re.search(r"worker (\d) \(process \d+\) is restarted", line)[1] for line in restarts]
    assert restarted.count(found[1]) == 2
    assert len(restarted) <= 4
