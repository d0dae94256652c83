"""The command line without the extra ``serve``."""

import subprocess
import sys

import pytest

from arn_purify import models

EXTRA = ("aiohttp", "fastapi", "grpc", "numpy", "orjson", "PIL", "prometheus_client", "pydantic", "pydantic_settings",
         "starlette", "tqdm", "uvicorn")  # fmt: skip
PROGRAM = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRA!r}))
from arn_purify.service.cli import main
sys.exit(main())
"""


def arn(*arguments):
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True)


def test_models_are_listed_without_any_extra():
    done = arn("models")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == models.available()


@pytest.mark.parametrize("arguments", [["serve"], ["serve", "--port", "1"], ["purify", "in.png", "out.png"]])
def test_the_other_commands_say_which_extra_to_install(arguments):
    done = arn(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"arn: {arguments[0]} needs the extra serve")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["models", "--port", "1"], ["sing"], []])
def test_what_no_command_knows_is_an_error(arguments):
    done = arn(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: arn")
