"""Which records stand in which table."""

import dataclasses

import pytest

from arn_purify.training.data.datasets import DATASETS, spec_of
from arn_purify.training.report import selection

from ..subjects import a_record


def test_the_ablation_keeps_other_weights_apart():
    named = [
        a_record(threat_model="oblivious", recipe=recipe)
        for recipe in (
            "paper-att0.1-318",
            "paper-att5-318",
            "paper-att0-318-seed2",
            "paper-att0-from-mnist-seed1-seed2",
        )
    ]
    assert sorted(selection.ablation(named)) == [
        ("paper-318", "all terms (att 0.1)", 0),
        ("paper-318", "all terms (att 5)", 0),
        ("paper-318", "without L_att", 2),
        ("paper-from-mnist-seed1", "without L_att", 2),
    ]


def test_a_sweep_takes_the_defences_that_were_measured_at_other_budgets():
    swept = [a_record(), a_record(attack="PGD_N@0.1", eps=0.1)]
    others = [
        a_record(defence="HGD_PP"),
        a_record(attack="PGD_N@0.1x100", eps=0.1, iterations=100),
        a_record(attack="PGD_T@0.1", eps=0.1),
        a_record(attack="PGD_N@0.1", eps=0.1, threat_model="oblivious"),
    ]
    assert selection.sweep([*swept, *others]) == swept


def test_the_papers_target_comes_first_and_a_stand_in_is_named():
    usual, papers = (
        a_record(dataset="cifar10", classifier="resnet20"),
        a_record(dataset="cifar10", classifier="resnet110"),
    )
    assert selection.target_of([usual, usual, papers], "cifar10") == "resnet110"
    assert selection.missing_target([usual, papers], "cifar10") == ""
    assert selection.missing_target([usual], "cifar10") == "resnet110"
    assert selection.of_target([usual, papers]) == [papers]


def test_released_purifiers_are_shown_in_front_of_the_released_classifier():
    """The comparison stays in front of the paper's target, or of what stands in for it."""
    released = spec_of("mnist").classifier.removeprefix("mnist-")
    assert released == "lenet5", "the paper's too"
    spec = dataclasses.replace(spec_of("cifar10"), classifier="cifar10-better")
    ours, stand_in = (a_record(dataset="cifar10", classifier=name) for name in ("better", "resnet20"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "cifar10", spec)
        assert selection.of_released([stand_in, ours]) == [ours]
        assert selection.of_target([stand_in, ours]) == [stand_in]
        assert selection.of_released([stand_in]) == [stand_in], "where it was not measured"
