"""Configurations, and that an architecture is added by one row."""

import pytest
import torch
from torch import nn

from arn_purify import models
from arn_purify.models import Arn, ArnConfig, AttackDiscriminator, Card, checkpoint
from arn_purify.models.architecture import Architecture
from arn_purify.models.config import ARCHITECTURES
from arn_purify.models.layers import Decoder, TwoHeads, clipped


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "huge"}, "unknown architecture 'huge': compact, "),
        ({"architecture": "released", "size": 32}, "28x28"),
        ({"size": 30}, "multiple of 4"),
        ({"width": 0}, "too few"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ArnConfig(**arguments)


def test_a_preset_has_the_widths_of_its_architecture():
    assert ArnConfig.preset("compact", 1, 28) == ArnConfig()
    assert ArnConfig.preset("colour", 3, 32) == ArnConfig(
        "colour", channels=3, size=32, width=16, code_channels=48, blocks=2
    )
    with pytest.raises(ValueError, match="unknown architecture"):
        ArnConfig.preset("huge", 3, 32)


def test_an_architecture_is_added_by_one_row(monkeypatch, tmp_path):
    def encoder(sizes):
        return TwoHeads(nn.Conv2d(sizes.channels, sizes.width, 8, 8), nn.Identity(), nn.Identity())

    thumbnail = Architecture(
        encoder=encoder,
        decoder=lambda sizes: Decoder(nn.ConvTranspose2d(sizes.width, sizes.channels, 8, 8)),
        code_shape=lambda sizes: (sizes.width, sizes.size // 8, sizes.size // 8),
        answer=lambda x, out: clipped(x + out),
        preset=(5, 5, 0),
        multiple=8,
    )
    monkeypatch.setitem(ARCHITECTURES, "thumbnail", thumbnail)
    config = ArnConfig.preset("thumbnail", 3, 32)
    model = Arn(config).eval()
    x = torch.rand(2, 3, 30, 45)
    assert model(x).shape == x.shape
    assert model.encode(x).shape == (2, 5, 4, 6), "padded to multiples of 8"
    assert config.code_shape == (5, 4, 4)
    assert AttackDiscriminator(config, 3)(torch.rand(2, 5, 4, 4)).shape == (2, 3)
    architecture, held, kind = checkpoint.architecture_of(model)
    card = Card("x", kind, architecture, held, dataset="none", input_shape=(3, 32, 32))
    checkpoint.save(model, card, tmp_path / "x.safetensors")
    assert torch.equal(models.load(tmp_path / "x.safetensors")(x), model(x))
    assert models.any_size(card)
