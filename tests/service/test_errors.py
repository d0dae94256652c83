"""Errors say what a client sent, but not all of it."""

import pytest

from arn_purify.service.errors import BrokenBody, QueueFull, shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x", "'x'"),
        ("it's", '"it\'s"'),
        (b"x", "b'x'"),
        ("\x7f" * 10**6, "'" + "\\x7f" * 64 + "'..."),
        (b"a" * 65, "b'" + "a" * 64 + "'..."),
        (7, "7"),
        (10**4000, "1" + "0" * 63 + "..."),
        (None, "None"),
        ([0] * 10**6, "a list"),
        ({"a": 1}, "a dict"),
    ],
)
def test_a_value_is_shown_as_far_as_a_line_holds_it(value, expected):
    assert shown(value) == expected


@pytest.mark.parametrize("kind", [BrokenBody, QueueFull])
def test_a_sentence_has_an_end(kind):
    error = kind("a" * 10**6)
    assert len(str(error)) < 1100
    error.args = (f"name: {'b' * 10**6}",)
    assert len(str(error)) < 1100
    assert str(kind("short")) == "short"
