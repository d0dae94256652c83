"""A wheel, installed in an environment of its own outside the checkout, used beside a foreign package `models`.

Building and installing are pip's, without a network. torch, safetensors and what torch needs are not installed again:
links in the new environment lead to the copies of this one, and to nothing else, so neither the checkout nor any extra
can be imported there.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import arn_purify
from arn_purify.training.report.figures import EXAMPLES

ROOT = Path(__file__).parents[2]
ROOMS = ("models", "service", "training")

pytest.importorskip("setuptools")


def run(*command, **how):
    # Neither the checkout nor this environment's own settings reach the command.
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, since a build leaves files beside its sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("arn_purify", *ROOMS):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "--wheel-dir", out, source)
    (built,) = out.glob("*.whl")
    return built


def needed(*names):
    """The installed distributions that these stand on, and they themselves."""
    found, waiting = {}, list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = importlib.metadata.distribution(name)
            requirements = map(Requirement, found[name].requires or ())
            waiting += [r.name for r in requirements if not r.marker or r.marker.evaluate({"extra": ""})]
    return found.values()


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of a new environment that holds the wheel, torch and safetensors."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for distribution in needed("torch", "safetensors"):
        for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(distribution.locate_file(name))
    install = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    run(*install, wheel)
    return python


@pytest.fixture
def elsewhere(tmp_path):
    """A folder as a research repository is: it has `models`, `service` and `training` of its own."""
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("raise ImportError('a foreign package')\n")
    return tmp_path


def test_the_wheel_holds_every_file_of_the_package(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    files = (path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert {f"arn_purify/{path.relative_to(ROOT)}" for path in files} - held == set()
    assert {name.split("/")[0] for name in held if ".dist-info" not in name} == {"arn_purify"}, "one name on top"


def test_the_wheel_holds_the_digits_that_export_and_figures_draw(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    folder = EXAMPLES.relative_to(Path(arn_purify.__file__).parents[1])
    assert {f"{folder}/natural_{digit}.png" for digit in range(10)} <= held


def test_one_import_and_one_call_purify(python, elsewhere):
    program = (
        "import arn_purify, torch; model = arn_purify.load('mnist-transparent'); x = torch.rand(2, 1, 28, 28); "
        "same = torch.equal(arn_purify.purify(x), model(x)); "
        "print(arn_purify.__file__, arn_purify.__version__, same, model.card.name)"
    )
    file, version, same, name = run(python, "-c", program, cwd=elsewhere).split()
    assert Path(file).is_relative_to(python.parents[1])
    assert (version, same, name) == (importlib.metadata.version("arn-purify"), "True", "mnist-transparent")


def test_arn_models_needs_no_extra(python, elsewhere):
    listed = run(python.with_name("arn"), "models", cwd=elsewhere)
    assert [line.split()[0] for line in listed.splitlines()][-1] == "photo-preview"


@pytest.mark.parametrize(("command", "extra"), [(["arn", "serve"], "serve"), (["arn-train", "--help"], "train")])
def test_a_command_says_which_extra_it_needs(command, extra, python, elsewhere):
    done = subprocess.run([python.with_name(command[0]), *command[1:]], capture_output=True, text=True, cwd=elsewhere)
    assert done.returncode == 2
    assert f"needs the extra {extra}" in done.stderr
    assert "Traceback" not in done.stderr
