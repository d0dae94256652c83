"""Weights laid out once change no answer."""

import pytest
import torch
from torch import nn

from arn_purify import models
from arn_purify.models.folding import folded
from arn_purify.service.core.onednn import _Doubling, onednn
from arn_purify.service.core.precision import to_bf16

from ..networks import NETWORKS


@pytest.mark.parametrize("prepare", [folded, to_bf16])
@pytest.mark.parametrize("name", ["shipped", *NETWORKS])
def test_every_network_answers_the_same_at_every_batch_size(name, prepare):
    torch.manual_seed(0)
    network = models.load("mnist-transparent") if name == "shipped" else NETWORKS[name]()
    network = prepare(network.eval().requires_grad_(False)).to(memory_format=torch.channels_last)
    shape = (network.config.channels, network.config.size, network.config.size)
    try:
        fast = onednn(network, torch.rand(1, *shape))
    except RuntimeError as error:
        if prepare is to_bf16 and "needs the cpu support" in str(error):
            pytest.skip(f"{error}; the service runs eagerly there")
        raise
    assert any(buffer.is_mkldnn for buffer in fast.buffers())
    assert not any(buffer.is_mkldnn for buffer in network.buffers())
    for count in (1, 2, 33):
        x = torch.rand(count, *shape).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(fast(x), network(x), atol=1e-4 if prepare is folded else 0.01, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_a_doubling_is_the_transposed_convolution(bias):
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(5, 3, 4, stride=2, padding=1, bias=bias).requires_grad_(False)
    fast = onednn(nn.Sequential(layer), torch.rand(1, 5, 6, 9))
    assert isinstance(fast[0], _Doubling)
    x = torch.rand(2, 5, 6, 9)
    torch.testing.assert_close(fast(x), layer(x))


def test_what_has_no_such_form_stays():
    layers = nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.Conv2d(2, 1, 3, padding=1, padding_mode="reflect"))
    kept = onednn(layers, torch.rand(1, 1, 8, 8))
    assert [type(layer) for layer in kept] == [nn.Conv2d, nn.Conv2d]
