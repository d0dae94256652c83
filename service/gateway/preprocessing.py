"""What the served classifier takes: which input holds the image, and how its numbers stand for pixels.

Tensors of a request are turned into what a purifier takes and back again. A value that purification did not change goes
back as it came, bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.codec import Images
from ..errors import BadParameter, BrokenBody, BrokenImage, WrongSize, shown
from .protocols import Numbers, Slot
from .protocols.spelling import Encoded, read

Layout = Literal["auto", "nchw", "nhwc"]
Range = Literal["auto", "0-1", "0-255", "-1-1"]

# What a shape can mean, most usual first: N images, C channels, H by W pixels; F is C * H * W in one row.
_LAYOUTS: dict[str, tuple[str, ...]] = {
    "auto": ("NCHW", "NHWC", "CHW", "HWC", "NHW", "HW", "NF", "F"),
    "nchw": ("NCHW", "CHW", "NHW", "HW", "NF", "F"),
    "nhwc": ("NHWC", "HWC", "NHW", "HW", "NF", "F"),
}
# Beyond [0, 1] by no more than rounding: BF16 has 8 bits, and a mean and deviation were divided through.
_TOLERANCE = 4e-3
_RAW_TYPES = (np.dtype("<f4"), np.dtype("u1"), np.dtype("<f2"))  # of the raw form, the likeliest first
_LEAST_SIDE = 8  # of what is an image by its axes alone, whatever its size

Takes = Callable[[int, int, int], bool]
"""Whether a purifier takes images of (channels, height, width)."""


class Axes(NamedTuple):
    """How a shape is read as images."""

    layout: str
    channels: int
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class Image:
    """A slot that holds images: ``encoded`` ones, or a tensor with its ``axes``, and the raw form's ``dtype``.

    With neither, it was chosen for its name alone, and :meth:`Preprocessing.to_purifier` refuses it.
    """

    index: int
    encoded: Encoded | None = None
    axes: Axes | None = None
    dtype: np.dtype[Any] | None = None


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

    def find_images(self, slots: Sequence[Slot], fixed: Takes, takes: Takes) -> list[Image]:
        """The slots to purify. Every value is decided on here, whatever protocol it came by.

        Encoded images are found everywhere, in every spelling; tensors under the declared name, or else wherever they
        have a purifier's shape. A slot that shares its name with an image is chosen whatever it holds, and refused
        where that is no image: nothing may pass beside an image under its name.

        Args:
            slots: the values of a request.
            fixed: what purifiers of a fixed size take.
            takes: what any purifier takes. One of any size would see an image in every matrix: it is asked about those
                only where no other image is found.

        Raises:
            BrokenImage: an encoded image that cannot be read.
            BrokenBody: a purifier's shape, of a datatype that is not read; or what may be a file as well as pixels.
            WrongSize: a purifier's shape, in an order of axes that is not read.
        """
        encoded: dict[int, Encoded | None] = {}
        for asked in (fixed, takes):
            names = set()
            for index, slot in enumerate(slots):
                layout = self._tensor(slot, asked, takes)
                if index not in encoded and (layout is None or "F" in layout):
                    encoded[index] = _encoded(slot)
                found = encoded.get(index)
                if layout and found:
                    raise BrokenBody(f"input {shown(slot.name)}: its numbers may be the bytes of a file, or pixels")
                if self._is_image(slot, found, layout, fixed, takes):
                    names.add(slot.name)
            if names:
                chosen = [index for index, slot in enumerate(slots) if slot.name in names]
                return [self._image(index, slots[index], encoded.get(index), fixed, takes) for index in chosen]
        return []

    def _image(self, index: int, slot: Slot, encoded: Encoded | None, fixed: Takes, takes: Takes) -> Image:
        """A chosen slot. One of any size takes what no purifier of a fixed size does, in whatever layout."""
        shapes: list[tuple[np.dtype[Any] | None, tuple[int, ...]]] = []
        if not encoded and isinstance(slot.value, np.ndarray):
            shapes = [(None, slot.value.shape)]
        elif not encoded and slot.raw and isinstance(slot.value, bytes):
            size = len(slot.value)
            shapes = [(dtype, (size // dtype.itemsize,)) for dtype in _RAW_TYPES if size % dtype.itemsize == 0]
        for asked in (fixed, takes):
            for dtype, shape in shapes:
                if axes := self._axes(shape, asked):
                    return Image(index, axes=axes, dtype=dtype)
        return Image(index, encoded)

    def _tensor(self, slot: Slot, asked: Takes, takes: Takes) -> str | None:
        """The layout of a tensor that a purifier takes."""
        if not isinstance(slot.value, np.ndarray) or not self._is_declared(slot):
            return None
        found = self._axes(slot.value.shape, asked) or self._explicit_axes(slot.value.shape, takes)
        return found[0] if found else None

    def _is_declared(self, slot: Slot) -> bool:
        return slot.name in (self.input or slot.name, "")

    def _is_image(self, slot: Slot, encoded: Encoded | None, layout: str | None, fixed: Takes, takes: Takes) -> bool:
        name = slot.name or "instances"
        if encoded:
            if reason := encoded.reason or (slot.reason and f"an encoded image, but {slot.reason}"):
                raise BrokenImage(f"input {shown(name)}: {reason}")
            return True
        if slot.raw or layout:
            return True
        if not self._is_declared(slot):
            return False
        shape = slot.value.shape if isinstance(slot.value, np.ndarray) else slot.shape
        if slot.reason and (self._axes(shape, fixed) or self._explicit_axes(shape, takes)):
            raise BrokenBody(f"input {shown(name)} has the shape {list(shape)} of an image, but {slot.reason}")
        if _is_another_layout(shape, fixed):
            reason = "but not its axes in an order that is read here; see input_layout"
            raise WrongSize(f"input {shown(name)} has the extents of an image, {list(shape)}, {reason}")
        # Of a declared name, and of rows without one, nothing else may come.
        return slot.name == self.input if self.input else slot.name == "" and isinstance(slot.value, np.ndarray)

    def _axes(self, shape: Sequence[int], takes: Takes) -> Axes | None:
        """The first layout under which a purifier takes the shape."""
        if len(shape) > 4:  # frames or crops of each image
            shape = (math.prod(shape[:-3]), *shape[-3:])
        for layout in _LAYOUTS[self.layout]:
            if len(layout) != len(shape):
                continue
            extents = dict(zip(layout, shape, strict=True))
            if "F" in extents:
                for channels in (1, 3):
                    side = math.isqrt(extents["F"] // channels)
                    if side * side * channels == extents["F"] and side and takes(channels, side, side):
                        return Axes(layout, channels, side, side)
                continue
            channels, height, width = extents.get("C", 1), extents["H"], extents["W"]
            if channels in (1, 3) and height and width and takes(channels, height, width):
                return Axes(layout, channels, height, width)
        return None

    def _explicit_axes(self, shape: Sequence[int], takes: Takes) -> Axes | None:
        """As :meth:`_axes`, for a shape that is an image's by its axes alone, so that one of any size takes it."""
        found = self._axes(shape, takes) if len(shape) >= 4 else None
        return found if found and min(found[2:]) >= _LEAST_SIDE else None

    def fits(self, shape: Sequence[int], takes: Takes) -> bool:
        """Whether V2 metadata's shape, where -1 is any extent, may hold images for a purifier."""
        if -1 in shape[1:]:
            return True
        counted = [1, *shape[1:]] if shape and shape[0] == -1 else list(shape)
        return self._axes(counted, takes) is not None or self._axes([1, *counted], takes) is not None

    def to_purifier(self, slot: Slot, image: Image) -> PurifierInput:
        """A numeric slot as a purifier takes it, in the layout that was found.

        Raises:
            WrongSize: no purifier takes the shape under the declared layout.
            BrokenBody: neither numbers nor bytes.
            BadParameter: values outside the declared range, NaN among them.
        """
        name = slot.name or "instances"
        tensor, (layout, channels, height, width) = _numbers(name, slot, image)
        if len(self.std) not in (0, 1, channels):
            raise WrongSize(
                f"input {shown(slot.name)}: {channels} channel(s), but {len(self.std)} means and deviations declared"
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
        axis = (-1,) if channels_last else (-1, 1, 1)
        scale, offset = scale.reshape(axis), offset.reshape(axis)
        images: Images = (
            _levels(name, values, channels_last) if integral else _unit(name, values, scale, offset, channels_last)
        )

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


def _encoded(slot: Slot) -> Encoded | None:
    """The encoded images in a slot, be it that only its client says that it holds one."""
    found = None if slot.value is None else read(slot.value)
    if not found and slot.declared and isinstance(slot.value, bytes) and slot.value:
        return Encoded([slot.value], lambda files: files[0])
    return found


def _is_another_layout(shape: Sequence[int], fixed: Takes) -> bool:
    """Whether a shape is a purifier's in some order of axes, with some of one extent or an alpha channel more."""
    plain, longer = Preprocessing(), tuple(extent for extent in shape if extent != 1)
    if len(shape) >= 2 and (plain._axes(shape, fixed) or plain._axes(longer, fixed)):
        return True
    opaque = [(*longer[:-1], longer[-1] - 1), (*longer[:-3], longer[-3] - 1, *longer[-2:])] if len(longer) >= 3 else []
    return any(3 in (other[-1], other[-3]) and plain._axes(other, fixed) for other in opaque)


def _numbers(name: str, slot: Slot, image: Image) -> tuple[Numbers, Axes]:
    """The numbers of a slot and how they are read as images; raises as :meth:`Preprocessing.to_purifier` says."""
    tensor = slot.value
    if slot.raw and isinstance(tensor, bytes):
        if image.dtype is None:
            raise WrongSize(f"no purifier takes {len(tensor)} raw bytes as one image of FP32, UINT8 or FP16")
        tensor = np.frombuffer(tensor, image.dtype)
        if _is_subnormal(tensor):
            reason = "its numbers are next to nothing: integers? Send these with their datatype, not in the raw form"
            raise BadParameter(f"input {shown(name)}, read as {tensor.dtype}: {reason}")
    if not isinstance(tensor, np.ndarray):
        raise BrokenBody(f"input {shown(name)}: {slot.reason or 'neither numbers nor an encoded image'}")
    if image.axes is None:
        raise WrongSize(f"input {shown(name)}: no purifier takes the shape {list(tensor.shape)}")
    return tensor, image.axes


def _is_subnormal(values: Numbers) -> bool:
    """Whether most floats are too small for their type's normal form, as the bits of small integers are.

    Some of an image's may be in FP16, whose normal form ends at 6e-5.
    """
    if values.dtype.kind != "f":
        return False
    sizes = np.abs(values[values != 0])
    return bool(2 * np.count_nonzero(sizes < np.finfo(values.dtype).tiny) > sizes.size)


def _levels(name: str, values: Numbers, channels_last: bool) -> NDArray[np.uint8]:
    """Integers as uint8 ``(N, H, W, C)``."""
    if values.min() < 0 or values.max() > 255:
        raise BadParameter(f"input {shown(name)}: integers in 0-255 are expected")
    pixels = values if channels_last else values.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels.astype(np.uint8))


def _unit(
    name: str, values: Numbers, scale: NDArray[np.float64], offset: NDArray[np.float64], channels_last: bool
) -> NDArray[np.float32]:
    """Numbers as float32 ``(N, C, H, W)`` in [0, 1]."""
    mapped = values if _is_identity(scale, offset) else values * scale + offset  # float64 in between
    mapped = mapped.transpose(0, 3, 1, 2) if channels_last else mapped
    unit: NDArray[np.float32] = np.ascontiguousarray(mapped, dtype=np.float32)
    low, high = float(unit.min()), float(unit.max())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):  # false for NaN too
        raise BadParameter(
            f"input {shown(name)}: finite values that stand for [0, 1] are expected; under the declared range or mean "
            f"and deviation these reach from {low:.4g} to {high:.4g}; see ARN_INPUT_RANGE, and ARN_INPUT_MEAN with "
            f"ARN_INPUT_STD"
        )
    return unit if low >= 0 and high <= 1 else unit.clip(0, 1)


def _is_identity(scale: NDArray[np.float64], offset: NDArray[np.float64]) -> bool:
    return bool((scale == 1).all() and (offset == 0).all())
