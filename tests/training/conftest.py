"""Images that are measured on."""

import pytest

from arn_purify.training import data


@pytest.fixture(scope="module")
def split():
    return data.load("digits").test.every(10)
