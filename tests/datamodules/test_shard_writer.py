from __future__ import annotations

import errno
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from pictures import jpeg, pixels
from PIL import Image

from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.reencode import Encoded, ImageFormat
from datamodules.sample import Sample, View
from datamodules.writer import ShardWriter


def write(folder: Path, count: int = 5, **options: Any) -> ShardIndex:
    with ShardWriter(folder, samples_per_shard=2, **options) as writer:
        for i in range(count):
            sample = Sample(f"k{i}", (f"caption {i}", "another"), label="ab"[i % 2], views={"sd-1.4": View("sd-1.4")})
            writer.write(sample, pixels(i), {"sd-1.4": Image.fromarray(pixels(i + 100))})
    assert writer.index is not None
    return writer.index


def test_webdataset_streams_what_was_written(tmp_path: Path) -> None:
    write(tmp_path)
    urls = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    assert len(urls) == 3
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"k{i}" for i in range(5)]
    for i, sample in enumerate(samples):
        assert json.loads(sample["json"])["captions"] == [f"caption {i}", "another"]
        for suffix, seed in (("jpg", i), ("sd-1.4.jpg", i + 100)):
            got = np.asarray(Image.open(io.BytesIO(sample[suffix]))).astype(int)
            assert np.abs(got - pixels(seed)).mean() < 3


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_the_index_is_the_one_that_is_saved(tmp_path: Path) -> None:
    index, loaded = write(tmp_path), ShardIndex.load(tmp_path, verify=True)
    assert list(loaded.keys) == list(index.keys)
    for name in ("shard", "label", "group", "view_start", "view_source", "offset", "size"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(index, name))
    assert not index.problems


def test_long_keys_in_any_alphabet(tmp_path: Path) -> None:
    keys = ["k" * 180, "ключ/" + "字" * 60]
    with ShardWriter(tmp_path) as writer:
        for key in keys:
            writer.write(Sample(key, ("x",)), pixels(0))
    assert list(ShardIndex.load(tmp_path).keys) == keys
    assert [s["__key__"] for s in webdataset.WebDataset(str(tmp_path / "shard-000000.tar"), shardshuffle=False)] == keys


def test_encoded_pictures_are_written_as_they_are(tmp_path: Path) -> None:
    data = jpeg(3)
    with ShardWriter(tmp_path) as writer:
        writer.write(Sample("a", ()), Encoded(data, "jpg"))
    with tarfile.open(tmp_path / "shard-000000.tar") as archive:
        member = archive.extractfile("a.jpg")
        assert member is not None
        assert member.read() == data


def test_a_refused_sample_leaves_no_trace(tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        writer.write(Sample("a", ("x",)), pixels(0))
        for sample, image, views in [
            (Sample("a", ("x",)), pixels(0), {}),
            (Sample("b", ("x",)), b"broken", {}),
            (Sample("b", ("x",), views={"sd": View("sd")}), pixels(0), {}),
            (Sample("b", ("x",)), pixels(0), {"sd": pixels(1)}),
            (Sample("b", ("x",), views={"sd": View("sd")}), pixels(0), {"sd": b"broken"}),
            (Sample("b", ("x",), meta={"array": np.zeros(2)}), pixels(0), {}),
            (Sample("b", ("x",), meta={"nan": float("nan")}), pixels(0), {}),
        ]:
            with pytest.raises(DataError, match=f"sample '{sample.key}'"):
                writer.write(sample, image, views)
        writer.write(Sample("c", ("x",)), pixels(0))
    assert list(ShardIndex.load(tmp_path).keys) == ["a", "c"]


def test_a_set_appears_whole_or_not_at_all(tmp_path: Path) -> None:

    def fail(writer: ShardWriter) -> None:
        with writer:
            for i in range(3):
                writer.write(Sample(f"k{i}", ("x",)), pixels(i))
            assert not list(tmp_path.glob("*.tar"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail(ShardWriter(tmp_path, samples_per_shard=1))
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    (tmp_path / "shard-000007.tar.partial").write_bytes(b"half")
    write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "index.arrow",
        *(f"shard-00000{i}.tar" for i in range(3)),
    ]


def test_shards_are_not_overwritten_by_accident(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match="holds shards already"):
        ShardWriter(tmp_path)
    assert len(write(tmp_path, count=1, overwrite=True)) == 1
    assert len(list(tmp_path.glob("*.tar"))) == 1
    assert len(ShardIndex.load(tmp_path)) == 1


def test_a_failed_overwrite_keeps_the_old_set(tmp_path: Path) -> None:
    write(tmp_path)

    def fail(writer: ShardWriter) -> None:
        with writer:
            writer.write(Sample("new", ("x",)), pixels(0))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail(ShardWriter(tmp_path, overwrite=True))
    assert len(ShardIndex.load(tmp_path, verify=True)) == 5


class FullDisk(io.BytesIO):
    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.writer.open", lambda *_: FullDisk(), raising=False)

    def fill(writer: ShardWriter) -> None:
        with writer:
            for i in range(50):
                writer.write(Sample(f"k{i}", ("x",)), pixels(i, 200, 200))

    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\)"):
        fill(ShardWriter(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_wrong_places_and_empty_sets(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be made into a folder"):
        ShardWriter(tmp_path / "file" / "shards")
    with pytest.raises(DataError, match="no sample was written"), ShardWriter(tmp_path / "empty"):
        pass
    with pytest.raises(DataError, match="1 or more"):
        ShardWriter(tmp_path / "zero", samples_per_shard=0)


def test_a_resized_set_is_square(tmp_path: Path) -> None:
    index = write(tmp_path, image_format=ImageFormat(size=16))
    for row in range(len(index)):
        at = int(index.view_start[row])
        data = index.read_bytes(int(index.shard[row]), int(index.offset[at]), int(index.size[at]))
        assert Image.open(io.BytesIO(data)).size == (16, 16)
