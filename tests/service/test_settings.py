"""Settings that are more than one value."""

import pytest
from pydantic import ValidationError

from arn_purify.service.settings import Settings
from tests.conftest import running


def test_purifiers_are_pairs_of_a_name_and_a_purifier():
    assert Settings(purifiers="a:0 = mnist-transparent, b=c=identity,").purifiers == (
        ("a:0", "mnist-transparent"), ("b=c", "identity"),
    )  # fmt: skip
    assert Settings(purifiers="").purifiers == ()
    for wrong in ("identity", "=identity", "a=", "a=identity,a=other"):
        with pytest.raises(ValidationError, match="NAME=PURIFIER, each name once"):
            Settings(purifiers=wrong)


def test_a_purifier_that_is_not_loaded_ends_the_start():
    with (
        pytest.raises(ValueError, match="purifiers: 'lisa-transparent' is not loaded: identity"),
        running(models="identity", purifiers="signs=lisa-transparent"),
    ):
        pass


def test_a_path_prefix_begins_with_a_slash_and_ends_without():
    assert Settings(root_path="/a/b/").root_path == "/a/b"
    with pytest.raises(ValidationError, match="begins with a slash"):
        Settings(root_path="a")
