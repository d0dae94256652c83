"""Static crafted sets: provenance, resumption, the same bytes every time."""

import contextlib
import dataclasses
import functools
import json

import pytest
import torch

from arn_purify import models
from arn_purify.training import attacks, data, deadline
from arn_purify.training.attacks import craft, gradient
from arn_purify.training.attacks.wrappers import MixedPrecision


@pytest.fixture(scope="module")
def split():
    return data.load("digits").test


@pytest.fixture(scope="module")
def classifier():
    return models.load("mnist-lenet5").requires_grad_(False)


def make(split, classifier, root, **changes):
    attack = attacks.get("PGD_N").with_settings(iterations=2, step=0.2)
    return craft.crafted_set(split, attack, classifier, "f", root, **changes)


def test_a_set_is_read_back_and_says_what_it_is(split, classifier, tmp_path):
    first = make(split, classifier, tmp_path)
    (folder,) = tmp_path.iterdir()
    written = (folder / "images.npy").stat().st_mtime_ns
    again = make(split, classifier, tmp_path)
    assert torch.equal(first.images, again.images)
    assert (folder / "images.npy").stat().st_mtime_ns == written
    provenance = json.loads((folder / "provenance.json").read_text())
    assert {"attack", "eps", "norm", "goal", "settings", "source", "classifier_sha256", "split_sha256", "seed",
            "versions"} <= provenance.keys()  # fmt: skip


def test_another_seed_is_another_set(split, classifier, tmp_path):
    assert not torch.equal(make(split, classifier, tmp_path).images, make(split, classifier, tmp_path, seed=1).images)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("late", [False, True])
def test_no_cuda_graph_outlives_a_set(late, split, classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(gradient, "_graph", functools.lru_cache(lambda: "a model's memory"))
    gradient._graph()
    monkeypatch.setattr(craft, "is_near", lambda: late)
    with pytest.raises(deadline.OutOfTime) if late else contextlib.nullcontext():
        make(split, classifier, tmp_path)
    assert gradient._graph.cache_info().currsize == 0


def test_a_killed_run_resumes_to_the_same_bytes(split, classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(craft, "CHUNK", 100)
    whole = make(split, classifier, tmp_path / "whole")
    calls = 0
    call = attacks.Attack.__call__

    def dies_in_the_second_chunk(self, *args):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return call(self, *args)

    monkeypatch.setattr(attacks.Attack, "__call__", dies_in_the_second_chunk)
    with pytest.raises(KeyboardInterrupt):
        make(split, classifier, tmp_path / "broken")
    resumed = make(split, classifier, tmp_path / "broken")
    assert calls == 2 + 2, "the first chunk was not crafted again"
    assert torch.equal(whole.images, resumed.images)
    assert torch.equal(whole.succeeded, resumed.succeeded)


def test_mixed_precision_answers_float32(classifier, split):
    images = split.batch(slice(0, 4))[0]
    logits = MixedPrecision(classifier)(images)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, classifier(images), atol=0.5)


def test_provenance_tells_training_sets_from_testing_ones(split, classifier, tmp_path):
    small = dataclasses.replace(split, images=split.images[:8], labels=split.labels[:8])
    slow, fast = make(small, classifier, tmp_path), make(small, classifier, tmp_path, fast=True)
    assert (slow.provenance["precision"], fast.provenance["precision"]) == ("fp32", "bf16")


def test_photographs_are_attacked_fewer_at_once():
    assert [craft.chunk_of(shape) for shape in [(1, 28, 28), (3, 64, 64), (3, 224, 224), (3, 9000, 9000)]] == [
        500, 500, 50, 1,
    ]  # fmt: skip
