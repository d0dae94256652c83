"""Real model servers, each serving the released LeNet-5, to chain the purifier in front of.

``python -m examples.servers triton`` installs one under ``build/servers`` (a virtual environment of its own), starts it
and says where it listens.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "servers"

REQUIREMENTS: dict[str, Sequence[str]] = {
    "triton": ("nvidia-pytriton==0.7.0", "tritonclient[all]==2.73.0"),
    "mlserver": ("mlserver==1.7.1",),
    "kserve": ("kserve==0.21.0",),
    "torchserve": ("torchserve==0.12.0", "torch-model-archiver", "pyyaml", "captum", "torch==2.13.0"),
}


@dataclasses.dataclass(frozen=True)
class Server:
    """A running server."""

    name: str
    process: subprocess.Popen[bytes]
    http: str
    grpc: str
    log: Path


class Unavailable(RuntimeError):
    """The server cannot be installed or started on this machine; the message says why."""


def python(name: str) -> Path:
    """The interpreter of a server's environment, which is made at the first call."""
    try:
        return environment(BUILD / name, REQUIREMENTS[name])
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{name} cannot be installed: {error.stderr.strip().splitlines()[-1:]}") from error


def environment(folder: Path, requirements: Sequence[str]) -> Path:
    """The interpreter of a virtual environment with these requirements, made anew when they change."""
    stamp, wanted = folder / "installed", "\n".join(requirements)
    if not stamp.exists() or stamp.read_text() != wanted:
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", *requirements],
        ):
            subprocess.run(command, capture_output=True, text=True, check=True)
        stamp.write_text(wanted)
    return folder / "bin" / "python"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(name: str, folder: Path, http: int = 0, grpc: int = 0) -> Iterator[Server]:
    """Run a server until the block ends; ``folder`` takes its log and scratch files.

    Triton also serves the models that lie in ``folder/models`` (:func:`.photos.add_to_triton`).
    """
    http, grpc = http or free_port(), grpc or free_port()
    command, extra, ready = _START[name](python(name), folder, http, grpc)
    environment = {
        **{key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"},
        "PYTHONPATH": str(ROOT),
        "ARN_SITE": os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")]),
        "OMP_NUM_THREADS": "1",
        **extra,
    }
    log = folder / f"{name}.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    server = Server(name, process, f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}", log)
    try:
        _wait(server, ready)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(server: Server, path: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(server.http + path, timeout=5),
        ):
            return
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise Unavailable(f"{server.name} did not start:\n{server.log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.1)


Start = tuple[list[str], dict[str, str], str]
"""Command, environment, and the path that answers 200 once it is ready."""


def _triton(python: Path, folder: Path, http: int, grpc: int) -> Start:
    site = next((python.parent.parent / "lib").glob("python3.*")) / "site-packages"
    tree = site / "pytriton" / "tritonserver"
    stub = tree / "python_backend_stubs" / f"3.{sys.version_info.minor}" / "triton_python_backend_stub"
    if not stub.exists():
        raise Unavailable(f"Triton's wheel has no backend for Python 3.{sys.version_info.minor}")
    backend = tree / "backends" / "python"
    if not (backend / stub.name).exists():
        shutil.copy2(stub, backend)
    # The backend's interpreter reads no PYTHONPATH, and its array code needs the numpy 1 that the wheel brought.
    utilities = backend / "triton_python_backend_utils.py"
    first = f"import sys; sys.path.insert(0, {str(site)!r})\n"
    if not utilities.read_text().startswith(first):
        utilities.write_text(first + utilities.read_text())
    command = [
        str(tree / "bin" / "tritonserver"), "--model-repository", str(HERE / "triton"),
        "--backend-directory", str(tree / "backends"), "--http-port", str(http), "--grpc-port", str(grpc),
        "--http-address", "127.0.0.1", "--grpc-address", "127.0.0.1", "--allow-metrics", "false",
    ]  # fmt: skip
    if (added := folder / "models").is_dir():
        command += ["--model-repository", str(added)]
    return command, {"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))}, "/v2/health/ready"


def _mlserver(python: Path, folder: Path, http: int, grpc: int) -> Start:
    models = folder / "mlserver"
    shutil.copytree(HERE / "mlserver", models, dirs_exist_ok=True)
    environment = {
        "MLSERVER_HTTP_PORT": str(http), "MLSERVER_GRPC_PORT": str(grpc), "MLSERVER_METRICS_PORT": str(free_port()),
        "MLSERVER_HOST": "127.0.0.1", "MLSERVER_PARALLEL_WORKERS": "0",
    }  # fmt: skip
    return [str(python.parent / "mlserver"), "start", str(models)], environment, "/v2/models/lenet5/ready"


def _kserve(python: Path, folder: Path, http: int, grpc: int) -> Start:
    app = [str(python), "-m", "examples.servers.kserve_app", "--http_port", str(http), "--grpc_port", str(grpc)]
    return app, {}, "/v2/models/lenet5/ready"


def _torchserve(python: Path, folder: Path, http: int, grpc: int) -> Start:
    if not shutil.which("java"):
        raise Unavailable("TorchServe needs Java")
    store = folder / "store"
    store.mkdir(exist_ok=True)
    subprocess.run(
        [str(python.parent / "torch-model-archiver"), "--model-name", "lenet5", "--version", "1", "--handler",
         str(HERE / "torchserve" / "handler.py"), "--export-path", str(store), "--force"],
        check=True, capture_output=True,
    )  # fmt: skip
    addresses = {"inference": http, "management": free_port(), "metrics": free_port()}
    settings = [f"{name}_address=http://127.0.0.1:{port}" for name, port in addresses.items()]
    settings += [f"grpc_inference_port={grpc}", f"grpc_management_port={free_port()}", "default_workers_per_model=1"]
    (folder / "config.properties").write_text("\n".join(settings))
    command = [
        str(python.parent / "torchserve"), "--start", "--ncs", "--foreground", "--model-store", str(store),
        "--models", "lenet5=lenet5.mar", "--ts-config", str(folder / "config.properties"), "--disable-token-auth",
    ]  # fmt: skip
    environment = {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "LOG_LOCATION": str(folder)}
    return command, environment, "/ping"


_START: dict[str, Callable[[Path, Path, int, int], Start]] = {
    "triton": _triton,
    "mlserver": _mlserver,
    "kserve": _kserve,
    "torchserve": _torchserve,
}
