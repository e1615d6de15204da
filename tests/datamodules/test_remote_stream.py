"""Training from shards that lie elsewhere sees what training from a folder sees."""

from __future__ import annotations

import hashlib
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from loopback import serving
from pictures import pixels

from datamodules.mixed_source import MixedSourceDataModule
from datamodules.remote import CacheOptions
from datamodules.sample import Sample, View
from datamodules.writer import ShardWriter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path / "set", samples_per_shard=5) as writer:
        for i in range(40):
            sample = Sample(f"k{i}", (f"caption {i} a", f"caption {i} b"), views={"gen": View("gen")})
            writer.write(sample, pixels(i), {"gen": pixels(100 + i)})
    return tmp_path / "set"


def digest(batch: dict[str, Any]) -> str:
    names = ("image", "twin", "twin_index", "source", "caption_id")
    return hashlib.sha256(b"".join(batch[name].numpy().tobytes() for name in names)).hexdigest()


def batches(location: str, workers: int, cache: CacheOptions | None = None) -> tuple[list[str], MixedSourceDataModule]:
    module = MixedSourceDataModule(
        [location], batch_size=8, share=0.5, twin_share=0.5, image_size=16, shuffle_shards=2, num_workers=workers,
        cache=cache,
    )  # fmt: skip
    module.setup()
    found = []
    for batch in islice(iter(module.train_dataloader()), 12):
        module.on_before_batch_transfer(batch, 0)
        found.append(digest(batch))
    return found, module


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_remote_shards_give_the_batches_of_local_ones(folder: Path, tmp_path: Path, workers: int) -> None:
    local, _ = batches(str(folder), 0)
    # Room for five of the eight shards: some have to go while others come.
    shard = max(path.stat().st_size for path in folder.glob("*.tar"))
    index = (folder / "index.arrow").stat().st_size
    cache = CacheOptions(str(tmp_path / "cache"), limit_gb=(5.5 * shard + index) / 1e9, timeout_s=20.0, backoff_s=0.01)
    with serving(folder) as server:
        remote, module = batches(server.url, workers, cache)
        assert remote == local
        assert module.store_counts()["misses"] >= 8
        held = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.tar"))
        assert held <= cache.limit


def test_a_shard_that_stays_away_is_counted_and_replaced(folder: Path, tmp_path: Path) -> None:
    cache = CacheOptions(str(tmp_path / "cache"), timeout_s=5.0, retries=1, backoff_s=0.01)
    with serving(folder) as server:
        module = MixedSourceDataModule(
            [server.url], batch_size=8, share=0.5, image_size=16, cache=cache, max_bad_share=1.0
        )
        module.setup()
        (folder / "shard-000003.tar").unlink()
        for batch in islice(iter(module.train_dataloader()), 10):
            assert int(batch["source"].sum()) == 4
            module.on_before_batch_transfer(batch, 0)
    assert module.skips["unreadable"] >= 10
    assert set(module.skips) == {"unreadable"}
