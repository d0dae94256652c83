"""Records: intervals, and the fields that tell runs and checkpoints apart."""

import json
from pathlib import Path

import pytest

from arn_purify.training.cli import main
from arn_purify.training.measuring import records
from arn_purify.training.run_name import RunName

from ..subjects import a_record

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("errors", "n", "low", "high"), [(0, 100, 0.0, 3.699), (100, 100, 96.301, 100.0)])
def test_wilson_intervals_at_the_ends(errors, n, low, high):
    assert records.wilson(errors, n) == pytest.approx((low, high), abs=2e-3)


def test_a_record_carries_its_run_in_fields_and_old_records_are_read_by_name(tmp_path):
    run = RunName("paper", weights=(("att", 0.0), ("adv", 0.1)), steps=318, seed=2)
    new = a_record(recipe="named at will", run=run.to_json())
    new.write(tmp_path)
    (read,) = records.read_all(tmp_path)
    assert read.run_name == run
    assert read.run_name.has_other_weights
    assert a_record(recipe="paper-att0-adv0.1-318-seed2").run_name == run


def test_checkpoints_of_one_name_are_distinguished():
    first, second = (
        a_record(checkpoint="mnist-transparent", recipe=recipe, sha256={"checkpoint": digest * 32})
        for recipe, digest in (("transparent", "0f"), ("augmented", "a1"))
    )
    assert first.checkpoint_id == "mnist-transparent, transparent, 0f0f0f0f"
    assert first.checkpoint_id != second.checkpoint_id


def test_every_checkpoint_of_the_kept_records_has_an_id_of_its_own():
    hashes = {}
    for record in records.read_all(ROOT / "results"):
        hashes.setdefault(record.checkpoint_id, set()).add(record.sha256["checkpoint"])
    assert len(hashes) > 20
    assert all(len(found) == 1 for found in hashes.values())


def test_the_path_of_a_record_says_what_it_is(tmp_path):
    settings = {"surrogate": "ARN_W", "surrogate_recipe": "hardened", "transport": "http+npy"}
    record = a_record(threat_model="gray_box", settings=settings)
    assert record.path(tmp_path) == tmp_path / "mnist/lenet5/ARN_PP-r/PGD_N-gray_box-ARN_W-hardened-http-npy.json"
    assert not record.in_process


def test_the_commands_of_records_name_no_place_of_a_machine():
    for path in sorted((ROOT / "results").rglob("*.json")):
        words = str(json.loads(path.read_text()).get("command", "")).replace("=", " ").split()
        assert not [word for word in words if Path(word).is_absolute()], path


@pytest.mark.parametrize("flag", ["--crafted PLACE", "--crafted=PLACE"])
def test_the_folder_of_crafted_sets_is_not_in_the_command(flag, tmp_path):
    out = tmp_path / "records"
    arguments = f"evaluate --dataset digits --every 60 --purifier identity --attacks PGD_Nx2 --out {out} {flag}"
    assert main(arguments.replace("PLACE", str(tmp_path / "sets")).split()) == 0
    (record,) = records.read_all(out)
    assert "--crafted" not in record.command
    assert record.command.endswith(f"--out {out}")
    assert (tmp_path / "sets").is_dir()
