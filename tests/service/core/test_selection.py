"""Which purifier takes an image, from cards alone."""

import dataclasses

import pytest

from arn_purify import models
from arn_purify.models import Card
from arn_purify.service.core.selection import (
    DecodePlan,
    Selection,
    Target,
    choose_classifier,
    sizes_of_classifiers,
    takes,
)
from arn_purify.service.errors import NoClassifier, UnknownModel, WrongSize

IDENTITY = models.card_of(models.load("identity"))
DIGITS = models.card_of(models.load("mnist-transparent"))
COLOUR = Card(
    "colour", "purifier", "arn", dataclasses.asdict(models.ArnConfig.preset("colour", 3, 32)), "cifar10", (3, 32, 32)
)


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
    selection = Selection((DIGITS, COLOUR), fit="fit")
    colour, grey = Target("colour", 3, (32, 32), "fit"), Target("mnist-transparent", 1, (28, 28), "fit")
    assert selection.plan((50, 40), 3) == DecodePlan(colour, grey)
    assert selection.plan((50, 40), 1) == DecodePlan(grey)
    assert selection.plan((28, 28), 1) == DecodePlan(Target("mnist-transparent", 1, None, "fit"))
    assert Selection((IDENTITY,), fit="crop").plan((50, 40), 3).colour == Target("identity", 3)


def test_where_any_number_of_channels_is_taken_the_classifier_decides():
    selection = Selection((IDENTITY,), channels={(28, 28): 1})
    assert selection.plan((28, 28), 1).colour.channels == 1
    assert selection.plan((28, 28), 3)[:2] == (None, Target("identity", 1))
    assert dataclasses.replace(selection, wanted="identity").plan((28, 28), 3).colour.channels == 1
    assert selection.plan((32, 32), 3).colour.channels == 3


@pytest.mark.parametrize("sizes", ["evaluated", "any"])
@pytest.mark.parametrize("fit", [None, "crop"])
@pytest.mark.parametrize("size", [(28, 28), (224, 224)])
def test_a_model_of_one_channel_takes_colours_only_where_it_is_named(sizes, fit, size):
    selection = Selection((DIGITS,), sizes, fit=fit, hint="; a hint")
    if size == (224, 224) and sizes == "evaluated" and not fit:
        with pytest.raises(WrongSize, match="; a hint"):
            selection.plan(size, 3)
        return
    plan = selection.plan(size, 3)
    with pytest.raises(WrongSize, match=r"\?model=mnist-transparent makes it grey"):
        plan.settled(has_colour=True)
    assert plan.settled(has_colour=False).channels == 1
    named = dataclasses.replace(selection, wanted="mnist-transparent").plan(size, 3)
    assert named.settled(has_colour=True).channels == 1
    for cards in ((DIGITS, COLOUR), (COLOUR, DIGITS)):
        both = Selection(cards, "any", fit=fit).plan((224, 224), 3)
        assert both.settled(has_colour=True).model == "colour"
        assert both.settled(has_colour=False).model == "mnist-transparent"


# -- classifiers --------------------------------------------------------------------------------------------------


def card(name, dataset, shape=(3, 32, 32), class_names=()):
    return Card(name, "classifier", "lenet5", {}, dataset, shape, class_names=class_names)


def test_a_classifier_is_one_of_the_purifiers_own_data_set():
    animals, signs = card("animals", "cifar10"), card("signs", "lisa")
    assert choose_classifier([animals, signs], COLOUR, (3, 32, 32)).name == "animals"
    with pytest.raises(NoClassifier, match=r"no classifier of cifar10 is embedded for colour: signs \(lisa\) loaded"):
        choose_classifier([signs], COLOUR, (3, 32, 32))
    with pytest.raises(WrongSize, match=r"take \(3, 32, 32\)"):
        choose_classifier([animals, signs], COLOUR, (3, 40, 40))


def test_two_folders_of_users_are_two_data_sets():
    mine, other = card("mine", "folder", class_names=("a", "b")), card("other", "folder", class_names=("c", "d"))
    purifier = dataclasses.replace(COLOUR, dataset="folder", class_names=("c", "d"))
    assert choose_classifier([mine, other], purifier, (3, 32, 32)).name == "other"
    with pytest.raises(NoClassifier):
        choose_classifier([mine], purifier, (3, 32, 32))


def test_the_identity_has_the_classifier_of_a_size_where_there_is_one():
    animals, signs, digits = card("animals", "cifar10"), card("signs", "lisa"), card("digits", "mnist", (1, 28, 28))
    assert choose_classifier([animals, digits], IDENTITY, (1, 28, 28)).name == "digits"
    with pytest.raises(NoClassifier, match="animals and signs"):
        choose_classifier([animals, signs], IDENTITY, (3, 32, 32))


def test_any_size_is_taken_only_where_it_is_allowed_and_the_network_can():
    assert not takes(DIGITS, (30, 30))
    assert takes(DIGITS, (30, 30), sizes="any")
    assert not takes(DIGITS, (30, 30), 3, sizes="any")
    assert takes(IDENTITY, (1, 1), 7)


PHOTO = Card(
    "photo", "purifier", "arn", dataclasses.asdict(models.ArnConfig.preset("photo", 3, 224)), "photos", (3, 224, 224)
)


@pytest.mark.parametrize(
    ("size", "channels", "taken"),
    [
        ((224, 224), 3, True),
        ((65, 400), 3, True),
        ((64, 400), 3, False),
        ((400, 64), None, False),
        ((99, 99), 1, False),
    ],
)
def test_a_purifier_of_photographs_takes_what_is_no_smaller_than_they_are(size, channels, taken):
    assert takes(PHOTO, size, channels) == taken


def test_another_purifier_of_the_same_architecture_or_size_takes_its_own_size_alone():
    small = dataclasses.replace(PHOTO, config=dataclasses.asdict(models.ArnConfig.preset("photo", 3, 32)))
    assert not takes(dataclasses.replace(small, input_shape=(3, 32, 32)), (99, 99))
    assert not takes(dataclasses.replace(COLOUR, input_shape=(3, 224, 224)), (99, 99))


def test_the_purifier_of_an_images_size_goes_before_that_of_photographs():
    own = dataclasses.replace(COLOUR, name="own", input_shape=(3, 99, 99))
    selection = Selection((PHOTO, DIGITS, own), "any")
    assert selection.choose((99, 99), 3).name == "own"
    assert selection.plan((99, 99), 3).colour == Target("own", 3)
    assert selection.plan((98, 99), 3) == DecodePlan(Target("photo", 3))
    assert selection.plan((98, 99), 1) == DecodePlan(Target("photo", 3))
    assert selection.plan((30, 99), 1) == DecodePlan(Target("mnist-transparent", 1))


def test_an_image_is_brought_to_the_size_of_the_classifier_that_sees_it():
    classifiers = [card("digits", "mnist", (1, 28, 28)), card("many", "photos", (3, 160, 160))]
    sizes = sizes_of_classifiers(classifiers, (PHOTO, DIGITS, IDENTITY))
    assert sizes == {"photo": (160, 160)}
    selection = Selection((PHOTO, DIGITS), classified=sizes)
    assert selection.plan((200, 300), 3).colour == Target("photo", 3, (160, 160), "crop")
    assert selection.plan((160, 160), 3).colour == Target("photo", 3)
    assert sizes_of_classifiers([*classifiers, card("more", "photos", (3, 224, 224))], (PHOTO,)) == {}
