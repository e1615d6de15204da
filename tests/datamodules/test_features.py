"""Features in files: found again by shard, refused when stale or missing; batches as of pictures."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.catalogue import Catalogue
from datamodules.errors import DataError
from datamodules.feature_source import FeatureSourceDataModule
from datamodules.features import FeatureFolder, Features, layout, shards_of
from datamodules.index import ShardIndex
from datamodules.mixed_source import MixedSourceDataModule
from datamodules.world import World, write_world


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("sets")
    write_world(folder / "a", samples=40, world=World(size=32), samples_per_shard=16)
    write_world(folder / "b", samples=12, world=World(size=32), split_offset=40, samples_per_shard=16)
    return [str(folder / "a"), str(folder / "b")]


def catalogue_of(sets: list[str]) -> Catalogue:
    return Catalogue.of([ShardIndex.load(path) for path in sets])


def telling(catalogue: Catalogue) -> np.ndarray:
    """A feature that says which picture it is of, whatever the numbering: [V, 2]."""
    names = [hash(catalogue.name(picture)) % 10_007 for picture in range(len(catalogue.picture_source))]
    return np.stack([names, np.ones(len(names))], axis=1).astype(np.float32)


def fill(folder: Path, catalogue: Catalogue, rows: np.ndarray) -> FeatureFolder:
    features = FeatureFolder.create(folder, "key", rows.shape[1], "a tower")
    shard, place, _ = layout(catalogue)
    for number, info in enumerate(shards_of(catalogue)):
        mine = np.flatnonzero(shard == number)
        features.write(info, rows[mine[np.argsort(place[mine])]])
    return features


def test_features_are_found_in_every_catalogue_of_the_shards(sets: list[str], tmp_path: Path) -> None:
    whole = catalogue_of(sets)
    folder = fill(tmp_path / "features", whole, telling(whole))
    for some in (sets, sets[::-1], sets[1:]):
        catalogue = catalogue_of(some)
        features = Features(folder, catalogue)
        pictures = np.random.default_rng(0).permutation(len(catalogue.picture_source))
        np.testing.assert_array_equal(features.rows(pictures), telling(catalogue)[pictures])
        np.testing.assert_array_equal(features.row(3), telling(catalogue)[3])
        again = pickle.loads(pickle.dumps(features))
        np.testing.assert_array_equal(again.rows(pictures), features.rows(pictures))
    assert Features(folder, whole).rows(np.empty(0, dtype=np.int64)).shape == (0, 2)


def test_what_is_missing_or_stale_is_named(sets: list[str], tmp_path: Path) -> None:
    catalogue = catalogue_of(sets)
    rows = telling(catalogue)
    folder = fill(tmp_path / "features", catalogue, rows)
    with pytest.raises(DataError, match=r"a tower \(key key\), but the retriever's key is other"):
        folder.check("other")
    with pytest.raises(DataError, match="a tower"):
        FeatureFolder.create(tmp_path / "features", "other", 2, "another tower")
    shard = shards_of(catalogue)[1]
    np.save(folder.path(shard), np.zeros((3, 2), dtype=np.float32))
    with pytest.raises(DataError, match=rf"3, 2\], but the index lists \d+ pictures of {shard.name}"):
        Features(folder, catalogue)
    folder.path(shard).write_bytes(b"nothing")
    with pytest.raises(DataError, match="remove it and run"):
        Features(folder, catalogue)
    folder.path(shard).unlink()
    with pytest.raises(DataError, match=rf"no features of the shard {shard.name}.*adds what is missing"):
        Features(folder, catalogue)
    with pytest.raises(DataError, match="holds no features; `bias-train embed"):
        FeatureFolder(tmp_path / "nowhere")
    manifest = tmp_path / "features" / "features.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 0'))
    with pytest.raises(DataError, match="version 0, not 1"):
        FeatureFolder(tmp_path / "features")


def module_of(kind: type[MixedSourceDataModule], sets: list[str], **options: object) -> MixedSourceDataModule:
    module = kind(train=sets, val=sets[1:], share=0.25, twin_share=0.5, batch_size=16, image_size=32, **options)
    module.setup()
    return module


def test_batches_are_those_of_the_pictures(sets: list[str], tmp_path: Path) -> None:
    catalogue = catalogue_of(sets)
    rows = telling(catalogue)
    fill(tmp_path / "features", catalogue, rows)
    pictures = module_of(MixedSourceDataModule, sets)
    features = module_of(FeatureSourceDataModule, sets, features=str(tmp_path / "features"))
    assert features.plan is not None
    streams = [iter(module.train_dataloader()) for module in (pictures, features)]
    for step in range(12):  # more than an epoch
        wanted, found = (next(stream) for stream in streams)
        slots = features.plan.slots(step)
        np.testing.assert_array_equal(found["image"].numpy(), rows[slots.picture])
        np.testing.assert_array_equal(found["twin"].numpy(), rows[slots.twin[slots.twin >= 0]])
        for name in ("source", "group", "caption_id", "twin_index", "twin_source"):
            assert torch.equal(found[name], wanted[name])
    held_out = Catalogue.of([ShardIndex.load(sets[1])])
    seen = {int(i): row for b in features.val_dataloader() for i, row in zip(b["index"], b["image"], strict=True)}
    assert len(seen) == len(held_out.picture_source)
    assert all(np.array_equal(seen[i].numpy(), telling(held_out)[i]) for i in seen)


def test_an_unreadable_picture_is_replaced_in_training_and_refused_in_evaluation(
    sets: list[str], tmp_path: Path
) -> None:
    catalogue = catalogue_of(sets)
    rows = telling(catalogue)
    broken = int(catalogue.photos[5])
    rows[catalogue.anchor[broken]] = np.nan
    rows[-1] = np.nan  # of the second set
    fill(tmp_path / "features", catalogue, rows)
    module = module_of(FeatureSourceDataModule, sets, features=str(tmp_path / "features"))
    stream = iter(module.train_dataloader())
    skipped = []
    for _ in range(12):
        batch = next(stream)
        assert not torch.isnan(batch["image"]).any()
        assert not torch.isnan(batch["twin"]).any()
        assert int((batch["source"] > 0).sum()) == 4  # the ratio holds
        skipped += [skip.message for skip in batch["skipped"]]
    assert any(catalogue.key(broken) in message for message in skipped)
    with pytest.raises(DataError, match=r"evaluation: .* could not be read when the features were made"):
        list(module.val_dataloader())


def test_options_that_make_no_sense_are_refused(sets: list[str], tmp_path: Path) -> None:
    from datamodules.decode import Augmentation

    with pytest.raises(DataError, match=r"data\.features is empty"):
        FeatureSourceDataModule(train=sets)
    with pytest.raises(DataError, match=r"data\.augment cannot be had"):
        FeatureSourceDataModule("somewhere", train=sets, augment=Augmentation(flip=0.5))
    with pytest.raises(DataError, match=r"data\.num_workers is 2"):
        FeatureSourceDataModule("somewhere", train=sets, num_workers=2)
    shutil.rmtree(tmp_path)
    with pytest.raises(DataError, match="holds no features"):
        FeatureSourceDataModule(str(tmp_path), train=sets, image_size=32).setup()
