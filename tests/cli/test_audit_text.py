"""``bias-train audit text`` and its callback end to end: what they write, and what they refuse."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from written_shards import WORDS, picture, write_attacked, write_erased, write_overlaid, write_signs

from bias_train.audit.text.rendering import Rendering
from bias_train.audit.text.text_set import embed_text_set, text_set
from bias_train.callbacks.text_spotting import TextSpotting
from bias_train.cli.inputs import retriever_of_run
from bias_train.cli.main import main
from bias_train.errors import RunError
from bias_train.metrics.functional.text.questions import text_answers
from bias_train.records import Record
from bias_train.tracking.panels import Panel, Section, sections
from datamodules.errors import DataError
from datamodules.sample import Sample
from datamodules.text_spans import Span
from datamodules.writer import ShardWriter

Train = Callable[..., Path]

QUICK = ("--resamples", "30", "--k", "1", "5", "--styles", "white/black", "gray/white")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of every kind, and a list of words."""
    folder = tmp_path_factory.mktemp("text")
    write_overlaid(folder / "overlaid")
    write_erased(folder / "erased")
    write_signs(folder / "signs")
    write_attacked(folder / "attacked")
    with ShardWriter(folder / "plain") as writer:
        writer.write(Sample("a", ("a dog",)), picture(0))
    (folder / "words.csv").write_text("word,count\npepper,3\nviolin,2\nkettle,2\nnull,1\nladder,1\n")
    return folder


def audit(*arguments: str | Path) -> int:
    return main(["audit", "text", *map(str, (*QUICK, *arguments))])


