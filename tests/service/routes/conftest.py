"""What the tests of the routes share."""

import numpy as np
import pytest

from arn_purify.service.core.engine import Engine, Work
from tests.service.images import PIXELS


@pytest.fixture(scope="module")
def expected():
    """What the network makes of the seven images, one at a time."""
    engine = Engine(("mnist-transparent",), (), "cpu", "fp32")
    return np.concatenate([engine.run(Work("mnist-transparent"), image[None]).images for image in PIXELS])
