"""The page on other toolboxes: every file it shows is run, and what it reports is what such an attack must find."""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from arn_purify.training.measuring.records import read_all

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "toolboxes.md").read_text()
FILES = {re.match(r"# (\S+)\n", block)[1]: block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S)}
needs = {
    package: pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")
    for package in ("art", "foolbox", "pyautoattack")
}


@pytest.fixture
def run(tmp_path):
    """Run Python in a folder with every file of the page; what it prints."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def reported(said):
    """Of each threat model the errors without and with the purifier, n and eps."""
    row = (
        r"(?m)^.* (natural|oblivious|white box): ([\d.]+) % without, ([\d.]+) % with the purifier, n (\d+), eps (\S+)$"
    )
    return {name: tuple(map(float, numbers)) for name, *numbers in re.findall(row, said)}


def shown(toolbox):
    """What the page says that a toolbox finds."""
    return reported("\n".join(line for line in PAGE.splitlines() if line.startswith(toolbox)))


def test_the_page_shows_the_output_of_every_file():
    assert len(re.findall(r"(?m)^.* % without, .* % with the purifier, n 100, eps \S+$", PAGE)) == 7


def test_every_file_of_the_page_is_run_here():
    assert set(FILES) == {"problem.py", "with_foolbox.py", "with_art.py", "with_autoattack.py", "foolbox_attack.py"}


def test_natural_images_are_not_attacked(run):
    without, behind, n, eps = reported(run("problem.py"))["natural"]
    assert (n, eps) == (100, 0)
    assert (without, behind) == pytest.approx(shown("no attack")["natural"][:2], abs=2)


@pytest.mark.parametrize(
    "file",
    [pytest.param("with_foolbox.py", marks=needs["foolbox"]), pytest.param("with_art.py", marks=needs["art"]),
     pytest.param("with_autoattack.py", marks=needs["pyautoattack"])],
)  # fmt: skip
def test_an_attack_by_another_toolbox_wins_only_where_it_holds_the_purifier(file, run):
    found = reported(run("-W", "ignore", file))
    assert set(found) == {"oblivious", "white box"}
    for _, _, n, eps in found.values():
        assert (n, eps) == (100, 0.3)
    toolbox = {"with_foolbox.py": "foolbox", "with_art.py": "ART", "with_autoattack.py": "AutoAttack"}[file]
    for threat_model, numbers in shown(toolbox).items():
        assert found[threat_model][1] == pytest.approx(numbers[1], abs=6), threat_model  # random starts
    assert found["oblivious"][0] > 90, "f alone falls"
    assert found["oblivious"][1] < 40, "the purifier undoes what was made against f alone"
    assert found["white box"][1] > 80, "not what was made against both"


@needs["foolbox"]
def test_an_attack_of_a_toolbox_becomes_records(run, tmp_path):
    (line,) = re.findall(r"(?m)^arn-train (.*foolbox_attack:bim.*)$", PAGE)
    run("-W", "ignore", "-m", "arn_purify.training", *line.split())
    found = {record.threat_model: record for record in read_all(tmp_path / "mine")}
    assert found.keys() == {"oblivious", "white_box"}
    assert found["white_box"].attack == "foolbox_attack.bim"
    assert found["white_box"].settings["rel_stepsize"] == 0.1
    assert found["white_box"].versions["foolbox"] == importlib.metadata.version("foolbox")
    assert not any(flag.startswith(("over budget", "budget not")) for r in found.values() for flag in r.flags)
    for name, record in found.items():
        (shown_rate,) = re.findall(rf"(?m)^ARN_PP +foolbox_attack.bim {name} +([\d.]+) %", PAGE)
        assert record.error_rate == pytest.approx(float(shown_rate), abs=3)
