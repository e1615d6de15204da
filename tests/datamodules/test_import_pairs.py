from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import jpeg, pixels
from PIL import Image

from bias_train.cli.main import main
from datamodules.errors import DataError
from datamodules.hashing import string_id
from datamodules.importers import fetch_pictures, read_pairs, write_collection
from datamodules.importers.paired_columns import choose_columns
from datamodules.index import ShardIndex
from datamodules.reencode import ImageFormat

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
GENERATORS = ("sd35", "sd3", "sd21", "sdxl", "dalle", "midjourney")


def cell(seed: int | None) -> dict[str, Any] | None:
    return None if seed is None else {"bytes": jpeg(seed), "path": None}


def coco_ai(rows: int, first: int = 0) -> dict[str, pa.Array]:
    """The schema of NasrinImp/COCO_AI: one caption and seven pictures a row."""
    columns = {"caption": pa.array([f"Scene  number {first + row}." for row in range(rows)])}
    for code, name in enumerate(("coco", *GENERATORS)):
        pictures = [cell(100 * (first + row) + code) for row in range(rows)]
        columns[f"{name}_image"] = pa.array(pictures, STRUCT)
    return columns


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def imported(path: Path | list[Path], out: Path, **options: Any) -> ShardIndex:
    inputs = path if isinstance(path, list) else [path]
    found = fetch_pictures(read_pairs(inputs, **options), out)
    return next(iter(write_collection(found, out, keep_order=True).values()))


def picture(index: ShardIndex, row: int, view: str = "") -> np.ndarray:
    names = [index.view_names[code] for code in index.view_name[index.view_start[row] : index.view_start[row + 1]]]
    at = int(index.view_start[row]) + names.index(view)
    data = index.read_bytes(int(index.shard[row]), int(index.offset[at]), int(index.size[at]))
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


def views(index: ShardIndex, row: int) -> set[str]:
    return set(index.sample(row).views)


def test_one_column_per_source_is_found_by_itself(tmp_path: Path) -> None:
    index = imported(write(tmp_path / "coco_ai.parquet", coco_ai(5), row_group_size=2), tmp_path / "out")
    assert len(index) == 5
    assert index.sources == ("real", *sorted(GENERATORS))
    for row in range(5):
        assert index.sample(row).captions == (f"Scene number {row}.",)
        assert views(index, row) == set(GENERATORS)
        for code, name in enumerate(("", *GENERATORS)):
            assert np.abs(picture(index, row, name) - pixels(100 * row + code)).mean() < 6, (row, name)


def test_columns_may_be_named(tmp_path: Path) -> None:
    columns = coco_ai(2) | {"notes": pa.array(["another", None])}
    path = write(tmp_path / "a.parquet", columns)
    index = imported(
        path, tmp_path / "out", captions=["caption", "notes"], real="coco_image", twins={"sd-3.5": "sd35_image"}
    )
    assert [index.sample(row).captions for row in range(2)] == [("Scene number 0.", "another"), ("Scene number 1.",)]
    assert [views(index, row) for row in range(2)] == [{"sd-3.5"}, {"sd-3.5"}]


def test_several_files_and_lists_of_captions_and_raw_bytes(tmp_path: Path) -> None:
    for part in range(2):
        columns = {
            "captions": pa.array([[f"one {part}", f"two {part}", f"one {part}"]]),
            "real": pa.array([jpeg(10 * part)], pa.binary()),
            "flux": pa.array([jpeg(10 * part + 1)], pa.large_binary()),
        }
        write(tmp_path / "data" / f"train-{part:05d}-of-00002.parquet", columns)
    index = imported(tmp_path / "data", tmp_path / "out")
    assert [index.sample(row).captions for row in range(2)] == [("one 0", "two 0"), ("one 1", "two 1")]
    assert np.abs(picture(index, 1, "flux") - pixels(11)).mean() < 6
    pattern = imported([tmp_path / "data" / "*-00001-*.parquet"], tmp_path / "one")
    assert pattern.sample(0).captions == ("one 1", "two 1")


