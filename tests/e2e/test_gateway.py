"""In front of real model servers, with their own clients: wrong labels direct, right labels chained."""

import asyncio
import concurrent.futures
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import httpx2
import numpy as np
import pytest
from PIL import Image

from arn_purify.service.gateway.protocols import v2_grpc
from examples import servers
from tests.conftest import PATIENCE

from .conftest import behind_grpc, most_resident, serving

EXAMPLES = Path(__file__).parents[2] / "examples"
CLIENTS = EXAMPLES / "servers" / "clients"
DIGITS = list(range(10))


@pytest.fixture(scope="module")
def adversarial(tmp_path_factory):
    images = [np.asarray(Image.open(EXAMPLES / f"adversarial_{digit}.png"), np.float32) / 255 for digit in DIGITS]
    path = tmp_path_factory.mktemp("digits") / "adversarial.npy"
    np.save(path, np.stack(images)[:, None])
    return path


@contextlib.contextmanager
def server(name, folder, **ports):
    try:
        with servers.serving(name, folder, **ports) as running:
            yield running
    except servers.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    with server("triton", tmp_path_factory.mktemp("triton")) as running:
        yield running


@contextlib.contextmanager
def gateway(folder, behind, *flags):
    grpc = servers.free_port()
    flags = ["--downstream-url", behind.http, "--downstream-protocol", "any", "--threads", "1", *flags]
    with serving(folder, *flags, "--downstream-grpc", behind.grpc, "--grpc-port", str(grpc)) as served:
        served.grpc = f"127.0.0.1:{grpc}"
        yield served


@pytest.fixture(scope="module")
def chained(triton, tmp_path_factory):
    with gateway(tmp_path_factory.mktemp("gateway"), triton, "--downstream-model", "lenet5") as served:
        yield served


def client(name, *arguments):
    """What a server's own client, in the server's own environment, says the digits are."""
    command = [servers.python(name), CLIENTS / f"{name}_client.py", *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def right(labels):
    return sum(label == digit for label, digit in zip(labels, DIGITS, strict=True))


@pytest.mark.parametrize("mode", ["binary", "json", "grpc"])
def test_tritonclient_is_right_through_the_gateway_and_wrong_without(triton, chained, adversarial, mode):
    direct, through = (triton.grpc, chained.grpc) if mode == "grpc" else (triton.http, chained.url)
    assert right(client("triton", mode, direct, adversarial)) == 0
    assert right(client("triton", mode, through, adversarial)) >= 9


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), [("mlserver", ""), ("kserve", "v1"), ("kserve", "v1-b64"), ("kserve", "v2")])
def test_the_other_servers_clients_are_right_through_the_gateway_and_wrong_without(name, mode, adversarial, tmp_path):
    arguments = [mode] if mode else []
    with server(name, tmp_path) as behind, gateway(tmp_path, behind) as served:
        assert right(client(name, *arguments, behind.http, adversarial)) == 0
        assert right(client(name, *arguments, served.url, adversarial)) >= 9


