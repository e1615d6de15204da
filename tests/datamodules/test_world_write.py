"""Worlds as shard sets."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.sample import View
from datamodules.world import World, WorldGenerator, WorldTruth, fingerprint, twins, write_world


def read_picture(index: ShardIndex, image: int, sample: int) -> np.ndarray:
    data = index.read_bytes(int(index.shard[sample]), int(index.offset[image]), int(index.size[image]))
    return np.asarray(Image.open(io.BytesIO(data)))


def test_shards_read_back(tmp_path: Path) -> None:
    world = World(seed=9, generators=(WorldGenerator(), WorldGenerator("gen-b", fingerprint=2.0, cleanliness=0.3)))
    seen: list[int] = []
    write_world(tmp_path / "set", samples=12, world=world, samples_per_shard=5, on_sample=seen.append)
    index = ShardIndex.load(tmp_path / "set")
    assert seen == list(range(1, 13))
    assert len(index.shards) == 3
    assert set(index.sources) == {"real", "world-gen", "gen-b"}
    for number in range(12):
        sample = index.sample(number)
        scene = world.scene(number)
        assert sample.key == f"scene-{number:09d}"
        assert sample.captions == world.captions(scene)
        assert (sample.source, sample.label, sample.group) == ("real", scene.place, scene.description)
        truth = WorldTruth.of(sample)
        assert truth.scene == scene
        assert (truth.seed, truth.size) == (9, 32)
        assert set(truth.generators) == set(world.generators)
        for image in range(index.view_start[number], index.view_start[number + 1]):
            source = index.sources[index.view_source[image]]
            picture = read_picture(index, image, number)
            original = world.render(scene, source)
            assert picture.shape == original.shape
            assert np.abs(picture.astype(int) - original).mean() < 12  # JPEG with chroma at half resolution
            assert index.view_names[index.view_name[image]] == ("" if source == "real" else source)


def test_splits_are_disjoint_and_reproducible(tmp_path: Path) -> None:
    def keys(name: str, offset: int) -> list[str]:
        write_world(tmp_path / name, samples=8, split_offset=offset)
        return [str(key) for key in ShardIndex.load(tmp_path / name).keys]

    train, validation, again = keys("train", 0), keys("val", 8), keys("again", 0)
    assert not set(train) & set(validation)
    assert train == again
    shards = sorted((tmp_path / "train").glob("*.tar"))
    assert shards
    for shard in shards:
        assert shard.read_bytes() == (tmp_path / "again" / shard.name).read_bytes()
        assert shard.read_bytes() != (tmp_path / "val" / shard.name).read_bytes()


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("quality", [92, 95])
def test_the_fingerprint_survives_the_shards_jpeg(tmp_path: Path, size: int, quality: int) -> None:
    write_world(tmp_path / "set", samples=150, world=World(size=size), quality=quality)
    index = ShardIndex.load(tmp_path / "set")
    pattern = fingerprint("world-gen", size)
    scores, generated = [], []
    for number in range(150):
        for image in range(index.view_start[number], index.view_start[number + 1]):
            grey = read_picture(index, image, number).astype(np.float32).mean(axis=2)
            scores.append((np.diff(np.diff(grey, axis=0), axis=1) * np.diff(np.diff(pattern, axis=0), axis=1)).mean())
            generated.append(index.view_source[image] != 0)
    assert roc_auc_score(generated, scores) > 0.98


def test_a_corpus_of_generated_pictures_alone(tmp_path: Path) -> None:
    write_world(tmp_path / "set", samples=3, anchor="world-gen", views=())
    index = ShardIndex.load(tmp_path / "set")
    assert [index.sample(number).source for number in range(3)] == ["world-gen"] * 3
    assert len(index.offset) == 3


def test_another_axis_brings_its_own_view(tmp_path: Path) -> None:
    def negative(world: World, scene):  # a view whose caption is another one
        view = View(source="real", captions=("A negative.",), meta={"edit": "inverted"})
        return {"negative": (255 - world.render(scene), view)}

    write_world(tmp_path / "set", samples=2, views=(twins, negative))
    sample = ShardIndex.load(tmp_path / "set").sample(1)
    assert set(sample.views) == {"world-gen", "negative"}
    assert sample.views["negative"].captions == ("A negative.",)
    assert [generator.name for generator in WorldTruth.of(sample).generators] == ["world-gen"]


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="samples 0"):
        write_world(tmp_path / "none", samples=0)
    with pytest.raises(DataError, match=r"no source 'sd-1\.4'"):
        write_world(tmp_path / "other", samples=1, anchor="sd-1.4")
    write_world(tmp_path / "set", samples=1, views=())
    with pytest.raises(DataError, match="overwrite"):
        write_world(tmp_path / "set", samples=1)
    sample = ShardIndex.load(tmp_path / "set").sample(0)
    sample.meta.clear()
    with pytest.raises(DataError, match="not a sample of the embedded world"):
        WorldTruth.of(sample)
