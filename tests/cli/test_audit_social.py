"""``bias-train audit social`` end to end: from vectors and from shards with a run, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from scipy.stats import spearmanr

from bias_train.cli.main import main
from bias_train.people.vectors import load_people
from datamodules.world import WorldPeople, write_people_world

QUICK = ("--resamples", "40", "--minimum", "5")


def arrays(seed: int = 0, count: int = 300, asked: int = 12) -> dict[str, np.ndarray]:
    """People of two genders and three races, and words that ask for gender more or less."""
    rng = np.random.default_rng(seed)
    gender, race = rng.integers(0, 2, size=count), rng.integers(0, 3, size=count)
    image = rng.normal(size=(count, 12))
    image[:, 0] += 2.0 * gender
    image[np.arange(count), 1 + race] += 1.0
    text = rng.normal(size=(asked, 12))
    text[:, 0] = np.linspace(-2, 2, asked)

    def unit(rows: np.ndarray) -> np.ndarray:
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return {
        "image": unit(image),
        "image_key": np.array([f"face-{i}" for i in range(count)]),
        "attribute_gender": np.array(["Male", "Female"])[gender],
        "attribute_race": np.array(["Black", "White", "Indian"])[race],
        "text": unit(text),
        "word": np.array([f"word{i}" for i in range(asked)]),
        "category": np.array(["good", "bad & <odd>"] * (asked // 2)),
    }


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    path = tmp_path / "faces.npz"
    np.savez(path, **arrays())
    return path


@pytest.fixture(scope="session")
def people_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a few robots in two coats with two hats; traits are said unevenly of the coats."""
    folder = tmp_path_factory.mktemp("people")
    write_people_world(folder / "val", samples=80, people=WorldPeople())
    write_people_world(folder / "other", samples=40, people=WorldPeople(), split_offset=80)
    return folder


def audit(*arguments: str | Path) -> int:
    return main(["audit", "social", *map(str, arguments)])


class Claims(HTMLParser):
    """The numbers that a page claims, by what they are of."""

    def __init__(self) -> None:
        super().__init__()
        self.means: dict[tuple[str, str, str], str] = {}
        self.words: dict[str, str] = {}
        self.cells: dict[str, str] = {}
        self._row: dict[str, str | None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "tr":
            self._row = given
        value = given.get("data-value") or ""
        if "data-key" in given and "data-attribute" in self._row:
            place = (str(self._row["data-attribute"]), str(self._row["data-category"] or ""), str(given["data-key"]))
            self.means[place] = value
        if "data-word" in given:
            self.words[str(given["data-word"])] = value
        if "data-cell" in given:
            self.cells[str(given["data-cell"])] = value


def spelt(value: float | None) -> str:
    return "" if value is None or not np.isfinite(value) else repr(value)


def test_from_vectors(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tmp_path / "before.npz"
    np.savez(before, **(arrays() | {"text": arrays(1)["text"]}))
    out = tmp_path / "out"
    assert audit("--vectors", vectors, "--against", before, "--k", "30", "60", "--output", out, *QUICK) == 0
    told = capsys.readouterr().out
    assert "By gender, MaxSkew@30 is" in told
    assert "change by race x gender" in told
    assert "the strongest ties" in told
    document = json.loads((out / "audit.json").read_text())
    assert document["audit"] == "social"
    assert [entry["attribute"] for entry in document["headline"]] == ["gender", "race", "race x gender"]
    assert {figure["category"] for figure in document["figures"]} == {"", "good", "bad & <odd>"}
    assert document["conventions"]["modes"] == ["file"]
    assert document["inputs"]["vectors"] == str(vectors)
    assert {change["name"] for change in document["changes"]} == {figure["name"] for figure in document["figures"]}

    # Every number that the page claims is that of the tables.
    page = (out / "report.html").read_text()
    claims = Claims()
    claims.feed(page)
    assert len(claims.means) == 3 * 3 * 5
    figures = {
        (f["attribute"], f["category"], f["name"] if f["k"] is None else f"{f['name']}@{f['k']}"): f["value"]
        for f in document["figures"]
    }
    for place, value in claims.means.items():
        assert value == spelt(figures[place]), place
    rows = pyarrow.parquet.read_table(out / "figures.parquet").to_pylist()
    words = {
        f"{row['attribute']}|{row['category']}|{row['word']}": row["value"]
        for row in rows
        if row["word"] and (row["name"], row["k"], row["change"]) == ("max_skew", 30, False)
    }
    assert claims.words == {place: spelt(value) for place, value in words.items()}
    cells = pyarrow.parquet.read_table(out / "cells.parquet").to_pylist()
    ties = {f"{c['attribute']}|{c['category']}|{c['word']}|{c['group']}": c["association"] for c in cells}
    assert claims.cells == {place: spelt(value) for place, value in ties.items()}
    assert len(ties) == 12 * (2 + 3 + 6)
    for warning in document["warnings"]:
        assert f'data-code="{warning["code"]}"' in page
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)  # one file that needs no other
    assert "<odd>" not in page
    assert "<img" not in page  # nobody's face unless it is asked for


def test_the_choices(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "target.json"
    target.write_text(json.dumps({"gender": {"Female": 0.7, "Male": 0.3}}))
    arguments = ("--vectors", vectors, "--output", tmp_path / "out", "--json", "-", *QUICK)
    more = ("--attribute", "gender", "--attribute", "race x gender", "--k", "20", "--target", target, "--title", "mine")
    assert audit(*arguments, *more, "--permutations", "199", "--adjust", "holm", "--transfer", vectors) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / "out" / "audit.json").read_text())
    assert document["title"] == "mine"
    assert document["conventions"]["target"]["gender"] == {"Female": 0.7, "Male": 0.3}
    assert document["conventions"]["tests"]["adjust"] == "holm"
    assert {(entry["set"], entry["attribute"]) for entry in document["headline"]} == {
        (where, what) for where in ("people", "transfer") for what in ("gender", "race x gender")
    }
    same = [effect["value"] for effect in document["effects"] if effect["name"] == "transfer_correlation"]
    assert same == pytest.approx([1.0] * len(same))