@pytest.mark.slow
def test_curl_puts_images_to_torchserve_through_the_gateway(tmp_path):
    images = [str(EXAMPLES / f"adversarial_{digit}.png") for digit in DIGITS]

    def ask(address):
        done = subprocess.run(
            ["sh", CLIENTS / "torchserve_client.sh", address, *images], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return [int(label) for label in re.findall(r'"label": (\d)', done.stdout)]

    with server("torchserve", tmp_path) as behind, gateway(tmp_path, behind) as served:
        assert right(ask(behind.http)) == 0
        assert right(ask(served.url)) >= 9
        unknown = [httpx2.put(f"{url}/predictions/none", content=b"x") for url in (behind.http, served.url)]
        assert unknown[1].json()["code"] == 422  # no image: refused before TorchServe is asked, in its own form
        assert httpx2.get(f"{served.url}/ping").json() == httpx2.get(f"{behind.http}/ping").json()


def described(images, name="image"):
    data = np.asarray(images, np.float32)
    entry = {"name": name, "datatype": "FP32", "shape": list(data.shape), "data": data.reshape(-1).tolist()}
    return {"id": "7", "inputs": [entry]}


def test_the_servers_own_errors_metadata_and_health_come_back_as_they_are(triton, chained):
    digit = np.zeros((1, 1, 28, 28))
    for path, body in [
        ("/v2/models/nobody/infer", described(digit)),
        ("/v2/models/lenet5/versions/9/infer", described(digit)),
        ("/v2/models/lenet5/infer", described(digit, "another")),
        ("/v2/models/slow/infer", described(np.zeros((2, 1, 28, 28)))),
    ]:
        direct, through = (httpx2.post(url + path, json=body) for url in (triton.http, chained.url))
        assert (through.status_code, through.content) == (direct.status_code, direct.content)
        assert direct.status_code >= 400
        assert through.headers["x-arn-refused-by"] == "downstream"
        assert through.headers["x-arn-purified"] == "true"
    for path in ["/v2", "/v2/health/ready", "/v2/models/lenet5", "/v2/models/lenet5/ready",
                 "/v2/models/lenet5/versions/1", "/v2/models/lenet5/config"]:  # fmt: skip
        direct, through = (httpx2.get(url + path) for url in (triton.http, chained.url))
        assert (through.status_code, through.content) == (direct.status_code, direct.content)
    wrong = httpx2.post(f"{chained.url}/v2/models/lenet5/infer", json=described(np.zeros((1, 1, 9, 9))))
    assert (wrong.status_code, wrong.json()["code"]) == (422, "no_image")
    assert wrong.headers["x-arn-refused-by"] == "purifier"
    for path in ["/v2/models/lenet5/infer/", "/v2/models/lenet5/generate", "/v2/models/%2e%2e/infer", "/v2//infer"]:
        assert httpx2.post(chained.url + path, json=described(digit)).status_code == 404


def test_grpc_refusals_and_the_servers_own_errors_are_told_apart(chained, tmp_path):
    script = tmp_path / "ask.py"
    script.write_text(
        "import sys, numpy as np, tritonclient.grpc as t\n"
        "c = t.InferenceServerClient(sys.argv[1])\n"
        "print(c.is_server_live(), c.is_server_ready(), c.is_model_ready('lenet5'))\n"
        "assert c.get_model_metadata('lenet5').inputs[0].name == 'image'\n"
        "def ask(model, shape, value=0):\n"
        "    i = t.InferInput('image', shape, 'FP32'); i.set_data_from_numpy(np.full(shape, value, np.float32))\n"
        "    try: print(c.infer(model, [i]).as_numpy('scores').shape)\n"
        "    except t.InferenceServerException as e: print(e.status(), '|', e.message())\n"
        "ask('lenet5', [2, 1, 28, 28]); ask('nobody', [1, 1, 28, 28]); ask('lenet5', [1, 1, 9, 9])\n"
        "ask('lenet5', [1, 1, 28, 28], 7); ask('lenet5', [1, 1, 28, 28], np.nan)\n"
    )
    command = [servers.python("triton"), script, chained.grpc]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    health, answer, unknown, wrong, far, nan = done.stdout.splitlines()
    assert health == "True True True"
    assert answer == "(2, 10)"
    assert unknown.startswith("StatusCode.NOT_FOUND | Request for unknown model: 'nobody'")
    assert wrong.startswith("StatusCode.INVALID_ARGUMENT | no image in the request")
    assert far.startswith("StatusCode.INVALID_ARGUMENT | input 'image': finite values")
    assert nan.startswith("StatusCode.INVALID_ARGUMENT | input 'image': finite values")


async def test_grpc_metadata_pass_both_ways_and_outcomes_are_counted_as_they_are(tmp_path):
    asked = []

    async def answer(request, context):
        asked.append(dict(context.invocation_metadata()))
        await context.send_initial_metadata((("from-server", "a"),))
        context.set_trailing_metadata((("tail", "b"),))
        if request:
            await asyncio.sleep(20)
        return b""

    def run(address):
        with serving(tmp_path, "--downstream-grpc", address, "--grpc-port", "0") as served:
            (port,) = re.findall(r"gRPC on [\d.]+:(\d+)", served.said)
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                ask = channel.unary_unary(f"/{v2_grpc.SERVICE}/ServerMetadata")
                _, call = ask.with_call(b"", metadata=(("tenant-id", "t"), ("temperature", "1")), timeout=PATIENCE)
                assert ("from-server", "a") in call.initial_metadata()
                assert ("tail", "b") in call.trailing_metadata()
                with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
                    ask(b"slow", timeout=0.5)
                before = len(asked)  # the call above may have timed out on its way
                hung_up = ask.future(b"slow")
                while len(asked) <= before:
                    time.sleep(0.01)
                hung_up.cancel()
                deadline = time.monotonic() + PATIENCE
                while 'ServerMetadata",status="CANCELLED"' not in (told := served.client.get("/metrics").text):
                    assert time.monotonic() < deadline, told
                    time.sleep(0.05)
        return told

    async with behind_grpc(answer) as address:
        told = await asyncio.to_thread(run, address)
    assert (asked[0]["tenant-id"], asked[0]["temperature"]) == ("t", "1")
    for status in ("OK", "DEADLINE_EXCEEDED", "CANCELLED"):
        assert f'arn_requests_total{{route="grpc:ServerMetadata",status="{status}"}} 1.0' in told


async def test_grpc_probes_are_not_read_and_other_messages_are_small(tmp_path):
    asked = []

    async def answer(request, context):
        asked.append(len(request))
        return b"yes"

    def run(address):
        with serving(tmp_path, "--downstream-grpc", address, "--grpc-port", "0", "--api-key", "k") as served:
            (port,) = re.findall(r"gRPC on [\d.]+:(\d+)", served.said)
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

                def ask(method, size, *metadata):
                    return channel.unary_unary(f"/{method}")(bytes(size), timeout=PATIENCE, metadata=metadata)

                assert ask(f"{v2_grpc.SERVICE}/ServerLive", 100) == b"\x08\x01"  # the service's own
                assert not asked
                assert ask(f"{v2_grpc.SERVICE}/ServerReady", 100) == b"yes"
                assert ask("grpc.health.v1.Health/Check", 0) == b"yes"
                before = most_resident(served)
                channels = [grpc.insecure_channel(f"127.0.0.1:{port}", [("i", i)]) for i in range(20)]
                with contextlib.ExitStack() as opened:
                    asks = [opened.enter_context(channel).unary_unary(f"/{v2_grpc.SERVICE}/ServerReady")
                            for channel in channels]  # fmt: skip
                    under_way = [ask.future(bytes(16 * 2**20), timeout=PATIENCE) for ask in asks]
                    assert [future.result() for future in under_way] == [b"yes"] * 20
                assert most_resident(served) - before < 128 * 2**20  # 320 MiB were sent
                assert set(asked) == {0}
                told = ask(f"{v2_grpc.SERVICE}/ModelMetadata", 2**16, ("x-api-key", "k"))
                with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED") as refused:
                    ask(f"{v2_grpc.SERVICE}/ModelMetadata", 2**16 + 1, ("x-api-key", "k"))
                assert (told, asked[-1]) == (b"yes", 2**16)
                assert dict(refused.value.trailing_metadata())["x-arn-code"] == "body_too_large"

    async with behind_grpc(answer) as address:
        await asyncio.to_thread(run, address)


async def test_over_grpc_there_are_no_more_calls_than_connections_may_be(tmp_path):
    go_on = asyncio.Event()
    asked = []

    async def answer(request, context):
        asked.append(request)
        await go_on.wait()
        return b""

    def run(address, release):
        flags = ("--downstream-grpc", address, "--grpc-port", "0", "--connections", "2")
        with serving(tmp_path, *flags) as served:
            (port,) = re.findall(r"gRPC on [\d.]+:(\d+)", served.said)
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                ask = channel.unary_unary(f"/{v2_grpc.SERVICE}/ServerMetadata")
                waiting = [ask.future(b"", timeout=PATIENCE) for _ in range(2)]
                while len(asked) < 2:
                    time.sleep(0.01)
                with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
                    ask(b"", timeout=PATIENCE)
                release()
                assert [future.result() for future in waiting] == [b"", b""]
                assert ask(b"", timeout=PATIENCE) == b""

    loop = asyncio.get_running_loop()
    async with behind_grpc(answer) as address:
        await asyncio.to_thread(run, address, lambda: loop.call_soon_threadsafe(go_on.set))


def test_the_servers_full_queue_reaches_the_client(chained):
    body = described(np.zeros((1, 1, 28, 28)))
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: httpx2.post(f"{chained.url}/v2/models/slow/infer", json=body), range(6)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused
    assert len(refused) < 6
    for answer in refused:
        assert answer.status_code == 503
        assert "maximum queue size" in answer.json()["error"]
        assert answer.headers["x-arn-refused-by"] == "downstream"


def test_a_server_killed_under_load_is_told_cleanly_and_found_again(tmp_path, adversarial):
    http, grpc = servers.free_port(), servers.free_port()
    body = described(np.load(adversarial)[:1])
    with server("triton", tmp_path, http=http, grpc=grpc) as behind, gateway(tmp_path, behind) as served:
        ask = f"{served.url}/v2/models/lenet5/infer"
        assert httpx2.post(ask, json=body, timeout=PATIENCE).status_code == 200
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            running = [pool.submit(lambda: httpx2.post(ask, json=body, timeout=PATIENCE)) for _ in range(60)]
            while sum(future.done() for future in running) < 10:
                time.sleep(0.005)
            os.killpg(behind.process.pid, signal.SIGKILL)
            answers = [future.result() for future in running]
        statuses = {answer.status_code for answer in answers}
        assert 200 in statuses
        assert statuses <= {200, 502, 503}
        assert statuses & {502, 503}
        for answer in answers:
            assert answer.status_code == 200 or answer.json()["code"] in ("downstream_unreachable", "downstream_open")
        while (answer := httpx2.post(ask, json=body, timeout=PATIENCE)).status_code != 503:  # the breaker opens
            assert answer.status_code == 502
        assert int(answer.headers["retry-after"]) >= 1
        assert httpx2.get(f"{served.url}/v2/health/ready").status_code in (502, 503)
        assert httpx2.get(f"{served.url}/health/ready").status_code == 200  # restarting us would not help
        with server("triton", tmp_path, http=http, grpc=grpc):
            deadline = time.monotonic() + PATIENCE
            while httpx2.post(ask, json=body, timeout=PATIENCE).status_code != 200:
                assert time.monotonic() < deadline
                time.sleep(0.1)


def test_bypass_forwards_what_cannot_be_purified_marked_and_counted(triton, tmp_path):
    with gateway(tmp_path, triton, "--on-failure", "bypass", "--models", "mnist-transparent") as served:
        wrong = described(np.zeros((1, 1, 9, 9)))
        direct, through = (
            httpx2.post(f"{url}/v2/models/lenet5/infer", json=wrong) for url in (triton.http, served.url)
        )
        assert (through.status_code, through.content) == (direct.status_code, direct.content)
        assert (through.headers["x-arn-purified"], through.headers["x-arn-bypass"]) == ("false", "no_image")
        broken = httpx2.post(f"{served.url}/v2/models/lenet5/infer", content=b"{")
        assert (broken.status_code, broken.json()["code"]) == (400, "broken_body")
        assert 'arn_bypassed_total{reason="no_image"} 1.0' in served.client.get("/metrics").text


def test_shadow_mode_counts_the_disagreement_and_changes_no_answer(triton, tmp_path, adversarial):
    with gateway(tmp_path, triton, "--shadow-share", "1", "--compare", "true") as served:
        assert right(client("triton", "binary", served.url, adversarial)) >= 9
        assert right(client("triton", "grpc", served.grpc, adversarial)) >= 9
        deadline = time.monotonic() + PATIENCE
        while 'arn_shadowed_total{outcome="disagree"} 2.0' not in (metrics := served.client.get("/metrics").text):
            assert time.monotonic() < deadline, metrics
            time.sleep(0.1)
        assert float(re.search(r'arn_label_flips_total{model="mnist-transparent"} ([\d.]+)', metrics)[1]) >= 18
        body = described(np.load(adversarial)[:3])
        told = httpx2.post(f"{served.url}/v2/models/lenet5/infer", json=body, headers={"X-ARN-Compare": "true"})
        assert told.headers["x-arn-label"] == "0,1,2"
        assert told.headers["x-arn-unpurified-label"] == "8,8,8"
        assert told.headers["x-arn-label-flipped"] == "true"


def test_a_contract_that_cannot_be_kept_ends_the_start_with_its_reason(triton):
    command = [sys.executable, "-m", "arn_purify.service", "serve", "--port", "0", "--downstream-url", triton.http]
    flags = ["--downstream-protocol", "v2", "--downstream-model", "lenet5", "--input-name", "tag"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert "'tag' has the shape" in done.stderr.splitlines()[-1]


def test_kserves_transformer_flags_start_the_gateway(triton, tmp_path):
    host = triton.http.removeprefix("http://")
    flags = ["--model_name", "lenet5", "--predictor_host", host, "--predictor_protocol", "v2", "--http_port", "0"]
    with serving(tmp_path, *flags, "--host", "127.0.0.1", "--workers", "1") as served:
        answer = httpx2.post(f"{served.url}/v2/models/lenet5/infer", json=described(np.zeros((1, 1, 28, 28))))
        assert answer.status_code == 200
        assert served.client.get("/").json()["status"] == "alive"
