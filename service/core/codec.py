"""Bytes to arrays and back: images through Pillow, ``.npy`` without pickle. Knows no HTTP and no model.

Whatever is wrong with an upload is raised here as one of the exceptions of :mod:`arn_purify.service.errors`.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps

from ..errors import BadParameter, BrokenBody, BrokenImage, NotAcceptable, TooManyPixels
from . import png
from .fit import Fit, fit_image

# The only decoders that untrusted bytes reach.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
IMAGE_TYPES = (
    "image/png", "image/jpeg", "image/webp", "image/bmp",
    "image/x-ms-bmp", "image/jpg", "image/pjpeg", "image/x-png",
)  # fmt: skip
NPY_TYPE = "application/x-npy"
_LIMITS = {"webp": 16383, "jpeg": 65500}  # pixels a side
_EXIF_ORIENTATION = 0x0112
_TRANSPOSED = (5, 6, 7, 8)
# Channels that differ by no more than a lossy format rounds show no colour.
_GREY_LEVELS = 3
_ORIENTATION_CARRIERS = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})

_IMAGE_MAGICS = (png.SIGNATURE, b"\xff\xd8\xff", b"BM")
_NPY_MAGIC = b"\x93NUMPY"

Image.MAX_IMAGE_PIXELS = None  # `open_image` checks the header itself, against a setting
# Pillow's warnings about broken metadata in a client's image do not belong into the log.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

Images = NDArray[np.uint8] | NDArray[np.float32]
"""uint8 ``(N, H, W, C)`` or float32 ``(N, C, H, W)`` in [0, 1]; the dtype decides the layout."""


def is_image(data: bytes | bytearray) -> bool:
    """Whether bytes begin as one of the image formats that are read."""
    return data.startswith(_IMAGE_MAGICS) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def is_npy(data: bytes | bytearray) -> bool:
    """Whether bytes begin as an ``.npy`` file."""
    return data.startswith(_NPY_MAGIC)


@dataclasses.dataclass(frozen=True)
class OpenedImage:
    """An image of which only the header was read.

    Args:
        mode: Pillow's name of its pixels.
        size: (height, width), as a viewer shows it.
        oriented: the header asks the viewer to rotate or mirror it.
        load: the image, decoded at the latest when its pixels are asked for.
    """

    mode: str
    size: tuple[int, int]
    oriented: bool
    load: Callable[[], Image.Image]

    @cached_property
    def image(self) -> Image.Image:
        """The image; raises nearly anything on broken bytes."""
        return self.load()

    @property
    def channels(self) -> int:
        """Colour channels that are enough to show it: 1 or 3."""
        return 1 if self.mode in ("1", "L", "LA", "La") or self.mode.startswith("I") else 3

    def has_colour(self) -> bool:
        """Whether a pixel has a colour; an image that was saved in colour may be grey all over.

        Raises:
            BrokenImage: not decodable.
        """
        if self.channels == 1:
            return False
        try:
            bands = _converted(_flatten(self.image), "RGB").split()
        except Exception as error:
            raise BrokenImage(f"the image cannot be decoded: {_sentence(error)}") from error
        most = (ImageChops.difference(bands[0], band).getextrema()[1] for band in bands[1:])
        return max(most) > _GREY_LEVELS  # type: ignore[operator] # one band: a pair of numbers

    def decode(self, channels: int, resize_to: tuple[int, int] | None = None, fit: Fit = "crop") -> NDArray[np.uint8]:
        """Pixels as uint8 ``(1, H, W, channels)``.

        EXIF orientation is applied, alpha composited over black, 16 bits rounded to 8, a palette looked up; a
        one-channel model gets the luminance (ITU-R 601). ``resize_to`` (height, width) resamples: :func:`fit_image`.

        Raises:
            BrokenImage: not decodable.
        """
        try:
            upright = ImageOps.exif_transpose(self.image) if self.oriented else self.image
            image = _converted(_flatten(upright), "L" if channels == 1 else "RGB")
            if resize_to:
                image = fit_image(image, resize_to, fit)
            pixels = np.array(image)  # reads an image that nothing before had to
        except Exception as error:  # Pillow's decoders raise nearly anything on broken bytes
            raise BrokenImage(f"the image cannot be decoded: {_sentence(error)}") from error
        return pixels.reshape(1, image.height, image.width, channels)


def open_image(data: bytes | bytearray, max_pixels: int) -> OpenedImage:
    """Read an image's header.

    Raises:
        BrokenImage: not PNG, JPEG, WebP or BMP, or with more than one frame.
        TooManyPixels: larger than ``max_pixels``; nothing was decoded.
    """
    plain = png.open_plain(data)
    if plain is None:
        return open_by_pillow(data, max_pixels)
    _check_pixels(plain.size, max_pixels)
    return OpenedImage(plain.mode, plain.size[::-1], oriented=False, load=plain.load)


def open_by_pillow(data: bytes | bytearray, max_pixels: int) -> OpenedImage:
    """As :func:`open_image`, whatever the file."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        raise BrokenImage(f"not a PNG, JPEG, WebP or BMP image: {_sentence(error)}") from error
    width, height = image.size
    _check_pixels(image.size, max_pixels)
    try:
        # An MPO is a phone's JPEG followed by a preview or gain map: its first frame is the photograph.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        # Only where the header has metadata: otherwise Pillow would decode a whole PNG to look for it.
        described = not _ORIENTATION_CARRIERS.isdisjoint(image.info)
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1) if described else 1
    except Exception as error:
        raise BrokenImage(f"the image's header is broken: {_sentence(error)}") from error
    if frames > 1:
        raise BrokenImage(f"the image has {frames} frames; only still images are purified")
    size = (width, height) if orientation in _TRANSPOSED else (height, width)
    return OpenedImage(image.mode, size, oriented=orientation != 1, load=lambda: image)


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise TooManyPixels(f"the image has {width}x{height} pixels, more than the {max_pixels} that are taken")


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """The image in a mode: itself where it has that one, for Pillow would make a copy."""
    return image if image.mode == mode else image.convert(mode)


