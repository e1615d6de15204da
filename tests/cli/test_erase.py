"""``bias-train erase``: fit on files and on shards, apply to an index, fold into a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bias_train.cli.erase import main
from bias_train.cli.inputs import retriever_of_run
from bias_train.cli.main import main as program
from bias_train.embeddings import Embeddings, load_embeddings, save_embeddings
from models.erasure import LinearEraser


def vectors(seed: int = 0, scenes: int = 60) -> Embeddings:
    """Scenes with one photo and one twin; twins lie nearer to all captions by one common direction."""
    rng = np.random.default_rng(seed)
    content = rng.standard_normal((scenes, 16))
    content[:, 0] = 0
    image = np.concatenate([content, content]) + 0.2 * rng.standard_normal((2 * scenes, 16))
    image[scenes:, 0] += 1.0
    text = content.copy()
    text[:, 0] = 1.5
    normal = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
    return Embeddings(
        image=torch.from_numpy(normal[0]).float(),
        image_key=tuple(f"{seed}-{side}{i}" for side in "rg" for i in range(scenes)),
        image_target=np.tile(np.arange(scenes), 2),
        image_source=np.repeat([0, 1], scenes),
        sources=("real", "sd"),
        text=torch.from_numpy(normal[1]).float(),
        query=("",) * scenes,
        query_target=np.arange(scenes),
        query_slot=np.zeros(scenes, dtype=np.int64),
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_embeddings(tmp_path / "e.npz", vectors())
    return tmp_path / "e.npz"


def fit(file: Path, *options: str) -> tuple[LinearEraser, dict[str, object]]:
    out = file.parent / "out"
    assert main(["fit", "--embeddings", str(file), "--out", str(out), "--resamples", "100", *options]) == 0
    return LinearEraser.load(out / "eraser.safetensors"), json.loads((out / "erasure.json").read_text())


def figure(report: dict[str, object], split: str, when: str, name: str) -> float:
    part = report[split][when]  # type: ignore[index]
    return next(float(f["value"]) for f in part["bias"] + part["quality"] if f["name"] == name)


@pytest.mark.parametrize("method", ["leace", "projection", "correction"])
def test_fit_shows_what_it_does_to_others(file: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    eraser, report = fit(file, "--method", method, "--strength", "tuned")
    tuned = eraser.metadata["tuned"]
    assert tuned["reached"]
    assert report["strength"] == eraser.strength == tuned["strength"]
    before, after = (figure(report, "test", when, "relative_delta_R") for when in ("before", "after"))
    assert before < -40
    assert abs(after) < abs(before) / 2
    change = report["test"]["change"][0]  # type: ignore[index]
    assert change["value"] == pytest.approx(after - before)
    assert change["low"] <= change["value"] <= change["high"]
    printed = capsys.readouterr().out
    for words in ("tuned: strength", "calibration: 30 real and 30 generated", "linear-probe AUC", "cosine gap"):
        assert words in printed


def test_fit_with_another_file_as_the_test(file: Path, tmp_path: Path) -> None:
    save_embeddings(tmp_path / "other.npz", vectors(seed=1))
    _, report = fit(file, "--test", str(tmp_path / "other.npz"))
    assert (report["calibration"]["pictures"], report["test"]["pictures"]) == (120, 120)  # type: ignore[index]
    probe = report["transferred_probe"]
    assert probe["before"]["auc"] > 0.9 > 0.7 > probe["after"]["auc"]  # type: ignore[index]


def test_fit_on_pictures_alone(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = load_embeddings(file)
    np.savez(file, vectors=whole.image.numpy(), source=np.where(whole.generated, "ai", "real"))
    _, report = fit(file, "--method", "leace")
    assert report["test"]["before"]["bias"] == []  # type: ignore[index]
    assert report["test"]["before"]["neighbourhood"] is None  # type: ignore[index]
    assert program(["erase", "fit", "--embeddings", str(file), "--strength", "tuned"]) == 2
    assert "needs queries" in capsys.readouterr().err


def test_mistakes_are_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = ["erase", "fit", "--embeddings", str(file)]
    for options, words in (
        (["--test", str(file)], "share the picture '0-r0'"),
        (["--method", "projection", "--affine"], "belong to LEACE"),
        (["--figure", "X@1"], "is none of"),
        (["--holdout", "0"], "--holdout is 0"),
        (["--method", "projection", "--rank", "99"], "rank is 99"),
    ):
        assert program([*start, *options]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*start[1:], "--strength", "-1"])
    assert program(["erase", "apply", str(file), str(file), "out.npz"]) == 2
    assert "cannot be read as safetensors" in capsys.readouterr().err


def test_apply(file: Path) -> None:
    eraser, _ = fit(file)
    path, out = file.parent / "out" / "eraser.safetensors", file.parent / "erased.npz"
    assert main(["apply", str(path), str(file), str(out), "--chunk", "50"]) == 0
    expected = eraser.apply(vectors().image)
    torch.testing.assert_close(load_embeddings(out).image, expected, rtol=0, atol=1e-6)
    assert main(["apply", str(path), str(file), str(out), "--strength", "0"]) == 0
    torch.testing.assert_close(load_embeddings(out).image, vectors().image, rtol=0, atol=1e-6)


def test_from_a_run_to_a_folded_checkpoint(world: Path, train: Callable[..., Path], tmp_path: Path) -> None:
    run = train()
    out, folded = tmp_path / "out", tmp_path / "folded.safetensors"
    shards = ["--shards", str(world / "val"), "--run", str(run)]
    assert main(["fit", *shards, "--out", str(out), "--resamples", "0", "--method", "projection"]) == 0
    assert main(["fold", str(out / "eraser.safetensors"), str(folded), "--run", str(run)]) == 0
    retriever = retriever_of_run(run).eval()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = LinearEraser.load(out / "eraser.safetensors").apply(retriever.encode_image(images))
    assert load_file(folded).keys() == load_file(run / "retriever.safetensors").keys()
    (run / "retriever.safetensors").write_bytes(folded.read_bytes())
    with torch.no_grad():
        found = retriever_of_run(run).eval().encode_image(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert program(["erase", "fold", str(out / "eraser.safetensors"), str(tmp_path / "x.pt"), "--run", str(run)]) == 2
