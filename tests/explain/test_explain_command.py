from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from explain_worlds import class_world, pair_world, without_queries
from PIL import Image

from bias_train.cli.main import main
from bias_train.embeddings import save_embeddings
from bias_train.paths import find_config
from datamodules.world import World, WorldGenerator, write_world
from models import OpenClipRetriever

QUICK = ["--resamples", "100", "--permutations", "100"]


def explain(*arguments: object) -> int:
    return main(["explain", "source", *map(str, arguments), *QUICK])


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_pairs_of_two_generators_with_a_reversal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embeddings, axis = pair_world(40, offset=np.array([0.6, 0.5]), generators=2, noise=0.05)
    save_embeddings(tmp_path / "original.npz", embeddings)
    image = embeddings.image - 1.2 * torch.from_numpy(embeddings.generated)[:, None] * torch.from_numpy(axis).float()
    save_embeddings(tmp_path / "debiased.npz", replace(embeddings, image=image))
    out = tmp_path / "out"
    assert (
        explain("--embeddings", tmp_path / "original.npz", "--debiased", tmp_path / "debiased.npz", "--output", out)
        == 0
    )
    shown = capsys.readouterr().out
    assert "A linear probe tells the sources apart: AUC" in shown
    assert "share a direction: cosine to their mean" in shown
    for words in ("Is there a common direction?", "Can the source be read off linearly?", "photos − random", str(out)):
        assert words in shown
    found = json.loads((out / "explanation.json").read_text())
    assert found["counts"] == {"real": 40, "gen-1": 40, "gen-2": 40}
    assert found["direction"]["all"]["p_mean_cosine"] == pytest.approx(1 / 101)
    assert found["probes"]["gen-2"]["auc"] > 0.99
    parts = found["decompositions"]["gen-1"]
    assert parts["common"][0] + parts["specific"][0] == pytest.approx(parts["gap"][0])
    assert [arm["name"] for arm in found["reversal"]["arms"]] == ["original", "reversed", "random", "photos"]
    assert [row["generator"] for row in table(out / "direction.csv")] == ["all", "gen-1", "gen-2"]
    assert float(table(out / "cosines.csv")[0]["cosine"]) > 0.9
    assert len(table(out / "map_pca.csv")) == 120
    for name in ("map_pca", "decomposition", "cosines", "reversal"):
        with Image.open(out / f"{name}.png") as picture:
            assert picture.format == "PNG"
            assert picture.width > 300
    page = (out / "explanation.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in page.replace("http-equiv", "")  # nothing is fetched from anywhere


def test_equal_input_gives_equal_files(tmp_path: Path) -> None:
    save_embeddings(tmp_path / "a.parquet", pair_world(20, offset=0.3)[0])
    for out in ("one", "two"):
        assert explain("--embeddings", tmp_path / "a.parquet", "--output", tmp_path / out) == 0
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_classes_without_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_embeddings(Path("classes.npz"), class_world())
    assert explain("--embeddings", "classes.npz") == 0
    found = json.loads(Path("explanations/classes/explanation.json").read_text())
    assert found["kind"] == "class"
    assert found["direction"]["gen-1"]["units"] == 5
    assert any("the set has no pairs" in note for note in found["notes"])
    assert any("sign flips reach no p below about 0.062" in note for note in found["notes"])


def test_pictures_alone(tmp_path: Path) -> None:
    embeddings, _ = pair_world(20, offset=0.5)
    save_embeddings(tmp_path / "a.npz", without_queries(embeddings))
    assert explain("--embeddings", tmp_path / "a.npz", "--output", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "explanation.json").read_text())
    assert found["decompositions"] == {}
    assert found["probes"]["gen-1"]["auc"] > 0.9
    assert any("the set has no queries" in note for note in found["notes"])


def run_folder(folder: Path, seed: int) -> Path:
    """A run whose retriever has its first weights."""
    config = str(find_config("configs/model/tiny32.json"))
    torch.manual_seed(seed)
    folder.mkdir()
    OpenClipRetriever(config=config).save_weights(str(folder / "retriever.safetensors"))
    arguments = {"config": config, "name": None, "pretrained": None}
    spec = {"class_path": "models.OpenClipRetriever", "init_args": arguments}
    (folder / "config.yaml").write_text(json.dumps({"model": {"retriever": spec}}))
    return folder


def test_a_rendered_world_and_untrained_runs(tmp_path: Path) -> None:
    world = World(seed=0, size=32, generators=(WorldGenerator("world-gen", 12.0, 0.5),))
    write_world(tmp_path / "shards", samples=40, world=world)
    out = tmp_path / "out"
    given = ["--run", run_folder(tmp_path / "first", 0), "--debiased", run_folder(tmp_path / "second", 1)]
    given += ["--shards", tmp_path / "shards", "--device", "cpu", "--relevance", "pair"]
    assert explain(*given, "--map", "tsne", "--output", out) == 0
    found = json.loads((out / "explanation.json").read_text())
    assert found["counts"] == {"real": 40, "world-gen": 40}
    assert found["kind"] == "pair"
    assert [entry["method"] for entry in found["maps"]] == ["pca", "tsne"]
    assert len(found["reversal"]["arms"]) == 4
    # Retrievers that share no training share no space, and the page says so.
    assert any("is that of two spaces" in note for note in found["notes"])
    [spectrum] = found["spectra"]
    assert spectrum["paired"]
    rows = table(out / "spectrum.csv")
    assert len(rows) == 16
    # The generator's fingerprint is where the spectra differ beyond their intervals.
    peak = next(row for row in rows if float(row["frequency"]) == pytest.approx(spectrum["peak"]))
    assert float(peak["world-gen minus real low"]) > 0
    assert (out / "spectrum_plane.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--embeddings", "nowhere.npz"], "there is no such file or folder of embeddings"),
        (["--embeddings", "real.npz"], "needs photos and generated pictures, and there are only: real"),
        (["--embeddings", "zero.npz"], "the embedding of picture 3 is zero or not finite"),
        (["--embeddings", "a.npz", "--debiased", "narrow.npz"], "--debiased: its vectors have 5 dimensions"),
        (["--embeddings", "a.npz", "--debiased", "gone"], "--debiased gone: there is no such run folder or file"),
        (["--embeddings", "a.npz", "--folds", "1"], "--folds 1: give 2 or more"),
        (["--embeddings", "a.npz", "--spectrum-size", "4"], "--spectrum-size 4: give 8 pixels or more"),
        (["--embeddings", "a.npz", "--pictures", "nowhere"], "nowhere"),
        ([], "name what to measure"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    embeddings, _ = pair_world(8)
    save_embeddings(Path("a.npz"), embeddings)
    save_embeddings(Path("real.npz"), embeddings.pictures(~embeddings.generated))
    save_embeddings(Path("narrow.npz"), without_queries(replace(embeddings, image=embeddings.image[:, :5])))
    zero = embeddings.image.clone()
    zero[3] = 0
    save_embeddings(Path("zero.npz"), replace(embeddings, image=zero))
    assert explain(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_run_as_debiased_needs_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_embeddings(Path("a.npz"), pair_world(8)[0])
    Path("run").mkdir()
    Path("run/config.yaml").write_text("model: {}\n")
    assert explain("--embeddings", "a.npz", "--debiased", "run") == 2
    assert "--debiased run: is a run, which needs the pictures (--shards)" in capsys.readouterr().err
    assert explain("--shards", "nowhere", "--run", "run", "--debiased", "run") == 2
    assert "--debiased run: has no retriever.safetensors" in capsys.readouterr().err
