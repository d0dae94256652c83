"""Runs as fields: every name in the records is read, and named again as it was."""

import dataclasses
import json
from pathlib import Path

import pytest

from arn_purify.training.learning.recipes import RECIPES
from arn_purify.training.run_name import RunName, describe, from_json, parse_legacy

ROOT = Path(__file__).parents[2]
FIELDS = [json.loads(path.read_text()) for path in sorted((ROOT / "results").rglob("*.json"))]
RUNS = {
    fields["recipe"]: from_json(fields["run"]) if fields.get("run") else parse_legacy(fields["recipe"])
    for fields in FIELDS
    if isinstance(fields, dict) and fields.get("recipe")
}


def test_every_recorded_name_is_read_and_named_again():
    assert len(RUNS) > 30
    for name, run in RUNS.items():
        assert describe(run) == name
        assert run.recipe in {*RECIPES, "photos"}, name  # photographs have a recipe of another kind


@pytest.mark.parametrize(
    ("name", "run"),
    [
        (
            "cifar10-wide-skips-l120-logit1-refresh_epochs4-2100-from-cifar10-plain",
            RunName(
                "cifar10-wide", "skips", (("l1", 20.0), ("logit", 1.0)), (("refresh_epochs", 4.0),), steps=2100,
                start="cifar10-plain",
            ),
        ),
        ("hardened-l10-425", RunName("hardened", weights=(("l1", 0.0),), steps=425)),
        ("paper-att0-nor0.01-adv0.1-318-seed2", RunName(
            "paper", weights=(("att", 0.0), ("nor", 0.01), ("adv", 0.1)), steps=318, seed=2)),
        ("hardened-learning_rate0.001-ramp0-642-2f-from-mnist-hardened", RunName(
            "hardened", fields=(("learning_rate", 0.001), ("ramp", 0.0)), steps=642, classifiers=2,
            start="mnist-hardened")),
        ("hardened-kl2-ema0-width8-blocks2-2-PGDM_N-from-nothing", RunName(
            "hardened", weights=(("kl", 2.0),), fields=(("ema", 0.0),), shape=(("width", 8.0), ("blocks", 2.0)),
            steps=2, seen=("PGDM_N",), start="nothing")),
        ("transparent-from-a-and-b-seed3-before-c-d", RunName(
            "transparent", start="a", surrogate="b", seed=3, before="c-d")),
        ("lisa-ape-g", RunName("lisa-ape-g")),
        ("somebody's own", RunName("somebody's own")),
    ],
)  # fmt: skip
def test_a_name_is_a_run_and_a_run_a_name(name, run):
    assert parse_legacy(name) == run
    assert describe(run) == name


def test_fields_survive_json_in_their_order():
    run = RunName("cifar10", weights=(("nor", 1e-5), ("att", 0.0)), shape=(("width", 8),), seen=("AP_1",), seed=1)
    fields = json.loads(json.dumps(run.to_json(), sort_keys=True))
    assert fields["weights"] == [["nor", 1e-5], ["att", 0.0]]
    assert "steps" not in fields
    assert from_json(fields) == run
    assert describe(run) == "cifar10-nor0.00001-att0-width8-AP_1-seed1"


def test_rows_of_an_ablation_and_of_the_table_of_choices():
    assert parse_legacy("paper-att0-318").has_other_weights
    assert parse_legacy("hardened-l10-425-from-nothing").has_other_weights
    assert not parse_legacy("cifar10-wide-skips-l120-logit1-from-cifar10-plain").has_other_weights
    hardened = RunName("hardened")
    assert not hardened.is_hardened_variant
    assert dataclasses.replace(hardened, steps=425).is_hardened_variant
    assert RunName("joint").is_hardened_variant
    assert not parse_legacy("cifar10-hardened-compact-inner_steps3-1400-from-nothing").is_hardened_variant
