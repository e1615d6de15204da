"""``bias-train audit source`` end to end: from vectors and from shards with a run, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from bias_train.cli.main import main
from bias_train.embeddings import Embeddings, load_embeddings, save_embeddings

QUICK = ("--resamples", "40", "--permutations", "99", "--quantiles", "2")


def arrays(seed: int = 0, pairs: int = 40, captions: int = 2, twins: int = 2) -> dict[str, np.ndarray]:
    """Photos with twins by two generators, as another system would write them."""
    rng = np.random.default_rng(seed)
    scene = rng.normal(size=(pairs, 12))

    def view(noise: float, times: int = 1) -> np.ndarray:
        rows = np.repeat(scene, times, axis=0)
        rows = rows + noise * rng.normal(size=rows.shape)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    target = np.arange(pairs)
    return {
        "image": np.concatenate([view(1.0), *(view(0.8) for _ in range(twins))]),
        "image_key": np.array([f"{kind}-{i}" for kind in ("photo", "sd", "flux")[: 1 + twins] for i in range(pairs)]),
        "image_target": np.tile(target, 1 + twins),
        "image_source": np.repeat(np.array(["real", "sd", "flux"])[: 1 + twins], pairs),
        "text": view(1.1, captions),
        "query": np.array([" ".join(["word"] * int(n)) for n in rng.integers(3, 9, size=pairs * captions)]),
        "query_target": np.repeat(target, captions),
        "query_slot": np.tile(np.arange(captions), pairs),
    }


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    path = tmp_path / "vectors.npz"
    np.savez(path, **arrays())
    return path


class Cells(HTMLParser):
    """The numbers that a page claims, in order: those of the cells' tables by key, and those of the full tables."""

    def __init__(self) -> None:
        super().__init__()
        self.keyed: list[tuple[str, str, str, str]] = []
        self.exact: list[str] = []
        self._row: dict[str, str | None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "tr":
            self._row = given
        if "data-exact" in given:
            self.exact.append(given["data-exact"] or "")
        if "data-key" in given:
            place = (str(self._row["data-cell"]), str(self._row["data-mode"]))
            self.keyed.append((*place, str(given["data-key"]), given["data-value"] or ""))


def spelt(value: float | None) -> str:
    return "" if value is None else repr(value)


def audit(*arguments: str | Path) -> int:
    return main(["audit", "source", *map(str, arguments)])


def test_from_vectors(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tmp_path / "before.npz"
    np.savez(before, **(arrays() | {"text": arrays(1)["text"]}))
    out = tmp_path / "out"
    assert audit("--embeddings", vectors, "--against", before, "--output", out, *QUICK) == 0
    told = capsys.readouterr().out
    assert "Relative Δ of R@1" in told
    assert "warning: There are 40 photos and 80 generated pictures" in told
    document = json.loads((out / "audit.json").read_text())
    assert document["headline"] == "relative_delta_R@1"
    assert {figure["group"] for figure in document["figures"]} == {
        "headline", "ratio", "generator", "caption_length", "similarity",
    }  # fmt: skip
    assert {figure["cell"] for figure in document["figures"] if figure["group"] == "generator"} == {"sd", "flux"}
    assert document["counts"]["pairs"] == document["counts"]["several_twins"] == 40
    assert len(document["equivalence"]) == 5  # parity of three galleries, quality of photos and of generated pictures

    # The parquet holds the same figures, and changes apart.
    table = pyarrow.parquet.read_table(out / "figures.parquet").to_pylist()
    figures, changes = ([row for row in table if row["change"] is change] for change in (False, True))
    for rows, name in ((figures, "figures"), (changes, "changes")):
        assert len(rows) == len(document[name]) > 0
        for row, figure in zip(rows, document[name], strict=True):
            for column in ("cell", "mode", "name", "k", "count", "p", "p_adjusted"):
                assert row[column] == figure[column]
            for column in ("value", "low", "high"):
                value = row[column]
                assert (None if value is None or not np.isfinite(value) else value) == figure[column]

    # Every number that the page claims is the JSON's.
    page = (out / "report.html").read_text()
    cells = Cells()
    cells.feed(page)
    found = {(f["cell"], f["mode"], f["name"] if f["k"] is None else f"{f['name']}@{f['k']}"): f["value"]
             for f in document["figures"]}  # fmt: skip
    changed = {(f["cell"], f["mode"], f["name"] if f["k"] is None else f"{f['name']}@{f['k']}"): f["value"]
               for f in document["changes"]}  # fmt: skip
    half = len(cells.keyed) // 2
    assert half > 50
    for place, source in ((cells.keyed[:half], found), (cells.keyed[half:], changed)):
        for cell, mode, key, value in place:
            assert value == spelt(source[cell, mode, key]), (cell, mode, key)
    expected = [spelt(row[name]) for row in document["equivalence"] for name in ("value", "p")]
    for name in ("figures", "changes"):
        for figure in document[name]:
            expected += [spelt(figure[column]) for column in ("value", "low", "high", "p", "p_adjusted")]
    assert cells.exact == expected
    for warning in document["warnings"]:
        assert f'data-code="{warning["code"]}"' in page
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)  # one file that needs no other


def test_json_alone(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit("--embeddings", vectors, "--output", tmp_path / "out", "--json", "-", *QUICK) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / "out" / "audit.json").read_text())
    assert document["tests"] > 0
    # Holm's correction never lowers a p-value.
    assert all(f["p_adjusted"] >= f["p"] for f in document["figures"] if f["p"] is not None)


