"""The table of data sets: its rows agree with what their loaders give and with what is released."""

import os
from pathlib import Path

import pytest

from arn_purify import models
from arn_purify.training import attacks, data
from arn_purify.training.learning.recipes import RECIPES

ROWS = list(data.DATASETS.values())


@pytest.mark.parametrize("spec", ROWS, ids=lambda spec: spec.name)
def test_a_row_names_what_there_is(spec):
    assert data.spec_of(spec.name) is spec
    assert spec.recipe in RECIPES
    for name in {spec.classifier, spec.purifier} - {""}:
        assert models.load(name).card.name == name
    assert set(spec.same_images_as) <= data.DATASETS.keys()
    columns = {*spec.seen, *spec.overview, *(attack for table in spec.columns for attack in table)} - {"none"}
    assert all(attacks.get(column, spec.name).name == column for column in columns)


@pytest.mark.parametrize("name", [name for name in data.DATASETS if name != "folder"])
def test_a_loader_gives_what_its_row_says(name):
    there = Path(os.environ.get("ARN_DATA_DIR", "data")) / name.partition("-")[0]
    if not name.startswith("digits") and not there.is_dir():
        pytest.skip(f"{there.name} is not in ARN_DATA_DIR")
    spec, loaded = data.spec_of(name), data.load(name)
    assert loaded.name == name
    assert loaded.shape == (spec.channels, spec.size, spec.size)


def test_targets_are_named_with_or_without_their_data_set():
    cifar10 = data.spec_of("cifar10")
    assert cifar10.is_target("cifar10-resnet20")
    assert cifar10.is_target("resnet110")
    assert not cifar10.is_target("cifar10-wrn28-20")
    assert data.spec_of("digits").is_target("whatever"), "without targets, any"
