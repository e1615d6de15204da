"""``bias-train audit object`` and its callback end to end: what they write, and what they refuse."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet
import pytest
from edited_shards import picture, scenes, write_edited
from PIL import Image

from bias_train.audit.object.edited_set import edited_set, embed_edited
from bias_train.callbacks.object_decorrelation import ObjectDecorrelation
from bias_train.cli.inputs import retriever_of_run
from bias_train.cli.main import main
from bias_train.errors import RunError
from bias_train.metrics.functional.object.questions import answers
from bias_train.records import Record
from bias_train.tracking.panels import Panel, Section, sections
from datamodules.errors import DataError
from datamodules.sample import Sample
from datamodules.writer import ShardWriter

Train = Callable[..., Path]

QUICK = ("--resamples", "30", "--minimum", "3", "--k", "5", "1")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Edited shards, a further gallery and some pairs."""
    folder = tmp_path_factory.mktemp("object")
    write_edited(folder / "edited", scenes())
    with ShardWriter(folder / "more") as writer:
        writer.write(Sample("boat", ("a boat on a lake",)), picture(set()))
    (folder / "pairs.csv").write_text("a,b,why\ndog,frisbee,\ncat,bed,\ncat,dog,too few pictures\n")
    return folder


def audit(*arguments: str | Path) -> int:
    return main(["audit", "object", *map(str, (*QUICK, *arguments))])


class Claims(HTMLParser):
    """The numbers that a page claims, by what they are of."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if "data-key" in given:
            self.values[str(given["data-key"])] = given.get("data-value") or ""


def test_a_run_records_object_bias_and_is_audited(
    train: Train, material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"shards": [str(material / "edited")], "pairs": [["dog", "frisbee"]], "ks": [5], "minimum": 3,
             "resamples": 30, "batch_size": 8}  # fmt: skip
    callback = {
        "class_path": "bias_train.callbacks.object_decorrelation.ObjectDecorrelation", "init_args": given,
    }  # fmt: skip
    run = train(f"--trainer.callbacks+={json.dumps(callback)}")
    with (run / "records.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["axis"] == "object"]
    assert {row["step"] for row in rows} == {"3", "6"}
    with (run / "metrics.csv").open(newline="") as file:
        logged = {name for row in csv.DictReader(file) for name, value in row.items() if value}
    assert {"bias/object/i2t_DG_net@5", "bias/object/t2i_ODmAP_V2_micro@5", "bias/object/i2t_H_removed_pairs@5",
            "bias/object/clean_t2i_R@1"} <= logged  # fmt: skip
    assert not any("dog" in name for name in logged)

    # The last ones are those of the finished retriever.
    asked = edited_set([str(material / "edited")], pairs=[("dog", "frisbee")])
    vectors = embed_edited(retriever_of_run(run), asked)
    wanted = {
        (f.name, str(f.k), f.label or ""): f.value
        for f in answers(asked.questions, *vectors, ks=(5,), clean_ks=(1,), minimum=3).figures()
    }
    last = {(row["name"], row["k"], row["label"]): float(row["value"]) for row in rows if row["step"] == "6"}
    assert ("i2t_DG", "5", "dog | frisbee") in last
    for key, value in last.items():
        assert value == pytest.approx(wanted[key], abs=1e-6, nan_ok=True), key
    capsys.readouterr()

    out = tmp_path / "out"
    arguments = ("--run", run, "--shards", material / "edited", "--gallery", material / "more", "--pairs",
                 material / "pairs.csv", "--against", run)  # fmt: skip
    assert audit(*arguments, "--output", out, "--title", "a <small> one") == 0
    told = capsys.readouterr().out
    assert "warning: Only 12 edited pictures" in told
    assert "dog | frisbee" in told
    assert "change, pictures among captions" in told
    document = json.loads((out / "audit.json").read_text())
    assert document["audit"] == "object"
    assert document["definition"] == "ODmAP-style (bias-train definition)"
    assert document["conventions"]["mentions"]["categories"] == 80
    assert document["counts"]["captions searched"] == 2 * len(scenes()) + 1
    assert {figure["value"] for figure in document["changes"]} <= {0.0, None}  # against itself
    table = pyarrow.parquet.read_table(out / "figures.parquet").to_pylist()
    assert len(table) == len(document["figures"]) + len(document["changes"])
    page = (out / "report.html").read_text()
    assert "a &lt;small&gt; one" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    claims = Claims()
    claims.feed(page)
    found = {
        f"{'change|' if row['change'] else ''}{row['name']}@{row['k']}{'|' + row['label'] if row['label'] else ''}":
        row["value"] for row in table
    }  # fmt: skip
    assert {"i2t_H_removed@5", "i2t_H_removed@1", "t2i_ODmAP_V3@5", "i2t_DG_pairs@5", "clean_t2i_R@10",
            "i2t_DG_net@5|dog", "i2t_H_removed@5|dog | frisbee", "change|i2t_DG@5"} <= set(claims.values)  # fmt: skip
    for key, value in claims.values.items():
        assert value == ("" if found[key] != found[key] else repr(found[key])), key
    assert 0.0 < found["i2t_H_original@5"] <= 1.0

    _audit_captions(run, tmp_path, capsys)


def _audit_captions(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same run among altered captions; one picture lies in a folder of its own."""
    (folder / "pictures" / "val").mkdir(parents=True)
    entries = []
    for number, name in enumerate(("val/a.png", "b.png")):
        Image.fromarray(picture({"dog"} if number else {"cat"})).save(folder / "pictures" / name)
        entries.append({"image": name, "captions": ["a cat", "one cat"], "negatives": ["a dog", "a bed."]})
    (folder / "list.json").write_text(json.dumps(entries))
    arguments = ["audit", "captions", str(folder / "list.json"), "--run", str(run), "--resamples", "20"]
    out = folder / "captions"
    assert main([*arguments, "--images", str(folder / "pictures"), "--output", str(out)]) == 0
    told = capsys.readouterr().out
    assert "true caption first among its candidates" in told
    document = json.loads((out / "audit.json").read_text())
    assert document["counts"]["true captions"] == 4
    assert document["counts"]["altered captions"] == 4
    values = {(f["name"], f["label"]): f["value"] for f in document["figures"]}
    assert values["first_chance", "raw"] == pytest.approx(1 / 3)
    assert values["first_blind", "raw"] == 0.0  # by hand: "a cat" and "a dog" are as good
    assert main([*arguments, "--images", str(folder / "nowhere"), "--output", str(out)]) == 2
    assert "2 of 2 pictures are not there, such as val/a.png" in capsys.readouterr().err


