"""Labelled pictures of people go into shards with the groups that their tables or names say, and with no others."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from pictures import jpeg, write_tar, write_tree

from bias_train.cli.shards import main
from datamodules.errors import DataError
from datamodules.groups import META
from datamodules.importers import Collection, hold_out, open_tree, read_faces, write_collection
from datamodules.importers.faces import age_group
from datamodules.index import ShardIndex

Files = dict[str, bytes]
Groups = dict[str, dict[str, str]]

FACES: Files = {f"images/{name}.jpg": jpeg(i) for i, name in enumerate("abcd")}
FAIRFACE = (
    "file,age,gender,race,service_test\n"
    "a.jpg,20-29,Female,Latino_Hispanic,True\n"
    "b.jpg,more than 70,Male,East Asian,False\n"
    "c.jpg,,Male,,True\n"
)
WANTED: Groups = {
    "images/a": {"age": "20-29", "gender": "Female", "race": "Latino_Hispanic"},
    "images/b": {"age": "more than 70", "gender": "Male", "race": "East Asian"},
    "images/c": {"gender": "Male"},
}


@pytest.fixture(params=["folder", "tar"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Files], Path]:
    """Puts files into a folder or into a tar: an importer must not know the difference."""

    def put(files: Files) -> Path:
        if request.param == "folder":
            return write_tree(tmp_path / "input", files)
        return write_tar(tmp_path / "input.tar", files.items())

    return put


def found(collection: Collection) -> Groups:
    return {record.identity: record.sample.meta[META] for record in collection.records}


# tables


def test_a_table_within(place: Callable[[Files], Path]) -> None:
    collection = read_faces(open_tree(place(FACES | {"labels.csv": FAIRFACE.encode()})))
    assert found(collection) == WANTED
    assert collection.problems.counts == {"picture without a row": 1}
    assert all(record.sample.captions == () and record.sample.is_real for record in collection.records)


@pytest.mark.parametrize("how", ["named", "beside", "inner"])
def test_where_a_table_may_lie(tmp_path: Path, how: str) -> None:
    folder = write_tree(tmp_path / "input", FACES | ({"x.csv": FAIRFACE.encode()} if how == "inner" else {}))
    (tmp_path / "fairface_label_val.csv").write_text(FAIRFACE)
    named = {"named": [tmp_path / "fairface_label_val.csv"], "beside": [], "inner": ["x.csv"]}[how]
    assert found(read_faces(open_tree(folder), named)) == WANTED


def test_both_parts_of_fairface(place: Callable[[Files], Path]) -> None:
    files = {f"crops/{split}/{i}.jpg": jpeg(i) for split in ("train", "val") for i in (1, 2)}
    for split, gender in (("train", "Male"), ("val", "Female")):
        rows = "".join(f"{split}/{i}.jpg,30-39,{gender},White\n" for i in (1, 2))
        files[f"fairface_label_{split}.csv"] = f"file,age,gender,race\n{rows}".encode()
    collection = read_faces(open_tree(place(files)))
    assert collection.splits == ["train", "val"]
    assert {name: groups["gender"] for name, groups in found(collection).items()} == {
        "crops/train/1": "Male", "crops/train/2": "Male", "crops/val/1": "Female", "crops/val/2": "Female",
    }  # fmt: skip


@pytest.mark.parametrize("given", [True, False])
def test_one_parts_table_never_labels_the_other_part(tmp_path: Path, given: bool) -> None:
    write_tree(tmp_path / "val", {"1.jpg": jpeg(1), "2.jpg": jpeg(2)})
    for split, gender in (("train", "Male"), ("val", "Female")):
        (tmp_path / f"fairface_label_{split}.csv").write_text(f"file,gender\n{split}/1.jpg,{gender}\n")
    tree = open_tree(tmp_path / "val")
    collection = read_faces(tree, [tmp_path / f"fairface_label_{s}.csv" for s in ("train", "val")] if given else ())
    assert found(collection) == {"1": {"gender": "Female"}}
    assert collection.problems.counts == {"row without picture": 1, "picture without a row": 1}
    with pytest.raises(DataError, match=r"none of the 1 rows names a picture of .*val"):
        read_faces(open_tree(tmp_path / "val"), [tmp_path / "fairface_label_train.csv"])


def test_attributes_of_ones_own(tmp_path: Path) -> None:
    text = "\ufeffImage;Skin tone;glasses;split\r\na;dark;yes;train\r\nimages/b.jpg;;no;val\r\n"
    folder = write_tree(tmp_path / "in", FACES | {"people.csv": text.encode()})
    collection = read_faces(open_tree(folder), attributes=["Skin tone", "Glasses"], templates=["a person", "someone"])
    assert found(collection) == {
        "images/a": {"Skin tone": "dark", "Glasses": "yes"},
        "images/b": {"Glasses": "no"},
    }
    assert collection.splits == ["train", "val"]
    assert collection.records[0].sample.captions == ("a person", "someone")


def test_ages_in_years_are_put_into_groups(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "in", FACES | {"x.csv": b"file,age\na,0\nb,9\nc,70\nd,about 30\n"})
    assert [groups["age"] for groups in found(read_faces(open_tree(folder))).values()] == [
        "0-2", "3-9", "more than 70", "about 30",
    ]  # fmt: skip
    bins = {age_group(years) for years in range(121)}
    assert bins == {"0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"}
    for years in range(3, 70):
        low, high = map(int, age_group(years).split("-"))
        assert low <= years <= high


def test_rows_that_contradict_each_other_are_not_chosen_from(tmp_path: Path) -> None:
    text = b"file,gender\na,Male\na,Female\nb,Male\nb.jpg,Male\nc,\nnowhere,Male\n"
    collection = read_faces(open_tree(write_tree(tmp_path / "in", FACES | {"x.csv": text})))
    assert found(collection) == {"images/b": {"gender": "Male"}}
    assert collection.problems.counts == {
        "row without picture": 1,
        "rows that contradict each other": 1,
        "picture without a group": 2,
        "picture without a row": 1,
    }


@pytest.mark.parametrize(
    ("text", "attributes", "words"),
    [
        ("picture,race\n", None, "no column for the picture; call it 'file'"),
        ("file,hair\na,red\n", None, "no column race, gender or age; name the columns with --attributes"),
        ("file,race\na,x\n", ["hair"], "--attributes hair: .* has no such column .found: file, race"),
        ("file,race\nz,x\n", None, "none of the 1 rows names a picture"),
        ("file,race\n,x\n", None, "line 2: no picture is named"),
        (b"file,race\na,\xff\n", None, "is not UTF-8"),
    ],
)
def test_tables_that_cannot_be_used(
    tmp_path: Path, text: str | bytes, attributes: list[str] | None, words: str
) -> None:
    (tmp_path / "a.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=words) as error:
        read_faces(open_tree(write_tree(tmp_path / "in", FACES)), [tmp_path / "a.csv"], attributes=attributes)
    assert "a.csv" in str(error.value)


def test_a_table_must_be_clear(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "in", FACES)
    with pytest.raises(DataError, match=r"holds no table .* name a table with --labels"):
        read_faces(open_tree(folder))
    with pytest.raises(DataError, match=r"--labels gone.csv: there is no such file, neither on disk nor within"):
        read_faces(open_tree(folder), ["gone.csv"])
    write_tree(folder, {"x.csv": b"", "y.csv": b""})
    with pytest.raises(DataError, match=r"several tables \(x.csv, y.csv\); name one with --labels"):
        read_faces(open_tree(folder))


# names


def test_utkface(place: Callable[[Files], Path]) -> None:
    names = {
        "part1/100_0_0_20170112213500903.jpg": {"age": "more than 70", "gender": "Male", "race": "White"},
        "part1/1_1_2_20161219140623097.jpg.chip.jpg": {"age": "0-2", "gender": "Female", "race": "Asian"},
        "part2/26_1_4_20170117172131837.jpg": {"age": "20-29", "gender": "Female", "race": "Others"},
        "part2/35_0_1_20170117172131838.jpg": {"age": "30-39", "gender": "Male", "race": "Black"},
        "part2/9_0_3_20170117172131839.jpg": {"age": "3-9", "gender": "Male", "race": "Indian"},
    }
    # As some of UTKFace's are: no race, no gender, codes and ages that are none.
    bad = ["61_1_20170109142408075.jpg", "24_0_20170116220224657.jpg", "39_1_7_201.jpg", "5_2_1_201.jpg", "x.jpg",
           "999_0_1_201.jpg"]  # fmt: skip
    collection = read_faces(open_tree(place({name: jpeg(0) for name in [*names, *bad]})))
    assert {record.image.name: record.sample.meta[META] for record in collection.records} == names
    assert collection.problems.counts == {"name that is not UTKFace's": 6}
    assert collection.splits == [""]


def test_utkface_says_what_it_says(tmp_path: Path) -> None:
    tree = open_tree(write_tree(tmp_path / "in", {"26_1_4_2017.jpg": jpeg(0)}))
    assert list(found(read_faces(tree, attributes=["gender"])).values()) == [{"gender": "Female"}]
    with pytest.raises(DataError, match="UTKFace say race, gender, age, and nothing else"):
        read_faces(tree, attributes=["hair"])


# shards


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tree(tmp_path / "in", FACES | {"labels.csv": FAIRFACE.encode()})
    arguments = ["import", "faces", str(folder), str(tmp_path / "out"), "--attributes", "race", "gender"]
    assert main([*arguments, "--template", "a photo of a person"]) == 0
    assert "left out: picture without a row: 1 (images/d.jpg)" in capsys.readouterr().out
    index = ShardIndex.load(tmp_path / "out", verify=True)
    samples = {index.sample(row).key: index.sample(row) for row in range(len(index))}
    assert {key: sample.meta[META] for key, sample in samples.items()} == {
        "images-a": {"race": "Latino_Hispanic", "gender": "Female"},
        "images-b": {"race": "East Asian", "gender": "Male"},
        "images-c": {"gender": "Male"},
    }
    assert {sample.captions for sample in samples.values()} == {("a photo of a person",)}
    assert main([*arguments, "--overwrite", "--labels", str(tmp_path / "gone.csv")]) == 2
    assert "--labels" in capsys.readouterr().err


def test_one_part_alone_may_be_split(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "in", {f"val/{i}.jpg": jpeg(i) for i in range(4)})
    rows = "".join(f"val/{i}.jpg,Male\n" for i in range(4))
    (tmp_path / "labels.csv").write_text(f"file,gender\n{rows}")
    arguments = ["import", "faces", str(folder), str(tmp_path / "out"), "--labels", str(tmp_path / "labels.csv")]
    assert main([*arguments, "--holdout", "0.5"]) == 0
    assert [len(ShardIndex.load(tmp_path / "out" / part)) for part in ("train", "val")] == [2, 2]


def test_fairface(shared_data: Path, tmp_path: Path) -> None:
    tree = open_tree(shared_data / "fairface.tar")
    collection = hold_out(read_faces(tree), 0.2)
    assert not collection.problems
    # Counted from the table by itself.
    rows = list(csv.DictReader(io.StringIO(tree.read("labels.csv").decode())))
    for attribute in ("race", "gender", "age"):
        counted = Counter(record.sample.meta[META][attribute] for record in collection.records)
        assert counted == Counter(row[attribute] for row in rows)
    by_name = {row["file"]: row for row in rows}
    index = write_collection(collection, tmp_path / "out", split="val", limit=20)["val"]
    for row in range(len(index)):
        sample = index.sample(row)
        line = by_name[f"{sample.key.removeprefix('images-')}.jpg"]
        assert sample.meta[META] == {name: line[name] for name in ("race", "gender", "age")}
