"""Pages: written from the records, and caught when they are older."""

import dataclasses
import json

import pytest
import torch

from arn_purify import models
from arn_purify.models import checkpoint
from arn_purify.training.cli import main
from arn_purify.training.data.datasets import DATASETS
from arn_purify.training.measuring import lid, records
from arn_purify.training.report import pages, plots

from ..subjects import a_record


def test_a_table_older_than_its_records_is_caught(project):
    root, _path = project
    assert pages.update(root / "results")
    assert pages.update(root / "results", check=True) == []
    (record,) = records.read_all(root / "results")
    dataclasses.replace(record, attack="PGD_N").write(root / "results")
    assert pages.update(root / "results", check=True)
    assert main(["tables", "--results", str(root / "results"), "--check"]) == 1


def test_a_plot_older_than_its_data_sets_columns_is_caught(monkeypatch):
    shown = [a_record(threat_model="oblivious")]
    before = plots.plots(shown)["comparison.png"]
    spec = DATASETS["mnist"]
    monkeypatch.setitem(DATASETS, "mnist", dataclasses.replace(spec, columns=spec.columns[::-1]))
    assert plots.plots(shown)["comparison.png"] != before


def test_the_readme_shows_released_models_and_no_robust_classifier(project):
    root, _path = project
    (record,) = records.read_all(root / "results")
    dataclasses.replace(record, defence="AT_PGD", checkpoint="a").write(root / "results")
    pages.update(root / "results")
    assert "| AT_PGD (a) |" in (root / "docs" / "results-mnist-comparison.md").read_text()
    readme = (root / "README.md").read_text()
    assert "| MNIST, mnist-lenet5 alone |" in readme
    assert "AT_PGD (" not in readme


def test_a_row_bears_the_name_of_the_file_that_was_measured_and_never_two_files(project):
    root, _path = project
    sha256 = checkpoint_of(models.Hgd(models.HgdConfig(1)), "mnist-now", root)
    measured = {"threat_model": "oblivious", "checkpoint": "mnist-then"}
    a_record(**measured, sha256={"checkpoint": sha256}).write(root / "results")
    pages.update(root / "results")
    page = (root / "docs" / "results-mnist-comparison.md").read_text()
    assert "| ARN_PP (mnist-now) |" in page
    assert f"| `mnist-now` | `r` | `{sha256[:8]}` |" in page
    fields = {
        "defence": "ARN_PP",
        "checkpoint": "mnist-then",
        "sha256": {"checkpoint": sha256},
        "attack": "PGD_N",
        "n": 1,
    }
    detection = lid.Detection(adversarial=70.0, restored=3.0, natural=4.0, noisy=5.0, area=0.9)
    lid.record(detection, fields, root / "results" / "mnist" / "lid-PGD_N.json")
    pages.update(root / "results")
    page = (root / "docs" / "results-mnist-comparison.md").read_text()
    assert "| ARN_PP (mnist-now), PGD_N, n 1 | 70.00 | 3.00 |" in page
    for recipe in ("r2", "r3"):  # no file has their hashes any more
        a_record(**measured, recipe=recipe, sha256={"checkpoint": recipe}).write(root / "results")
    pages.update(root / "results")
    page = (root / "docs" / "results-mnist-comparison.md").read_text()
    for row in ("mnist-now", "mnist-then, r2, r2", "mnist-then, r3, r3"):
        assert f"| ARN_PP ({row}) |" in page


def test_what_was_measured_before_a_release_is_shown_under_the_released_name(project):
    root, _path = project
    before = checkpoint_of(models.load("mnist-transparent"), "mnist-before", root)
    released = models.card_of(models.load("mnist-transparent")).sha256
    a_record(threat_model="oblivious", checkpoint="mnist-before", sha256={"checkpoint": before}).write(root / "results")
    a_record(checkpoint="mnist-transparent", sha256={"checkpoint": released}).write(root / "results")
    pages.update(root / "results")
    page = (root / "docs" / "results-mnist-comparison.md").read_text()
    assert before != released
    assert page.count("| ARN_PP (mnist-transparent) |") == 2
    assert f"| `mnist-transparent` | `r` | `{released[:8]}` |" in page
    assert "mnist-before" not in page + (root / "docs" / "results-commands.md").read_text()


def checkpoint_of(model, name, root):
    architecture, config, kind = checkpoint.architecture_of(model)
    card = models.Card(name, kind, architecture, config, "mnist", (1, 28, 28))
    path = root / "results" / "checkpoints" / f"{name}.safetensors"
    path.parent.mkdir()
    return checkpoint.save(model, card, path, torch.float16)


