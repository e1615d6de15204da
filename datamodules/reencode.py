"""One path for every picture into a shard, so that codec, colours and geometry do not betray its source."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps

from datamodules.errors import DataError

RawImage = bytes | Image.Image | npt.NDArray[np.uint8]


class Encoded(NamedTuple):
    """A picture as it stands in a shard: its bytes and its file extension."""

    data: bytes
    extension: str


@dataclass(frozen=True)
class Placement:
    """Where the pixels of the original went: ``new = old * scale - offset``, cut to width x height.

    Attributes:
        scale: factor on both axes.
        left: pixels cut off at the left after scaling.
        top: pixels cut off at the top after scaling.
        width: of the written picture.
        height: of the written picture.
    """

    scale: float
    left: float
    top: float
    width: int
    height: int

    def box(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float] | None:
        """Move a box (left, top, width, height); None where nothing of it is left.

        >>> Placement(0.5, 10, 0, 80, 80).box(20, 0, 40, 40)
        (0.0, 0.0, 20.0, 20.0)
        """
        x0, x1 = ((value * self.scale - self.left) for value in (x, x + width))
        y0, y1 = ((value * self.scale - self.top) for value in (y, y + height))
        x0, x1 = max(x0, 0.0), min(x1, float(self.width))
        y0, y1 = max(y0, 0.0), min(y1, float(self.height))
        return (x0, y0, x1 - x0, y1 - y0) if x1 > x0 and y1 > y0 else None

    def polygon(self, points: list[float]) -> list[float]:
        """Move a polygon ``[x0, y0, x1, y1, ...]``, its points held inside the picture."""
        return [
            min(max(value * self.scale - (self.top if i % 2 else self.left), 0.0), self.height if i % 2 else self.width)
            for i, value in enumerate(points)
        ]


@dataclass(frozen=True)
class ImageFormat:
    """How pictures are written.

    Attributes:
        size: side of the square that a picture becomes (shorter side resized with an antialiasing bicubic filter, then
            cut around the centre); None leaves its geometry.
        quality: JPEG quality, 4:2:0 chroma like most JPEGs in the wild.
        keep_original: write encoded pictures byte for byte. Then the codec's traces and the geometry of each source
            stay, and a model can tell the sources by them: for sources that share one history already, or for a test.
    """

    size: int | None = None
    quality: int = 92
    keep_original: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise DataError(f"image size {self.size}: give the side in pixels, 1 or more")
        if not 1 <= self.quality <= 100:
            raise DataError(f"JPEG quality {self.quality} is outside 1 to 100")
        if self.keep_original and self.size is not None:
            raise DataError("keeping the originals and resizing them exclude each other: leave out one of the two")

    def placement(self, width: int, height: int) -> Placement:
        """Where a picture of this width and height ends up."""
        if self.size is None:
            return Placement(1.0, 0.0, 0.0, width, height)
        scale = self.size / min(width, height)
        return Placement(scale, (width * scale - self.size) / 2, (height * scale - self.size) / 2, self.size, self.size)

    def encode(self, image: RawImage, name: str) -> Encoded:
        """Bring a picture into the form of the shards.

        Args:
            image: encoded bytes of any format that Pillow reads, a Pillow image, or uint8 [H, W, 3] or [H, W].
            name: what to call it in an error.

        Raises:
            DataError: naming the picture, if it cannot be decoded or is of another type.
        """
        if self.keep_original and isinstance(image, bytes | bytearray | memoryview):
            data = bytes(image)
            image = _decode(data, name)
            if image.format in _KEPT:
                return Encoded(data, _KEPT[image.format])
        rgb = decode_rgb(image, name)
        try:
            if self.size is not None:
                rgb = ImageOps.fit(rgb, (self.size, self.size), Image.Resampling.BICUBIC, centering=(0.5, 0.5))
            buffer = io.BytesIO()
            rgb.save(buffer, "JPEG", quality=self.quality, subsampling="4:2:0")
        except (OSError, ValueError) as error:
            raise DataError(f"{name}: cannot be written as JPEG ({error})") from error
        return Encoded(buffer.getvalue(), "jpg")


_KEPT = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


def decode_rgb(image: RawImage, name: str) -> Image.Image:
    """Decode a picture as it is looked at: upright, in sRGB, on white where it is transparent, without metadata.

    Args:
        image: encoded bytes of any format that Pillow reads, a Pillow image, or uint8 [H, W, 3] or [H, W].
        name: what to call it in an error.

    Raises:
        DataError: naming the picture, if it cannot be decoded or is of another type.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        image = _decode(bytes(image), name)
    elif isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
            raise DataError(f"{name}: an array must be uint8 [H, W, 3] or [H, W], not {image.dtype} {image.shape}")
        image = Image.fromarray(image)
    elif not isinstance(image, Image.Image):
        raise DataError(f"{name}: a picture is bytes, a Pillow image or a uint8 array, not {type(image).__name__}")
    try:
        return _to_rgb(image)
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: cannot be written as JPEG ({error})") from error


def _decode(data: bytes, name: str) -> Image.Image:
    if not data:
        raise DataError(f"{name}: the file is empty")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures and refuses gigantic ones; only the refusal concerns us.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            image.load()
    except Exception as error:  # decoders raise whatever they please on corrupt data
        raise DataError(f"{name}: cannot be decoded ({error})") from error
    return image


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """Width and height of an encoded picture as it is looked at (EXIF orientation applied).

    Raises:
        DataError: naming the picture, if its header cannot be read.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5
    except Exception as error:  # see _decode
        raise DataError(f"{name}: cannot be decoded ({error})") from error
    return (height, width) if turned else (width, height)


def _to_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow clips 16-bit samples at 255 when it converts them.
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        # What lies under transparent pixels is arbitrary; white is what a page shows.
        rgba = image.convert("RGBA")
        page = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(page, rgba).convert("RGB")
    if profile and image.mode in ("RGB", "CMYK"):
        try:
            # Cameras tag wide colour spaces, generators do not: untreated, photos would come out paler.
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if converted is not None:
                return _plain(converted)
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a broken profile says nothing about the colours
    return _plain(image.convert("RGB"))


def _plain(image: Image.Image) -> Image.Image:
    """Drop comments, EXIF and profiles, which Pillow would carry into the file."""
    image = image.copy()
    image.info = {}
    return image
