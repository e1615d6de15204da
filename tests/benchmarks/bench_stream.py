"""Pictures a second of the mixed stream, beside webdataset's own pipeline and a bare decode loop, in one run.

    make bench

All three read the same shards in one process and decode and resize to the same size. Rates are medians over rounds
taken in turn, and what counts is their ratio: machines differ, and one machine differs from minute to minute.
"""

from __future__ import annotations

import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from datamodules.catalogue import Catalogue
from datamodules.decode import decode_and_fit
from datamodules.index import ShardIndex
from datamodules.plan import MixingPlan, MixSpec
from datamodules.stream import MixedStream
from datamodules.world import World, write_world

SIZE, PICTURES, ROUNDS = 224, 512, 3


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_world(folder, samples=PICTURES, world=World(size=256))
    return folder


def mixed(folder: Path) -> None:
    plan = MixingPlan(Catalogue.of([ShardIndex.load(folder)]), MixSpec(share=0.5, batch_size=64))
    stream = MixedStream(plan, (SIZE, SIZE))
    for step in range(PICTURES // 64):
        stream.batch(step)


def webdataset(folder: Path) -> None:
    def prepare(sample: tuple[bytes, bytes]) -> tuple[np.ndarray, str]:
        image = Image.open(io.BytesIO(sample[0])).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        return np.asarray(image), json.loads(sample[1])["captions"][0]

    tars = sorted(str(path) for path in folder.glob("*.tar"))
    pipeline = wds.DataPipeline(
        wds.SimpleShardList(tars),
        wds.tarfile_to_samples(),
        wds.shuffle(256, initial=256),
        wds.to_tuple("jpg", "json"),
        wds.map(prepare),
        wds.batched(64),
    )
    assert sum(len(batch[0]) for batch in pipeline) == PICTURES


def bare(folder: Path) -> None:
    index = ShardIndex.load(folder)
    for row in range(PICTURES):
        place = int(index.view_start[row])
        data = index.read_bytes(int(index.shard[row]), int(index.offset[place]), int(index.size[place]))
        decode_and_fit(data, (SIZE, SIZE))


def test_stream(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contenders: dict[str, Callable[[Path], None]] = {"stream": mixed, "webdataset": webdataset, "bare decode": bare}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            start = time.perf_counter()
            run(shards)
            rates[name].append(PICTURES / (time.perf_counter() - start))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    with capsys.disabled():
        print(f"\n256 px JPEG to {SIZE} px, one process")
        for name, rate in middle.items():
            print(f"  {name:12} {rate:8.0f} pictures/s   {rate / middle['webdataset']:5.2f} of webdataset")
