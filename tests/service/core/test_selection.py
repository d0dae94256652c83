"""Which purifier takes an image, from cards alone."""

import dataclasses

import pytest

from arn_purify import models
from arn_purify.models import Card
from arn_purify.service.core.selection import DecodePlan, Selection, takes
from arn_purify.service.errors import UnknownModel, WrongSize

IDENTITY = models.card_of(models.load("identity"))
DIGITS = models.card_of(models.load("mnist-transparent"))
COLOUR = Card("colour", "purifier", "arn", {}, "cifar10", (3, 32, 32))


@pytest.mark.parametrize(
    ("cards", "wanted", "size", "chosen"),
    [
        ((DIGITS, COLOUR), None, (32, 32), "colour"),
        ((DIGITS, IDENTITY), None, (28, 28), "mnist-transparent"),
        ((IDENTITY, DIGITS), None, (28, 28), "identity"),
        ((IDENTITY, DIGITS), "mnist-transparent", (28, 28), "mnist-transparent"),
    ],
)
def test_the_first_that_takes_a_size_is_chosen_or_the_one_asked_for(cards, wanted, size, chosen):
    assert Selection(cards, wanted=wanted).choose(size).name == chosen


def test_what_none_takes_is_refused_with_the_sizes_that_are():
    selection = Selection((DIGITS, COLOUR))
    with pytest.raises(WrongSize, match="no model takes 30x28: mnist-transparent 28x28 with 1 channel"):
        selection.choose((28, 30))
    with pytest.raises(WrongSize, match=r"28x28 with 3 channel\(s\)"):
        selection.choose((28, 28), channels=3)
    with pytest.raises(UnknownModel, match="no model 'nobody' is loaded: mnist-transparent, colour"):
        dataclasses.replace(selection, wanted="nobody").choose((28, 28))


def test_resizing_goes_to_a_model_of_as_many_channels():
    selection = Selection((DIGITS, COLOUR), resize=True)
    assert selection.plan((50, 40), 3) == DecodePlan("colour", 3, (32, 32))
    assert selection.plan((50, 40), 1) == DecodePlan("mnist-transparent", 1, (28, 28))
    assert Selection((IDENTITY,), resize=True).plan((50, 40), 3) == DecodePlan("identity", 3, None)


def test_where_any_number_of_channels_is_taken_the_classifier_decides():
    selection = Selection((IDENTITY,), channels={(28, 28): 1})
    assert selection.plan((28, 28), 3).channels == 1
    assert selection.plan((32, 32), 3).channels == 3


def test_any_size_is_taken_only_where_it_is_allowed_and_the_network_can():
    assert not takes(DIGITS, (30, 30))
    assert takes(DIGITS, (30, 30), sizes="any")
    assert not takes(DIGITS, (30, 30), 3, sizes="any")
    assert takes(IDENTITY, (1, 1), 7)