def test_what_cannot_be_used_is_counted_with_its_reason(tmp_path: Path) -> None:
    columns = coco_ai(8)
    columns["id"] = pa.array([7, 8, 9, 9, 10, 11, 12, 13])  # two rows of one id
    columns["caption"] = pa.array(["a", None, "c", "d", "e", "f", "  ", "h"])
    photos = columns["coco_image"].to_pylist()
    photos[4] = None
    photos[5] = {"bytes": jpeg(0)[:40], "path": None}  # corrupt
    columns["coco_image"] = pa.array(photos, STRUCT)
    twins = columns["sdxl_image"].to_pylist()
    twins[0] = None
    twins[2] = {"bytes": b"no picture at all", "path": None}
    twins[7] = {"bytes": None, "path": "nowhere.png"}
    columns["sdxl_image"] = pa.array(twins, STRUCT)
    found = fetch_pictures(read_pairs([write(tmp_path / "a.parquet", columns)]), tmp_path / "out")
    index = write_collection(found, tmp_path / "out", keep_order=True)[""]
    assert list(index.keys) == ["7", "9", "13"]
    assert [views(index, row) for row in range(3)] == [set(GENERATORS) - {"sdxl"}] * 3
    assert dict(found.problems.counts) == {
        "row without caption": 2,
        "id that an earlier row has": 1,
        "photo: the cell is empty": 1,
        "broken picture": 1,
        "twin by sdxl: the cell is empty": 1,
        "twin by sdxl: the file that the cell names is missing": 1,
        "broken view": 1,
    }
    assert any("row 5, coco_image" in place for place in found.problems.examples["broken picture"])


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "table" / "pictures").mkdir(parents=True)
    for name, seed in (("photo.jpg", 1), ("twin.jpg", 2)):
        (tmp_path / "table" / "pictures" / name).write_bytes(jpeg(seed))
    columns = {
        "text": ["a", "b"],
        "photo": ["pictures/photo.jpg", "https://example.org/photo.jpg"],
        "made": ["pictures/twin.jpg", "pictures/twin.jpg"],
    }
    found = read_pairs([write(tmp_path / "table" / "a.parquet", columns)], twins={"sd-2": "made"})
    found = fetch_pictures(found, tmp_path / "out")
    index = write_collection(found, tmp_path / "out")[""]
    assert len(index) == 1
    assert np.abs(picture(index, 0) - pixels(1)).mean() < 6
    assert np.abs(picture(index, 0, "sd-2") - pixels(2)).mean() < 6
    assert dict(found.problems.counts) == {"photo: the cell is a web address, not a picture": 1}


# one row per picture


def defactify(order: list[tuple[str, int, int]]) -> dict[str, Any]:
    """The schema of Rajarshi-Roy-research/Defactify_Image_Dataset; rows of (caption, Label_B, seed)."""
    return {
        "Caption": [caption for caption, _, _ in order],
        "Image": pa.array([cell(seed) for _, _, seed in order], STRUCT),
        "Label_A": pa.array([int(label > 0) for _, label, _ in order], pa.int32()),
        "Label_B": pa.array([label for _, label, _ in order], pa.int32()),
    }


NAMES = {"0": "real", "1": "sd21", "2": "sdxl"}


def test_rows_per_picture_are_joined_by_caption(tmp_path: Path) -> None:
    order = [("a", 1, 1), ("b", 0, 2), ("a", 0, 3), ("c", 2, 4), ("b", 2, 5), ("b", 1, 6), ("b", 2, 7), ("d", 0, 8)]
    path = write(tmp_path / "a.parquet", defactify(order), row_group_size=3)
    found = fetch_pictures(read_pairs([path], names=NAMES), tmp_path / "out")
    index = write_collection(found, tmp_path / "out", keep_order=True)[""]
    rows = {index.sample(row).captions[0]: row for row in range(len(index))}
    assert {text: views(index, row) for text, row in rows.items()} == {"a": {"sd21"}, "b": {"sd21", "sdxl"}, "d": set()}
    assert np.abs(picture(index, rows["a"]) - pixels(3)).mean() < 6
    assert np.abs(picture(index, rows["b"], "sdxl") - pixels(5)).mean() < 6
    assert dict(found.problems.counts) == {
        "second picture by sdxl of one scene": 1,
        "scene without photo": 1,
        "photo without twin": 1,
    }