def test_a_column_whose_attack_is_not_the_papers_is_named(project):
    root, _path = project
    bare = {"defence": "none", "recipe": "", "checkpoint": "identity", "threat_model": "oblivious"}
    a_record(**bare, attack="PGD_N", errors=991).write(root / "results")
    a_record(**bare, attack="FWA_N", errors=970).write(root / "results")
    pages.update(root / "results")
    page = (root / "docs" / "results-mnist-comparison.md").read_text()
    assert page.count("Not comparable") == 1
    assert "paper's rows: FWA_N (weaker, -1.6)." in page


def test_a_record_edited_by_hand_is_caught(project):
    root, path = project
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "errors": fields["errors"] + 1}))
    with pytest.raises(ValueError, match="changed after it was written"):
        pages.update(root / "results")
    (record,) = records.read_all(_written(root, path, fields))
    dataclasses.replace(record, error_rate=0.1).write(root / "results")
    with pytest.raises(ValueError, match="does not follow from its counts"):
        pages.update(root / "results")
    _written(root, path, fields)
    path.rename(path.with_name("PGD_N-oblivious.json"))
    with pytest.raises(ValueError, match="belongs at"):
        pages.update(root / "results")


def _written(root, path, fields):
    path.write_text(json.dumps(fields))
    return root / "results"


def test_flags_are_written_into_the_records_and_their_absence_is_caught(project):
    root, path = project
    path.unlink()
    a_record().write(root / "results")
    a_record(attack="SQUARE_N", errors=990, iterations=None).write(root / "results")
    with pytest.raises(ValueError, match="flags that do not follow"):
        pages.update(root / "results", check=True)
    pages.update(root / "results")
    assert sum(bool(record.flags) for record in records.read_all(root / "results")) == 1
    assert "SQUARE_N white_box finds more errors" in (root / "docs" / "results-mnist-comparison.md").read_text()


def test_a_row_holds_one_checkpoint(project):
    root, _ = project
    a_record(sha256={"checkpoint": "a"}).write(root / "results")
    a_record(attack="PGD_T", sha256={"checkpoint": "b"}).write(root / "results")
    with pytest.raises(ValueError, match="two checkpoints"):
        pages.update(root / "results")


def test_the_hardened_profile_is_tabled_in_front_of_its_own_and_of_other_classifiers(project):
    root, _path = project
    white = {"threat_model": "white_box", "measures": {"loss": 0.4, "psnr": 21.5, "ssim": 0.91}}
    ours = {"defence": "ARN_W", "recipe": "hardened", "checkpoint": "mnist-hardened", **white}
    for fields in (
        {**ours, "threat_model": "oblivious", "attack": "none", "eps": None, "iterations": None, "errors": 12},
        {**ours, "errors": 70},
        {**ours, "attack": "PGD_T", "goal": "targeted", "errors": 40},
        {**ours, "attack": "PGDM_Nx100r10", "iterations": 100, "errors": 90},
        {**ours, "classifier": "mlp", "errors": 110},
        {**ours, "recipe": "hardened-kl3-100", "checkpoint": "mnist-hardened-kl", "errors": 80},
    ):
        a_record(**fields).write(root / "results")
    pages.update(root / "results")
    page = (root / "docs" / "results-mnist-hardened.md").read_text()
    own, reach, fidelity, choices = (
        page.split(f"## {title}")[1].split("## ")[0]
        for title in ("Attacks that see", "In front of other classifiers", "Image quality", "What each choice")
    )
    assert "| PGD_N | white box |  | 7.00 | 5.58 to 8.75, n 1,000 | 0.4 |" in own
    assert "11.00" not in own
    assert "| mlp | ARN_W (mnist-hardened) |" in reach
    assert "11.00" in reach
    assert "21.5 dB, 0.910" in fidelity
    assert "| mnist-hardened-kl | lenet5 |" in choices
    compared = (root / "docs" / "results-mnist-comparison.md").read_text().partition("## How each was trained")[0]
    table3 = compared.split("Table 3")[1].split("## ")[0]
    assert "| ARN_W (mnist-hardened) | PGD_T | white box | 4.00 |" in table3
    assert "-kl" not in compared, "a choice is no row of the main tables"
    first = (root / "docs" / "results-mnist.md").read_text()
    assert "## mnist-hardened\n" in first
    assert "| natural |  | 1.20 | 0.69 to 2.09, n 1,000 |  |  |" in first
