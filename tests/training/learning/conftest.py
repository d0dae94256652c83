"""scikit-learn's digits and the released LeNet-5."""

import pytest

from arn_purify import models
from arn_purify.training import data


@pytest.fixture(scope="package")
def digits():
    return data.load("digits")


@pytest.fixture(scope="package")
def classifier():
    return models.load("mnist-lenet5").requires_grad_(False)
