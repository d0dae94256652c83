"""Every command that a document shows: the README's are run, the others go through the parser of their program."""

import argparse
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arn_purify.service import settings
from arn_purify.training import attacks
from examples.servers import free_port
from tests.docs.test_docs import PAGES
from tests.e2e.conftest import serving

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
# ARN_* settings of the machine have no say in what the README shows.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("ARN_")}
OTHERS = ("curl", "pip", "python", "tensorboard", "torchrun")
MODULES = {
    "arn": "arn_purify.service",
    "arn-train": "arn_purify.training",
    "reproduce": "arn_purify.training.reproduce",
}


# -- the README's, run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", re.findall(r"`(\.venv/bin/[^`]*)`", README))
def test_the_readmes_commands_run(line, tmp_path):
    program, *arguments = shlex.split(line)
    if arguments[-1] == "out":
        arguments[-1] = str(tmp_path / "out")
    command = [Path(sys.executable).parent / Path(program).name, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_readmes_python_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    (block,) = re.findall(r"(?ms)^```python\n(.*?)^```", README)
    names = {}
    exec(block, names)
    assert names["logits"].shape == (1, 1000)


def test_the_comparison_of_two_versions_runs(tmp_path):
    """Upgrading's: what it prints of images that differ by three levels and by none."""
    (block,) = re.findall(r"(?ms)^```python\n(.*?)^```", (ROOT / "docs" / "upgrading.md").read_text())
    for folder, level in (("old", 5), ("new", 8)):
        (tmp_path / folder / "below").mkdir(parents=True)
        Image.new("L", (4, 4), level).save(tmp_path / folder / "below" / "a.png")
        Image.new("RGB", (4, 4), (200, 0, 1)).save(tmp_path / folder / "b.png")
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0 old/b.png\n3 old/below/a.png\n", "")


def curl(address, folder):
    """The README's calls, in an empty folder that has the examples; what they print."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    lines = re.findall(r"(?m)^curl .*", README)
    assert [line for line in lines if "/purify" in line]
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(ROOT / "examples")
    said = ""
    for line in lines:
        assert "localhost:8000" in line
        command = line.replace("localhost:8000", address).replace("curl", "curl --fail --silent --show-error", 1)
        done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise ConnectionError(done.stderr)
        said += done.stdout
    return said


def check_what_curl_got(said, folder):
    back, shown = (np.asarray(Image.open(path), np.int16) for path in
                   (folder / "out.png", ROOT / "examples" / "photos" / "purified_coffee.png"))  # fmt: skip
    assert abs(back - shown).max() <= 4  # of 255, as bf16 may, which the machine may have chosen
    (block,) = re.findall(r"(?ms)^```json\n(.*?)^```", README)
    shown, answer = json.loads(block), json.loads(said)
    beside = shown.pop("unpurified")
    assert shown == {name: answer[name] for name in shown}
    assert beside == {name: answer["unpurified"][name] for name in beside}


def serve_flags():
    """What the README's quick start gives `scripts/serve`."""
    return shlex.split(next(line for line in commands(README) if line.startswith("scripts/serve")))[1:]


def test_the_readmes_calls_work_on_the_service_as_it_starts(tmp_path):
    with serving(tmp_path, *serve_flags(), env=ENVIRONMENT) as served:
        check_what_curl_got(curl(served.url.removeprefix("http://"), tmp_path), tmp_path)


@pytest.mark.slow
def test_a_fresh_clone_serves_as_the_readme_says(tmp_path, capsys):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    port = free_port()
    started = time.monotonic()
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            ["scripts/serve", *serve_flags(), "--port", str(port)],
            cwd=clone,
            env=ENVIRONMENT,
            stderr=log,
            start_new_session=True,
        )
    try:
        while True:
            try:
                said = curl(f"127.0.0.1:{port}", clone)
                break
            except ConnectionError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() - started < 1800, (tmp_path / "log").read_text()
                time.sleep(0.2)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with capsys.disabled():
        print(f"\n{time.monotonic() - started:.0f} s from the clone to the first answers")  # noqa: T201
    check_what_curl_got(said, clone)


# -- all, parsed ---------------------------------------------------------------------------------------------------


class Parsed(BaseException):
    """Ends a program once it knows its arguments."""


def require_nothing(parser):
    """Let a parser, and those of its subcommands, take a command in part."""
    for action in parser._actions:
        action.required = False
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                require_nothing(child)
    for group in parser._mutually_exclusive_groups:
        group.required = False