def test_a_code_without_a_meaning_is_not_guessed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", defactify([("a", 0, 1), ("a", 1, 2)]))
    with pytest.raises(DataError, match=r"'Label_B' holds 0, .* --name 0=NAME"):
        read_pairs([path])


def test_class_names_of_datasets_and_words_need_no_names(tmp_path: Path) -> None:
    columns = defactify([("a", 0, 1), ("a", 1, 2)])
    features = {"Label_B": {"names": ["Real", "SD21"], "_type": "ClassLabel"}, "Image": {"_type": "Image"}}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "a.parquet")
    assert set(read_pairs([tmp_path / "a.parquet"]).records[0].views) == {"sd21"}
    words = {
        "image": pa.array([cell(1), cell(2), cell(3)], STRUCT),
        "prompt": ["a", "A", "other words"],
        "generator": ["Stable Diffusion 3", "real", "PixArt-alpha"],
        "image_id": [5, 5, 5],
    }
    record = read_pairs([write(tmp_path / "b.parquet", words)]).records[0]
    assert set(record.views) == {"stable-diffusion-3", "pixart-alpha"}
    assert record.sample.captions == ("a", "A", "other words")
    assert record.sample.key == "5"


# what datasets saves to disk: Arrow streams


def save_to_disk(folder: Path, columns: dict[str, Any], batch: int = 2) -> Path:
    folder.mkdir(parents=True)
    table = pa.table(columns)
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as w:
        w.write_table(table, max_chunksize=batch)
    (folder / "cache-123.arrow").write_bytes(b"of another transformation")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return folder


def test_saved_to_disk_with_splits(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "set" / "train", coco_ai(3))
    save_to_disk(tmp_path / "set" / "test", coco_ai(2, first=3))
    (tmp_path / "set" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    found = fetch_pictures(read_pairs([tmp_path / "set"]), tmp_path / "out")
    indexes = write_collection(found, tmp_path / "out", keep_order=True)
    assert {name: len(index) for name, index in indexes.items()} == {"train": 3, "test": 2}
    assert np.abs(picture(indexes["test"], 1, "dalle") - pixels(405)).mean() < 6


def test_ids_may_be_counted_anew_in_each_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / f"{split}-00000.parquet", coco_ai(2) | {"id": pa.array([0, 1])})
        rows = {"generator": ["real", "flux"], "id": [3, 3], "text": [split, split]}
        write(tmp_path / "long" / f"{split}.parquet", rows | {"image": pa.array([cell(1), cell(2)], STRUCT)})
    wide = read_pairs([tmp_path / "train-00000.parquet", tmp_path / "test-00000.parquet"])
    assert [(record.split, record.identity) for record in wide.records] == [
        ("train", "0"), ("train", "1"), ("test", "0"), ("test", "1"),
    ]  # fmt: skip
    assert len({record.sample.key for record in wide.records}) == 4
    long = read_pairs([tmp_path / "long"])
    assert {(record.split, record.sample.captions) for record in long.records} == {
        ("train", ("train",)), ("test", ("test",)),
    }  # fmt: skip
    assert not wide.problems
    assert not long.problems


# memory, limits, errors


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [[{"bytes": rng.bytes(100_000), "path": None} for _ in range(400)] for _ in range(2)]
    columns: dict[str, Any] = {"caption": [f"c{i}" for i in range(400)]}
    columns |= {"real": pa.array(noise[0], STRUCT), "made": pa.array(noise[1], STRUCT)}
    path = write(tmp_path / "a.parquet", columns, row_group_size=100)
    del noise, columns
    found = read_pairs([path])
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    peak = 0

    def watch(done: int, total: int) -> None:
        nonlocal peak
        peak = max(peak, pa.total_allocated_bytes() - before)

    fetch_pictures(found, tmp_path / "out", on_picture=watch)
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 75e6
    assert peak < 25e6  # twice a row group of one column is 20 MB
    assert python < 12e6


