"""A real shard set behind a URL or a pipe gives what it gives as a folder."""

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
from loopback import serving
from pictures import jpeg

from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.reencode import Encoded
from datamodules.remote import CacheOptions
from datamodules.sample import Sample, View
from datamodules.writer import ShardWriter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path / "set", samples_per_shard=4) as writer:
        for i in range(10):
            sample = Sample(f"cat-{i}", (f"cat number {i}",), views={"sd": View("sd")})
            writer.write(sample, Encoded(jpeg(i), "jpg"), {"sd": Encoded(jpeg(100 + i), "jpg")})
    return tmp_path / "set"


def everything(index: ShardIndex) -> list[tuple[Sample, list[bytes]]]:
    result = []
    for row in range(len(index)):
        shard = int(index.shard[row])
        pictures = [
            index.read_picture(shard, int(index.offset[i]), int(index.size[i]), int(index.crc[i]))
            for i in range(int(index.view_start[row]), int(index.view_start[row + 1]))
        ]
        result.append((index.sample(row), pictures))
    return result


def in_a_worker(pickled: bytes, results: multiprocessing.SimpleQueue) -> None:
    results.put(everything(pickle.loads(pickled)))


def options(tmp_path: Path) -> CacheOptions:
    return CacheOptions(str(tmp_path / "cache"), timeout_s=5.0, retries=2, backoff_s=0.001)


def test_over_http_and_through_a_pipe(folder, tmp_path):
    here = ShardIndex.load(str(folder))
    with serving(folder) as server:
        for location in (server.url, f"pipe:cat {folder}/{{name}}"):
            there = ShardIndex.load(location, cache=options(tmp_path))
            assert there.shards == here.shards
            assert list(there.keys) == list(here.keys)
            np.testing.assert_array_equal(there.crc, here.crc)
            assert everything(there) == everything(here)
        assert server.bodies() == {"index.arrow": 1} | {info.name: 1 for info in here.shards}


def test_in_a_worker_of_another_process(folder, tmp_path):
    context = multiprocessing.get_context("forkserver")
    with serving(folder) as server:
        index = ShardIndex.load(server.url, cache=options(tmp_path))
        results = context.SimpleQueue()
        worker = context.Process(target=in_a_worker, args=(pickle.dumps(index), results))
        worker.start()
        assert results.get() == everything(ShardIndex.load(str(folder)))
        worker.join(60)
        assert everything(index) == everything(ShardIndex.load(str(folder)))
        assert set(server.bodies().values()) == {1}


def test_an_index_that_is_none(folder, tmp_path):
    with serving(folder) as server:
        server.tags = False
        (folder / "index.arrow").write_bytes(b"<html>not what you wanted</html>")
        with pytest.raises(DataError, match=r"index"):
            ShardIndex.load(server.url, cache=options(tmp_path))


def test_a_set_that_lost_a_shard(folder, tmp_path):
    with serving(folder) as server:
        name = ShardIndex.load(str(folder)).shards[1].name
        (folder / name).unlink()
        with pytest.raises(DataError, match=f"{name}: the index lists this shard but it is not there"):
            ShardIndex.load(server.url, cache=options(tmp_path))
