"""Red flags: what cannot be true is caught."""

import dataclasses

import pytest
import torch
from torch import nn

from arn_purify import models
from arn_purify.training.measuring import records, redflags, threats

from ..subjects import Quantiser, a_record, subject


def test_a_random_purifier_is_flagged(split):
    class Noisy(nn.Module):
        def forward(self, x):
            return (x + 0.01 * torch.randn_like(x)).clamp(0, 1)

    flags = redflags.of_model(subject(Noisy()), split.batch(slice(0, 8))[0])
    assert any(flag.startswith("random") for flag in flags)


def test_a_purifier_that_hides_its_gradient_is_flagged(split):
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach()

    for purifier in (Quantiser(), Detached()):
        chosen, images = subject(purifier), split.batch(slice(0, 8))[0]
        flags = redflags.of_model(chosen, images, threats.WhiteBox().target(chosen).module)
        assert any(flag.startswith("zero gradient") for flag in flags)
        assert redflags.of_model(chosen, images) == ()
        through_surrogate = threats.GrayBox(purifier, chosen.purifier_card).target(subject(models.Identity()))
        assert redflags.of_model(chosen, images, through_surrogate.module) == flags
        assert redflags.of_model(chosen, images, threats.Bpda().target(chosen).module) == (), (
            "it takes another gradient"
        )


def test_a_purifier_and_a_classifier_with_a_gradient_raise_no_flag(split):
    chosen, images = subject(models.load("mnist-transparent")), split.batch(slice(0, 8))[0]
    behind_log_softmax = nn.Sequential(chosen.classifier, nn.LogSoftmax(1))
    for classifier in (chosen.classifier, behind_log_softmax):
        target = threats.WhiteBox().target(dataclasses.replace(chosen, classifier=classifier))
        assert redflags.of_model(chosen, images, target.module) == ()


@pytest.mark.parametrize(
    ("other", "place", "flag"),
    [
        ({"attack": "SQUARE_N", "errors": 950, "iterations": None}, 0, "SQUARE_N white_box finds more errors"),
        ({"threat_model": "oblivious", "attacked": "f", "errors": 950}, 0, "PGD_N oblivious finds more errors"),
        ({"attack": "PGD_N@0.4", "eps": 0.4, "errors": 800}, 1, "falls with the budget: 90.00 % at 0.3"),
        ({"attack": "PGD_N@0.5", "eps": 0.5, "errors": 930}, 1, "93.00 %, not 100 %, at a budget of 0.5"),
        ({"attack": "SQUARE_N", "errors": 910, "iterations": None}, 0, None),  # within the intervals
        ({"attack": "SQUARE_T", "goal": "targeted", "errors": 950, "iterations": None}, 0, None),
        ({"attack": "AA_N", "errors": 990, "iterations": None}, 0, "AA_N white_box finds more errors"),
        ({"attack": "AA_N", "errors": 950, "iterations": None}, 0, None),  # it is the stronger attack
        ({"threat_model": "oblivious", "attack": "PGD_Nx10", "iterations": 10, "errors": 950}, 0, "PGD_Nx10 oblivious"),
        ({"attack": "PGD_N@0.4", "eps": 0.4, "errors": 890}, 1, None),
        ({"threat_model": "bpda", "errors": 990}, 0, "PGD_N bpda finds more errors: 99.00 %"),
        ({"threat_model": "bpda", "attack": "PGDM_N", "errors": 990}, 0, None),
        ({"attack": "PGD_Nx100", "iterations": 100, "errors": 600}, 1, "falls with the iterations: 90.00 % after 40"),
        ({"attack": "PGD_Nx10", "iterations": 10, "errors": 600}, 0, None),
        ({"attack": "PGD_N@0.4", "eps": 0.4, "errors": 100, "defence": "another"}, 1, None),
    ],
)
def test_records_that_cannot_stand_beside_each_other_are_flagged(other, place, flag):
    found = redflags.between([a_record(), a_record(**other)])
    assert [f.removeprefix("beside the other records: ") for f in found[1 - place]] == []
    if flag is None:
        assert found[place] == ()
    else:
        assert found[place][0].startswith(f"beside the other records: {flag}")


def test_records_of_two_folders_of_the_users_own_are_not_compared():
    mine = {"dataset": "folder", "sha256": {"data": "a"}}
    other = a_record(**{**mine, "sha256": {"data": "b"}}, threat_model="oblivious", attacked="f", errors=950)
    assert set(redflags.between([a_record(**mine), other]).values()) == {()}
    alike = dataclasses.replace(other, sha256={"data": "a"})
    assert redflags.between([a_record(**mine), alike])[0]


def test_square_is_held_against_the_strongest_gradient_attack_alone():
    weak, strong = a_record(attack="PGD_Nx5", iterations=5, errors=500), a_record()
    whole = a_record(attack="AA_N", iterations=None, errors=950)
    square = a_record(attack="SQUARE_N", iterations=None, errors=890)
    assert set(redflags.between([weak, strong, whole, square]).values()) == {()}
    found = redflags.between(
        [weak, strong, whole, dataclasses.replace(square, errors=990, ci95=records.wilson(990, 1000))]
    )
    assert [index for index, flags in found.items() if flags] == [1]


def test_stickers_of_a_weak_search_are_flagged():
    fields = {"eps": None, "norm": "patch", "iterations": 100}
    weak, strong = a_record(attack="AP_3", errors=200, **fields), a_record(attack="APM_3", **fields)
    elsewhere = a_record(attack="APM_4", errors=950, **fields)
    found = redflags.between([weak, strong, elsewhere])
    flag = "beside the other records: APM_3 white_box finds more errors: 90.00 % against 20.00 %"
    assert found == {0: (flag,), 1: (), 2: ()}
    on_f_alone = [dataclasses.replace(record, threat_model="oblivious") for record in (weak, strong)]
    assert set(redflags.between(on_f_alone).values()) == {()}