def test_a_run_over_shards(train: Callable[..., Path], people_world: Path, world: Path, tmp_path: Path) -> None:
    run = train("--trainer.max_steps", "2")
    out, val = tmp_path / "out", people_world / "val"
    terms = tmp_path / "terms.json"
    terms.write_text(json.dumps({"coat": {"purple": ["purple"], "yellow": ["yellow"]}}))
    code = audit(
        "--run", run, "--shards", val, "--words", val / "words.csv", "--group-prompts", val / "group_prompts.json",
        "--prompt-mode", "article", "bare", "--k", "20", "--against", run, "--pairs", world / "val",
        "--transfer", people_world / "other", "--corpus", val, people_world / "other", "--group-terms", terms,
        "--thumbnails", "2", "--output", out, *QUICK,
    )  # fmt: skip
    assert code == 0
    document = json.loads((out / "audit.json").read_text())
    assert {(entry["set"], entry["mode"], entry["attribute"]) for entry in document["headline"]} == {
        *(("people", mode, name) for mode in ("article", "bare") for name in ("coat", "hat")),
        *(("transfer", "article", name) for name in ("coat", "hat")),
    }
    words = document["conventions"]["words"]
    assert (words["file"], len(words["sha256"])) == (str(val / "words.csv"), 64)
    # Against itself nothing changes.
    changes = [change["value"] for change in document["changes"] if change["value"] is not None]
    assert changes
    assert max(map(abs, changes)) < 1e-9
    found = {(effect["kind"], effect["attribute"]) for effect in document["effects"]}
    assert {("utility", ""), ("retention", "hat"), ("leakage", "coat"), ("transfer", "hat"), ("corpus", "coat")} <= (
        found
    )
    assert ("corpus", "hat") not in found  # no terms
    assert document["counts"]["captions_naming"].keys() == {"coat"}
    page = (out / "report.html").read_text()
    assert page.count("<img") == 2 * 12
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    # What was planted into the captions is what the corpus shows, whatever the retriever learnt.
    strength = WorldPeople().strength
    odds = {
        cell["word"]: cell["log_odds"]
        for cell in pyarrow.parquet.read_table(out / "cells.parquet").to_pylist()
        if (cell["set"], cell["mode"], cell["attribute"], cell["group"])
        == ("people", "article", "coat", WorldPeople().favoured)
    }
    assert spearmanr([odds[word] for word in strength], list(strength.values())).statistic > 0.6


def test_usual_groups_are_named_without_being_told_how(
    train: Callable[..., Path], people_world: Path, tmp_path: Path
) -> None:
    """The robots' attributes have no prompts of ours: the audit says so and goes on."""
    run = train("--trainer.max_steps", "2")
    out = tmp_path / "out"
    assert audit("--run", run, "--shards", people_world / "val", "--words", "opposites", "--k", "20", "--limit", "60",
                 "--attribute", "hat", "--output", out, *QUICK) == 0  # fmt: skip
    document = json.loads((out / "audit.json").read_text())
    assert document["counts"]["pictures"] == 60
    assert document["counts"]["words"] == 10
    assert [warning["code"] for warning in document["warnings"]].count("retention") == 1
    assert {effect["kind"] for effect in document["effects"]} == {"leakage"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name whom to search"),
        (["--vectors", "missing.npz"], "missing.npz: there is no such file"),
        (["--vectors", "VECTORS", "--shards", "x"], "exclude each other"),
        (["--vectors", "VECTORS", "--words", "berg"], "--words needs --shards"),
        (["--vectors", "VECTORS", "--thumbnails", "3"], "--thumbnails needs --shards"),
        (["--vectors", "VECTORS", "--resamples", "1"], "resamples is 1"),
        (["--vectors", "VECTORS", "--attribute", "height"], "no attribute 'height'"),
        (["--vectors", "VECTORS", "--minimum", "500"], "no group has 500 pictures"),
        (["--vectors", "VECTORS", "--target", "missing.json"], "give pool, uniform, or a JSON file that exists"),
        (["--vectors", "VECTORS", "--target", "VECTORS"], "must be JSON such as"),
        (["--vectors", "VECTORS", "--against", "missing.npz"], "missing.npz"),
        (["--vectors", "VECTORS", "--pairs", "missing"], "need a retriever"),
        (["--vectors", "VECTORS", "--transfer", "missing"], "need a retriever"),
        (["--vectors", "VECTORS", "--corpus", "missing"], "missing"),
        (["--shards", "x", "--words", "missing.csv", "--model", "m"], "missing.csv"),
        (["--shards", "x", "--words", "berg", "--tiers", "core"], "choose among words"),
        (["--shards", "x"], "name one retriever"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(vectors) if part == "VECTORS" else part for part in arguments]
    assert audit(*given, "--output", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_vectors_without_words_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "faces.npz"
    np.savez(path, **{name: array for name, array in arrays().items() if name not in ("text", "word", "category")})
    assert load_people(path)[1] is None
    assert audit("--vectors", path, "--output", tmp_path / "out") == 2
    assert "has no words to ask with" in capsys.readouterr().err
