"""The page on evaluation: its example of one cell gives what it shows, and that agrees with the table."""

import os
import re
import shlex
from pathlib import Path

import pytest

from arn_purify.training.cli import main
from arn_purify.training.measuring.records import read_all

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text()
SECTION = PAGE.partition("### Reproduce one cell")[2].partition("\n## ")[0]
PATTERN = "results/DATASET/CLASSIFIER/DEFENCE-RUN/ATTACK-THREAT.json"
DATA = Path(os.environ.get("ARN_DATA_DIR", "data")).resolve()


@pytest.mark.parametrize("name", ["evaluation.md", "results.md", "glossary.md"])
def test_a_page_says_where_a_record_is(name):
    assert PATTERN in (ROOT / "docs" / name).read_text()


@pytest.mark.skipif(not (DATA / "mnist").is_dir(), reason="mnist is not in ARN_DATA_DIR")
def test_the_example_of_one_cell_gives_what_the_page_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ARN_DATA_DIR", str(DATA))
    monkeypatch.chdir(tmp_path)
    (line,) = re.findall(r"(?m)^arn-train (.*)$", SECTION)
    assert main(shlex.split(line)) == 0
    said = capsys.readouterr().out.splitlines()
    (record,) = read_all(tmp_path / "mine")
    shown = re.search(r"(?m)^ARN_PP .* ([\d.]+) % \[([\d.]+), ([\d.]+)\]  n 100$", SECTION)
    error, low, high = map(float, shown.groups())
    assert record.error_rate == pytest.approx(error, abs=1), "rounding may turn an image"
    assert said[-1] in SECTION.splitlines()
    (path,) = re.findall(r"`(results/mnist/\S+\.json)`", SECTION)
    of_table = next(r for r in read_all(ROOT / "results") if r.path(Path("results")) == Path(path))
    assert f"{of_table.error_rate:.2f} % of {of_table.n:,} images" in " ".join(SECTION.split())
    assert low < of_table.error_rate < high
