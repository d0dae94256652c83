"""The documents as a site: every link holds, every page is in the navigation, nothing is loaded from elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
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


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_no_table_is_wider_than_its_column_and_no_page_than_a_phone(site):
    """Every page in a real browser; with ARN_SCREENSHOTS set, a picture of each in that folder."""
    from playwright.sync_api import sync_playwright

    shots, wide = os.environ.get("ARN_SCREENSHOTS"), []
    pages = sorted(path for path in site.rglob("*.html") if path.name != "404.html" and "checkpoints" not in path.parts)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for width, scheme in ((1280, "light"), (390, "dark")):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            for path in pages:
                page.goto(path.as_uri(), wait_until="load")
                if page.evaluate("document.documentElement.scrollWidth") > width:
                    wide.append(f"{path.name} at {width}")
                tables = page.evaluate(
                    "[...document.querySelectorAll('.md-typeset__scrollwrap')].map(e => e.scrollWidth - e.clientWidth)"
                )
                if width == 1280:
                    wide += [f"{path.name}, table {index}: {by} px" for index, by in enumerate(tables) if by > 1]
                if shots:
                    name = str(path.relative_to(site)).replace("/", "-").removesuffix(".html")
                    page.screenshot(path=f"{shots}/{name}-{width}-{scheme}.png", full_page=True)
        browser.close()
    assert len(pages) > 30
    assert wide == []
