"""``bias-train remedy text``: every method from shards of overlaid pictures and a small retriever to its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bias_train.cli.main import main
from bias_train.cli.remedy_text import read_weights
from bias_train.errors import RunError
from datamodules.text_spans import Span
from datamodules.world.text import WorldText, write_text_world
from models import OpenClipRetriever
from models.interpolation import kept_state
from models.remedies import load_fitted
from models.text_remedies import ClassPrefix, FittedSpelling, ablated_heads, load_heads

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def text(*arguments: str | Path | float) -> int:
    return main(["remedy", "text", *map(str, arguments)])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Overlaid pictures, signs to read, an architecture, and weights before and after."""
    folder = tmp_path_factory.mktemp("text")
    write_text_world(folder / "overlay", samples=20, text=WorldText(signs=0), overlays=True, size=48)
    write_text_world(folder / "signs", samples=8, text=WorldText(signs=1, reading=True), size=48, split_offset=50)
    (folder / "tiny.json").write_text(json.dumps(MODEL))
    for seed, name in enumerate(("start", "tuned")):
        torch.manual_seed(seed)
        OpenClipRetriever(config=str(folder / "tiny.json")).save_weights(str(folder / f"{name}.safetensors"))
    return folder


@pytest.fixture
def given(home: Path) -> list[str | Path]:
    return ["--model-config", home / "tiny.json", "--pretrained", home / "start.safetensors", "--device", "cpu"]


@pytest.fixture
def overlaid(home: Path, given: list[str | Path]) -> list[str | Path]:
    return [*given, "--shards", home / "overlay"]


def retriever(home: Path, weights: str | Path = "start.safetensors") -> OpenClipRetriever:
    return OpenClipRetriever(config=str(home / "tiny.json"), pretrained=str(home / weights)).eval()