def test_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    centre = np.eye(4, 8)
    target, source = np.repeat(np.arange(4), 30), np.tile(np.repeat([0, 1], 15), 4)
    path = tmp_path / "classes.npz"
    np.savez(
        path,
        image=(centre[target] + 0.3 * rng.normal(size=(120, 8))).astype(np.float32),
        image_target=target,
        image_source=source,
        text=centre.astype(np.float32),
        query_target=np.arange(4),
        target_names=np.array(["cat", "dog", "frog", "ship"]),
    )
    assert audit("--embeddings", path, "--normalise", "--output", tmp_path / "out", "--json", "-", *QUICK) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["headline"] == "relative_delta_P@100"
    assert {figure["label"] for figure in document["figures"]} == {"", "cat", "dog", "frog", "ship"}
    assert "unnormalised" not in {warning["code"] for warning in document["warnings"]}
    assert "pool_balance" in {warning["code"] for warning in document["warnings"]}
    accuracy = {f["name"]: f["value"] for f in document["figures"] if "accuracy" in f["name"] and not f["label"]}
    # As many photos as generated pictures: the whole is the mean of the two.
    both = accuracy["class_accuracy_real"] + accuracy["class_accuracy_generated"]
    assert accuracy["class_accuracy"] == pytest.approx(both / 2)


def test_a_run_over_shards(train: Callable[..., Path], world: Path, tmp_path: Path) -> None:
    run = train("--trainer.max_steps", "2")
    out = tmp_path / "out"
    assert audit("--run", run, "--shards", world / "val", "--against", run, "--output", out, *QUICK) == 0
    document = json.loads((out / "audit.json").read_text())
    assert document["title"] == "run"
    assert document["counts"]["photos"] == document["counts"]["pairs"] == 40
    changes = [f["value"] for f in document["changes"] if f["value"] is not None and f["name"] != "pool_share"]
    assert changes
    assert max(map(abs, changes)) < 1e-9
    # Shards that hold none of its pictures are no leak; those that hold them are refused.
    arguments = ("--run", run, "--shards", world / "val", "--output", out, *QUICK)
    assert audit(*arguments, "--calibration", world / "train") == 0
    assert audit(*arguments, "--calibration", world / "val") == 2


def test_recorded_similarity(vectors: Path, tmp_path: Path) -> None:
    table = tmp_path / "similarity.csv"
    names = [key for key in arrays()["image_key"].tolist() if not key.startswith("photo")]
    table.write_text("key,similarity\n" + "\n".join(f"{key},{i / 80}" for i, key in enumerate(names)) + "\n")
    out = tmp_path / "out"
    assert audit("--embeddings", vectors, "--similarity", table, "--output", out, *QUICK) == 0
    cells = {f["cell"] for f in json.loads((out / "audit.json").read_text())["figures"] if f["group"] == "similarity"}
    assert len(cells) == 2
    assert all(0 <= float(number) < 1 for cell in cells for number in re.findall(r"\d\.\d+", cell))


def test_leaks_are_refused(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = load_embeddings(vectors)
    audited = tmp_path / "audited.npz"
    save_embeddings(audited, whole.targets(range(20, 40)))
    row_numbers = tuple(map(str, range(60)))

    def refused(calibration: Embeddings, name: str) -> str:
        path = tmp_path / f"{name}.npz"
        save_embeddings(path, calibration)
        code = audit("--embeddings", audited, "--calibration", path, "--output", tmp_path / "out", *QUICK)
        told = capsys.readouterr()
        assert code in (0, 2)
        if code == 0:
            return "warning" if "number of a calibration target" in told.out else ""
        assert len(told.err.strip().splitlines()) == 1
        return told.err

    assert refused(whole.targets(range(20)), "disjoint") == ""
    assert "pictures were calibrated on, such as 'flux-20'" in refused(whole, "all")
    # The same pictures under other names are known by their vectors.
    other = whole.targets(range(20, 40))
    keys = tuple(f"other {key}" for key in other.image_key)
    assert "embeddings are equal" in refused(replace(other, image_key=keys), "renamed")
    # Other pictures of the same scenes: refused where there are no names to tell them apart, else warned of.
    moved = replace(other, image=other.image.roll(1, dims=1))
    assert "targets were calibrated on" in refused(replace(moved, image_key=row_numbers), "numbers")
    assert refused(replace(moved, image_key=keys), "names") == "warning"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--embeddings", "missing.npz"], "missing.npz: there is no such file"),
        (["--embeddings", "VECTORS", "--ratios", "1.5"], "ratios are 1.5"),
        (["--embeddings", "VECTORS", "--resamples", "1"], "resamples is 1"),
        (["--embeddings", "VECTORS", "--k", "0"], "cut-off"),
        (["--embeddings", "VECTORS", "--margin", "0"], "margin is 0"),
        (["--embeddings", "VECTORS", "--against", "missing.npz"], "missing.npz"),
        (["--embeddings", "VECTORS", "--similarity", "missing.csv"], "missing.csv: there is no such file"),
        (["--embeddings", "VECTORS", "--similarity", "VECTORS"], "give a .csv or .parquet file"),
        (["--embeddings", "VECTORS", "--calibration", "missing"], "missing"),
        ([], "name what to measure"),
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
