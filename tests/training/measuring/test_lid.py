"""LID against what it must be for known dimensions, and the detector on images that are easy to tell apart."""

import json

import numpy as np
import pytest
import torch

from arn_purify import models
from arn_purify.training import data
from arn_purify.training.cli import main
from arn_purify.training.measuring import lid
from arn_purify.training.report import figures


@pytest.mark.parametrize("dimension", [2, 8])
def test_the_estimate_finds_the_dimension_of_a_ball(dimension):
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(dimension, 40, generator=generator)
    points = (torch.rand(2000, dimension, generator=generator) - 0.5) @ torch.linalg.qr(embedding.T).Q.T
    estimate = lid.intrinsic_dimensionality(points[:50], points, k=100).mean()
    assert float(estimate) == pytest.approx(dimension, rel=0.25)


def test_the_estimate_by_hand_leaves_the_point_itself_out():
    reference = torch.tensor([[0.0], [1.0], [2.0], [4.0]])
    estimate = lid.intrinsic_dimensionality(torch.tensor([[0.0]]), reference, k=3)
    assert float(estimate) == pytest.approx(-3 / (np.log(1 / 4) + np.log(2 / 4) + np.log(1)))


def test_the_detector_tells_what_is_far_off_and_not_what_is_natural():
    classifier = models.load("mnist-lenet5")
    natural = data.load("digits").train.batch(slice(0, 400))[0]
    bent = natural.flip(3).roll(5, 2)
    found = lid.detect(classifier, lambda x: x, (natural[:200], bent[:200]), (natural[200:], bent[200:]))
    assert found.adversarial > found.natural + 40
    assert found.restored == found.adversarial  # the identity restores nothing
    assert found.area > 0.6
    undone = lid.detect(
        classifier, lambda x: x.roll(-5, 2).flip(3), (natural[:200], bent[:200]), (natural[200:], bent[200:])
    )
    assert undone.restored == undone.natural


def test_a_record_counts_the_images_that_were_estimated():
    classifier = models.load("mnist-lenet5")
    natural = data.load("digits").train.batch(slice(0, 121))[0]
    for images, estimated in ((119, 100), (120, 100), (121, 121)):
        rows = lid.characteristics(classifier, natural[:images], natural[:images])
        assert len(rows) == lid.counted(images) == estimated


def test_an_images_own_original_is_not_among_its_neighbours():
    classifier = models.load("mnist-lenet5")
    natural = data.load("digits").train.batch(slice(0, 100))[0]
    nearly = natural + 1e-3 * torch.randn(natural.shape, generator=torch.Generator().manual_seed(0))
    as_it_is, moved = (lid.characteristics(classifier, x, natural) for x in (natural, nearly))
    assert np.allclose(as_it_is, moved, rtol=0.05)


def test_detect_writes_its_record_and_figures_their_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["detect", "--dataset", "digits", "--attack", "PGD_N@0.3x5"]) == 0
    assert "restored" in capsys.readouterr().out
    (path,) = (tmp_path / "results/digits/mnist-lenet5").glob("ARN_PP-*/lid-PGD_N@0.3x5.json")
    fields = lid.read(path)
    fields["detection"]["restored"] = 0.0
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="changed after it was written"):
        lid.read(path)


def test_a_plot_older_than_what_it_shows_is_stale(tmp_path):
    wanted = {"a.png": "one"}
    assert figures.stale(tmp_path, wanted) == [tmp_path / "a.png"]
    figure, axis = figures.figure_of(1, 1)
    axis.plot([0, 1])
    figures.save(figure, tmp_path / "a.png", "one")
    assert figures.stale(tmp_path, wanted) == []
    assert figures.stale(tmp_path, {"a.png": "two"}) == [tmp_path / "a.png"]
