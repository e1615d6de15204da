"""``bias-train remedy``: compare, fit, apply and fold, from vectors and from shards with a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from bias_train.cli.inputs import retriever_of_run
from bias_train.cli.main import main
from datamodules.world import WorldPeople, write_people_world
from models.remedies import FittedLinear, load_fitted

REMEDIES = {
    "means": {"class_path": "models.remedies.AttributeSubspace", "init_args": {"prototypes": "pictures", "full": True}},
    "leace": {"class_path": "models.remedies.Leace"},
    "orth": {"class_path": "models.remedies.OrthogonalProjection"},
    "pbm": {"class_path": "models.remedies.Interleaving"},
    "equal": {"class_path": "models.remedies.Equalisation", "init_args": {"nearest": 10}},
}


def remedy(*arguments: str | Path) -> int:
    return main(["remedy", *map(str, arguments)])


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    """People of two genders, words that lean to one; a file of remedies beside it."""
    rng = np.random.default_rng(0)
    gender = rng.integers(0, 2, 200)
    image, text = rng.normal(size=(200, 12)), rng.normal(size=(10, 12))
    image[:, 0] += 3.0 * gender
    text[:, 0] = np.resize([2.0, -2.0], 10)
    np.savez(
        tmp_path / "faces.npz",
        image=image.astype(np.float32),
        attribute_gender=np.array(["Male", "Female"])[gender],
        text=text.astype(np.float32),
        word=np.array([f"word{i}" for i in range(10)]),
    )
    (tmp_path / "remedies.yaml").write_text(yaml.safe_dump({"remedies": REMEDIES}))
    return tmp_path / "faces.npz"


@pytest.fixture
def given(vectors: Path) -> list[str | Path]:
    return ["--vectors", vectors, "--attribute", "gender", "--remedies", vectors.parent / "remedies.yaml"]


def test_compare_vectors(given: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert remedy("compare", *given, "--k", 20, "--resamples", 30, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert "excess MaxSkew@20" in printed.out
    assert "orth was not fitted: OrthogonalProjection is fitted to group_prompts" in printed.out
    assert "fitting leace" in printed.err
    document = json.loads((tmp_path / "out" / "comparison.json").read_text())
    cut = [row for row in document["figures"] if (row["remedy"], row["name"]) == ("means", "cut_max_skew")]
    assert {row["words"] for row in cut} == {"held out", "calibrated"}
    assert all(row["value"] > 70 for row in cut)
    assert document["inputs"]["words"]["file"].endswith("faces.npz")
    assert (tmp_path / "out" / "comparison.parquet").is_file()
    few: list[str | Path] = ["--only", "means", "--splits", 2, "--k", 20, "--resamples", 5]  # type: ignore[list-item]
    assert remedy("compare", *given, *few, "--out", tmp_path / "one") == 0
    document = json.loads((tmp_path / "one" / "comparison.json").read_text())
    assert list(document["fitted"]) == ["means"]
    assert document["options"]["splits"] == 2
    assert "fitting means, split 2 of 2" in capsys.readouterr().err


def test_fit_and_apply(given: list[str | Path], vectors: Path, tmp_path: Path) -> None:
    file = tmp_path / "means.safetensors"
    assert remedy("fit", "means", *given, "--out", file) == 0
    fitted = load_fitted(file)
    assert sum(fitted.metadata["pictures"].values()) == 200
    for side in ("image", "text"):
        assert remedy("apply", file, vectors, tmp_path / f"{side}.npz", "--side", side, "--chunk", 7) == 0
        before, after = np.load(vectors), np.load(tmp_path / f"{side}.npz")
        rows = torch.nn.functional.normalize(torch.from_numpy(before[side]), dim=1)
        expected = fitted.image(rows) if side == "image" else fitted.text(rows)
        np.testing.assert_allclose(after[side], expected.numpy(), atol=1e-6)
    code = np.load(vectors)["attribute_gender"] == "Male"
    image = np.load(tmp_path / "image.npz")["image"]
    gap = [rows[code].mean(axis=0) - rows[~code].mean(axis=0) for rows in (np.load(vectors)["image"], image)]
    assert np.linalg.norm(gap[1]) < 0.1 * np.linalg.norm(gap[0])


def test_mistakes_are_named(given: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = given[2:]
    pbm = tmp_path / "pbm.safetensors"
    assert remedy("fit", "pbm", *given, "--out", pbm) == 0
    out = ["--out", tmp_path / "x.safetensors"]
    for arguments, words in (
        (["fit", "none", *given, *out], "has no remedy 'none'"),
        (["fit", "pbm", *given, "--out", tmp_path / "x.pt"], "in .safetensors"),
        (["fit", "orth", *given, *out], "fitted to group_prompts"),
        (["fit", "pbm", *rest, *out], "name the people"),
        (["fit", "pbm", *given, "--people", "shards", *out], "exclude each other"),
        (["fit", "pbm", *rest, "--people", "shards", *out], "name one retriever"),
        (["fit", "pbm", *given, "--target", tmp_path / "no.json", *out], "a JSON file that exists"),
        (["fit", "pbm", *given[:2], "--attribute", "race", *given[4:], *out], "no attribute 'race'"),
        (["compare", *given, "--held-out", "1"], "--held-out is 1"),
        (["compare", *given, "--resamples", "1"], "resamples is 1"),
        (["apply", pbm, given[1], tmp_path / "out.npz"], "leaves this side as it is"),
        (["apply", given[1], given[1], tmp_path / "out.npz"], "cannot be read as safetensors"),
        (["fold", pbm, tmp_path / "out.safetensors", "--run", tmp_path], "is no linear map"),
        (["fold", pbm, tmp_path / "out.pt", "--run", tmp_path], "in .safetensors"),
    ):
        assert remedy(*arguments) == 2
        assert words in capsys.readouterr().err


def test_from_shards_to_a_folded_checkpoint(
    train: Callable[..., Path], vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, people = train(), tmp_path / "robots"
    write_people_world(people, samples=80, people=WorldPeople())
    shards: list[str | Path] = [
        "--run", run, "--people", people, "--attribute", "coat", "--minimum", 5, "--words", people / "words.csv",
        "--group-prompts", people / "group_prompts.json", "--remedies", vectors.parent / "remedies.yaml",
    ]  # fmt: skip
    out = tmp_path / "out"
    assert remedy("compare", *shards, "--pairs", people, "--k", 10, "--resamples", 10, "--out", out) == 0
    document = json.loads((out / "comparison.json").read_text())
    assert set(document["fitted"]) == set(REMEDIES)
    assert {"bias", "utility", "leakage"} <= {row["kind"] for row in document["figures"]}
    assert len(document["inputs"]["words"]["sha256"]) == 64
    assert "retention" in capsys.readouterr().err  # nobody has words for coats and traits together

    for name in ("leace", "means"):
        file, folded = tmp_path / f"{name}.safetensors", tmp_path / f"{name}-folded.safetensors"
        assert remedy("fit", name, *shards, "--out", file) == 0
        assert remedy("fold", file, folded, "--run", run) == 0
        fitted = load_fitted(file)
        assert isinstance(fitted, FittedLinear)
        retriever = retriever_of_run(run).eval()
        images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
        texts = retriever.tokenize(["a red robot", "two", "daring"])
        with torch.no_grad():
            expected = fitted.image(retriever.encode_image(images)), fitted.text(retriever.encode_text(texts))
        weights = load_file(folded)
        assert weights.keys() == load_file(run / "retriever.safetensors").keys()
        kept = (run / "retriever.safetensors").read_bytes()
        (run / "retriever.safetensors").write_bytes(folded.read_bytes())
        with torch.no_grad():
            again = retriever_of_run(run).eval()
            found = again.encode_image(images), again.encode_text(texts)
        (run / "retriever.safetensors").write_bytes(kept)
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
