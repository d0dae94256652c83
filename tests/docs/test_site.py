"""The documents as a site: every link holds, every page is in the navigation, nothing is loaded from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("material", reason="the extra docs is not installed")


@pytest.fixture(scope="module")
def site():
    script = (ROOT / "scripts" / "docs").read_text()
    commands = script.replace('cd "$(dirname "$0")/.."\n. scripts/venv.sh docs\n', "")
    commands = commands.replace(".venv/bin/mkdocs", f"{sys.executable} -m mkdocs")
    done = subprocess.run(["bash", "-c", commands], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return (ROOT / done.stdout.strip()).parent


def test_the_readme_is_its_home_and_every_document_a_page(site):
    home = (site / "index.html").read_text()
    assert "scripts/serve" in home
    for path in (ROOT / "docs").glob("*.md"):
        assert f'href="docs/{path.stem}.html"' in home
        assert (site / "docs" / f"{path.stem}.html").is_file()


def test_nothing_is_loaded_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text())
        assert tags
        assert not [tag for tag in tags if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag)]
    for sheet in site.rglob("*.css"):
        assert not re.search(r"""(?:url\(["']?|@import\s+["'])(?:https?:)?//""", sheet.read_text())
