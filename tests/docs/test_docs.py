"""The documents name everything that there is, and link to what exists."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml

from arn_purify import models
from arn_purify.service import errors
from arn_purify.service.settings import Settings
from arn_purify.service.telemetry.metrics import Metrics
from arn_purify.training import attacks
from arn_purify.training.report.markdown import WIDTH
from benchmarks import plot, ray

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(ROOT / name for name in ("benchmarks/README.md", "examples/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "models" / "zoo").glob("*.md")),
]


def text(name):
    return (ROOT / "docs" / name).read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(name):
    default = Settings.model_fields[name].default
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    cell = f"`{shown}`" if shown != "" else ""
    assert f"| `ARN_{name.upper()}` | `--{name.replace('_', '-')}` | {cell}{' ' if cell else ''}|" in text(
        "settings.md"
    )


def test_no_setting_is_documented_that_does_not_exist():
    documented = set(re.findall(r"^\| `ARN_(\w+)`", text("settings.md"), re.MULTILINE))
    assert documented == {name.upper() for name in Settings.model_fields}


def test_every_metric_is_documented_with_its_labels():
    page = text("metrics.md")
    for family in Metrics("0").registry.collect():
        if family.name.startswith("process_"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"| `{name}` | {family.type} |" in page


def test_every_alert_is_documented_as_it_is():
    groups = yaml.safe_load((ROOT / "docker" / "prometheus" / "rules.yml").read_text())["groups"]
    alerts = {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
    page = text("on-call.md")
    rows = re.findall(r"^\| \[`(Arn\w+)`\]\(#(\w+)\) \| (\w+) \| (.*?) \|$", page, re.MULTILINE)
    assert [name for name, *_ in rows] == list(alerts) == re.findall(r"(?m)^## (Arn\w+)$", page)
    for name, anchor, severity, when in rows:
        rule = alerts[name]
        assert severity == rule["labels"]["severity"]
        assert rule.get("for", "").replace("m", " min") in when, name
        (threshold,) = re.findall(r" [><] ([\d.]+)$", rule["expr"]) or ("0",)
        assert threshold == "0" or threshold in when, name
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"].endswith(f"#{anchor}")
        assert anchor == name.lower()


@pytest.mark.parametrize("kind", list(errors.kinds()))
def test_every_error_is_documented(kind):
    rows = [line for line in text("api.md").splitlines() if line.startswith(f"| {kind.status} |")]
    assert any(f"`{kind.code}`" in row for row in rows)


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_every_attack_is_documented(name):
    assert f"`{name}`" in text("evaluation.md")


def test_the_line_on_ray_is_what_the_record_says():
    record = ray.RESULTS / "ray.json"
    told = ray.told(json.loads(record.read_text())) if record.exists() else ""
    assert f"\n{ray.LINE.begin}{told}{ray.LINE.end}" in text("scaling.md")


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("results*.md"))], ids=lambda p: p.name
)
def test_no_table_of_results_is_wider_than_a_page(page):
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    assert max((row.count(" |") for row in rows), default=0) <= WIDTH


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("results*.md")), ids=lambda p: p.name)
def test_no_section_of_results_is_empty(page):
    assert not re.findall(r"^(## .*)\s+(?=## |\Z)", page.read_text(), re.M)


def test_the_tables_of_speed_are_what_the_records_say():
    for place, wanted in plot.written(plot.common.RESULTS):
        assert f"{place.begin}{wanted}{place.end}" in place.page.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_merge_is_left_half_done(page):
    assert not re.findall(r"(?m)^(?:<{7}|={7}|>{7})(?: |$)", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_source_files_that_are_named_exist(page):
    for name in re.findall(r"\b(?:models|service|training|tests|benchmarks)/[\w/]+\.py\b", page.read_text()):
        assert (ROOT / name).is_file(), name


def test_benchmarks_were_run_with_the_purifiers_that_are_released():
    """Their accuracies would be another file's otherwise. A speed does not depend on the weights."""
    released = {hashlib.sha256(path.read_bytes()).hexdigest() for path in models.ZOO.glob("*.safetensors")}
    hashes = {
        path.name: record["sha256"]["purifier"]
        for path in (ROOT / "results" / "benchmarks").glob("gateway-*.json")
        if "sha256" in (record := json.loads(path.read_text()))
    }
    assert len(hashes) > 1
    assert {name: digest for name, digest in hashes.items() if digest not in released} == {}
