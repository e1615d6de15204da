"""People and words come back from a file as they went in, whoever wrote it, and a broken file is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from bias_train.errors import RunError
from bias_train.people.vectors import GroupPrompts, People, Words, load_people, save_people
from datamodules.groups import grouping


def some() -> tuple[People, Words]:
    rng = np.random.default_rng(0)
    people = People(
        image=torch.from_numpy(rng.normal(size=(5, 4)).astype(np.float32)),
        key=("a", "b", "c", "ç", "e"),
        groupings=(
            # In an order that is not the alphabet's, with a group that has no picture.
            grouping("age", ["3-9", "20-29", "3-9", None, "10-19"], ("3-9", "10-19", "20-29", "30-39")),
            grouping("gender", ["Male", "Female", "Female", "Male", "Female"]),
        ),
    )
    words = Words(
        text=torch.from_numpy(rng.normal(size=(3, 4)).astype(np.float32)),
        word=("lazy", "lazy", "comic book writer"),
        category=("behavioral", "education", "occupation"),
        prompt=("A photo of a lazy person.", "A photo of a lazy person.", "A photo of a comic book writer."),
        tier=("core", "core", "extended"),
    )
    return people, words


def arrays() -> dict[str, Any]:
    return {
        "image": np.eye(4, dtype=np.float32),
        "attribute_race": np.array(["B", "", "A", "B"]),
        "text": np.ones((2, 4), dtype=np.float32),
        "word": np.array(["smart", "poor"]),
    }


@pytest.mark.parametrize("name", ["people.npz", "people.parquet"])
@pytest.mark.parametrize("with_words", [True, False])
def test_what_is_written_is_read(tmp_path: Path, name: str, with_words: bool) -> None:
    people, words = some()
    save_people(tmp_path / name, people, words if with_words else None)
    read, asked = load_people(tmp_path / name)
    assert torch.equal(read.image, people.image)
    assert read.key == people.key
    for one, two in zip(read.groupings, people.groupings, strict=True):
        assert (one.name, one.labels, one.code.tolist()) == (two.name, two.labels, two.code.tolist())
    if with_words:
        assert asked is not None
        assert torch.equal(asked.text, words.text)
        for column in ("word", "category", "prompt", "tier"):
            assert getattr(asked, column) == getattr(words, column)
    else:
        assert asked is None
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("form", ["npz", "folder"])
def test_arrays_of_others_are_read(tmp_path: Path, form: str) -> None:
    path = tmp_path / "vectors.npz" if form == "npz" else tmp_path / "vectors"
    if form == "npz":
        np.savez(path, **arrays())
    else:
        path.mkdir()
        for name, array in arrays().items():
            np.save(path / f"{name}.npy", array)
    people, words = load_people(path)
    assert people.key == ("0", "1", "2", "3")
    assert people.attributes == ("race",)
    race = people.grouping("race")
    assert (race.labels, race.code.tolist()) == (("A", "B"), [1, -1, 0, 1])
    assert words is not None
    assert words.keys == (("", "smart"), ("", "poor"))


def test_a_table_of_others_is_read(tmp_path: Path) -> None:
    table = {
        "side": ["text", "image", "image"],
        "embedding": [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]],
        "attribute_gender": [None, "Male", None],
        "word": ["smart", None, None],
    }
    pyarrow.parquet.write_table(pa.table(table), tmp_path / "t.parquet")
    people, words = load_people(tmp_path / "t.parquet")
    assert people.image.tolist() == [[0.0, 1.0], [0.5, 0.5]]
    assert people.grouping("gender").code.tolist() == [0, -1]
    assert words is not None
    assert words.text.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "has no array 'image'"),
        ({"attribute_race": None}, "says no picture's group"),
        ({"word": None}, "no array 'word'"),
        ({"image": np.full((4, 4), np.nan, np.float32)}, "image row 0 is not finite"),
        ({"text": np.array([[0, 0, 0, 0], [0, 0, np.inf, 0]], np.float32)}, "text row 1 is not finite"),
        ({"image": np.zeros((4, 4), np.int64)}, "image is int64"),
        ({"text": np.zeros((2, 5), np.float32)}, "not one space"),
        ({"attribute_race": np.array(["B"])}, r"attribute_race has shape \[1\]; it must have 4"),
        ({"attribute_race": np.array([0, 1, 2, 1])}, "attribute_race is int64; it must hold names"),
        ({"labels_race": np.array(["A", "C"])}, "'B' is none of its groups: A, C"),
        ({"labels_race": np.array(["A", "B", "A"])}, "names a group twice"),
        ({"image_key": np.array(["a"])}, "image_key has shape"),
        ({"category": np.array(["a"])}, "category has shape"),
        ({"word": np.array(["smart", "smart"])}, "'smart' of category '' stands 2 times"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    given = {name: array for name, array in {**arrays(), **change}.items() if array is not None}
    np.savez(tmp_path / "bad.npz", **given)
    with pytest.raises(RunError, match=f"bad.npz: .*{message}"):
        load_people(tmp_path / "bad.npz")


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no")
    pyarrow.parquet.write_table(pa.table({"side": ["image"]}), tmp_path / "short.parquet")
    pyarrow.parquet.write_table(pa.table({"side": ["face"], "embedding": [[1.0]]}), tmp_path / "side.parquet")
    for name, message in {
        "text.npz": "cannot be read as .npz",
        "short.parquet": "has no column 'embedding'",
        "side.parquet": "holds 'face'",
        "gone.npz": "no such file",
    }.items():
        with pytest.raises(RunError, match=message):
            load_people(tmp_path / name)
    with pytest.raises(RunError, match=r"\.npz or \.parquet"):
        save_people(tmp_path / "people.txt", some()[0])


@pytest.mark.parametrize("keep", [np.array([3, 1]), np.array([False, True, False, True, False])])
def test_parts_keep_their_rows(keep: Any) -> None:
    people, _ = some()
    index = np.flatnonzero(keep) if keep.dtype == np.bool_ else keep
    part = people.rows(keep)
    assert len(part) == 2
    assert part.key == tuple(people.key[row] for row in index)
    assert torch.equal(part.image, people.image[index.tolist()])
    # Of the four ages, those without a picture stay groups: shares of absent groups count.
    assert part.groupings[0].labels == people.groupings[0].labels
    assert part.groupings[0].code.tolist() == people.groupings[0].code[index].tolist()


def test_parts_of_words_and_prompts() -> None:
    _, words = some()
    part = words.rows(np.array([2, 0]))
    assert part.keys == (("occupation", "comic book writer"), ("behavioral", "lazy"))
    assert torch.equal(part.text, words.text[[2, 0]])
    prompts = GroupPrompts(words.text, "gender", ("Male", "Female", "Male"), ("a", "b", "c"))
    assert prompts.rows(prompts.codes(("Female", "Male")) == 1).prompt == ("a", "c")
    with pytest.raises(RunError, match="gender 'Male', which is none of Female"):
        prompts.codes(("Female",))


def test_attributes_are_looked_up_and_crossed() -> None:
    people, _ = some()
    both = people.grouping("age x gender", minimum=1)
    assert both.labels == ("3-9 x Female", "3-9 x Male", "10-19 x Female", "20-29 x Female")
    assert both.code.tolist() == [1, 3, 0, -1, 2]
    with pytest.raises(RunError, match="no attribute 'hair'; the pictures have age, gender"):
        people.grouping("hair")
    with pytest.raises(RunError, match="no group has 9 pictures"):
        people.grouping("gender", minimum=9)
