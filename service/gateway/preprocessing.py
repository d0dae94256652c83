"""What the classifier behind us takes: which input holds the image, and how its numbers stand for pixels.

Tensors of a request are turned into what a purifier takes and back again. A value that purification did not change goes
back as it came, bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..core.codec import Images
from ..errors import BadParameter, BrokenBody, WrongSize
from .protocols import Numbers, Slot, is_encoded_image

Layout = Literal["auto", "nchw", "nhwc"]
Range = Literal["auto", "0-1", "0-255", "-1-1"]

# What a shape can mean, most usual first: N images, C channels, H by W pixels; F is C * H * W in one row.
_LAYOUTS: dict[str, tuple[str, ...]] = {
    "auto": ("NCHW", "NHWC", "CHW", "HWC", "NHW", "HW", "NF", "F"),
    "nchw": ("NCHW", "CHW", "NHW", "HW", "NF", "F"),
    "nhwc": ("NHWC", "HWC", "NHW", "HW", "NF", "F"),
}
# Beyond [0, 1] by no more than rounding: FP16 has 11 bits, and a mean and deviation were divided through.
_TOLERANCE = 2e-3


@dataclasses.dataclass(frozen=True)
class PurifierInput:
    """A tensor as a purifier takes it, uint8 ``(N, H, W, C)`` or float32 ``(N, C, H, W)``, and the way back."""

    images: Images
    size: tuple[int, int]
    channels: int
    from_purifier: Callable[[Images], Numbers]


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The declared preprocessing of the classifier.

    Args:
        input: the input that holds the image; empty: every one whose shape a purifier takes.
        layout: order of the axes; ``auto`` goes by the purifiers' shapes.
        range: ``auto`` reads integers as 0-255 and floats as 0-1; JSON's untyped integers as 0-255 if any exceeds 1.
        mean, std: of each channel (or one for all), on 0-1; instead of ``range``.
        colour: order of three channels.
    """

    input: str = ""
    layout: Layout = "auto"
    range: Range = "auto"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    colour: Literal["rgb", "bgr"] = "rgb"

    def choose(self, slots: Sequence[Slot], takes: Callable[[int, int, int], bool]) -> list[int]:
        """The slots to purify: those of the declared name, or else of every name under which an image stands.

        ``takes(C, H, W)`` says what the purifiers take. A slot that shares its name with an image is chosen whatever it
        holds, so that none can pass in an image's company; what it holds is refused where it is no image.
        """
        names = {slot.name for slot in slots if self._is_image(slot, takes)}
        return [index for index, slot in enumerate(slots) if slot.name in names]

    def _is_image(self, slot: Slot, takes: Callable[[int, int, int], bool]) -> bool:
        if slot.raw or (slot.name == "" and slot.images is not None):  # there is no other place
            return True
        if self.input:
            return slot.name == self.input
        if slot.images is None or isinstance(slot.images, bytes):
            return slot.images is not None and is_encoded_image(slot.images)
        return self._axes(slot.images.shape, takes) is not None

    def _axes(self, shape: Sequence[int], takes: Callable[[int, int, int], bool]) -> tuple[str, int, int, int] | None:
        """The first layout under which a purifier takes the shape, with C, H and W."""
        for layout in _LAYOUTS[self.layout]:
            if len(layout) != len(shape):
                continue
            extents = dict(zip(layout, shape, strict=True))
            if "F" in extents:
                for channels in (1, 3):
                    side = math.isqrt(extents["F"] // channels)
                    if side * side * channels == extents["F"] and side and takes(channels, side, side):
                        return layout, channels, side, side
                continue
            channels, height, width = extents.get("C", 1), extents["H"], extents["W"]
            if channels in (1, 3) and height and width and takes(channels, height, width):
                return layout, channels, height, width
        return None

    def fits(self, shape: Sequence[int], takes: Callable[[int, int, int], bool]) -> bool:
        """Whether V2 metadata's shape, where -1 is any extent, may hold images for a purifier."""
        if -1 in shape[1:]:
            return True
        counted = [1, *shape[1:]] if shape and shape[0] == -1 else list(shape)
        return self._axes(counted, takes) is not None or self._axes([1, *counted], takes) is not None

    def to_purifier(self, slot: Slot, takes: Callable[[int, int, int], bool]) -> PurifierInput:
        """A numeric slot as a purifier takes it.

        Raises:
            WrongSize: no purifier takes the shape under the declared layout.
            BrokenBody: neither numbers nor bytes.
        BadParameter: values outside the declared range, NaN among them.
        """
        tensor = slot.images
        if tensor is None or isinstance(tensor, bytes):
            raise BrokenBody(f"input {slot.name!r}: neither numbers nor an encoded image")
        if slot.raw:
            tensor = self._typed(tensor, takes)
        found = self._axes(tensor.shape, takes)
        if found is None:
            raise WrongSize(f"input {slot.name or 'instances'!r}: no purifier takes the shape {list(tensor.shape)}")
        layout, channels, height, width = found
        if len(self.std) not in (0, 1, channels):
            raise WrongSize(
                f"input {slot.name!r}: {channels} channel(s), but {len(self.std)} means and deviations declared"
            )
        channels_last = layout.endswith("HWC") or ("F" in layout and self.layout == "nhwc")
        inner = (height, width, channels) if channels_last else (channels, height, width)
        shape, dtype = tensor.shape, tensor.dtype
        values = tensor.reshape(-1, *inner)

        to_rgb = (
            (lambda x: x[..., ::-1] if channels_last else x[:, ::-1])
            if self.colour == "bgr" and channels == 3
            else None
        )
        values = values if to_rgb is None else to_rgb(values)
        integral, scale, offset = self._map(values, slot.typed)
        if integral:
            if values.min() < 0 or values.max() > 255:
                raise BadParameter(f"input {slot.name!r}: integers in 0-255 are expected")
            pixels = values if channels_last else values.transpose(0, 2, 3, 1)
            images: Images = np.ascontiguousarray(pixels.astype(np.uint8))
        else:
            axis = (-1,) if channels_last else (-1, 1, 1)
            scale, offset = scale.reshape(axis), offset.reshape(axis)
            mapped = values if _is_identity(scale, offset) else values * scale + offset  # float64 in between
            mapped = mapped.transpose(0, 3, 1, 2) if channels_last else mapped
            unit: NDArray[np.float32] = np.ascontiguousarray(mapped, dtype=np.float32)
            low, high = float(unit.min()), float(unit.max())
            if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):  # false for NaN too
                raise BadParameter(
                    f"input {slot.name!r}: finite values that stand for [0, 1] are expected; under the declared range "
                    f"or mean and deviation these reach from {low:.4g} to {high:.4g}"
                )
            images = unit if low >= 0 and high <= 1 else unit.clip(0, 1)

        def from_purifier(purified: Images) -> Numbers:
            if integral:
                back: Numbers = purified if channels_last else purified.transpose(0, 3, 1, 2)
            else:
                assert images.dtype == np.float32
                changed = purified != images
                back = purified.transpose(0, 2, 3, 1) if channels_last else purified
                if not _is_identity(scale, offset):
                    back = (back.astype(np.float64) - offset) / scale
                back = np.where(changed.transpose(0, 2, 3, 1) if channels_last else changed, back, values)
            back = back if to_rgb is None else to_rgb(back)
            if dtype.kind in "iu":
                if not (integral or slot.typed):  # JSON's 0 and 1, where numbers between them may stand as well
                    return np.ascontiguousarray(back).reshape(shape)
                if not integral or dtype == np.int8:  # every other type holds all grey levels
                    back = np.rint(back, dtype=np.float64).clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
            return np.ascontiguousarray(back).astype(dtype, copy=False).reshape(shape)

        return PurifierInput(images, (height, width), channels, from_purifier)

    def _map(self, values: Numbers, typed: bool) -> tuple[bool, NDArray[np.float64], NDArray[np.float64]]:
        """Whether the values are grey levels to be kept as integers; else each channel's scale and offset to [0, 1]."""
        one, zero = np.ones(1), np.zeros(1)
        if self.std:
            return False, np.array(self.std, np.float64), np.array(self.mean, np.float64)
        chosen = self.range
        if chosen == "auto":
            levels = values.dtype.kind != "f" and (typed or values.max() > 1)
            chosen = "0-255" if levels else "0-1"
        if chosen == "0-255":
            return values.dtype.kind != "f", one / 255, zero
        return (False, one / 2, one / 2) if chosen == "-1-1" else (False, one, zero)

    def _typed(self, raw: Numbers, takes: Callable[[int, int, int], bool]) -> Numbers:
        """The raw form's bytes as the numbers that make a purifier's shape of them: FP32, UINT8 or FP16."""
        for dtype in (np.dtype("<f4"), np.dtype("u1"), np.dtype("<f2")):
            if raw.size % dtype.itemsize == 0 and self._axes((raw.size // dtype.itemsize,), takes):
                return raw.view(dtype)
        raise WrongSize(f"no purifier takes {raw.size} raw bytes as one image of FP32, UINT8 or FP16")


def _is_identity(scale: NDArray[np.float64], offset: NDArray[np.float64]) -> bool:
    return bool((scale == 1).all() and (offset == 0).all())