def parse(module, arguments, monkeypatch, whole=True):
    """What the real parser of a program makes of the arguments; ValueError where it refuses them.

    Of a command that is not ``whole`` it takes what there is.
    """
    real, depth = argparse.ArgumentParser.parse_known_args, 0  # parse_args calls it, and so do subcommands

    def parse_known_args(self, args=None, namespace=None):
        nonlocal depth
        if not whole:
            require_nothing(self)
        depth += 1
        namespace, unknown = real(self, args, namespace)
        depth -= 1
        if depth:
            return namespace, unknown
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        raise Parsed(namespace)

    def refuse(self, message):
        raise ValueError(message)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
    monkeypatch.setattr(argparse.ArgumentParser, "error", refuse)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    for name in (module, f"{module}.__main__"):  # it is to run anew, but a package stays
        if not hasattr(sys.modules.get(name), "__path__"):
            monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises((Parsed, SystemExit)) as parsed:
        runpy.run_module(module, run_name="__main__")
    (namespace,) = parsed.value.args
    if parsed.type is SystemExit:  # of --version
        assert namespace == 0
        return argparse.Namespace(command=None)
    return namespace


def check(words, monkeypatch, whole=True):
    """Take one command, as split into words, for what it is; one that is not ``whole`` may lack what it requires."""
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program, arguments = Path(words[0]).name, words[1:]
    if words[0].startswith("scripts/"):
        assert os.access(ROOT / words[0], os.X_OK)
        if program == "serve":
            program, arguments = "arn", ["serve", *arguments]
        elif program != "reproduce":
            assert set(arguments) <= {"--all", "--pin"}
            return
    if program.startswith("python") and arguments[0] == "-m" and arguments[1] != "venv":
        module, arguments = arguments[1], arguments[2:]
    elif program in MODULES:
        module = MODULES[program]
    else:
        assert program.rstrip("3") in OTHERS, f"{program} is no program that a document may show"
        return
    flags = parse(module, arguments, monkeypatch, whole)
    if module == "arn_purify.service" and flags.command == "serve":
        settings.from_flags(flags)
    for name in getattr(flags, "attacks", None) or ():
        assert name == "none" or ":" in name or attacks.get(name, "mnist")  # module:function is the user's


def commands(text):
    """The commands of every ``sh`` block."""
    for block in re.findall(r"(?ms)^```sh\n(.*?)^```", text):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                if words := shlex.split(part, comments=True):
                    yield shlex.join(words)


# The page on extending imports the modules that it shows: its own test writes them and runs its commands.
SHOWN = [(page, c) for page in PAGES if page.name != "extend.md" for c in commands(page.read_text())]
INLINE = r"`((?:\.venv/bin/)?(?:arn|arn-train|scripts/\w+|python -m [\w.]+\w)(?: [^`]+)?)`"
BENCHMARKS = ROOT / "benchmarks" / "README.md"  # a table whose head begins its rows' commands
NAMED = [
    *((page, command) for page in PAGES for command in re.findall(INLINE, page.read_text())),
    *(
        (BENCHMARKS, f"python -m benchmarks.{re.sub(r'[][]', '', row)}")
        for row in re.findall(r"(?m)^\| `(\w[^`]*)` \|", BENCHMARKS.read_text())
    ),
]


def test_there_are_commands():
    assert len(SHOWN) > 40
    assert len(NAMED) > 10


@pytest.mark.parametrize(("page", "command"), SHOWN, ids=lambda value: getattr(value, "name", None))
def test_a_commands_flags_exist(page, command, monkeypatch):
    check(shlex.split(command), monkeypatch)


@pytest.mark.parametrize(("page", "command"), NAMED, ids=lambda value: getattr(value, "name", None))
def test_flags_in_the_text_exist(page, command, monkeypatch):
    check(shlex.split(command), monkeypatch, whole=False)


@pytest.mark.parametrize(
    "command",
    ["arn serve --no-such-flag 1", "arn serve --device tpu", "arn-train train --recipe x --out y", "made-up",
     "arn-train evaluate --attacks PGD_X", "python -m benchmarks.http --no-such-flag", "scripts/no-such-script"],
)  # fmt: skip
def test_a_command_that_is_wrong_is_noticed(command, monkeypatch):
    with pytest.raises((ValueError, AssertionError)):
        check(shlex.split(command), monkeypatch)


@pytest.mark.parametrize(
    ("command", "problem"),
    [("arn-train train --no-such-flag 1", "unrecognized arguments: --no-such-flag"),
     ("arn-train export --no-such-flag", "unrecognized arguments: --no-such-flag"),
     ("arn-train no-such-command", "invalid choice: 'no-such-command'"),
     ("arn-train train --recipe no-such-recipe", "invalid choice: 'no-such-recipe'"),
     ("scripts/reproduce --no-such-flag", "unrecognized arguments: --no-such-flag")],
)  # fmt: skip
def test_a_command_in_part_that_is_wrong_is_noticed(command, problem, monkeypatch):
    with pytest.raises(ValueError, match=problem):
        check(shlex.split(command), monkeypatch, whole=False)
