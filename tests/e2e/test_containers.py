"""Every target of the Dockerfile built, and the service run: alone, by the compose file, by the manifests."""

import base64
import io
import json
import os
import shutil
import signal
import subprocess
import time
import tomllib

import numpy as np
import pytest
import yaml
from PIL import Image

from arn_purify.service.settings import Settings
from examples.servers import free_port

from ..conftest import PATIENCE
from .containers import ROOT, SLOW_CLOCKS, Container, base_image, build, pip_settings, run, started, succeeds

missing = [program for program in ("buildah", "podman") if shutil.which(program) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"no {' and no '.join(missing)} to build and run containers with"),
]
DIGIT = (ROOT / "examples" / "adversarial_3.png").read_bytes()
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
TAGS = {name: f"localhost/arn-purify{tail}:{VERSION}" for name, tail in
        (("serving", ""), ("classifier", "-classifier"), ("training", "-training"))}  # fmt: skip


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """The name of each target's image."""
    folder = tmp_path_factory.mktemp("images")
    base = base_image(folder)
    started = subprocess.run(["podman", "run", "--rm", base, "true"], capture_output=True, text=True, cwd=folder)
    if started.returncode:
        pytest.skip(f"podman runs no container here: {started.stderr.strip()[-300:]}")
    volumes = pip_settings(folder)
    for target, tag in TAGS.items():
        build(base, volumes, target, tag)
    return TAGS


@pytest.fixture
def said(capsys):
    """Print what was measured, whatever pytest captures."""

    def say(text):
        with capsys.disabled():
            print(f"\n{text}", end="")  # noqa: T201

    return say


def big_picture():
    """16 million pixels in 70 kB: a decoder takes some 250 MB for it."""
    file = io.BytesIO()
    Image.new("RGBA", (4000, 4000), (200, 30, 30, 128)).save(file, "PNG")
    return file.getvalue()


def test_every_image_holds_what_it_needs_and_no_more(images, said):
    for target, tag in images.items():
        size = int(run("podman", "image", "inspect", tag, "--format", "{{.Size}}"))
        layers = run("podman", "history", "--format", "{{.Size}}", tag).splitlines()
        said(f"{target}: {size / 1e6:.0f} MB, of which the base {layers[-1]}")
        assert run("podman", "image", "inspect", tag, "--format", "{{.User}}") == "10001"
    here = ("podman", "run", "--rm", "--network", "none")
    assert run(*here, "--entrypoint", "arn", images["serving"], "--version") == f"arn {VERSION}"
    assert "train" in run(*here, images["training"], "--help")
    for target in ("serving", "classifier"):
        for name in ("pip", "advertorch", "pytest"):
            assert not succeeds(*here, "--entrypoint", "python", images[target], "-c", f"import {name}"), name
    attack = "from arn_purify.training.attacks.advertorch_shim import attacks"
    run(*here, "--entrypoint", "python", images["training"], "-c", attack)


def test_the_service_runs_locked_in_and_stops_when_asked(images, said, tmp_path):
    with started(tmp_path, images["serving"]) as container:
        said(f"ready after {container.wait_until_ready():.1f} s")
        assert succeeds("podman", "healthcheck", "run", container.name)
        answer = container.client.post("/v1/purify", content=DIGIT)
        assert (answer.status_code, answer.headers["x-arn-purified"]) == (200, "true")
        shown = np.asarray(Image.open(ROOT / "examples" / "purified_3.png"), np.int16)
        assert abs(np.asarray(Image.open(io.BytesIO(answer.content)), np.int16) - shown).max() <= 4  # of 255, in bf16
        said(f"{container.resident()} MB after one image")
        assert container.client.post("/purify?resize=crop", content=big_picture()).status_code == 200
        process = container.inside("cat", "/proc/1/status")
        assert "Uid:\t10001" in process
        assert "CapEff:\t0000000000000000" in process
        assert "CapBnd:\t0000000000000000" in process
        assert not succeeds("podman", "exec", container.name, "touch", "/home/arn/file")
        assert container.state["Config"]["StopTimeout"] > Settings.model_fields["drain_seconds"].default
        asked = time.monotonic()
        run("podman", "stop", "--time", f"{PATIENCE:.0f}", container.name)
        assert container.state["State"]["ExitCode"] == 0, "killed once its grace period was over"
        said(f"stopped {time.monotonic() - asked:.1f} s after SIGTERM")
        assert "Application shutdown complete" in container.log


def test_where_memory_runs_out_a_decoder_ends_and_the_service_goes_on(images, said, tmp_path):
    """docs/security.md says so."""
    little = ("--memory", "512m", "--memory-swap", "512m")
    with started(tmp_path, images["serving"], *little) as container:
        container.wait_until_ready()
        before = container.state["State"]["StartedAt"]
        refused = container.client.post("/purify?resize=crop", content=big_picture())
        assert (refused.status_code, refused.json()["code"]) == (503, "out_of_memory")
        assert int(refused.headers["retry-after"]) >= 1
        assert container.client.post("/purify", content=DIGIT).status_code == 200
        assert container.state["State"]["StartedAt"] == before
        assert "a decoder was ended by the system" in container.log
        said(f"within 512 MB: {refused.json()['error']}; the next image was purified")


