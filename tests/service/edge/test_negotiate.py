"""Accept against what can be offered."""

import pytest

from arn_purify.service.edge import negotiate
from arn_purify.service.errors import NotAcceptable

OFFERED = ("image/png", "image/webp", "application/x-npy", "application/json")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "image/png"),
        ("", "image/png"),
        (" , ,", "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("application/*", "application/x-npy"),
        ("application/json", "application/json"),
        ("image/webp, image/png", "image/png"),
        ("image/webp, image/png;q=0.5", "image/webp"),
        ("IMAGE/WEBP", "image/webp"),
        ("text/html, */*;q=0.1", "image/png"),
        ("image/png;q=0, image/*", "image/webp"),
        ("*/*;q=0.5, application/json", "application/json"),
        ("image/png;q=nonsense, image/webp;q=0.1", "image/webp"),
    ],
)
def test_the_preferred_type_is_chosen(accept, chosen):
    assert negotiate.choose(accept, OFFERED) == chosen


@pytest.mark.parametrize("accept", ["text/html", "image/png;q=0", "video/*"])
def test_nothing_acceptable_is_told(accept):
    with pytest.raises(NotAcceptable, match="among image/png"):
        negotiate.choose(accept, OFFERED[:1])
