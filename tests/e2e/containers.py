"""Images built by buildah and run by podman, which need no daemon; where they or a base image are missing, a skip.

How a machine builds and runs containers is set in these programs' own variables: ``STORAGE_DRIVER``,
``BUILDAH_ISOLATION``, ``CONTAINERS_CONF``. Packages come from where ``pip config`` says. ``ARN_CONTAINER_BASE`` names
another base image.
"""

import ast
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from examples.servers import free_port

from ..conftest import PATIENCE, PATIENT

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates,passwd"  # of a stand-in for the base image
SLOW_CLOCKS = {f"ARN_{name.upper()}": f"{seconds:g}" for name, seconds in PATIENT.items()}


def shown():
    """The flags of the page's `docker run`, without the port and the image."""
    page = (ROOT / "docs" / "scaling.md").read_text()
    words = shlex.split(re.search(r"(?ms)^docker run (.*?)^```", page)[1].replace("\\\n", " "))
    published = words.index("-p")
    return [*words[:published], *words[published + 2 : -1]]


def run(*command, **how):
    """What a command prints; it must succeed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **how)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


def succeeds(*command, **how):
    return subprocess.run([*map(str, command)], capture_output=True, **how).returncode == 0


def base_image(folder):
    """The name of a base image: the Dockerfile's own, or one of Debian's packages where no registry answers."""
    default = re.search(r"^ARG BASE_IMAGE=(.*)", DOCKERFILE.read_text(), re.M)[1]
    if wanted := os.environ.get("ARN_CONTAINER_BASE"):
        return wanted
    for name in (stand_in := f"localhost/arn-base:{platform.machine()}", default):
        if succeeds("podman", "image", "exists", name):
            return name
    with suppress(subprocess.TimeoutExpired):
        if succeeds("podman", "pull", "--quiet", default, timeout=600):
            return default
    system = platform.freedesktop_os_release()
    if shutil.which("debootstrap") is None or os.getuid() != 0 or system["ID"] != "debian":
        pytest.skip(f"{default} cannot be pulled, and there is no debootstrap to make a base image with")
    root = folder / "root"  # the host's release: its Python is the one that wheels at hand are for
    run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", system["VERSION_CODENAME"], root)
    (root / "usr" / "bin" / "python").symlink_to("python3")
    for unwanted in (*root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"), *root.glob("var/cache/apt/archives/*.deb")):
        unwanted.unlink()
    container = run("buildah", "from", "scratch")
    run("buildah", "add", "--quiet", container, root, "/")
    run("buildah", "config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", container)
    run("buildah", "commit", "--quiet", "--rm", container, stand_in)
    shutil.rmtree(root)
    return stand_in


def pip_settings(folder):
    """Volumes that give a build the host's sources of packages: pip's configuration, and what it names."""
    chosen = {}
    for line in run(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        if (key := name.rpartition(".")[2]) in ("cert", "index-url", "extra-index-url", "find-links", "trusted-host"):
            chosen[key] = ast.literal_eval(value)
    config = folder / "pip.conf"
    config.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in chosen.items()))
    named = [Path(word.removeprefix("file://")) for value in chosen.values() for word in value.split()]
    # An index names its files beside itself.
    shared = [path.parent if path.name == "simple" else path for path in named if path.exists()]
    return [f"--volume={config}:/etc/pip.conf:ro", *(f"--volume={path}:{path}:ro" for path in shared)]


def build(base, volumes, target, tag):
    """One target; what it shares with others is built once."""
    arguments = (f"BASE_IMAGE={base}", f"TORCH_ARGS={os.environ.get('TORCH_ARGS', '--prefer-binary')}")
    run(
        "buildah", "bud", "--layers", "--pull-never", "--format", "docker", "--file", DOCKERFILE, "--target", target,
        "--tag", tag, *(f"--build-arg={argument}" for argument in arguments), *volumes, ROOT,
    )  # fmt: skip


class Container:
    """A container under its name, and what it answers on its published port."""

    def __init__(self, name, port):
        self.name = name
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    @property
    def state(self):
        return json.loads(run("podman", "inspect", self.name))[0]

    @property
    def log(self):
        done = subprocess.run(["podman", "logs", self.name], capture_output=True, text=True)
        return done.stdout + done.stderr

    def inside(self, *command):
        return run("podman", "exec", self.name, *command)

    def wait_until_ready(self, path="/health/ready"):
        """Seconds until it answers."""
        started = time.monotonic()
        while time.monotonic() - started < PATIENCE:
            with suppress(httpx2.TransportError):
                if self.client.get(path).status_code == 200:
                    return time.monotonic() - started
            time.sleep(0.1)
        raise AssertionError(f"not ready: {self.log}")

    def resident(self):
        """Megabytes of its first process."""
        status = self.inside("cat", "/proc/1/status")
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024 // 10**6


@contextmanager
def started(folder, image, *flags, name="arn-test"):
    """A container of the serving image, started as the page says, at a port of its own; removed afterwards."""
    port = free_port()
    settings = (f"--env={name}={value}" for name, value in {**SLOW_CLOCKS, "ARN_PORT": port}.items())
    where = ("--publish", f"127.0.0.1:{port}:{port}", *settings)
    subprocess.run(["podman", "rm", "--force", "--time", "0", name], capture_output=True)
    try:
        # Its monitor leaves a file in the current folder.
        run("podman", "run", "--detach", "--name", name, *where, *shown(), *flags, image, cwd=folder)
        with Container(name, port) as container:
            yield container
    finally:
        subprocess.run(["podman", "rm", "--force", "--time", "0", name], capture_output=True)