class Claims(HTMLParser):
    """The numbers that a page claims, by what they are of."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if "data-key" in given:
            self.values[str(given["data-key"])] = given.get("data-value") or ""


def test_a_run_records_text_spotting_and_is_audited(
    train: Train, material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {
        "shards": [str(material / "overlaid"), str(material / "erased")], "words": str(material / "words.csv"),
        "word_limit": 4, "styles": ["white/black", "gray/white"], "reading": [str(material / "signs")],
        "attack": [str(material / "attacked")], "canvas": 64, "points": 18, "fit": True, "resamples": 30,
        "batch_size": 8,
    }  # fmt: skip
    callback = {"class_path": "bias_train.callbacks.text_spotting.TextSpotting", "init_args": given}
    run = train(f"--trainer.callbacks+={json.dumps(callback)}")
    with (run / "records.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["axis"] == "text"]
    assert {row["step"] for row in rows} == {"3", "6"}
    with (run / "metrics.csv").open(newline="") as file:
        logged = {name for row in csv.DictReader(file) for name, value in row.items() if value}
    assert {"bias/text/sync", "bias/text/win_share_net", "bias/text/overlay_t2i_drop@1", "bias/text/RSA_net_mean",
            "bias/text/attack_success", "bias/text/reading_t2i_R@1", "bias/text/clean_i2t_R@1"} <= logged  # fmt: skip
    assert not any("white" in name for name in logged)

    # The last ones are those of the finished retriever.
    words_of_it = ("pepper", "violin", "null", "ladder")  # evenly spread over the list of five
    rendering = Rendering(words_of_it, ("white/black", "gray/white"), 64, 18, fit=True)
    assert TextSpotting(**given).rendering == rendering
    asked = text_set(given["shards"], rendering=rendering, reading=given["reading"], attack=given["attack"])
    vectors = embed_text_set(retriever_of_run(run), asked)
    found = text_answers(asked.questions, *vectors, ks=(1,)).figures()
    wanted = {(f.name, "" if f.k is None else str(f.k), f.label or ""): f.value for f in found}
    last = {(row["name"], row["k"], row["label"]): row["value"] for row in rows if row["step"] == "6"}
    assert set(last) == set(wanted)
    for key, value in last.items():
        assert float(value or "nan") == pytest.approx(wanted[key], abs=1e-6, nan_ok=True), key
    capsys.readouterr()

    out = tmp_path / "out"
    arguments = ("--run", run, "--shards", *given["shards"], "--words", material / "words.csv", "--reading",
                 material / "signs", "--attack", material / "attacked", "--against", run)  # fmt: skip
    assert audit(*arguments, "--output", out, "--title", "a <small> one") == 0
    told = capsys.readouterr().out
    assert "warning: Only 11 pictures carry a wrong word." in told
    assert "change: Rendered words" in told
    document = json.loads((out / "audit.json").read_text())
    assert document["audit"] == "text"
    words = document["conventions"]["rendered words"]
    assert (words["words"], words["font"], words["prompt"]) == (5, "dejavu-sans", "{word}")
    assert document["counts"]["overlaid pictures"] == 11
    assert {figure["value"] for figure in document["changes"]} <= {0.0, None}  # against itself
    table = pyarrow.parquet.read_table(out / "figures.parquet").to_pylist()
    assert len(table) == len(document["figures"]) + len(document["changes"])
    page = (out / "report.html").read_text()
    assert "a &lt;small&gt; one" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    claims = Claims()
    claims.feed(page)

    def key_of(row: dict[str, Any]) -> str:
        at = "" if row["k"] is None else f"@{row['k']}"
        return f"{'change|' if row['change'] else ''}{row['name']}{at}{'|' + row['label'] if row['label'] else ''}"

    values = {key_of(row): row["value"] for row in table}
    assert {"NS", "sync|gray/white", "rendered_t2i_R@1", "win_share_net", "overlay_i2t_drop@5", "attack_success_net",
            "RSC_net_q50", "reading_t2i_R@5", "change|sync|white/black"} <= set(claims.values)  # fmt: skip
    for key, claimed in claims.values.items():
        assert claimed == ("" if values[key] != values[key] else repr(values[key])), key


class Stub:
    """Finds one word in the upper left quarter of every picture."""

    name = "stub 1"

    def describe(self) -> dict[str, Any]:
        return {"engine": self.name}

    def read(self, image: Any) -> tuple[Span, ...]:
        height, width = image.shape[0] / 2, image.shape[1] / 2
        return (Span("word", ((0.0, 0.0), (width, 0.0), (width, height), (0.0, height))),)


def test_pictures_are_read_and_blurred_where_that_is_asked_for(
    train: Train, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("datamodules.ocr.reader_of", lambda engine: Stub())
    run = train()
    asked = ("--run", run, "--shards", material / "overlaid", "--word-limit", "0", "--against", run)
    assert audit(*asked, "--ocr", "rapidocr", "--output", tmp_path / "blurred") == 0
    assert audit(*asked, "--output", tmp_path / "plain") == 0
    blurred, plain = (json.loads((tmp_path / name / "audit.json").read_text()) for name in ("blurred", "plain"))
    assert blurred["inputs"]["ocr"]["reader"] == {"engine": "stub 1"}
    assert "ocr" not in plain["inputs"]
    # The other side of the comparison is the retriever as it is: what differs is the blur alone.
    assert {figure["value"] for figure in plain["changes"]} <= {0.0, None}
    assert any(figure["value"] for figure in blurred["changes"])


def test_words_alone_and_json(train: Train, material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train("--trainer.max_steps=1", "--trainer.val_check_interval=1", "--model.schedule.total_steps=1")
    capsys.readouterr()
    words = run.parent / "words.txt"
    words.write_text("\n".join(WORDS))
    assert (
        audit("--run", run, "--pairs", material / "overlaid", "--words", words, "--output", run / "a", "--json", "-")
        == 0
    )
    document = json.loads(capsys.readouterr().out)
    names = {figure["name"] for figure in document["figures"]}
    assert {"sync", "NS_denominator", "clean_t2i_R"} <= names
    assert not any(name.startswith(("win", "overlay", "RSA", "reading")) for name in names)
    assert "no_reading" in {warning["code"] for warning in document["warnings"]}
    command = ("--run", run, "--pairs", material / "overlaid", "--words", words, "--output", run / "low", "--json", "-")
    assert audit(*command, "--word-y", "0.9") == 0
    low = json.loads(capsys.readouterr().out)

    def syncs(told: dict[str, Any]) -> list[float]:
        return [figure["value"] for figure in told["figures"] if figure["name"] == "sync"]

    assert len(syncs(low)) == len(syncs(document)) > 1
    assert all(one != other for one, other in zip(syncs(low), syncs(document), strict=True))  # elsewhere on the canvas
    none = ("--run", run, "--shards", material / "overlaid", "--word-limit", "0", "--output", run / "b", "--json", "-")
    assert audit(*none) == 0
    assert "sync" not in {figure["name"] for figure in json.loads(capsys.readouterr().out)["figures"]}


def test_names_of_figures_and_their_panels() -> None:
    overall = Record("text", "overlay_t2i_drop", 1, 0.0, "all", "", 5, 0.1, 0.0, 0.2, 3, "clean", "")
    assert overall.key == "bias/text/overlay_t2i_drop@1"
    assert overall.is_scalar
    of_style = Record("text", "sync", None, 0.0, "all", "white/black", 5, 0.1, 0.0, 0.2, 3, "clean", "")
    assert of_style.key == "bias/text/sync/label=white/black"
    assert not of_style.is_scalar
    names = ["bias/text/NS", "bias/text/overlay_t2i_R@1", "bias/text/overlay_t2i_R@5"]
    panels = (Panel("line", "NS", ("bias/text/NS",)), Panel("line", "overlay_t2i_R", tuple(names[1:])))
    assert sections(names) == [Section("Bias: text", panels)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name pictures with captions: --shards SET"),
        (("--shards", "overlaid", "--against", "overlaid"), "is no run folder"),
        (("--shards", "plain"), "holds no picture with a wrong word"),
        (("--shards", "overlaid", "--words", "nowhere.txt"), "nowhere.txt: cannot be read"),
        (("--shards", "overlaid", "--query", "words.csv"), "query: .* has no place for the word"),
        (("--shards", "overlaid"), "name one retriever"),
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
        TextSpotting([])
    with pytest.raises(RunError, match="ks holds nothing"):
        TextSpotting(["x"], ks=())
    with pytest.raises(RunError, match="styles: 'red/black' is none"):
        TextSpotting(["x"], styles=["red/black"])
    with pytest.raises(DataError, match="holds no picture with a wrong word"):
        TextSpotting([str(material / "plain")]).setup(None, None, "fit")  # type: ignore[arg-type]
    assert TextSpotting(["x"], word_limit=0).rendering is None
