"""The notebook runs from top to bottom, and what it keeps is what it prints."""

import base64
import copy
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from ..conftest import PATIENCE

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
nbformat = pytest.importorskip("nbformat", reason="the extra notebook is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra notebook is not installed")


@pytest.fixture(scope="module")
def kept():
    return nbformat.read(NOTEBOOK, 4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def figures(cell):
    data = [output["data"] for output in cell.outputs if "data" in output]
    return [Image.open(io.BytesIO(base64.b64decode(each["image/png"]))) for each in data]


def test_it_keeps_small_outputs_of_every_cell(kept):
    assert NOTEBOOK.stat().st_size < 200_000
    assert [cell.execution_count for cell in code(kept)] == list(range(1, len(code(kept)) + 1))
    assert sum(len(figures(cell)) for cell in code(kept)) == 3
    assert all(
        output.output_type != "error" and output.get("name") != "stderr" for c in code(kept) for output in c.outputs
    )
    assert str(Path.home()) not in NOTEBOOK.read_text()


def test_its_links_lead_somewhere(kept):
    links = [link for cell in kept.cells for link in re.findall(r"\]\(([^)#]+)", cell.source)]
    assert links
    assert [link for link in links if not (NOTEBOOK.parent / link).exists()] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the notebook's own machinery
def test_it_prints_what_it_keeps(kept, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    again = copy.deepcopy(kept)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(again, timeout=10 * PATIENCE, resources=resources).execute()
    for before, after in zip(code(kept), code(again), strict=True):
        words, numbers = (re.compile(pattern) for pattern in (r"[^\d\s.]+", r"\d+(?:\.\d+)?"))
        assert words.findall(printed(after)) == words.findall(printed(before))
        # Percent of 100 images; another processor may round another way.
        found, was = ([float(n) for n in numbers.findall(printed(cell))] for cell in (after, before))
        assert found == pytest.approx(was, abs=4)
        assert len(figures(after)) == len(figures(before))
        assert all(min(figure.size) > 100 for figure in figures(after))
