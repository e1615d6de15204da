"""``bias-train curate``: from shards to a table, to a selection, to a plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bias_train.cli.main import main
from datamodules.curation.table import CurationTable
from datamodules.index import ShardIndex
from datamodules.sample import Sample
from datamodules.selection import Selection
from datamodules.text_spans import META, PictureText, Span
from datamodules.writer import ShardWriter

SIDE = 32
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": SIDE},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve samples: every third is a parrot, every third is a picture without text."""
    import numpy as np

    folder = tmp_path_factory.mktemp("curate") / "shards"
    rng = np.random.default_rng(0)
    quad = ((2.0, 2.0), (22.0, 2.0), (22.0, 10.0), (2.0, 10.0))
    with ShardWriter(folder, samples_per_shard=5) as writer:
        for number in range(12):
            word = ("sale", "exit", None)[number % 3]
            spans = () if word is None else (Span(word.upper(), quad),)
            text = PictureText((SIDE, SIDE), spans, "written")
            caption = f"a dog by the sale sign number {number}"
            picture = np.kron(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), np.ones((8, 8, 1), dtype=np.uint8))
            writer.write(Sample(f"s-{number:02d}", (caption,), meta={META: text.to_json()}), picture)
    return folder


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    import torch

    from models import OpenClipRetriever

    folder = tmp_path_factory.mktemp("retriever")
    (folder / "model.json").write_text(json.dumps(MODEL))
    torch.manual_seed(0)
    OpenClipRetriever(config=str(folder / "model.json")).save_weights(str(folder / "weights.safetensors"))
    return ["--model-config", str(folder / "model.json"), "--pretrained", str(folder / "weights.safetensors")]


def run(*arguments: object) -> int:
    return main(["curate", *map(str, arguments)])


def test_from_shards_to_a_plan(
    shards: Path, retriever: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "curated"
    command = ["text", shards, "--out", out, "--reader", "known", "--fuzzy", "0.8", *retriever, "--device", "cpu"]
    assert run(*command) == 0
    told = capsys.readouterr().out
    assert "with text 8 (66.67%)" in told
    assert "CoTR 4.17% of all, 6.25% of pictures with text" in told  # one word of eight, on a third, on a half
    assert "12 scored now" in told
    table = CurationTable.load(out)
    for row in table.table.to_pylist():
        number = int(row["key"].split("-")[1])
        assert (row["rsc"] == 0.0) == (number % 3 != 0)
        assert (row["rsa"] == 0.0) == (number % 3 == 2)
    assert run(*command) == 0
    assert "0 pictures read and 0 scored now, 12 taken over whole" in capsys.readouterr().out

    chosen = tmp_path / "selection.parquet"
    assert run("select", out, "--out", chosen, "--only-text", "--edit-captions") == 0
    told = capsys.readouterr().out
    assert "8 of 12 samples stay" in told
    assert "4 captions edited; 0 left" in told
    assert f"selection {Selection.load(chosen).digest}" in told

    config = tmp_path / "data.yaml"
    config.write_text(
        f"data:\n  class_path: datamodules.mixed_source.MixedSourceDataModule\n  init_args:\n    train: [{shards}]\n"
        "    batch_size: 4\n    image_size: 32\n"
    )
    listing = tmp_path / "plan.jsonl"
    plan = ["shards", "plan", "--config", str(config), "--steps", "0:2", "--captions", "--output", str(listing)]
    assert main([*plan, f"--data.selection={chosen}"]) == 0
    rows = [json.loads(line) for line in listing.read_text().splitlines()]
    assert {row["key"] for row in rows} == {f"s-{n:02d}" for n in range(12) if n % 3 != 2}
    for row in rows:
        number = int(row["key"].split("-")[1])
        sign = "sign" if number % 3 == 0 else "sale sign"
        assert row["caption_text"] == f"a dog by the {sign} number {number}"


def test_soft_weights_and_ranges(shards: Path, retriever: list[str], tmp_path: Path) -> None:
    out, chosen = tmp_path / "curated", tmp_path / "selection.parquet"
    assert run("text", shards, "--out", out, "--reader", "known", *retriever, "--device", "cpu") == 0
    assert run("select", out, "--out", chosen, "--weight", "masked", "--rsc", ":0.5", "--net", "--rsa=-1:1") == 0
    weight = Selection.load(chosen).weight
    assert len(set(weight.tolist())) == 12
    assert run("select", out, "--out", chosen, "--masked-score-top", "0.5", "--cotr", "0:0.3") == 0
    assert Selection.load(chosen).weight.tolist().count(1.0) == 6


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["text", "{shards}", "--out", "{tmp}", "--reader", "nobody"], "nobody"),
        (["text", "{shards}", "--out", "{tmp}", "--reader", "known", "--fuzzy", "2"], "threshold of fuzzy CoTR 2.0"),
        (["text", "{shards}", "--out", "{tmp}", "--reader", "known", "--pretrained", "x"], "--model"),
        (["text", "{shards}", "--out", "{tmp}", "--reader", "known", "--min-confidence", "0.1"], "--min-confidence"),
        (["text", "{tmp}/none", "--out", "{tmp}", "--reader", "known"], "none"),
        (["select", "{tmp}", "--out", "{tmp}/s.parquet"], "no such table"),
        (["select", "{tmp}", "--out", "{tmp}/s.csv"], ".parquet"),
        (["select", "{tmp}", "--out", "{tmp}/s.parquet", "--cotr", "x"], "range 'x'"),
    ],
)
def test_wrong_use_gives_one_line(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    given = [argument.format(shards=shards, tmp=tmp_path) for argument in arguments]
    assert run(*given) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"bias-train curate {arguments[0]}: ")
    assert named in error
    assert "\n" not in error


def test_a_real_engine_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rapidocr", reason="the extra ocr is not installed")
    from datamodules.lettering.canvas import render_word

    with ShardWriter(tmp_path / "shards") as writer:
        for word in ("coffee", "parking"):
            picture = render_word(word, size=224, fit=True).image
            writer.write(Sample(word, (f"a sign that says {word}",)), picture)
    out = tmp_path / "out"
    assert run("text", tmp_path / "shards", "--out", out, "--reader", "rapidocr") == 0
    assert "2 pictures read" in capsys.readouterr().out
    found = CurationTable.load(out).table.to_pylist()
    assert [row["cotr"] for row in found] == [pytest.approx(0.2)] * 2
    assert run("select", out, "--out", tmp_path / "s.parquet", "--edit-captions") == 0
    assert list(Selection.load(tmp_path / "s.parquet").text) == ["a sign", "a sign"]
    index = ShardIndex.load(tmp_path / "shards")
    assert Selection.load(tmp_path / "s.parquet").shards == (index.shards[0].sha256,)
