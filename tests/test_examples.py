"""The examples that the README shows, through the service with its shipped defaults."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def classify(client, name):
    body = (EXAMPLES / f"{name}.png").read_bytes()
    answer = client.post("/classify?compare=true", content=body, headers={"Content-Type": "image/png"})
    assert answer.status_code == 200
    return answer.json()


def test_the_page_shows_the_same_digits():
    page = EXAMPLES.parent / "service" / "static" / "examples"
    assert len(list(page.iterdir())) == 20
    for path in page.iterdir():
        assert path.read_bytes() == (EXAMPLES / path.name).read_bytes()


def test_natural_digits_keep_their_labels(client):
    answers = [classify(client, f"natural_{digit}") for digit in range(10)]
    assert [answer["unpurified"]["label"] for answer in answers] == list(range(10))
    assert sum(answer["label"] == digit for digit, answer in enumerate(answers)) >= 9


def test_attacked_digits_are_wrong_before_and_right_after_purification(client):
    answers = [classify(client, f"adversarial_{digit}") for digit in range(10)]
    assert all(answer["unpurified"]["label"] != digit for digit, answer in enumerate(answers))
    assert sum(answer["label"] == digit for digit, answer in enumerate(answers)) >= 9


def test_what_comes_back_is_what_the_examples_show(client):
    for digit in range(10):
        body = (EXAMPLES / f"adversarial_{digit}.png").read_bytes()
        answer = client.post("/purify", content=body, headers={"Content-Type": "image/png"})
        back, shown = (np.asarray(Image.open(io.BytesIO(png)), np.int16) for png in
                       (answer.content, (EXAMPLES / f"purified_{digit}.png").read_bytes()))  # fmt: skip
        assert abs(back - shown).max() <= 1
