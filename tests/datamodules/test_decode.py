"""Decoding held against Pillow and OpenCV, and against files that are damaged or made to do harm."""

from __future__ import annotations

import io
import math
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from damage import BYTE_DAMAGE, Damage, several
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.decode import MAX_PIXELS, Augmentation, Crop, Picture, decode, decode_and_fit, fit
from datamodules.errors import DataError, SampleError


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Colours that run into each other, with some edges and texture, as in a photo."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    pixels = np.asarray(coarse).astype(np.int16)
    pixels[height // 3 : height // 2, width // 4 : width // 2] //= 2
    pixels += rng.integers(-6, 7, pixels.shape, dtype=np.int16)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> Picture:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def difference(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> tuple[float, int]:
    """Mean and largest absolute difference, in grey levels."""
    apart = np.abs(one.astype(int) - other.astype(int))
    return float(apart.mean()), int(apart.max())


def reason(data: bytes, **options: Any) -> str:
    with pytest.raises(SampleError, match=r"^a\.jpg: ") as caught:
        decode(data, "a.jpg", **options)
    return caught.value.kind


# Whole pictures


@pytest.mark.parametrize("shape", [(64, 96), (33, 57), (1, 1), (7, 3), (8, 8), (257, 16)])
@pytest.mark.parametrize("options", [{"subsampling": n} for n in (0, 1, 2)] + [{"progressive": True}, {"quality": 40}])
def test_jpeg_is_what_pillow_and_opencv_make_of_it(shape: tuple[int, int], options: dict[str, Any]) -> None:
    data = encoded(photo(*shape), "JPEG", **options)
    picture = decode(data)
    assert picture.dtype == np.uint8
    opencv = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    for other in (by_pillow(data), opencv):
        assert picture.shape == other.shape
        mean, most = difference(picture, other)
        assert mean < 0.5
        assert most <= 4


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_of_other_colours(mode: str) -> None:
    data = encoded(photo(48, 64).convert(mode), "JPEG", quality=95)
    mean, _ = difference(decode(data), by_pillow(data))
    assert mean < 3  # there is no one way from ink to light


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_lossless_formats_lose_nothing(kind: str) -> None:
    image = photo(31, 50)
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode(encoded(image, kind, **options)), np.asarray(image))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_png_of_every_kind_becomes_its_colours(mode: str) -> None:
    image = photo(20, 30)
    if mode == "I;16":
        grey = np.asarray(image.convert("L"))
        data = encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
        expected = np.repeat(grey[:, :, None], 3, axis=2)
    else:
        converted = image.quantize(16) if mode == "P" else image.convert(mode)
        data, expected = encoded(converted, "PNG"), np.asarray(converted.convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected)


def test_transparency_is_dropped_as_by_pillow_and_open_clip() -> None:
    """What is transparent shows the colour beneath, which is what ``image.convert("RGB")`` makes of it everywhere."""
    pixels = np.asarray(photo(12, 12).convert("RGBA")).copy()
    pixels[:6, :, 3] = 0
    data = encoded(Image.fromarray(pixels), "PNG")
    np.testing.assert_array_equal(decode(data), pixels[:, :, :3])
    palette = photo(12, 12).quantize(4)
    np.testing.assert_array_equal(decode(encoded(palette, "PNG", transparency=1)), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_not_followed_by_any_format(kind: str, orientation: int) -> None:
    """As in open_clip's training and in Pillow: a picture is trained on as its pixels lie."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = photo(20, 34)
    picture = decode(encoded(image, kind, exif=exif))
    assert picture.shape == (20, 34, 3)
    np.testing.assert_array_equal(picture, decode(encoded(image, kind)))


# Smaller pictures


@settings(deadline=None, max_examples=60)
@given(height=st.integers(1, 300), width=st.integers(1, 300), least=st.integers(0, 320))
def test_jpeg_is_decoded_at_the_smallest_scale_that_suffices(height: int, width: int, least: int) -> None:
    picture = decode(encoded(Image.new("RGB", (width, height)), "JPEG"), min_side=least)
    scales = [
        (math.ceil(height * eighths / 8), math.ceil(width * eighths / 8)) for eighths in (range(1, 9) if least else [8])
    ]
    # A side that is shorter than what is asked for cannot be helped, and is left whole.
    enough = [sides for sides in scales if sides[0] >= min(least, height) and sides[1] >= min(least, width)]
    assert picture.shape == (*enough[0], 3)


@pytest.mark.parametrize("shape", [(512, 512), (700, 1030), (1200, 640), (225, 224), (224, 224), (2000, 2001)])
@pytest.mark.parametrize("size", [(224, 224), (64, 48)])
def test_fitting_is_close_to_a_full_decode_and_an_exact_area_mean(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    data = encoded(photo(*shape), "JPEG", quality=92)
    scale = min(shape[0] / size[0], shape[1] / size[1])
    top, left = (shape[0] - size[0] * scale) / 2, (shape[1] - size[1] * scale) / 2
    with Image.open(io.BytesIO(data)) as image:
        box = (left, top, left + size[1] * scale, top + size[0] * scale)
        expected = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BOX, box=box))
    picture = decode_and_fit(data, size)
    assert picture.shape == (*size, 3)
    mean, _ = difference(picture, expected)
    # Cuts on whole pixels, of the picture as decoded, shift it by up to half of one where they do not fall on them.
    whole = shape in [(512, 512), (2000, 2001), (1200, 640)] and size == (224, 224)
    assert mean < (1.5 if whole else 4)
    assert np.corrcoef(picture.ravel(), expected.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("mirror", [False, True])
def test_a_crop_is_that_part_of_the_picture(mirror: bool) -> None:
    data = encoded(photo(640, 960), "JPEG", quality=92)
    crop = Crop(top=0.25, left=0.5, height=0.375, width=0.375, mirror=mirror)
    with Image.open(io.BytesIO(data)) as image:
        centre = image.crop((160, 0, 800, 640))
        part = centre.crop((320, 160, 320 + 240, 160 + 240)).resize((80, 80), Image.Resampling.BOX)
        expected = np.asarray(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else part)
    mean, most = difference(decode_and_fit(data, (80, 80), crop=crop), expected)
    assert mean < 1.5
    assert most < 40


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    picture = np.asarray(photo(32, 48))
    np.testing.assert_array_equal(fit(picture, (32, 48)), picture)
    np.testing.assert_array_equal(fit(picture, (32, 48), Crop(mirror=True)), picture[:, ::-1])
    np.testing.assert_array_equal(fit(picture, (32, 32)), picture[:, 8:40])


def test_the_result_is_written_where_it_is_wanted() -> None:
    batch = np.zeros((3, 16, 16, 3), dtype=np.uint8)
    data = encoded(photo(40, 60), "JPEG")
    for crop in (None, Crop(0.1, 0.1, 0.5, 0.5, mirror=True)):
        made = decode_and_fit(data, (16, 16), crop=crop, out=batch[1])
        assert np.shares_memory(made, batch)
        np.testing.assert_array_equal(batch[1], decode_and_fit(data, (16, 16), crop=crop))
    assert not batch[[0, 2]].any()


@settings(deadline=None, max_examples=300)
@example(shape=(1, 1), size=(16, 16), scale=(0.05, 0.1), u=[0.5, 0.9, 0.9, 0.5])
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    scale=st.tuples(st.floats(0.001, 1.0), st.floats(0.001, 1.0)).map(lambda pair: (min(pair), max(pair))),
    u=st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4),
)
def test_every_crop_of_every_shape_keeps_to_the_pictures_colours(
    shape: tuple[int, int], size: tuple[int, int], scale: tuple[float, float], u: list[float]
) -> None:
    """Tracking pixels and banners are common among pictures of the web."""
    crop = Augmentation(scale, flip=0.5).draw(np.array(u))
    plain = np.full((*shape, 3), (10, 128, 250), dtype=np.uint8)
    np.testing.assert_array_equal(fit(plain, size, crop), np.broadcast_to(plain[0, 0], (*size, 3)))
    np.testing.assert_array_equal(fit(plain, size), np.broadcast_to(plain[0, 0], (*size, 3)))


def test_crops_stay_inside_and_ranges_are_checked() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        crop = Augmentation((0.1, 0.6), 0.5).draw(rng.random(4))
        assert 0.1 - 1e-9 <= crop.height * crop.width <= 0.6 + 1e-9
        assert 0 <= crop.top <= 1 - crop.height
        assert 0 <= crop.left <= 1 - crop.width
    assert Augmentation().is_identity
    for scale in ((0.0, 1.0), (0.5, 0.4), (0.5, 1.1), (math.nan, 1.0)):
        with pytest.raises(DataError, match=r"data\.augment\.scale"):
            Augmentation(scale)
    with pytest.raises(DataError, match=r"data\.augment\.flip"):
        Augmentation(flip=1.5)


# Damage


@pytest.mark.parametrize("share", [0.999, 0.9, 0.5, 0.1, 0.01, 0.0])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("least", [0, 16])
def test_a_truncated_jpeg_is_refused_not_filled_with_grey(share: float, options: dict[str, Any], least: int) -> None:
    """Decoders fill up what is missing and only warn; a grey lower half would be trained on."""
    data = encoded(photo(64, 96), "JPEG", **options)
    assert reason(data[: int(len(data) * share)], min_side=least) == "undecodable"
    assert reason(data[:-2], min_side=least) == "undecodable"  # without its end mark


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_other_truncated_pictures_are_refused(kind: str) -> None:
    data = encoded(photo(64, 96), kind)
    for share in (0.95, 0.5, 0.1):
        assert reason(data[: int(len(data) * share)]) == "undecodable"


def test_a_jpeg_whose_header_is_whole_and_whose_body_is_garbage_is_refused() -> None:
    data = encoded(photo(64, 96), "JPEG")
    body = data.index(b"\xff\xda") + 14
    garbage = np.random.default_rng(0).integers(0, 256, len(data) - body - 2, dtype=np.uint8).tobytes()
    assert reason(data[:body] + garbage + data[-2:]) == "undecodable"
    assert reason(data[:body] + bytes(len(garbage)) + data[-2:]) == "undecodable"


def test_what_follows_a_picture_is_passed_over() -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(photo(16, 16), kind)
        np.testing.assert_array_equal(decode(data + b"appended" * 9), decode(data))


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"<html>Not found</html>", bytes(999)])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    assert reason(data) == "undecodable"


def test_a_message_is_the_same_for_the_same_bytes_and_means_something() -> None:
    messages = set()
    for _ in range(3):
        with pytest.raises(SampleError) as caught:
            decode(b"<html>Not found</html>", "a.jpg")
        messages.add(str(caught.value))
    (message,) = messages
    assert " object at 0x" not in message


@pytest.mark.parametrize("kind", ["EPS", "TIFF", "PPM", "ICO"])
def test_formats_that_no_shard_holds_are_not_tried(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript to Ghostscript, a program that a picture of the web has no business to start."""
    data = encoded(photo(16, 16), kind)
    opened: list[str] = []
    real = Image.open

    def open_and_tell(*args: Any, **options: Any) -> Any:
        image = real(*args, **options)
        opened.append(str(image.format))
        return image

    monkeypatch.setattr(Image, "open", open_and_tell)
    assert reason(data) == "undecodable"
    assert opened == []


SEEDS = [
    encoded(photo(24, 40), "JPEG"),
    encoded(photo(24, 40), "JPEG", progressive=True),
    encoded(photo(24, 40), "PNG"),
    encoded(photo(24, 40).quantize(8), "PNG"),
    encoded(photo(24, 40), "WEBP"),
]


@settings(deadline=None, max_examples=600)
@given(seed=st.sampled_from(SEEDS), damage=several(BYTE_DAMAGE))
@pytest.mark.filterwarnings("ignore")  # Pillow's own, of corrupt EXIF and of large pictures
def test_a_damaged_picture_is_a_picture_or_a_sample_error(seed: bytes, damage: Damage) -> None:
    try:
        picture = decode_and_fit(damage(seed), (16, 16))
    except SampleError:
        return
    assert picture.shape == (16, 16, 3)


# Bombs


def jpeg_of(height: int, width: int) -> bytes:
    """A small JPEG whose header claims other sides."""
    data = bytearray(encoded(photo(16, 16), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def png_of(height: int, width: int, *, pixels: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG of black and white pixels, of which only some need be there."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = extra + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def webp_of(height: int, width: int) -> bytes:
    """A WebP that claims the largest sides there are: 16,383 each."""
    data = bytearray(encoded(photo(16, 16), "WEBP"))
    frame = data.index(b"\x9d\x01\x2a") + 3
    data[frame : frame + 4] = struct.pack("<HH", width, height)
    return bytes(data)


def test_a_jpeg_bomb_is_refused_by_its_header() -> None:
    assert reason(jpeg_of(65_500, 65_500)) == "oversized"
    assert reason(jpeg_of(65_500, 65_500), min_side=16) == "oversized"  # nor at an eighth of it
    assert MAX_PIXELS < 65_500 * 3100
    assert reason(jpeg_of(65_500, 3100)) == "oversized"


@pytest.mark.parametrize(
    "data",
    [png_of(50_000, 50_000), png_of(2**31 - 1, 2**31 - 1), png_of(MAX_PIXELS + 1, 1), webp_of(16_383, 16_383)],
    ids=["png", "largest png", "one line", "webp"],
)
def test_other_bombs_are_refused_by_their_headers(data: bytes) -> None:
    assert len(data) < 10_000
    assert reason(data) == "oversized"


def segments(data: bytes) -> list[tuple[int, bytes]]:
    """The marker segments of a JPEG between its first and its last marker, scans with what they hold."""
    found, at = [], 2
    while data[at + 1] != 0xD9:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xDA:
            while data[end] != 0xFF or data[end + 1] in (0, *range(0xD0, 0xD8)):
                end += 1
        found.append((data[at + 1], data[at:end]))
        at = end
    return found


def test_a_large_jpeg_of_empty_scans_without_end_is_refused_unread() -> None:
    """Every scan is a pass over the whole picture, and an empty one takes no more than a few hundred bytes."""
    parts = segments(encoded(Image.new("RGB", (4200, 4200)), "JPEG", progressive=True))
    scan = min((part for marker, part in parts if marker == 0xDA), key=len)
    bomb = b"\xff\xd8" + b"".join(part for _, part in parts) + 200 * scan + b"\xff\xd9"
    with pytest.raises(SampleError, match=r"a\.jpg: is a JPEG of more than \d+ scans"):
        decode(bomb, "a.jpg", min_side=16)
    honest = encoded(Image.new("RGB", (4200, 4200)), "JPEG", progressive=True)
    assert decode(honest, min_side=500).shape == (525, 525, 3)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of a process's memory are Linux's")
def test_bombs_take_no_memory(tmp_path: Path) -> None:
    """In a process that may grow by 256 MB, far less than the pictures claim."""
    bombs = [jpeg_of(65_500, 65_500), jpeg_of(65_500, 3100), png_of(50_000, 50_000), webp_of(16_383, 16_383)]
    # Ten thousand to one: text and colour profiles can be bombs of their own.
    text = b"Comment\x00\x00" + zlib.compress(bytes(300_000_000), 9)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    bombs.append(png_of(8, 8, pixels=bytes(16), extra=chunk))
    for number, bomb in enumerate(bombs):
        (tmp_path / str(number)).write_bytes(bomb)
    program = """
        import resource, sys
        from pathlib import Path
        from datamodules.decode import decode, decode_and_fit
        from datamodules.errors import SampleError

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
        for path in sorted(Path(sys.argv[1]).iterdir()):
            try:
                decode_and_fit(path.read_bytes(), (224, 224))
            except SampleError as error:
                assert "memory" not in str(error).lower(), error
                assert not isinstance(error.__cause__, MemoryError), error
            else:
                raise SystemExit(f"{path} was decoded")
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], check=True, timeout=300)