def test_a_limit_fetches_no_more_than_it_takes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", coco_ai(9), row_group_size=1)
    fetched = fetch_pictures(read_pairs([path]), tmp_path / "out", limit=4)
    keys = sorted((f"{row:07d}" for row in range(9)), key=string_id)[:4]
    assert {record.identity for record in fetched.records} == set(keys)
    index = write_collection(fetched, tmp_path / "out", limit=4)[""]
    assert list(index.keys) == keys


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in" / "train-00000-of-00001.parquet", coco_ai(8))
    out = tmp_path / "out"
    arguments = ["shards", "import", "pairs", str(tmp_path / "in"), str(out), "--holdout", "0.25", "--size", "16"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert f"{out / 'train'}: 6 samples, 42 pictures in 1 shards" in shown
    assert f"{out / 'val'}: 2 samples" in shown
    assert sorted(entry.name for entry in out.iterdir()) == ["train", "val"]  # nothing is left of the copying
    index = ShardIndex.load(out / "val")
    assert picture(index, 0, "sdxl").shape == (16, 16, 3)
    assert main(arguments) == 2
    assert "holds shards already" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--twins", "sd3=sd3_image"]) == 0
    assert ShardIndex.load(out / "train").sources == ("real", "sd3")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--real", "photo"], "has no column 'photo' for --real; the columns are caption, coco_image, sd35_image"),
        (["--caption", "text"], "has no column 'text' for --caption"),
        (["--twins", "sdxl=nothing"], "has no column 'nothing' for --twins sdxl"),
        (["--twins", "sdxl"], "--twins sdxl: write NAME=COLUMN"),
        (["--name", "0=real"], "there is no such column"),
        (["--limit", "0"], "--limit 0: must be 1 or more"),
    ],
)
def test_wrong_options_are_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.parquet", coco_ai(1))
    assert main(["shards", "import", "pairs", str(path), str(tmp_path / "out"), *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("bias-train")]) == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"bad\.parquet: cannot be read as Parquet"):
        read_pairs([tmp_path / "bad.parquet"])
    with pytest.raises(DataError, match=r"holds no \.parquet and no \.arrow files"):
        read_pairs([tmp_path / "empty"])
    with pytest.raises(DataError, match="there is no such file or folder"):
        read_pairs([tmp_path / "*.parquet.gz"])
    (tmp_path / "a.csv").write_text("caption")
    with pytest.raises(DataError, match=r"neither a \.parquet nor an \.arrow"):
        read_pairs([tmp_path / "a.csv"])
    whole = write(tmp_path / "whole.parquet", coco_ai(2))
    write(tmp_path / "other.parquet", {"caption": ["a"], "coco_image": pa.array([cell(1)], STRUCT)})
    with pytest.raises(DataError, match=r"other\.parquet: has no column 'sd35_image', which the first file has"):
        read_pairs([whole, tmp_path / "other.parquet"])
    with pytest.raises(DataError, match="name the same file twice"):
        read_pairs([whole, whole])


def test_a_table_without_pictures_lists_its_columns() -> None:
    with pytest.raises(
        DataError, match="no column of photos was found; name it with --real; the columns are caption, a"
    ):
        choose_columns(pa.schema([("caption", pa.string()), ("a", pa.string())]), "t.parquet")
    with pytest.raises(DataError, match="no column of captions was found"):
        choose_columns(pa.schema([("a", pa.binary())]), "t.parquet")


def test_originals_are_kept_byte_for_byte(tmp_path: Path) -> None:
    found = fetch_pictures(read_pairs([write(tmp_path / "a.parquet", coco_ai(1))]), tmp_path / "out")
    index = write_collection(found, tmp_path / "out", image_format=ImageFormat(keep_original=True))[""]
    assert index.read_bytes(0, int(index.offset[0]), int(index.size[0])) == jpeg(0)
