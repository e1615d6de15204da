"""Vectors come back from a file as they went in, whoever wrote it, and a broken file is refused by name."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from bias_train.cli.inputs import add_inputs, embeddings_of, retriever_of
from bias_train.embed import embed_shards
from bias_train.embeddings import Embeddings, load_embeddings, save_embeddings
from bias_train.errors import RunError
from datamodules.catalogue import Catalogue
from datamodules.decode import decode_and_fit
from datamodules.index import ShardIndex
from datamodules.world import World, write_world
from models import OpenClipRetriever

TINY = "configs/model/tiny32.json"


def some(relevance: Any = "pair") -> Embeddings:
    rng = np.random.default_rng(0)
    return Embeddings(
        image=torch.from_numpy(rng.normal(size=(6, 4)).astype(np.float32)),
        image_key=("a", "b", "c", "a.sd", "b.sd", "ç.sd"),
        image_target=np.array([3, 5, 7, 3, 5, 7]),
        image_source=np.array([0, 0, 0, 1, 1, 2]),
        sources=("real", "sd", "xl"),
        text=torch.from_numpy(rng.normal(size=(3, 4)).astype(np.float32)),
        query=("one", "two, with a comma", "three\nlines"),
        query_target=np.array([3, 5, 5]),
        query_slot=np.array([0, 0, 1]),
        relevance=relevance,
        target_names=("x", "y", "z") if relevance == "label" else (),
    )


def assert_same(one: Embeddings, two: Embeddings) -> None:
    for column in fields(Embeddings):
        first, second = getattr(one, column.name), getattr(two, column.name)
        if isinstance(first, torch.Tensor):
            torch.testing.assert_close(first, second, rtol=0, atol=0)
        elif isinstance(first, np.ndarray):
            np.testing.assert_array_equal(first, second)
        else:
            assert first == second, column.name


@pytest.mark.parametrize("name", ["vectors.npz", "vectors.parquet"])
@pytest.mark.parametrize("relevance", ["pair", "label"])
def test_what_is_written_is_read(tmp_path: Path, name: str, relevance: str) -> None:
    save_embeddings(tmp_path / name, some(relevance))
    assert_same(load_embeddings(tmp_path / name), some(relevance))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["vectors.npz", "vectors.parquet"])
def test_pictures_alone_are_enough(tmp_path: Path, name: str) -> None:
    alone = replace(some(), text=None, query=(), query_target=np.empty(0, np.int64), query_slot=np.empty(0, np.int64))
    save_embeddings(tmp_path / name, alone)
    read = load_embeddings(tmp_path / name)
    assert read.text is None
    assert read.image_source.tolist() == [0, 0, 0, 1, 1, 2]


def test_a_folder_of_arrays_and_others_names_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", some().image.numpy())
    np.save(tmp_path / "source.npy", np.array(["real", "sd", "real", "sd", "xl", "real"]))
    np.save(tmp_path / "prompt_group.npy", np.array([-1, 0, -1, 0, 0, -1]))
    read = load_embeddings(tmp_path)
    assert read.sources == ("real", "sd", "xl")
    assert read.image_source.tolist() == [0, 1, 0, 1, 2, 0]
    assert read.image_target.tolist() == [-1, 0, -1, 0, 0, -1]
    assert read.relevance == "pair"


def test_parts_keep_their_rows(tmp_path: Path) -> None:
    part = some().targets([5])
    assert part.image_key == ("b", "b.sd")
    assert part.query == ("two, with a comma", "three\nlines")
    assert torch.equal(part.image, some().image[[1, 4]])
    assert some().pictures(some().generated).image_key == ("a.sd", "b.sd", "ç.sd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "has no array 'image'"),
        ({"image_source": None}, "has no array 'image_source'"),
        ({"image": np.full((6, 4), np.nan, np.float32)}, "image row 0 is not finite"),
        ({"image": np.zeros((6, 4), np.int64)}, "image is int64"),
        ({"text": np.zeros((3, 5), np.float32)}, "not one space"),
        ({"query_target": np.zeros(2, np.int64)}, "query_target is int64 of shape"),
        ({"query_target": None}, "no array 'query_target'"),
        ({"image_source": np.array([0, 0, 0, 1, 1, 3])}, "sources names only 3"),
        ({"image_source": np.array(["a"] * 6)}, "no picture's image_source is 'real'"),
        ({"image_source": np.zeros(5, np.int64)}, "image_source has 5 entries"),
        ({"relevance": np.array("both")}, "relevance is 'both'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    save_embeddings(tmp_path / "good.npz", some())
    with np.load(tmp_path / "good.npz") as good:
        arrays = {name: array for name, array in {**good, **change}.items() if array is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(RunError, match=f"bad.npz: .*{message}"):
        load_embeddings(tmp_path / "bad.npz")


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no")
    (tmp_path / "text.parquet").write_text("no")
    pyarrow.parquet.write_table(pa.table({"side": ["image"]}), tmp_path / "short.parquet")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "text.npz": "cannot be read as .npz", "text.parquet": "cannot be read as parquet",
        "short.parquet": "has no column 'embedding'", "empty": "holds no .npy files", "gone.npz": "no such file",
    }.items():  # fmt: skip
        with pytest.raises(RunError, match=message):
            load_embeddings(tmp_path / name)
    with pytest.raises(RunError, match=r"\.npz or \.parquet"):
        save_embeddings(tmp_path / "vectors.txt", some())


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_world(folder / "val", samples=11, world=World(size=48))
    return folder / "val"


def test_shards_are_embedded_as_each_picture_is(shards: Path) -> None:
    retriever = OpenClipRetriever(config=TINY).eval()
    found = embed_shards(retriever, [str(shards)], batch_size=4)
    catalogue = Catalogue.of([ShardIndex.load(shards)])
    assert found.sources == ("real", *catalogue.sources[1:])
    for row, key in enumerate(found.image_key):
        picture = next(p for p in range(len(catalogue.picture_source)) if catalogue.name(p) == key)
        pixels = decode_and_fit(catalogue.read(picture), retriever.image_size, key)
        with torch.inference_mode():
            alone = retriever.encode_image(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
        torch.testing.assert_close(found.image[row], alone, rtol=0, atol=1e-5)
        assert found.image_source[row] == catalogue.picture_source[picture]
    assert found.text is not None
    with torch.inference_mode():
        texts = retriever.encode_text(retriever.tokenize(list(found.query)))
    torch.testing.assert_close(found.text, texts, rtol=0, atol=1e-5)
    two = embed_shards(retriever, [str(shards)], batch_size=4, workers=2)
    torch.testing.assert_close(two.image, found.image, rtol=0, atol=0)


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_inputs(parser)
    return parser.parse_args(arguments)


def test_options_that_name_nothing_or_too_much_are_refused(tmp_path: Path, shards: Path) -> None:
    for arguments, message in (
        ((), "name what to measure"),
        (("--shards", str(shards)), "name one retriever"),
        (("--shards", str(shards), "--embeddings", "x.npz"), "exclude each other"),
        (("--shards", str(shards), "--model", "ViT-B-32", "--hf-model", "x"), "name one retriever"),
        (("--shards", str(shards), "--model", "ViT-B-32"), "give --pretrained"),
        (("--shards", str(shards), "--run", str(tmp_path)), "is no run folder"),
        (("--shards", str(shards), "--run", str(tmp_path), "--pretrained", "x"), "leave out --pretrained"),
    ):
        with pytest.raises(RunError, match=message):
            embeddings_of(parsed(*arguments))


def test_a_runs_retriever_has_its_weights(tmp_path: Path) -> None:
    trained = OpenClipRetriever(config=TINY)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.01)
    trained.save_weights(str(tmp_path / "retriever.safetensors"))
    spec = f"{{class_path: models.OpenClipRetriever, init_args: {{config: {TINY}, lock_image: true}}}}"
    (tmp_path / "config.yaml").write_text(f"model: {{retriever: {spec}}}\n")
    loaded = retriever_of(parsed("--run", str(tmp_path)))
    for (name, one), two in zip(trained.state_dict().items(), loaded.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0, msg=name)
    (tmp_path / "retriever.safetensors").unlink()
    with pytest.raises(RunError, match=r"has no retriever\.safetensors"):
        retriever_of(parsed("--run", str(tmp_path)))
