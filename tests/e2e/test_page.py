"""The page at / in a real Chromium: what a person does, what they see, and whether a screen reader could too."""

import os
import re
import shutil
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from arn_purify.service.routes import page as demo
from tests.conftest import PATIENCE
from tests.e2e.conftest import serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
expect.set_options(timeout=1000 * PATIENCE)
EXAMPLES = demo.STATIC / "examples"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    flags = ("--demo-attacks", "true", "--models", "mnist-transparent,identity")
    with serving(tmp_path_factory.mktemp("page"), *flags) as served:
        yield served


@pytest.fixture(scope="module")
def photo_service(tmp_path_factory):
    """Without attacks, as it is unless they are asked for."""
    flags = ("--models", "mnist-transparent,photo-preview", "--classifier", "mnist-lenet5,photo-efficientnet-lite0")
    with serving(tmp_path_factory.mktemp("photos"), *flags) as served:
        yield served


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(service, browser, tmp_path):
    """The page once it has shown its first example; fails on anything the browser complains of."""
    yield from opened(service, browser, tmp_path)


@pytest.fixture
def photo_page(photo_service, browser, tmp_path):
    """The same of a service with a purifier for photographs."""
    yield from opened(photo_service, browser, tmp_path)


def opened(service, browser, tmp_path):
    complaints = []
    page = browser.new_page(viewport={"width": 1280, "height": 960})
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if outside(request.url, service.url) else None)
    page.goto(service.url)
    expect(page.locator("#panels")).to_be_visible()
    page.complaints = complaints
    yield page
    page.screenshot(path=os.environ.get("ARN_SCREENSHOTS", str(tmp_path)) + "/last.png", full_page=True)
    page.close()
    assert complaints == []


def outside(url, base):
    return not url.startswith((base, "blob:", "data:"))


def labels(page, panel):
    return page.locator(f"#{panel} .classes li:first-child span:first-child").inner_text()


def test_the_first_example_is_shown_restored(page):
    expect(page.locator("#status")).to_have_text(
        "Attacked, the classifier says 8; purified, 3: the right class is back."
    )
    assert (labels(page, "natural"), labels(page, "adversarial"), labels(page, "purified")) == ("3", "8", "3")
    assert "mnist-transparent@" in page.inner_text("#facts")
    for stage in ("decode", "queue", "infer", "encode"):
        assert stage in page.inner_text("#facts")
    assert re.search(r"changed by at most\s+\d+ of 255", page.inner_text("#facts"))


def test_it_opens_on_a_photograph_where_a_purifier_takes_one(photo_page):
    expect(photo_page.locator("#status")).to_have_text(
        "Attacked, the classifier says loupe; purified, espresso: the right class is back."
    )
    expect(photo_page.locator("#size")).to_have_text("It is cropped to 224x224 pixels, in colour.")
    expect(photo_page.locator("#attack-box")).to_be_hidden()
    assert "28x28" not in photo_page.inner_text("body")
    photo_page.get_by_alt_text("a 5, attacked").click()
    expect(photo_page.locator("#status")).to_contain_text("purified, 5")
    expect(photo_page.locator("#size")).to_have_text("It is cropped to 28x28 pixels, grey, white on black.")


def test_an_upload_is_purified_and_attacked_and_a_stronger_attacker_wins(page):
    page.set_input_files("#file", EXAMPLES / "natural_7.png")
    expect(page.locator("#status")).to_have_text("The classifier says 7, and 7 once purified.")
    expect(page.locator("#adversarial")).to_be_hidden()
    page.fill("#eps", "51")
    expect(page.locator("#eps-value")).to_have_text("51 of 255")
    page.click("#attack button")
    expect(page.locator("#status")).to_contain_text("the right class is back")
    expect(page.locator("#attack-time")).to_have_text(re.compile(r"The attack took \d+\.\d s\."))
    expect(page.locator("#noise")).to_be_visible()
    page.fill("#eps", "77")
    page.check("input[value=purifier]")
    page.click("#attack button")
    expect(page.locator("#status")).to_contain_text("the class is not restored")


def test_another_model_answers_once_it_is_chosen(page):
    page.select_option("#model", "identity")
    expect(page.locator("#facts")).to_contain_text("identity@")
    expect(page.locator("#status")).to_contain_text("the class is not restored")
    assert "model=identity" in page.inner_text("#curl")


def test_the_curl_command_is_right(page, service, tmp_path):
    command = page.inner_text("#curl")
    assert command.startswith("curl --data-binary @image.png")
    url = command.split("'")[1]
    answer = service.client.post(url, content=(EXAMPLES / "adversarial_3.png").read_bytes())
    assert answer.headers["content-type"] == "image/png"


def test_the_slider_uncovers_what_was_purified(page):
    page.fill("#slider", "20")
    assert page.eval_on_selector("#after", "e => e.style.clipPath") == "inset(0px 0px 0px 20%)"


def test_everything_can_be_reached_by_keyboard(page):
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"file", "model", "eps", "slider", "copy", "BUTTON"} <= reached
    page.locator("#examples button").nth(5).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("purified, 5")


def test_errors_are_sentences(page, service):
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"})
    expect(page.locator("#error")).to_have_text(
        "This file is no image that the browser can read. PNG, JPEG, WebP, GIF and BMP work."
    )
    page.route("**/purify*", lambda route: route.abort())
    page.locator("#examples button").first.click()
    expect(page.locator("#error")).to_have_text("The service cannot be reached. Is it still running?")
    page.complaints[:] = [text for text in page.complaints if "ERR_FAILED" not in text]
    page.unroute("**/purify*")
    page.locator("#examples button").first.click()
    expect(page.locator("#error")).to_be_hidden()


def test_a_key_is_asked_for_sent_and_forgotten(browser, tmp_path):
    with serving(tmp_path, "--api-key", "open-sesame") as served:
        page = browser.new_page()
        page.goto(served.url)
        expect(page.locator("#error")).to_contain_text("A key")
        for given, shown in (("guess", "#key"), ("open-sesame", "#panels")):
            page.fill("#key-value", given)
            page.click("#key button")
            expect(page.locator(shown)).to_be_visible()
        expect(page.locator("#key")).to_be_hidden()
        expect(page.locator("#error")).to_be_hidden()
        assert '-H "X-API-Key: $ARN_API_KEY"' in page.inner_text("#curl")
        assert "open-sesame" not in page.content()
        assert page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])") == '[{},{},""]'
        assert Axe().run(page).violations_count == 0
        page.reload()
        expect(page.locator("#key")).to_be_visible()
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_to_object_to(page, scheme, width):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
