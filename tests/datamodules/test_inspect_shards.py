from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures import jpeg, pixels, write_tar
from PIL import Image

from datamodules.contact_sheet import contact_sheet
from datamodules.errors import DataError
from datamodules.index import ShardIndex, build_index
from datamodules.inspect import BLANK, BROKEN, attainable_ratios, broken_pictures, inspect_shards, picture_name
from datamodules.reencode import Encoded
from datamodules.sample import Sample, View
from datamodules.writer import ShardWriter


def shards(folder: Path, samples: list[Sample]) -> ShardIndex:
    with ShardWriter(folder) as writer:
        for i, sample in enumerate(samples):
            writer.write(sample, pixels(i), {name: pixels(100 + i) for name in sample.views})
    return ShardIndex.load(folder)


def test_counts(tmp_path: Path) -> None:
    samples = [
        Sample("a", ("x", "y"), label="cat", views={"sd": View("sd"), "xl": View("xl")}),
        Sample("b", ("x",), label="cat", group="a", views={"sd": View("sd")}),
        Sample("c", (), label="dog"),
        Sample("d", ("x",), source="xl"),
    ]
    found = inspect_shards(shards(tmp_path, samples), decode_all=True)
    assert (found.samples, found.pictures, found.shards) == (4, 7, 1)
    assert found.bytes == (tmp_path / "shard-000000.tar").stat().st_size
    assert found.anchors == {"real": 3, "xl": 1}
    assert found.views == {"sd": 2, "xl": 1}
    assert found.view_names == {"sd": 2, "xl": 1}
    assert (found.captions, found.captions_per_sample, found.without_caption) == (4, (0, 2), 1)
    assert found.labels == {"cat": {"real": 2, "sd": 2, "xl": 1}, "dog": {"real": 1}}
    assert (found.unlabelled, found.groups) == (1, 3)
    assert found.broken is not None
    assert not found.broken
    assert found.ratios.replace_by == {"sd": pytest.approx(2 / 3), "xl": pytest.approx(1 / 3)}
    assert (found.ratios.replace, found.ratios.pairing) == (pytest.approx(2 / 3), "twin")


def test_ratios_by_class_where_no_photo_has_a_twin(tmp_path: Path) -> None:
    photos = [Sample(f"p{i}", ("x",), label=label) for i, label in enumerate(["cat", "cat", "dog", "owl", None])]
    made = [Sample("m0", ("x",), "sd", "cat"), Sample("m1", ("x",), "xl", "dog"), Sample("m2", ("x",), "xl", None)]
    ratios = attainable_ratios(shards(tmp_path, photos + made))
    assert ratios.pairing == "class"
    assert ratios.replace == pytest.approx(3 / 5)
    assert ratios.replace_by == {"sd": pytest.approx(2 / 5), "xl": pytest.approx(1 / 5)}
    assert (ratios.add, ratios.unpaired) == (1.0, 1.0)


def test_ratios_of_one_source_alone(tmp_path: Path) -> None:
    photos = attainable_ratios(shards(tmp_path / "photos", [Sample("a", ("x",), label="cat")]))
    made = attainable_ratios(shards(tmp_path / "made", [Sample("a", ("x",), "sd", "cat")]))
    for ratios in (photos, made):
        assert (ratios.replace, ratios.add, ratios.unpaired, ratios.pairing) == (0.0, 0.0, 0.0, "none")


def test_the_ratio_is_what_the_plan_can_do(tmp_path: Path) -> None:
    """The figure that `inspect` promises, against the catalogue that the mixing plan pairs with."""
    from datamodules.catalogue import Catalogue

    for folder, index in {
        "twins": shards(
            tmp_path / "twins",
            [Sample(f"p{i}", ("x",), views={"sd": View("sd")} if i % 3 else {}) for i in range(9)],
        ),
        "classes": shards(
            tmp_path / "classes",
            [Sample(f"p{i}", ("x",), "real" if i < 9 else "sd", "abcd"[i % 4] if i < 11 else "a") for i in range(12)],
        ),
    }.items():
        catalogue = Catalogue.of([index])
        twins = catalogue.twins(catalogue.sources.index("sd"), catalogue.photos, 0)
        assert attainable_ratios(index).replace == pytest.approx((twins >= 0).mean()), folder