def _flatten(image: Image.Image) -> Image.Image:
    """Eight bits a channel and no alpha."""
    if image.mode.startswith("I"):  # 16-bit grey: 65535 becomes 255, 257 levels become one
        levels = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.round(levels / 257).clip(0, 255).astype(np.uint8))
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")  # its writer left the fourth byte unset, and every viewer shows it
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return image.convert("RGB") if image.mode in ("P", "CMYK", "YCbCr") else image


def _sentence(error: Exception) -> str:
    text = str(error).split("<_io")[0].strip().rstrip(".")  # Pillow names the buffer's address
    return text or type(error).__name__


def encode_image(pixels: NDArray[np.uint8], kind: Literal["png", "webp", "jpeg"] = "png") -> bytes:
    """uint8 ``(H, W, C)`` to a lossless PNG or WebP, or to a JPEG of quality 95 with all of its colour.

    Raises:
        NotAcceptable: the format cannot hold so large an image.
    """
    if max(pixels.shape[:2]) > (limit := _LIMITS.get(kind, 2**31)):
        raise NotAcceptable(f"{kind.upper()} holds {limit} pixels a side; ask for another type")
    if kind == "png":
        return png.encode(pixels)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    if kind == "jpeg":
        image.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        # For lossless files quality is effort: half of the time of 80, Pillow's default, for one percent more bytes.
        image.save(buffer, "WEBP", lossless=True, exact=True, method=0, quality=0)
    return buffer.getvalue()


def encode_base64(data: bytes) -> str:
    """Base64 text of bytes."""
    return base64.b64encode(data).decode()


def decode_npy(data: bytes | bytearray) -> Images:
    """An ``.npy`` body as uint8 ``(N, H, W, C)`` or float32 ``(N, C, H, W)``, without a copy where it is C-ordered.

    Raises:
        BrokenBody: no ``.npy``, or one whose header and length disagree.
        BadParameter: another dtype or number of dimensions, no images, or values outside [0, 1].
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(stream)
    except Exception as error:
        raise BrokenBody(f"not an .npy body: {_sentence(error)}") from error
    if dtype not in (np.dtype("u1"), np.dtype("<f4")) or len(shape) != 4 or dtype.hasobject:
        raise BadParameter(
            f"the array is {dtype} with {len(shape)} dimensions; uint8 (N, H, W, C) or float32 (N, C, H, W) are taken"
        )
    count = 1
    for extent in shape:  # in Python's integers, which a false header cannot overflow
        count *= int(extent)
    if min(shape) < 1 or any(type(extent) is not int for extent in shape):  # True is an extent to numpy
        raise BadParameter(f"the array of shape {shape} holds no images")
    if len(data) - stream.tell() != count * dtype.itemsize:
        raise BrokenBody(f"the array says {shape} {dtype}, but {len(data) - stream.tell()} bytes follow")
    flat = np.frombuffer(data, dtype, count, stream.tell())
    array = flat.reshape(shape[::-1]).T if fortran_order else flat.reshape(shape)
    if array.dtype != np.uint8 and not (array.min() >= 0 and array.max() <= 1):  # false for NaN too
        raise BadParameter("float32 images must lie in [0, 1]")
    return array


def encode_npy(images: Images) -> bytes:
    """An array as ``.npy``."""
    buffer = io.BytesIO()
    np.save(buffer, images, allow_pickle=False)
    return buffer.getvalue()
