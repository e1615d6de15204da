from __future__ import annotations

import hashlib
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.catalogue import Catalogue
from datamodules.decode import Augmentation
from datamodules.errors import DataError
from datamodules.index import ShardIndex, build_index
from datamodules.mixed_source import MixedSourceDataModule
from datamodules.plan import MixingPlan, MixSpec
from datamodules.sample import Sample, View
from datamodules.stream import MixedStream
from datamodules.writer import ShardWriter

SIZE = 24


def picture(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((SIZE // 3, SIZE // 3, 1), dtype=np.uint8))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    with ShardWriter(folder, samples_per_shard=20) as writer:
        for i in range(60):
            sample = Sample(f"photo-{i:03d}", (f"caption {i} a", f"caption {i} b"), views={"gen": View("gen")})
            writer.write(sample, picture(i), {"gen": picture(1000 + i)})
    return folder


def plan(folder: Path, **spec: Any) -> MixingPlan:
    return MixingPlan(Catalogue.of([ShardIndex.load(folder)]), MixSpec(**{"batch_size": 16, **spec}))


def digest(batch: dict[str, Any]) -> str:
    tensors = [
        batch[name].numpy().tobytes() for name in ("image", "twin", "twin_index", "source", "caption_id", "group")
    ]
    return hashlib.sha256(b"".join(tensors) + " ".join(batch["key"] + batch["caption"]).encode()).hexdigest()


def module(folder: Path, **options: Any) -> MixedSourceDataModule:
    made = MixedSourceDataModule(
        train=[str(folder)], val=[str(folder)], batch_size=16, share=0.5, twin_share=0.5, image_size=16, **options
    )
    made.setup()
    return made


def test_a_batch_holds_what_the_plan_says(shards: Path) -> None:
    made = plan(shards, share=0.5, twin_share=0.25)
    batch = MixedStream(made, (16, 16)).batch(3)
    slots = made.slots(3)
    assert batch["image"].shape == (16, 3, 16, 16)
    assert batch["image"].dtype == torch.uint8
    assert batch["source"].sum() == 8
    assert batch["twin"].shape == (4, 3, 16, 16)
    for row, key, caption in zip(range(16), batch["key"], batch["caption"], strict=True):
        number = int(slots.sample[row])
        assert key == f"photo-{number:03d}" + (".gen" if batch["source"][row] else "")
        assert caption == f"caption {number} {'ab'[int(slots.caption[row])]}"
    for row, source in zip(batch["twin_index"], batch["twin_source"], strict=True):
        assert source == 1 - batch["source"][row]


def test_pictures_are_the_shards_pictures(shards: Path) -> None:
    made = plan(shards)
    batch = MixedStream(made, (SIZE, SIZE)).batch(0)
    for row, key in enumerate(batch["key"]):
        truth = picture(int(key.removeprefix("photo-")))
        # The writer encodes at quality 92; noise is the hardest case there is for JPEG.
        shown = batch["image"][row].permute(1, 2, 0).numpy().astype(float)
        assert np.corrcoef(shown.ravel(), truth.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_ranks_share_the_batch_of_one_process(shards: Path, world_size: int) -> None:
    made = plan(shards, share=0.5, twin_share=0.5)
    whole = MixedStream(made, (16, 16)).batch(5)
    parts = [MixedStream(made, (16, 16), rank=rank, world_size=world_size).batch(5) for rank in range(world_size)]
    torch.testing.assert_close(torch.cat([part["image"] for part in parts]), whole["image"])
    torch.testing.assert_close(torch.cat([part["twin"] for part in parts]), whole["twin"])
    assert [key for part in parts for key in part["key"]] == whole["key"]
    assert all(int(part["source"].sum()) * 2 == len(part["source"]) for part in parts)


def test_uneven_ranks_are_refused(shards: Path) -> None:
    with pytest.raises(DataError, match="multiple of the 3 processes"):
        MixedStream(plan(shards), (16, 16), world_size=3)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same_batches(shards: Path, workers: int) -> None:
    def first(count: int) -> list[str]:
        return [digest(batch) for batch in islice(iter(module(shards, num_workers=count).train_dataloader()), 7)]

    assert first(workers) == first(0)


def test_a_stream_that_starts_later_goes_on_where_the_other_is(shards: Path) -> None:
    made = plan(shards, share=0.5)
    early = [digest(batch) for batch in islice(iter(MixedStream(made, (16, 16))), 9)]
    late = [digest(batch) for batch in islice(iter(MixedStream(made, (16, 16), start=6)), 3)]
    assert late == early[6:]


def test_an_anchor_and_its_twin_are_cropped_alike(tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        for i in range(8):
            same = np.kron(picture(i), np.ones((3, 3, 1), dtype=np.uint8))
            writer.write(Sample(f"s{i}", ("c",), views={"gen": View("gen")}), same, {"gen": same})
    made = plan(tmp_path, share=0.5, twin_share=1.0, batch_size=8)
    batch = MixedStream(made, (16, 16), augment=Augmentation((0.2, 0.5), flip=0.5)).batch(0)
    torch.testing.assert_close(batch["twin"], batch["image"][batch["twin_index"]])


def corrupt(folder: Path, keys: set[str]) -> None:
    index = ShardIndex.load(folder)
    for i, key in enumerate(index.keys):
        if str(key) in keys:
            place = int(index.view_start[i])
            with (folder / index.shards[int(index.shard[i])].name).open("r+b") as file:
                file.seek(int(index.offset[place]))
                file.write(b"\xff\xd8" + b"\x00" * (int(index.size[place]) - 2))


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path) as writer:
        for i in range(40):
            writer.write(
                Sample(f"photo-{i:03d}", ("c",), views={"gen": View("gen")}), picture(i), {"gen": picture(99 + i)}
            )
    corrupt(tmp_path, {"photo-003", "photo-017"})
    build_index(tmp_path).save()  # as if they had been broken all along
    return tmp_path


def test_a_corrupt_picture_is_replaced_by_one_of_its_source(broken: Path) -> None:
    made = plan(broken, share=0.5, batch_size=40)
    batch = MixedStream(made, (16, 16)).batch(0)
    bad = {f"photo-{3:03d}", f"photo-{17:03d}"} & {key.split(".")[0] for key in _asked(made, 0)}
    assert len(batch["skipped"]) == len([key for key in _asked(made, 0) if key in bad])
    assert all(skip.kind == "undecodable" and skip.message.startswith("photo-") for skip in batch["skipped"])
    assert int(batch["source"].sum()) == 20
    halves = [MixedStream(made, (16, 16), rank=rank, world_size=2).batch(0) for rank in (0, 1)]
    assert halves[0]["key"] + halves[1]["key"] == batch["key"]


def _asked(made: MixingPlan, step: int) -> list[str]:
    return [made.catalogue.name(int(p)) for p in made.slots(step).picture]


def test_too_many_corrupt_pictures_stop_the_run(broken: Path) -> None:
    made = module(broken, max_bad_share=0.001)

    def train() -> None:
        for batch in islice(iter(made.train_dataloader()), 20):
            made.on_before_batch_transfer(batch, 0)

    with pytest.raises(DataError, match=r"could not be read, more than data.max_bad_share = 0.001 allows.*photo-0"):
        train()


def test_evaluation_asks_every_caption_and_shows_every_picture(shards: Path) -> None:
    made = module(shards)
    evaluation = made.evaluation
    assert evaluation is not None
    assert evaluation.relevance == "pair"
    assert len(evaluation) == 120
    assert len(evaluation.queries) == 120
    seen = torch.cat([batch["index"] for batch in made.val_dataloader()])
    assert sorted(seen.tolist()) == list(range(120))
    for target in np.unique(evaluation.target):
        assert sorted(evaluation.source[evaluation.target == target]) == [0, 1]


def test_a_corrupt_picture_in_the_evaluation_is_named(broken: Path) -> None:
    with pytest.raises(DataError, match=r"evaluation: photo-003: cannot be decoded.*inspect --decode"):
        list(module(broken).val_dataloader())


def test_checkpoints_of_another_plan_are_refused(shards: Path) -> None:
    state = module(shards).state_dict()
    other = MixedSourceDataModule(train=[str(shards)], batch_size=16, share=0.5, twin_share=0.25, image_size=16)
    other.setup()
    with pytest.raises(DataError, match=r"twin_share was 0.5, is 0.25"):
        other.load_state_dict(state)
    module(shards, force_resume=True).load_state_dict(state)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    made = MixedSourceDataModule(train=[str(tmp_path / "nowhere")], image_size=16)
    with pytest.raises(DataError, match="nowhere"):
        made.setup()
