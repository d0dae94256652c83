"""Images and compose file, as far as they can be checked without a container engine: lint, schema, and the serving
image's own build and start steps, run in an empty folder with an environment of its own."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from arn_purify.service.core.decoder import memory
from arn_purify.service.settings import Settings
from tests.e2e.conftest import serving
from tests.e2e.containers import shown

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
PIN = r"^([\w.-]+)==([^\s;]+)"


def test_the_dockerfile_passes_its_linter():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_is_valid_and_what_it_names_exists():
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    compose_spec = pytest.importorskip("compose_spec", reason="compose-spec is not installed")
    assert compose_spec.PyCompose.from_json(json.dumps(composed)).service_names()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE.read_text(), re.M))
    for service in composed["services"].values():
        if "build" in service:
            assert service["build"]["target"] in stages
        for volume in service.get("volumes", []):
            assert (ROOT / volume.split(":")[0]).exists(), volume
    for url in ("http://prometheus:9090", "http://classifier:8501", "purifier:8000"):
        assert url.split("//")[-1].split(":")[0] in composed["services"]
    scraped = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yml").read_text())
    assert scraped["scrape_configs"][0]["static_configs"][0]["targets"] == ["purifier:8000"]


def test_every_port_of_the_compose_file_is_on_loopback_and_memory_is_limited():
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for name, service in composed["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert service["restart"] == "unless-stopped"
        assert re.fullmatch(r"\d+[gm]", service["mem_limit"])
    purifier = composed["services"]["purifier"]
    given = {key.removeprefix("ARN_").lower(): value for key, value in purifier["environment"].items()}
    settings = Settings(**{key: value for key, value in given.items() if value})
    half = int(purifier["mem_limit"].removesuffix("g")) * 2**30 // 2
    assert 2 * memory(settings.max_pixels, settings.max_body_bytes) <= half  # as of the manifests
    assert 500e6 + 3 * settings.bodies_bytes <= half


def test_the_container_of_the_page_has_the_memory_and_the_time_that_it_takes():
    flags = shown()
    given = dict(flags[i + 1].split("=") for i, flag in enumerate(flags) if flag == "--env")
    settings = Settings(**{name.removeprefix("ARN_").lower(): value for name, value in given.items()})
    limits = {name: flags[flags.index(f"--{name}") + 1] for name in ("memory", "memory-swap", "cpus", "stop-timeout")}
    assert limits["memory"] == limits["memory-swap"] == "1g"
    assert 320e6 + 3 * settings.bodies_bytes <= 2**30 // 2  # what the page measured; the other half is for a decoder
    assert settings.threads == int(limits["cpus"])
    assert int(limits["stop-timeout"]) >= settings.drain_seconds + 5
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["purifier"]
    assert int(composed["stop_grace_period"].removesuffix("s")) >= settings.drain_seconds + 5
    assert composed["memswap_limit"] == composed["mem_limit"]


def test_one_version_is_named_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    named = {
        "CITATION.cff": r"(?m)^version: (.*)$",
        "CHANGELOG.md": r"(?m)^## \[([0-9.]+)\]",
        "docker-compose.yml": r"arn-purify[\w-]*:([0-9.]+)",
        "docker/kubernetes/base/kustomization.yaml": r"newTag: (\S+)",
        "docker/kubernetes/classifier/kustomization.yaml": r"newTag: (.*)",
        "docker/kubernetes/kserve/inference-service.yaml": r"arn-purify:(.*)",
        "docs/scaling.md": r"arn-purify:([0-9.]+\d)",
    }
    for name, pattern in named.items():
        found = re.findall(pattern, (ROOT / name).read_text())
        assert found, name
        assert set(found if name != "CHANGELOG.md" else found[:1]) == {version}, name


def test_the_images_leave_out_what_they_need_not(tmp_path):
    """Everything that is copied is let through by .dockerignore, and nothing else of the project is."""
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = {source for line in re.findall(r"^COPY (?!--from)(.*)", DOCKERFILE.read_text(), re.M)
              for source in line.split()[:-1]}  # fmt: skip
    assert ignored[0] == "*"
    assert {entry[1:] for entry in ignored if entry.startswith("!")} == copied


def test_what_the_image_installs_is_pinned_by_hash_to_the_versions_that_are_tested():
    def named(text):
        return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in re.findall(PIN, text, re.M)}

    pinned = "".join((ROOT / "docker" / name).read_text() for name in ("requirements.txt", "torch.txt"))
    versions, tested = named(pinned), named((ROOT / "constraints.txt").read_text())
    assert {name: version for name, version in versions.items() if tested.get(name, version) != version} == {}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = extras["optional-dependencies"]
    wanted = [*extras["dependencies"], *optional["serve"], *optional["otel"]]
    assert {re.split(r"[\[>=]", requirement)[0] for requirement in wanted} <= set(versions)
    for block in re.split(r"\n(?=\S)", pinned):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "has", "lacks"), [("build", "fastapi", "advertorch"), ("build-training", "advertorch", "ruff")]
)
def test_the_build_steps_run_in_an_empty_folder(target, has, lacks, tmp_path):
    venv, app = tmp_path / "venv", tmp_path / "app"
    app.mkdir()
    for instruction, rest in steps(target):
        if instruction == "COPY":
            *sources, destination = rest.split()
            for source in sources:
                place = app / destination
                if destination.endswith("/"):
                    place.mkdir(exist_ok=True)
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, place)
        elif instruction == "RUN":
            command = rest.replace("/venv", str(venv))
            command = command.replace("python -m venv", f"{shlex.quote(sys.executable)} -m venv")
            # Whichever torch is at hand: the default one is gigabytes of CUDA.
            how = {"cwd": app, "env": outside() | {"TORCH_ARGS": "--prefer-binary"}}
            done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, **how)
            assert done.returncode == 0, done.stderr[-2000:]
    installed = subprocess.run([venv / "bin" / "pip", "list"], capture_output=True, text=True).stdout
    assert re.search(rf"^{has} ", installed, re.M)
    assert not re.search(rf"^{lacks} ", installed, re.M)
    if target == "build":
        started_as_in_the_image(venv, tmp_path)


def steps(target):
    """The instructions that lead to a stage, in order."""
    stages, parents, name = {}, {}, None
    for line in re.sub(r"\\\n\s*", "", DOCKERFILE.read_text()).splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            parent, _, name = rest.partition(" AS ")
            stages[name], parents[name] = [], parent
        elif name and instruction.isupper():
            stages[name].append((instruction, rest))
    return [*(steps(parents[target]) if parents[target] in stages else []), *stages[target]]


def outside():
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


def started_as_in_the_image(venv, folder):
    how = {"cwd": folder, "env": outside() | {"ARN_HOST": "0.0.0.0"}}
    with serving(folder, command=[venv / "bin" / "arn"], **how) as served:
        answer = served.client.post("/purify", content=(ROOT / "examples" / "adversarial_3.png").read_bytes())
        assert answer.headers["x-arn-purified"] == "true"
        assert served.client.get("/", headers={"Accept": "text/html"}).headers["content-type"].startswith("text/html")
        assert served.stop() == 0
