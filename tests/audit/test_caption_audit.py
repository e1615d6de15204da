"""Files of true and altered captions in three forms, their audit, and files of labelled groups."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch

from bias_train.audit.labelled_groups import read_groups
from bias_train.audit.object.caption_audit import NORMALISED, audit_captions, write_captions
from bias_train.audit.object.caption_sets import CaptionSet, read_caption_sets
from bias_train.cli.main import main
from bias_train.errors import RunError
from bias_train.stats import Bootstrap


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_three_forms_say_the_same(tmp_path: Path) -> None:
    own = [
        {"image": "a.jpg", "captions": ["a dog", "one dog"], "negatives": ["a cat", "one cat"]},
        {"image": "b.jpg", "captions": "a bed", "negatives": {"near": ["a mat"], "far": ["a ship", "a sea"]}},
    ]
    ohd = {
        "file_path": "c.jpg", "positive_sample": "a cup", "adversarial_samples": {"mug": "a mug"},
        "delete_samples": {"cup": "a man"}, "popular": ["mug"],
    }  # fmt: skip
    rococo = [{"image": "val/d.jpg", "caption": ["a", "b", "c", "x", "y", "z"]}]
    assert read_caption_sets(write(tmp_path / "own.json", json.dumps(own))) == [
        CaptionSet("a.jpg", ("a dog", "one dog"), {"": ("a cat", "one cat")}),
        CaptionSet("b.jpg", ("a bed",), {"near": ("a mat",), "far": ("a ship", "a sea")}),
    ]
    lines = write(tmp_path / "ohd.json", json.dumps(ohd) + "\n" + json.dumps(ohd) + "\n")
    wanted = CaptionSet("c.jpg", ("a cup",), {"adversarial": ("a mug",), "delete": ("a man",)})
    assert read_caption_sets(lines) == [wanted, wanted]
    assert read_caption_sets(write(tmp_path / "rococo.json", json.dumps(rococo)), true_captions=3) == [
        CaptionSet("val/d.jpg", ("a", "b", "c"), {"": ("x", "y", "z")})
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "neither a JSON list nor JSON lines"),
        ("[]", "holds no picture"),
        ('[{"image": "a"}]', "entry 1 is no picture with captions"),
        ('[{"image": "a", "captions": ["x"], "negatives": []}]', r"entry 1 \(a\) has no altered caption"),
        ('[{"image": "a", "captions": [], "negatives": ["x"]}]', "has no true caption"),
        ('[{"image": "a", "captions": ["x", 3], "negatives": ["y"]}]', "is no list of captions"),
        ('[{"image": "a", "caption": ["x"]}]', "has no altered caption"),
        ("[3]", "entry 1 is no picture"),
    ],
)
def test_what_is_no_list_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        read_caption_sets(write(tmp_path / "x.json", text))
    with pytest.raises(RunError, match="cannot be read"):
        read_caption_sets(tmp_path / "nowhere.json")


def letters(texts: Sequence[str]) -> torch.Tensor:
    """A retriever that sees capitals and full stops, and the letters a to h."""
    rows = [[float(text.lower().count(letter)) for letter in "abcdefgh"] + [2.0 * text.endswith(".")] for text in texts]
    return torch.nn.functional.normalize(torch.tensor(rows) + 1e-3, dim=1)


def test_an_audit_of_spelling_and_of_pictures(tmp_path: Path) -> None:
    sets = [
        CaptionSet("0", ("A b.",), {"near": ("a c", "a b c"), "far": ("g h",)}),
        CaptionSet("1", ("C d.",), {"near": ("c e",), "far": ("A b.", "f f", "c d")}),
    ]
    image = letters(["A b.", "c d"])  # the first looks like its captions' full stop, too
    outcome = audit_captions(sets, image, letters, Bootstrap(50), title="two")

    def value(name: str, label: str = "raw", k: int | None = None) -> float:
        figure = outcome.find(name, k, label)
        assert figure is not None, (name, label)
        return figure.value

    # The second picture has no full stop: its altered caption without one comes first, until all are normalised.
    assert value("first") == 0.5
    assert value("first", NORMALISED) == 1.0
    assert value("first", "raw, near") == 1.0
    assert value("first", "raw, far") == 0.5
    assert value("first_chance") == pytest.approx((1 / 4 + 1 / 5) / 2)
    # Normalised, "c d" is the true caption itself and no longer an altered one.
    assert value("first_chance", NORMALISED) == pytest.approx((1 / 4 + 1 / 4) / 2)
    assert outcome.counts["altered captions that equal a true one"] == 1
    assert value("clean_R", k=1) == 1.0
    assert value("false_rate") == 0.75  # the first picture's caption is an altered one of the second: a tie
    assert value("false_chance") == pytest.approx(7 / 9)
    codes = {warning.code for warning in outcome.warnings}
    assert {"spelling_tells", "same_caption"} <= codes
    write_captions(outcome, tmp_path)
    table = pyarrow.parquet.read_table(tmp_path / "figures.parquet").to_pylist()
    assert len(table) == len(outcome.figures) == len(json.loads((tmp_path / "audit.json").read_text())["figures"])


def test_nothing_but_equal_captions() -> None:
    sets = [CaptionSet("0", ("A b.",), {"": ("a b",)})]
    found = audit_captions(sets, letters(["a"]), letters, None)
    figure = found.find("first", None, NORMALISED)
    assert figure is not None
    assert figure.count == 0
    assert np.isnan(figure.value)


def vectors(**change: Any) -> dict[str, Any]:
    made = {
        "image": np.array([[1, 0], [0, 1], [1, 0.2], [0.2, 1]], dtype=np.float32),
        "label": np.array(["land", "water", "water", "land"]),
        "group": np.array(["dry", "wet", "dry", "dry"]),
        "text": np.eye(2, dtype=np.float32),
        "text_label": np.array(["land", "water"]),
    } | change
    return {name: array for name, array in made.items() if array is not None}


def test_groups_from_vectors_and_from_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "birds.npz", **vectors())
    found = read_groups(tmp_path / "birds.npz")
    assert found.correct.tolist() == [True, True, False, False]
    assert (found.labels, found.groups) == (("land", "water"), ("dry", "wet"))
    rows = "label,group,prediction\nland,dry,land\nwater,wet,water\nwater,dry,land\nland,dry,water\n"
    other = read_groups(write(tmp_path / "birds.csv", rows))
    assert other.correct.tolist() == found.correct.tolist()
    assert main(["audit", "groups", str(tmp_path / "birds.csv"), "--output", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "worst: water | dry" in told
    document = json.loads((tmp_path / "out" / "audit.json").read_text())
    values = {f["label"] or f["name"]: f["value"] for f in document["figures"]}
    assert values["land | dry"] == 0.5
    assert values["worst_group_accuracy"] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": None}, "has no array 'group'"),
        ({"label": np.array(["land"] * 3)}, "label has shape"),
        ({"text_label": np.array(["land", "sea"])}, "no prompt is of the class 'water'"),
        ({"text": np.zeros((2, 2), dtype=np.float32)}, "text row 0 is all zeros"),
    ],
)
def test_vectors_that_do_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "x.npz", **vectors(**change))
    with pytest.raises(RunError, match=message):
        read_groups(tmp_path / "x.npz")


def test_predictions_that_lack_something(tmp_path: Path) -> None:
    for text, message in (
        ("label,group\na,b\n", "no column 'prediction'"),
        ("label,group,prediction\na,b,\n", "item 1 lacks"),
        ("label,group,prediction\n", "holds no item"),
    ):
        with pytest.raises(RunError, match=message):
            read_groups(write(tmp_path / "x.csv", text))
