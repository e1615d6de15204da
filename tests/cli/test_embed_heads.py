"""From pictures to features to trained heads, by the commands; against training the same heads on the pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from bias_train.cli.fit import fit
from bias_train.cli.inputs import retriever_of_run
from bias_train.cli.main import main
from bias_train.embed import embed_shards
from bias_train.features import write_features
from datamodules.errors import DataError
from models import HeadRetriever, OpenClipRetriever

Train = Callable[..., Path]


@pytest.fixture(scope="module")
def base(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A frozen retriever: its architecture and its weights."""
    architecture = yaml.safe_load(config.read_text())["model"]["retriever"]["init_args"]["config"]
    weights = tmp_path_factory.mktemp("weights") / "base.safetensors"
    torch.manual_seed(1)
    OpenClipRetriever(config=architecture).save_weights(str(weights))
    return {"config": architecture, "pretrained": str(weights)}


@pytest.fixture(scope="module")
def features(base: dict[str, str], world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the command, in two parts."""
    folder = tmp_path_factory.mktemp("features") / "of-base"
    tower = ["--model-config", base["config"], "--pretrained", base["pretrained"]]
    assert main(["embed", str(folder), "--shards", str(world / "val"), *tower]) == 0
    assert main(["embed", str(folder), "--shards", str(world / "train"), str(world / "val"), *tower]) == 0
    return folder


@pytest.fixture
def heads(config: Path, base: dict[str, str], features: Path, tmp_path: Path) -> Train:
    """Train maps behind the frozen retriever, on features or on pictures."""

    def run(*arguments: str, name: str, cached: bool = True, kind: str = "HeadRetriever") -> Path:
        document = yaml.safe_load(config.read_text())
        own: dict[str, object] = {"class_path": "models.OpenClipRetriever", "init_args": dict(base)}
        if kind == "HeadRetriever":
            own = {"class_path": "models.HeadRetriever", "init_args": {"base": own}}
            if cached:
                own["init_args"]["features"] = str(features)  # type: ignore[index]
        else:
            own["init_args"]["lock_image"] = True  # type: ignore[index]
        document["model"]["retriever"] = own
        if cached:
            document["data"]["class_path"] = "datamodules.FeatureSourceDataModule"
            document["data"]["init_args"]["features"] = str(features)
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document))
        return fit(["--config", str(path), "--run_dir", str(tmp_path / name), *arguments])

    return run


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_like(one: Path, other: Path) -> None:
    """Two runs' scalars and figures agree up to the last bits of float32."""
    for name in ("metrics.csv", "records.csv"):
        left, right = table(one / name), table(other / name)
        assert len(left) == len(right) > 0
        for row, twin in zip(left, right, strict=True):
            for column, value in row.items():
                try:
                    assert float(value) == pytest.approx(float(twin[column]), rel=2e-3, abs=2e-4, nan_ok=True), column
                except ValueError:
                    assert value == twin[column]


def test_features_are_what_the_tower_makes_of_the_pictures(base: dict[str, str], features: Path, world: Path) -> None:
    wanted = embed_shards(OpenClipRetriever(**base), [str(world / "val")])
    found = [np.load(path) for path in features.glob("*.npy")]
    every = np.concatenate(found)
    assert len(every) > len(wanted)
    for row in wanted.image.numpy():
        assert np.abs(every - row).max(axis=1).min() < 1e-5


def test_a_second_pass_embeds_nothing(
    base: dict[str, str], features: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in features.glob("*.npy")}
    arguments = ["--model-config", base["config"], "--pretrained", base["pretrained"]]
    assert main(["embed", str(features), "--shards", str(world / "train"), *arguments]) == 0
    assert "0 pictures of 0 shards" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in features.glob("*.npy")} == before


def test_another_retriever_is_refused(base: dict[str, str], features: Path, world: Path, heads: Train) -> None:
    torch.manual_seed(2)
    other = OpenClipRetriever(config=base["config"])
    with pytest.raises(DataError, match="holds features of"):
        write_features(other, [str(world / "val")], features, model="another")
    kept = (features / "features.json").read_text()
    document = {**json.loads(kept), "key": "another"}
    (features / "features.json").write_text(json.dumps(document))
    try:
        with pytest.raises(DataError, match="weights, architecture or preprocessing differ"):
            heads(name="stale")
    finally:
        (features / "features.json").write_text(kept)


def test_training_on_features_is_training_on_pictures(heads: Train) -> None:
    assert_like(heads(name="features"), heads(name="pictures", cached=False))


def test_a_text_tower_beside_a_frozen_image_tower_trains_alike(heads: Train) -> None:
    arguments = {"kind": "OpenClipRetriever"}
    assert_like(heads(name="features", **arguments), heads(name="pictures", cached=False, **arguments))


def test_a_run_of_heads_resumes_and_leaves_an_ordinary_checkpoint(
    heads: Train, base: dict[str, str], world: Path, tmp_path: Path
) -> None:
    whole = heads("--model.schedule.total_steps=6", name="whole")
    cut = heads("--trainer.max_steps=3", "--model.schedule.total_steps=6", name="cut")
    heads("--resume=auto", "--model.schedule.total_steps=6", name="cut")
    assert table(cut / "metrics.csv") == table(whole / "metrics.csv")

    plain = retriever_of_run(whole)
    assert isinstance(plain, OpenClipRetriever)
    state = torch.load(whole / "checkpoints" / "step=6.ckpt", weights_only=False)["state_dict"]
    assert sum(value.numel() for name, value in state.items() if name.startswith("retriever.")) == 2 * 16 * 16 + 1
    trained = HeadRetriever(OpenClipRetriever(**base))
    trained.load_state_dict({n.removeprefix("retriever."): v for n, v in state.items() if n.startswith("retriever.")})
    assert not torch.equal(trained.image_head.weight, torch.eye(16))  # type: ignore[union-attr]
    left, right = (embed_shards(one, [str(world / "val")]) for one in (plain, trained))
    torch.testing.assert_close(left.image, right.image, atol=1e-5, rtol=0)
    torch.testing.assert_close(left.text, right.text, atol=1e-5, rtol=0)


def test_an_interrupted_pass_goes_on(base: dict[str, str], world: Path, tmp_path: Path) -> None:
    sets, retriever = [str(world / "train"), str(world / "val")], OpenClipRetriever(**base)

    def stop(done: int, of: int) -> None:
        if done > of // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_features(retriever, sets, tmp_path / "cut", model="m", batch_size=8, on_batch=stop)
    there = set((tmp_path / "cut").glob("*.npy"))
    first = write_features(retriever, sets, tmp_path / "cut", model="m", batch_size=8)
    assert first.kept == len(there)
    whole = write_features(retriever, sets, tmp_path / "whole", model="m", batch_size=5)
    assert whole.shards == first.shards + first.kept
    for path in (tmp_path / "whole").glob("*.npy"):
        np.testing.assert_allclose(np.load(path), np.load(tmp_path / "cut" / path.name), atol=1e-6)
