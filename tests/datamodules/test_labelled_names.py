"""Pictures imported by what their file names say."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import jpeg, write_tree

from bias_train.cli.shards import main
from datamodules import DataError
from datamodules.importers import open_tree, read_labelled_names
from datamodules.index import ShardIndex


def test_the_names_of_rta100(tmp_path: Path) -> None:
    names = ("label=DVD_text=ball.jpg", "label=hair_dryer_text=mouse_pad.jpg", "more/label=cup_text=.png", "cat.jpg")
    found = read_labelled_names(open_tree(write_tree(tmp_path, {name: jpeg(1) for name in names})))
    samples = [record.sample for record in found.records]
    assert [(s.label, s.captions, s.meta) for s in samples] == [
        ("DVD", ("a photo of a DVD",), {"written": {"kind": "misleading", "word": "ball"}}),
        ("hair dryer", ("a photo of a hair dryer",), {"written": {"kind": "misleading", "word": "mouse pad"}}),
        ("cup", ("a photo of a cup",), {}),
    ]
    assert found.problems.counts == {"file name that the pattern does not match": 1}


def test_own_pattern_kind_and_templates(tmp_path: Path) -> None:
    tree = open_tree(write_tree(tmp_path, {"dog-cat-01.jpg": jpeg(1), "dog--02.jpg": jpeg(2)}))
    found = read_labelled_names(tree, r"(?P<label>\w+)-(?P<word>\w*)-\d+", kind="neutral", templates=["{label}!"])
    assert [(r.sample.captions, r.sample.meta.get("written")) for r in found.records] == [
        (("dog!",), None),
        (("dog!",), {"kind": "neutral", "word": "cat"}),
    ]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "no regular expression"), (r"(?P<word>.*)", "name a group"), ("(?P<label>x)", "no file name matches")],
)
def test_patterns_that_do_not_work(tmp_path: Path, pattern: str, message: str) -> None:
    tree = open_tree(write_tree(tmp_path, {"dog.jpg": jpeg(1)}))
    with pytest.raises(DataError, match=message):
        read_labelled_names(tree, pattern)
    with pytest.raises(DataError, match="--kind wrong"):
        read_labelled_names(tree, "(?P<label>.*)", kind="wrong")
    with pytest.raises(DataError, match=r"write \{label\}"):
        read_labelled_names(tree, "(?P<label>.*)", templates=["a photo"])


def test_the_command(tmp_path: Path) -> None:
    write_tree(tmp_path / "in", {"label=a_text=b.jpg": jpeg(1), "label=c_text=d.jpg": jpeg(2)})
    assert main(["import", "labelled-names", str(tmp_path / "in"), str(tmp_path / "out"), "--keep-order"]) == 0
    index = ShardIndex.load(tmp_path / "out")
    assert [(index.sample(row).label, index.sample(row).meta["written"]["word"]) for row in range(2)] == [
        ("a", "b"),
        ("c", "d"),
    ]
