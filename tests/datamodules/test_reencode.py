from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import jpeg, pixels
from PIL import Image, ImageCms

from datamodules.errors import DataError
from datamodules.reencode import ImageFormat, Placement, image_size


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG"
        assert image.mode == "RGB"
        return np.asarray(image).astype(int)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_form_of_a_picture_comes_out_alike() -> None:
    array = pixels(0)
    image = Image.fromarray(array)
    forms = [array, image, saved(image, "PNG"), saved(image, "BMP"), saved(image, "WEBP", lossless=True)]
    written = {ImageFormat().encode(form, "p").data for form in forms}
    assert len(written) == 1
    assert np.abs(decoded(written.pop()) - array).mean() < 3


@pytest.mark.parametrize("source", ["PNG", "JPEG"])
def test_quantisation_and_chroma_are_the_same_whatever_came_in(source: str) -> None:
    with Image.open(
        io.BytesIO(ImageFormat(quality=80).encode(saved(Image.fromarray(pixels(1)), source), "p").data)
    ) as a:
        reference = Image.open(io.BytesIO(saved(Image.fromarray(pixels(2)), "JPEG", quality=80, subsampling=2)))
        assert a.quantization == reference.quantization
        assert [layer[1:3] for layer in a.layer] == [layer[1:3] for layer in reference.layer]


def test_metadata_is_dropped_and_orientation_applied() -> None:
    image = Image.fromarray(pixels(3, 20, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to look at it
    exif[0x010E] = "a description"
    data = saved(image, "JPEG", exif=exif, quality=98, comment=b"made by a machine")
    assert image_size(data, "p") == (20, 40)
    with Image.open(io.BytesIO(ImageFormat().encode(data, "p").data)) as turned:
        assert turned.size == (20, 40)
        assert not turned.getexif()
        assert "comment" not in turned.info
        assert np.abs(np.asarray(turned).astype(int) - np.rot90(np.asarray(image), -1)).mean() < 4


def test_transparency_is_white_and_sixteen_bits_are_scaled() -> None:
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    assert decoded(ImageFormat().encode(saved(clear, "PNG"), "p").data).min() >= 253
    deep = Image.fromarray(np.full((16, 16), 128 * 257, dtype=np.uint16))
    assert np.abs(decoded(ImageFormat().encode(saved(deep, "PNG"), "p").data) - 128).max() <= 1
    assert np.abs(decoded(ImageFormat().encode(np.full((8, 8), 77, dtype=np.uint8), "p").data) - 77).max() <= 1


def test_colour_profiles_are_applied() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(pixels(4))
    with_profile = ImageFormat().encode(saved(image, "PNG", icc_profile=lab), "p").data
    assert np.abs(decoded(with_profile) - decoded(ImageFormat().encode(image, "p").data)).max() <= 6
    broken = ImageFormat().encode(saved(image, "PNG", icc_profile=b"no profile" * 30), "p").data
    assert broken == ImageFormat().encode(image, "p").data


def test_a_size_makes_squares_of_the_centre() -> None:
    array = np.zeros((40, 120, 3), dtype=np.uint8)
    array[:, 40:80] = (0, 255, 0)
    small = decoded(ImageFormat(size=20).encode(array, "p").data)
    assert small.shape == (20, 20, 3)
    assert np.abs(small[:, 2:-2] - (0, 255, 0)).max() < 30


@given(st.integers(4, 60), st.integers(4, 60), st.integers(2, 60))
def test_boxes_move_with_the_pixels(width: int, height: int, size: int) -> None:
    place = ImageFormat(size=size).placement(width, height)
    assert (place.width, place.height) == (size, size)
    centre = place.box(width / 2 - 1, height / 2 - 1, 2, 2)
    assert centre is not None
    left, top, box_width, box_height = centre
    assert (left + box_width / 2, top + box_height / 2) == pytest.approx((size / 2, size / 2))
    assert box_width == pytest.approx(min(2 * size / min(width, height), size))
    assert place.box(0, 0, width, height) == pytest.approx((0, 0, size, size))


def test_a_box_outside_is_gone() -> None:
    place = Placement(1.0, 50, 0, 100, 100)
    assert place.box(0, 0, 49, 10) is None
    assert place.polygon([0.0, 0.0, 60.0, 20.0, 500.0, 500.0]) == [0, 0, 10, 20, 100, 100]


def test_keeping_originals_keeps_bytes_that_a_browser_knows() -> None:
    keep = ImageFormat(keep_original=True)
    data = jpeg(5)
    assert keep.encode(data, "p") == (data, "jpg")
    png = saved(Image.fromarray(pixels(5)), "PNG")
    assert keep.encode(png, "p") == (png, "png")
    assert keep.encode(saved(Image.fromarray(pixels(5)), "BMP"), "p").extension == "jpg"


@pytest.mark.parametrize("data", [b"", b"no picture", jpeg(6)[:200], jpeg(6, 400, 400)[:2500]])
@pytest.mark.parametrize("keep", [True, False])
def test_broken_pictures_are_named(data: bytes, keep: bool) -> None:
    with pytest.raises(DataError, match=r"^photo 7: "):
        ImageFormat(keep_original=keep).encode(data, "photo 7")


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), dtype=np.uint8), "a.jpg", None])
def test_other_types_are_refused(image: object) -> None:
    with pytest.raises(DataError, match="photo 7"):
        ImageFormat().encode(image, "photo 7")  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"size": 0}, {"quality": 0}, {"quality": 101}, {"size": 8, "keep_original": True}])
def test_options_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(DataError):
        ImageFormat(**options)  # type: ignore[arg-type]