def test_broken_and_blank_pictures_are_found(tmp_path: Path) -> None:
    def encoded(data: bytes) -> Encoded:
        return Encoded(data, "jpg")

    whole = jpeg(1, 64, 64)
    black = encoded(_black())
    with ShardWriter(tmp_path) as writer:
        writer.write(Sample("whole", ("x",)), encoded(whole))
        writer.write(Sample("cut", ("x",)), encoded(whole[: len(whole) // 2]))
        views = {"sd": View("sd"), "xl": View("xl")}
        writer.write(Sample("views", ("x",), views=views), encoded(whole), {"sd": encoded(b"garbage"), "xl": black})
    index = ShardIndex.load(tmp_path, verify=True)  # the index does not look into pictures
    done: list[tuple[int, int]] = []
    broken = broken_pictures(index, on_picture=lambda *counts: done.append(counts))
    assert broken.counts == {BROKEN: 2, BLANK: 1}
    assert done == [(5, 5)]
    text = " ".join(broken.lines())
    assert "shard-000000.tar: cut: " in text
    assert "views.sd" in text
    assert "views.xl" in text
    assert picture_name(index, 0, 0) == "whole"


def _black() -> bytes:
    import io

    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    return buffer.getvalue()


def colours(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_sheet_of_twins_shows_each_under_its_photo(tmp_path: Path, suffix: str) -> None:
    with ShardWriter(tmp_path) as writer:
        red, blue = np.zeros((2, 30, 20, 3), dtype=np.uint8)
        red[..., 0], blue[..., 2] = 255, 255
        for i in range(3):
            views = {"sd": View("sd")} if i else {}
            writer.write(Sample(f"k{i}", ("a very long caption " * 9,), views=views), red, dict.fromkeys(views, blue))
    path = contact_sheet(ShardIndex.load(tmp_path), tmp_path / f"deep/sheet{suffix}", columns=3, rows=1, tile=60)
    sheet = colours(path)
    red_at = (np.abs(sheet - (254, 0, 0)).max(axis=2) < 40).nonzero()
    blue_at = (np.abs(sheet - (0, 0, 254)).max(axis=2) < 40).nonzero()
    # Three photos and two twins of 40 x 60 pixels.
    assert len(red_at[0]) == pytest.approx(3 * 2400, rel=0.1)
    assert len(blue_at[0]) == pytest.approx(2 * 2400, rel=0.1)
    assert red_at[0].max() < blue_at[0].min()
    assert set(blue_at[1]) < set(red_at[1])


def test_a_sheet_of_sources_and_of_what_is_broken(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "set") as writer:
        for i in range(5):
            writer.write(Sample(f"k{i}", ("x",), "sd" if i > 2 else "real"), Encoded(b"garbage", "jpg"))
    index = ShardIndex.load(tmp_path / "set")
    first = contact_sheet(index, tmp_path / "a.png", columns=2, rows=2, tile=40).read_bytes()
    assert contact_sheet(index, tmp_path / "b.png", columns=2, rows=2, tile=40).read_bytes() == first
    red = np.abs(colours(tmp_path / "a.png") - (200, 0, 0)).max(axis=2) == 0
    assert red.sum() > 5 * 4 * 39  # a frame around each
    with pytest.raises(DataError, match=r"is a .png or a .jpg"):
        contact_sheet(index, tmp_path / "a.gif")
    with pytest.raises(DataError, match="0 x 2"):
        contact_sheet(index, tmp_path / "a.png", columns=0)
    with pytest.raises(DataError, match="cannot be written"):
        contact_sheet(index, tmp_path / "a.png" / "b.png")


def test_shards_made_elsewhere_can_be_inspected(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("1.jpg", jpeg(0)), ("1.txt", b"x"), ("2.jpg", jpeg(1))])
    build_index(tmp_path, source="real").save()
    found = inspect_shards(ShardIndex.load(tmp_path))
    assert found.samples == 1
    assert found.problems.counts == {"no json and no txt": 1}
    assert found.broken is None