def test_names_of_figures_and_their_panels() -> None:
    overall = Record("object", "i2t_DG", 10, 0.0, "all", "", 5, 0.1, 0.0, 0.2, 3, "clean", "")
    assert overall.key == "bias/object/i2t_DG@10"
    assert overall.is_scalar
    of_dogs = Record("object", "i2t_DG", 10, 0.0, "all", "dog", 5, 0.1, 0.0, 0.2, 3, "clean", "")
    assert of_dogs.key == "bias/object/i2t_DG@10/label=dog"
    assert not of_dogs.is_scalar
    names = ["bias/object/i2t_DG@1", "bias/object/i2t_DG@10", "bias/object/clean_t2i_R@1"]
    panels = (Panel("line", "i2t_DG", tuple(names[:2])), Panel("line", "clean_t2i_R", tuple(names[2:])))
    assert sections(names) == [Section("Bias: object", panels)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shards", "edited", "--pairs", "nowhere.csv"), "--pairs .*cannot be read"),
        (("--shards", "edited", "--pairs", "edited/index.arrow"), "--pairs .*(cannot be read|must have)"),
        (("--shards", "edited", "--against", "edited"), "is no run folder"),
        (("--shards", "more"), "no picture from which an object was taken away"),
        (("--shards", "edited", "--vocabulary", "nowhere.csv"), "nowhere.csv"),
        (("--shards", "edited"), "name one retriever"),
    ],
)
def test_what_is_wrong_is_told(
    material: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [name if name.startswith("--") else str(material / name) for name in arguments]
    assert audit(*given) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_callback_is_checked_before_training(material: Path) -> None:
    with pytest.raises(RunError, match="shards is empty"):
        ObjectDecorrelation([])
    with pytest.raises(RunError, match=r"pairs holds \['dog'\]"):
        ObjectDecorrelation(["x"], pairs=[["dog"]])
    with pytest.raises(RunError, match="ks holds nothing"):
        ObjectDecorrelation(["x"], ks=())
    with pytest.raises(DataError, match="no picture from which an object"):
        ObjectDecorrelation([str(material / "more")]).setup(None, None, "fit")  # type: ignore[arg-type]
