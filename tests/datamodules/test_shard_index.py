from __future__ import annotations

import binascii
import json
import multiprocessing
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pictures import jpeg, pixels, write_tar

from datamodules.errors import DataError, SampleError
from datamodules.hashing import string_id
from datamodules.index import CaptionFormat, ShardIndex, build_index, join_indexes
from datamodules.sample import Sample, SchemaVersionError, View
from datamodules.writer import ShardWriter


def described(**fields: object) -> bytes:
    return json.dumps({"version": 1, "captions": ["a cat"], "source": "real"} | fields).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven samples in three shards; even ones have a twin, every third a view whose captions differ."""
    with ShardWriter(tmp_path / "set", samples_per_shard=3) as writer:
        for i in range(7):
            views = {"sd-1.4": View("sd-1.4")} if i % 2 == 0 else {}
            views |= {"anonymous": View("sdxl", ("something",))} if i % 3 == 0 else {}
            sample = Sample(
                f"k{i}", ("x",) * (i + 1), "real" if i else "dalle", "zebra" if i > 4 else None, f"g{i // 2}"
            )
            sample = Sample(**{**sample.__dict__, "views": views})
            writer.write(sample, pixels(i), {name: pixels(10 * i + len(name)) for name in views})
    return tmp_path / "set"


def test_every_picture_is_where_the_index_says(folder: Path) -> None:
    index = ShardIndex.load(folder)
    seen = 0
    for row, key in enumerate(index.keys):
        info = index.shards[index.shard[row]]
        with tarfile.open(folder / info.name) as archive:
            for at in range(index.view_start[row], index.view_start[row + 1]):
                view = index.view_names[index.view_name[at]]
                member = archive.extractfile(f"{key}.{view}.jpg" if view else f"{key}.jpg")
                assert member is not None
                assert (
                    index.read_bytes(int(index.shard[row]), int(index.offset[at]), int(index.size[at])) == member.read()
                )
                seen += 1
    assert seen == len(index.offset) == 7 + 4 + 3


def test_columns(folder: Path) -> None:
    index = ShardIndex.load(folder / "index.arrow")
    assert index.sources == ("real", "dalle", "sd-1.4", "sdxl")
    assert index.view_names == ("", "anonymous", "sd-1.4")
    assert index.labels == ("zebra",)
    assert index.label.tolist() == [-1] * 5 + [0] * 2
    assert index.shard.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert index.caption_count.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert index.group.tolist() == [string_id(f"g{i // 2}") for i in range(7)]
    anchors = index.view_start[:-1]
    assert (index.view_name[anchors] == 0).all()
    assert index.view_source[anchors].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert np.diff(index.view_start).tolist() == [3, 1, 2, 2, 2, 1, 3]
    types = {
        "shard": np.int32, "label": np.int32, "group": np.int64, "caption_count": np.int32, "caption_format": np.uint8,
        "json_offset": np.int64, "json_size": np.int32, "view_start": np.int64, "view_name": np.int16,
        "view_source": np.int16, "offset": np.int64, "size": np.int32, "crc": np.uint32,
    }  # fmt: skip
    assert {name: getattr(index, name).dtype.type for name in types} == types
    assert (index.caption_format == CaptionFormat.SAMPLE).all()


def test_samples_are_read_back(folder: Path) -> None:
    sample = ShardIndex.load(folder).sample(6)
    views = {"sd-1.4": View("sd-1.4"), "anonymous": View("sdxl", ("something",))}
    assert sample == Sample("k6", ("x",) * 7, "real", "zebra", "g3", views)


def test_one_tar_several_sets_and_parts(folder: Path) -> None:
    one = ShardIndex.load(folder / "shard-000001.tar")
    assert list(one.keys) == ["k3", "k4", "k5"]
    assert [info.name for info in one.shards] == ["shard-000001.tar"]
    two = ShardIndex.load([folder / "shard-000002.tar", folder / "shard-000000.tar"])
    assert list(two.keys) == ["k6", "k0", "k1", "k2"]
    assert [two.sample(i).key for i in range(4)] == list(two.keys)
    whole = ShardIndex.load(folder)
    part = whole.select(np.array([5, 0]))
    assert [part.sample(i) for i in range(2)] == [whole.sample(5), whole.sample(0)]
    np.testing.assert_array_equal(part.size, np.concatenate([whole.size[-4:-3], whole.size[:3]]))
    assert [info.samples for info in part.shards] == [1, 1, 0]
    assert [info.samples for info in part.without_empty_shards().shards] == [1, 1]


def test_joining_unites_names(folder: Path, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "other") as writer:
        writer.write(
            Sample("z", ("x",), "aardvark", "antelope", views={"real": View("real")}), pixels(1), {"real": pixels(2)}
        )
    index = ShardIndex.load([folder, tmp_path / "other"])
    assert index.folder == tmp_path
    assert index.sources == ("real", "aardvark", "dalle", "sd-1.4", "sdxl")
    assert index.labels == ("antelope", "zebra")
    assert index.label.tolist() == [-1] * 5 + [1, 1, 0]
    assert [index.sample(i).key for i in range(8)] == list(index.keys)
    for row in range(8):
        sample, at = index.sample(row), slice(int(index.view_start[row]), int(index.view_start[row + 1]))
        names = [index.view_names[code] for code in index.view_name[at]]
        assert names[0] == ""
        assert set(names[1:]) == set(sample.views)
        sources = [sample.views[name].source if name else sample.source for name in names]
        assert [index.sources[code] for code in index.view_source[at]] == sources
    with pytest.raises(DataError, match=r"key 'k0' occurs twice.*--key-prefix"):
        join_indexes([index, ShardIndex.load(folder)])


def read_first(index: ShardIndex) -> bytes:
    return index.read_bytes(0, int(index.offset[0]), int(index.size[0]))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_what_the_parent_reads(folder: Path, method: str) -> None:
    index = ShardIndex.load(folder)
    expected = read_first(index)  # opens the file before the fork
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(read_first, [index] * 4) == [expected] * 4
    assert pickle.loads(pickle.dumps(index)).sample(3) == index.sample(3)


def test_a_pickled_index_maps_the_file_again_and_a_part_carries_its_rows(folder: Path) -> None:
    index = ShardIndex.load(folder)
    assert len(pickle.dumps(index)) < 1000
    part = index.select(np.array([4, 2]))
    for one in (index, part, build_index(folder)):
        again = pickle.loads(pickle.dumps(one))
        assert [again.sample(i) for i in range(len(again))] == [one.sample(i) for i in range(len(one))]
        assert [again.captions(i) for i in range(len(again))] == [one.sample(i).captions for i in range(len(one))]
    pickled = pickle.dumps(index)
    (folder / "index.arrow").unlink()
    build_index(folder).save()
    with pytest.raises(DataError, match=r"index.arrow: was replaced while it was in use"):
        pickle.loads(pickled)


def test_captions_of_views_are_their_own_where_they_have_some(folder: Path) -> None:
    index = ShardIndex.load([folder / "shard-000001.tar", folder / "shard-000000.tar"])
    for row in range(len(index)):
        sample = index.sample(row)
        names = [index.view_names[index.view_name[at]] for at in range(*index.view_start[row : row + 2])]
        for view, name in enumerate(names):
            assert index.captions(row, view) == sample.captions_of(name)
            wanted = sample.captions_of(name)
            assert [index.caption(row, view, n) for n in range(9)] == [wanted[n % len(wanted)] for n in range(9)]
    np.testing.assert_array_equal(index.caption_count, [len(index.sample(i).captions) for i in range(len(index))])


def test_every_picture_is_compared_with_its_checksum(folder: Path) -> None:
    index = ShardIndex.load(folder)
    place = int(index.shard[0]), int(index.offset[0]), int(index.size[0])
    data = index.read_picture(*place, int(index.crc[0]))
    assert index.crc[0] == binascii.crc32(data)
    with open(folder / index.shards[0].name, "r+b") as file:
        file.seek(place[1] + 7)
        file.write(bytes([data[7] ^ 1]))
    with pytest.raises(SampleError, match=r"shard-000000.tar: was changed or damaged since it was indexed") as caught:
        ShardIndex.load(folder).read_picture(*place, int(index.crc[0]))
    assert caught.value.kind == "checksum"


def test_threads_read_through_a_cache_that_overflows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.store._MAX_OPEN", 1)
    index = ShardIndex.load(folder)
    jobs = [(int(index.shard[row]), int(index.json_offset[row]), int(index.json_size[row])) for row in range(7)] * 100
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda job: index.read_bytes(*job), jobs)) == [index.read_bytes(*job) for job in jobs]


# What can be wrong with a set that has an index


def test_a_missing_index_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"run `bias-train shards index {tmp_path}`"):
        ShardIndex.load(tmp_path)
    with pytest.raises(DataError, match="no such shard set"):
        ShardIndex.load(tmp_path / "nowhere")


def test_a_changed_set_is_noticed(folder: Path) -> None:
    shard = folder / "shard-000001.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    ShardIndex.load(folder)
    with pytest.raises(DataError, match=r"shard-000001.tar: its checksum"):
        ShardIndex.load(folder, verify=True)
    index = ShardIndex.load(folder)
    shard.write_bytes(data[:1024])
    with pytest.raises(DataError, match=r"shard-000001.tar: has 1024 bytes but had"):
        ShardIndex.load(folder)
    with pytest.raises(SampleError, match="has 1024 bytes but had"):
        index.sample(5)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-000001.tar: the index lists this shard"):
        ShardIndex.load(folder)


def test_a_shard_that_the_index_does_not_know_is_warned_of(folder: Path) -> None:
    write_tar(folder / "new.tar", [("a.jpg", jpeg(0))])
    with pytest.warns(UserWarning, match=r"new.tar is not in the index"):
        ShardIndex.load(folder)
    with pytest.raises(DataError, match="not in the index of its folder"):
        ShardIndex.load(folder / "new.tar")


def test_an_index_of_another_version_or_none_at_all(folder: Path) -> None:
    file = folder / "index.arrow"
    with pa.ipc.open_file(file) as reader:
        table = reader.read_all()
    about = json.loads(table.schema.metadata[b"bias_train"]) | {"version": 99}

    def write(metadata: dict[bytes, str]) -> None:
        changed = table.replace_schema_metadata(metadata)
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, changed.schema) as writer:
            writer.write_table(changed)

    write({b"bias_train": json.dumps(about)})
    with pytest.raises(DataError, match=r"version 99.*run `bias-train shards index"):
        ShardIndex.load(folder)
    write({})
    with pytest.raises(DataError, match="is no index"):
        ShardIndex.load(folder)
    file.write_bytes(b"ARROW1 not really")
    with pytest.raises(DataError, match="is no index"):
        ShardIndex.load(folder)
    file.rename(folder / "index.parquet")
    with pytest.raises(DataError, match=r"only one of an older release.*run `bias-train shards index"):
        ShardIndex.load(folder)


# Shards made elsewhere


def test_img2dataset_shards(tmp_path: Path) -> None:
    members = []
    for i in range(4):
        meta = {"caption": f"json caption {i}", "url": "u", "key": f"{i:09d}", "status": "success", "version": 3}
        members += [(f"{i:09d}.jpg", jpeg(i)), (f"{i:09d}.json", json.dumps(meta).encode())]
        members += [(f"{i:09d}.txt", f"text caption {i}\n".encode())] if i % 2 else []
    write_tar(tmp_path / "00000.tar", members)
    write_tar(tmp_path / "00001.tar", [("000010000.WEBP", jpeg(9)), ("000010000.txt", "ünï".encode())])
    index = build_index(tmp_path, source="sdxl", key_prefix="laion-")
    assert list(index.keys) == [f"laion-{i:09d}" for i in (0, 1, 2, 3, 10000)]
    assert [index.sample(i).captions for i in range(5)] == [
        ("json caption 0",),
        ("text caption 1",),
        ("json caption 2",),
        ("text caption 3",),
        ("ünï",),
    ]
    assert index.caption_format.tolist() == [2, 1, 2, 1, 1]
    assert {index.sample(i).source for i in range(5)} == {"sdxl"}
    assert index.sample(2).meta["url"] == "u"
    assert index.group.tolist() == [string_id(key) for key in index.keys]
    index.save()
    assert list(ShardIndex.load(tmp_path, verify=True).keys) == list(index.keys)
    with pytest.raises(DataError, match=r"shards index .* --source real"):
        build_index(tmp_path)
    with pytest.raises(DataError, match="source 'SDXL'"):
        build_index(tmp_path, source="SDXL")


def problems_of(tmp_path: Path, members: list[tuple[str, bytes]]) -> tuple[list[str], dict[str, int]]:
    good = [("good.jpg", jpeg(0)), ("good.json", described())]
    write_tar(tmp_path / "a.tar", members + good)
    index = build_index(tmp_path)
    index.save()
    assert ShardIndex.load(tmp_path).problems.lines() == index.problems.lines()
    return list(index.keys), dict(index.problems.counts)


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("a.json", described())], "no picture"),
        ([("a.jpg", jpeg(1))], "no json and no txt"),
        ([("a.jpg", jpeg(1)), ("a.json", b"{no json")], "unusable description"),
        ([("a.jpg", jpeg(1)), ("a.json", b"\xff\xfe\x00")], "unusable description"),
        ([("a.jpg", jpeg(1)), ("a.json", b"[1]")], "unusable description"),
        ([("a.jpg", jpeg(1)), ("a.json", described(captions=3))], "unusable description"),
        ([("a.jpg", jpeg(1)), ("a.json", b'{"url": "u"}')], "no caption"),
        ([("a.jpg", jpeg(1)), ("a.txt", b" \n")], "no caption"),
        ([("a.jpg", jpeg(1)), ("a.txt", b"a cat")], "source unknown"),
        ([("../up.jpg", jpeg(1)), ("../up.json", described())], "unsafe member name"),
        ([("/root.jpg", jpeg(1)), ("/root.json", described())], "unsafe member name"),
        ([("x/../../a.jpg", jpeg(1))], "unsafe member name"),
    ],
)
def test_what_cannot_be_used_is_left_out_and_counted(
    tmp_path: Path, members: list[tuple[str, bytes]], problem: str
) -> None:
    keys, counts = problems_of(tmp_path, members)
    assert keys == ["good"]
    assert set(counts) == {problem}


def test_an_empty_anchor_loses_the_sample_an_empty_view_only_itself(tmp_path: Path) -> None:
    views = {"sd": {"source": "sd"}, "xl": {"source": "xl"}}
    keys, counts = problems_of(
        tmp_path,
        [
            *[("a.jpg", b""), ("a.json", described())],
            *[("b.jpg", jpeg(1)), ("b.json", described(views=views)), ("b.sd.jpg", b""), ("b.other.jpg", jpeg(2))],
        ],
    )
    assert keys == ["b", "good"]
    assert counts == {"empty picture": 2, "no picture": 1, "missing view": 2, "view without description": 1}
    index = ShardIndex.load(tmp_path)
    assert np.diff(index.view_start).tolist() == [1, 1]


def test_duplicates_keep_the_first(tmp_path: Path) -> None:
    sample = [("a.jpg", jpeg(1)), ("a.json", described(captions=["first"]))]
    again = [("a.jpg", jpeg(2)), ("a.json", described(captions=["second"]))]
    keys, counts = problems_of(tmp_path, sample + again)
    assert (keys, counts) == (["a", "good"], {"duplicate member": 2})
    assert ShardIndex.load(tmp_path).sample(0).captions == ("first",)
    keys, counts = problems_of(tmp_path, [*sample, ("m.jpg", jpeg(3)), ("m.json", described()), *again])
    assert (keys, counts) == (["a", "m", "good"], {"duplicate key": 1})
    write_tar(tmp_path / "b.tar", again)
    index = build_index(tmp_path)
    assert list(index.keys) == ["a", "m", "good"]
    assert index.problems.counts["duplicate key"] == 2


def test_hidden_and_foreign_members_are_passed_over(tmp_path: Path) -> None:
    extra = [
        ("._good.jpg", b"mac"),
        (".DS_Store", b"mac"),
        ("__meta__.json", b"{}"),
        ("good.cls", b"3"),
        ("README", b"x"),
    ]
    assert problems_of(tmp_path, extra) == (["good"], {})


def test_a_truncated_shard_gives_what_is_whole(tmp_path: Path) -> None:
    members = [
        (f"k{i}.{kind}", jpeg(i) if kind == "jpg" else described()) for i in range(4) for kind in ("jpg", "json")
    ]
    path = write_tar(tmp_path / "a.tar", members)
    with tarfile.open(path) as archive:
        cut = archive.getmember("k2.json").offset_data + 10
    path.write_bytes(path.read_bytes()[:cut])
    (tmp_path / "b.tar").write_bytes(b"")
    index = build_index(tmp_path)
    assert list(index.keys) == ["k0", "k1"]
    assert index.problems.counts == {"damaged shard": 2, "no json and no txt": 1}
    assert [info.samples for info in index.shards] == [2, 0]
    index.save()
    assert len(ShardIndex.load(tmp_path, verify=True)) == 2


def test_shards_of_another_release_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("a.jpg", jpeg(0)), ("a.json", described(version=2))])
    with pytest.raises(SchemaVersionError, match=r"a.tar: sample 'a', field 'version'"):
        build_index(tmp_path)


def test_nothing_to_index(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no shards"):
        build_index(tmp_path)
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"a.tar.gz is compressed"):
        build_index(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"no usable sample in 1 shards: damaged shard: 1 \(a.tar is empty\)"):
        build_index(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        build_index([tmp_path / "b.tar"])