def test_paint(home: Path, overlaid: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "p.safetensors"
    tuned = ["--finetuned", home / "tuned.safetensors"]
    assert text("paint", *overlaid, *tuned, "--alphas", 0.5, 1, "--margin", 100, "--out", out) == 0
    record = json.loads((tmp_path / "p.json").read_text())
    assert [point["alpha"] for point in record["points"]] == [0.0, 0.5, 1.0]
    assert record["margin"] == 1.0
    chosen = min(record["points"], key=lambda point: (point["attack"], point["alpha"]))
    assert record["alpha"] == chosen["alpha"]
    start, end = (kept_state(retriever(home, name)) for name in ("start.safetensors", "tuned.safetensors"))
    alpha = record["alpha"]
    written = kept_state(retriever(home, out))
    assert all(torch.equal(written[n], (1 - alpha) * start[n] + alpha * end[n]) for n in written)
    printed = capsys.readouterr().out
    assert "chosen" in printed
    assert "clean R@1" in printed


def test_projection_and_folding_it(
    home: Path, overlaid: list[str | Path], given: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folded = tmp_path / "p.safetensors", tmp_path / "folded.safetensors"
    assert text("projection", *overlaid, "--steps", 30, "--width", 6, "--weights", "image-caption=1", "written-word=-2",
                "--out", out) == 0  # fmt: skip
    fitted = load_fitted(out)
    assert isinstance(fitted, FittedSpelling)
    assert fitted.weight.shape == (6, 16)
    assert fitted.metadata["weights"] == {"image-caption": 1.0, "written-word": -2.0}
    assert "written-word" in capsys.readouterr().out
    assert main(["remedy", "fold", str(out), str(folded), *map(str, given[:4])]) == 0
    pictures = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    before, after = retriever(home), retriever(home, folded)
    with torch.no_grad():
        images = [one.encode_image(pictures) for one in (before, after)]
        texts = [one.encode_text(one.tokenize(["a dog", "stop"])) for one in (before, after)]
    torch.testing.assert_close(images[1], fitted.image(images[0]), rtol=0, atol=1e-5)
    scores = fitted.reduced(images[0]) @ fitted.reduced(texts[0]).T
    torch.testing.assert_close(images[1] @ texts[1].T, scores, rtol=0, atol=1e-5)


def test_heads_and_a_retriever_without_them(
    home: Path, overlaid: list[str | Path], given: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "heads.json"
    assert text("heads", *overlaid, "--margin", 100, "--skips", 4, "--out", out) == 0
    document = json.loads(out.read_text())
    assert document["tower"] == {"blocks": 2, "heads": 2, "width": 32}
    assert len(document["tried"]) <= document["of"] == 4
    assert all(0 < one["T"] < 1 for one in document["tried"])
    document["heads"] = [[1, 0]]
    out.write_text(json.dumps(document))
    from argparse import ArgumentParser

    from bias_train.cli.inputs import add_retriever, for_run, retriever_of

    parser = ArgumentParser()
    add_retriever(parser)
    options = parser.parse_args([*map(str, given[:4]), "--ablate", str(out)])
    found = retriever_of(options)
    assert ablated_heads(found) == load_heads(out, found) == ((1, 0),)
    # What it is compared with is as it was trained.
    assert for_run(options, Path("other")).ablate is None
    assert for_run(options, Path("other")).run == Path("other")


def test_prefix(home: Path, given: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "prefix.safetensors"
    assert text("prefix", *given, "--attack", home / "overlay", "--steps", 4, "--out", out) == 0
    prefix = ClassPrefix.load(out)
    assert prefix.vector.shape == (16,)
    assert prefix.about["attacked pictures"] == prefix.about["clean pictures"] == 20
    assert "[prefix]" in capsys.readouterr().out
    audit = ["audit", "text", *map(str, given), "--pairs", str(home / "overlay"), "--attack", str(home / "overlay"),
             "--class-prefix", str(out), "--label-prompt", "a photo of a [prefix] {label}", "--word-limit", "0",
             "--resamples", "20", "--output", str(tmp_path / "audit")]  # fmt: skip
    assert main(audit) == 0
    assert json.loads((tmp_path / "audit" / "audit.json").read_text())["inputs"]["class_prefix"] == str(out)


class FakeReader:
    """Finds the same piece of text in every picture."""

    name = "fake 1"

    def read(self, image: np.ndarray) -> tuple[Span, ...]:
        height, width = image.shape[:2]
        return (Span("x", ((0, 0), (width / 2, 0), (width / 2, height / 2), (0, height / 2)), 0.9),)


def test_compare(
    home: Path,
    overlaid: list[str | Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datamodules.ocr.reader_of", lambda name: FakeReader(), raising=False)
    out = tmp_path / "out"
    (tmp_path / "words.txt").write_text("dog\ncat\nship\n")
    assert text(
        "compare", *overlaid, "--reading", home / "signs", "--words", tmp_path / "words.txt", "--ocr", "fake",
        "--finetuned", home / "tuned.safetensors", "--steps", 20, "--resamples", 20, "--out", out,
    ) == 0  # fmt: skip
    document = json.loads((out / "comparison.json").read_text())
    assert set(document["fitted"]) == {"OCR + blur", "projection", "PAINT", "heads"}
    assert document["fitted"]["OCR + blur"]["engine"] == "fake 1"
    names = {(row["remedy"], row["name"]) for row in document["figures"]}
    for remedy in ("none", *document["fitted"]):
        for figure in ("win_share", "win_share_net", "NS", "clean_t2i_R", "reading_i2t_R", "rendered_i2t_R"):
            assert (remedy, figure) in names
    assert document["inputs"]["ocr"] == "fake"
    printed = capsys.readouterr()
    for words in ("word wins %", "reading t2i R@1", "PAINT", "heads"):
        assert words in printed.out
    assert "fitting projection" in printed.err


def test_rendered_words_stand_where_they_are_wanted(
    overlaid: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in `audit text`: letters that are read in one place of a picture need not be read in another."""
    (tmp_path / "words.txt").write_text("dog\ncat\nship\n")

    def found(name: str, *more: str) -> dict[str, float]:
        command = ("compare", *overlaid, "--words", tmp_path / "words.txt", "--no-heads", "--steps", 2)
        assert text(*command, "--resamples", 20, *more, "--out", tmp_path / name) == 0
        rows = json.loads((tmp_path / name / "comparison.json").read_text())["figures"]
        return {row["name"]: row["value"] for row in rows if row["remedy"] == "none" and not row["label"]}

    middle, low = found("middle"), found("low", "--word-y", "0.9")
    assert low["sync"] != middle["sync"]
    assert low["win_share"] == middle["win_share"]
    capsys.readouterr()


def test_mistakes_are_named(
    home: Path, overlaid: list[str | Path], given: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = ["--finetuned", home / "tuned.safetensors"]
    calls: list[tuple[list[Any], str]] = [
        (["paint", *overlaid, *tuned, "--out", tmp_path / "p.pt"], "end the file's name in .safetensors"),
        (["paint", *overlaid, "--finetuned", tmp_path / "no", "--out", tmp_path / "p.safetensors"], "neither a run"),
        (["paint", *overlaid, *tuned, "--alphas", 2, "--out", tmp_path / "p.safetensors"], "alphas lie in [0, 1]"),
        (["projection", *overlaid, "--weights", "written-word", "--out", tmp_path / "p.safetensors"], "write PAIR=W"),
        (["projection", *overlaid, "--weights", "a=1", "--out", tmp_path / "p.safetensors"], "no pair 'a'"),
        (["projection", *given, "--shards", home / "signs", "--out", tmp_path / "p.safetensors"], "wrong word"),
        (["heads", *overlaid, "--out", tmp_path / "h.txt"], "in .json"),
        (["prefix", *given, "--attack", home / "signs", "--out", tmp_path / "x.safetensors"], "no labelled picture"),
        (["compare", *overlaid, "--ocr", "eyes"], "OCR engine 'eyes'"),
        (["compare", *overlaid, "--resamples", 1], "resamples is 1"),
    ]
    for arguments, words in calls:
        assert text(*arguments) == 2, arguments
        assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("*.safetensors"))
    state = load_file(home / "start.safetensors")
    assert state
    with pytest.raises(RunError, match="written-word=-1"):
        read_weights(["x"])


def test_heads_of_a_convolutional_tower(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vision = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 32}
    (tmp_path / "conv.json").write_text(json.dumps(MODEL | {"vision_cfg": vision}))
    weights = tmp_path / "w.safetensors"
    OpenClipRetriever(config=str(tmp_path / "conv.json")).save_weights(str(weights))
    given = ["--model-config", tmp_path / "conv.json", "--pretrained", weights, "--shards", home / "overlay"]
    assert text("heads", *given, "--out", tmp_path / "h.json") == 2
    assert "convolutional tower has no heads" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["compare", "paint", "projection", "heads", "prefix"])
def test_help_answers(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    call: Callable[[], int] = lambda: text(method, "--help")  # noqa: E731
    with pytest.raises(SystemExit) as stop:
        call()
    assert stop.value.code == 0
    assert "Example: bias-train remedy text" in " ".join(capsys.readouterr().out.split())