def test_a_service_that_is_killed_comes_back(images, said, tmp_path):
    with started(tmp_path, images["serving"], "--restart", "on-failure:3") as container:
        container.wait_until_ready()
        os.kill(container.state["State"]["Pid"], signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while container.state["RestartCount"] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        said(f"killed, ready again after {container.wait_until_ready():.1f} s")
        assert container.client.post("/purify", content=DIGIT).status_code == 200


def predicted(client, **headers):
    """What the gateway answers for an attacked digit."""
    pixels = (np.asarray(Image.open(io.BytesIO(DIGIT)), np.float32) / 255).tolist()
    return client.post("/v1/models/digits:predict", json={"instances": [pixels]}, headers=headers)


def test_the_compose_file_runs(images, tmp_path):
    if shutil.which("podman-compose") is None:
        pytest.skip("no podman-compose")
    port = free_port()
    environment = os.environ | {"ARN_API_KEY": "a-key"}
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    purifier = composed["services"]["purifier"]
    (published,) = purifier["ports"]
    purifier["ports"] = [published.replace(":8000:", f":{port}:")]  # 8000 may be taken here
    purifier["environment"] |= SLOW_CLOCKS
    (tmp_path / "compose.yml").write_text(yaml.safe_dump(composed))
    compose = ("podman-compose", "--file", tmp_path / "compose.yml", "--project-name", "arn-test")
    how = {"env": environment, "cwd": tmp_path}
    try:
        run(*compose, "up", "--detach", "--no-build", "classifier", "purifier", **how)
        with Container("arn-test_purifier_1", port) as container:
            container.wait_until_ready()
            assert predicted(container.client).status_code == 401
            answer = predicted(container.client, **{"X-API-Key": "a-key"})
            assert (answer.status_code, answer.json()) == (200, {"predictions": [3]})
            state = container.state["HostConfig"]
            assert (state["Memory"], state["ReadonlyRootfs"]) == (3 * 2**30, True)
            assert state["RestartPolicy"]["Name"] == "unless-stopped"
            assert {where["HostIp"] for bound in state["PortBindings"].values() for where in bound or ()} == {
                "127.0.0.1"
            }
    finally:
        subprocess.run([*map(str, compose), "down"], capture_output=True, **how)


def create_secret(name, data):
    """A Kubernetes Secret as podman reads it: before 4.4 its data alone."""
    major, minor = run("podman", "version", "--format", "{{.Client.Version}}").split(".")[:2]
    whole = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
    run(
        "podman", "secret", "create", name, "-", input=json.dumps(whole if (int(major), int(minor)) >= (4, 4) else data)
    )


def test_the_manifests_run_in_podman(images, tmp_path):
    """As far as podman plays Kubernetes: Deployments, ConfigMaps, Secrets. A pod's name is its address."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl to build the manifests with")
    port, play = free_port(), tmp_path / "play.yaml"
    kinds = ("ConfigMap", "Deployment")
    built = [
        manifest
        for name in ("base", "classifier")
        for manifest in yaml.safe_load_all(run("kubectl", "kustomize", ROOT / "docker" / "kubernetes" / name))
        if manifest["kind"] in kinds
    ]
    for manifest in built:
        if manifest["kind"] == "ConfigMap":
            manifest["data"] |= SLOW_CLOCKS | {"ARN_DOWNSTREAM_URL": "http://classifier-pod-0:8501"}
            continue
        manifest["spec"]["replicas"] = 1  # podman would give each the same port
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        container["image"] = f"localhost/{container['image']}"
        if manifest["metadata"]["name"] == "arn-purify":
            container["ports"] = [{"containerPort": 8000, "hostPort": port, "hostIP": "127.0.0.1"}]
        else:
            del container["ports"]
    play.write_text(yaml.safe_dump_all(built))
    create_secret("arn-purify", {"ARN_API_KEY": base64.b64encode(b"a-key").decode()})
    run("podman", "network", "create", "arn-test")
    try:
        run("podman", "kube", "play", "--network", "arn-test", play, cwd=tmp_path)
        with Container("arn-purify-pod-0-purifier", port) as container:
            container.wait_until_ready()
            limit = container.state["HostConfig"]["NanoCpus"] // 10**9
            assert container.inside("printenv", "ARN_THREADS") == str(limit)
            assert predicted(container.client).status_code == 401
            answer = predicted(container.client, **{"X-API-Key": "a-key"})
            assert (answer.status_code, answer.json()) == (200, {"predictions": [3]})
    finally:
        for command in (
            ("kube", "down", play),
            ("secret", "rm", "arn-purify"),
            ("network", "rm", "--force", "arn-test"),
        ):
            subprocess.run(["podman", *map(str, command)], capture_output=True, cwd=tmp_path)
