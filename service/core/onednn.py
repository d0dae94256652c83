"""Convolutions on a CPU whose weights are laid out once for oneDNN instead of at every call.

The operators are those that torch.compile uses for a frozen network. In a traced graph they need no compiler at run
time.
"""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor, nn

# Transposed convolutions to at most this many channels, a decoder's last, are faster as convolutions; others slower.
_FEW_CHANNELS = 4


def onednn(network: nn.Module, example: Tensor) -> nn.Module:
    """A copy in eval mode that computes what ``network`` does, fastest for images of ``example``'s size.

    Raises:
        RuntimeError, NotImplementedError, AttributeError: not possible with this build of torch or this network.
    """
    out = copy.deepcopy(network).eval()
    shapes: dict[str, list[int]] = {}
    hooks = []
    for name, module in out.named_modules():
        if type(module) in (nn.Conv2d, nn.ConvTranspose2d):

            def note(_: nn.Module, given: tuple[Tensor], __: Tensor, name: str = name) -> None:
                shapes[name] = list(given[0].shape)

            hooks.append(module.register_forward_hook(note))
    with torch.no_grad():
        out(example)
    for hook in hooks:
        hook.remove()
    for name, shape in shapes.items():
        layer = out.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        if _is_doubling(layer) and layer.out_channels <= _FEW_CHANNELS:
            out.set_submodule(name, _Doubling(layer, shape))
        elif layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            out.set_submodule(name, _Packed(layer, shape))
    return out


@functools.cache
def _compiled() -> torch.jit.CompilationUnit:
    """The two operators, compiled, since a trace cannot represent their optional lists of numbers.

    Only here, where a build of torch without them is not in the way of an import.
    """
    return torch.jit.CompilationUnit("""
def convolve(x, weight, bias: Optional[Tensor], padding: List[int],
             stride: List[int], dilation: List[int], groups: int):
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, stride, dilation, groups, "none", [], "")

def convolve_transposed(x, weight, bias: Optional[Tensor], padding: List[int], output_padding: List[int],
                        stride: List[int], dilation: List[int], groups: int):
    return torch.ops.mkldnn._convolution_transpose_pointwise(
        x, weight, bias, padding, output_padding, stride, dilation, groups, "none", [], "")
""")


class _Packed(nn.Module):
    """One convolution, transposed or not, optimised for inputs of one shape."""

    weight: Tensor

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d, shape: list[int]) -> None:
        super().__init__()
        assert not isinstance(layer.padding, str)
        self.transposed, self.bias = isinstance(layer, nn.ConvTranspose2d), layer.bias
        output_padding = [list(layer.output_padding)] if self.transposed else []
        self.how = (list(layer.padding), *output_padding, list(layer.stride), list(layer.dilation), layer.groups)
        mkldnn = torch.ops.mkldnn
        reorder = (
            mkldnn._reorder_convolution_transpose_weight if self.transposed else mkldnn._reorder_convolution_weight
        )
        self.register_buffer("weight", reorder(layer.weight.detach(), *self.how, shape))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        convolve = _compiled().convolve_transposed if self.transposed else _compiled().convolve
        out: Tensor = convolve(x, self.weight, self.bias, *self.how)
        return out


def _is_doubling(layer: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    how = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding, layer.dilation, layer.groups)
    return isinstance(layer, nn.ConvTranspose2d) and how == ((4, 4), (2, 2), (1, 1), (0, 0), (1, 1), 1)


class _Doubling(nn.Module):
    """A transposed convolution of kernel 4, stride 2 and padding 1 as one of kernel 2.

    Each of the four phases of its output sees 2x2 pixels of the input, so the weights split into four kernels
    (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?", arXiv:1609.07009).
    """

    _TAPS = ((3, 1), (2, 0))

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d, shape: list[int]) -> None:
        super().__init__()
        kernel = layer.weight.detach()
        phases = [kernel[:, :, rows][:, :, :, columns] for rows in self._TAPS for columns in self._TAPS]
        with torch.no_grad():
            four = nn.Conv2d(layer.in_channels, 4 * layer.out_channels, 2, padding=1, bias=layer.bias is not None)
            four = four.to(kernel).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            four.weight.copy_(torch.cat(phases, 1).transpose(0, 1))
            if layer.bias is not None and four.bias is not None:
                four.bias.copy_(layer.bias.repeat(4))
        self.convolution = _Packed(four.requires_grad_(False), shape)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        height, width = x.shape[2:]
        phases = self.convolution(x).permute(0, 2, 3, 1).chunk(4, 3)
        rows = [torch.stack([phases[2 * a + b][:, a : a + height, b : b + width] for b in (0, 1)], 3) for a in (0, 1)]
        return torch.stack(rows, 2).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
