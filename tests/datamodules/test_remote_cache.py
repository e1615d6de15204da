"""The cache between remote shards and the stream, under many processes at once and under those that die."""

import contextlib
import errno
import hashlib
import multiprocessing
import os
import pickle
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from loopback import LoopbackServer, serving, write_files

from datamodules.errors import DataError
from datamodules.remote import CacheOptions, RemoteStore, locks, open_store
from datamodules.store import ShardInfo

SIZE = 100_000
processes = multiprocessing.get_context("spawn")


@pytest.fixture
def shards(tmp_path: Path) -> list[ShardInfo]:
    return write_files(tmp_path / "origin", 8, SIZE)


@pytest.fixture
def server(tmp_path: Path, shards: list[ShardInfo]) -> Iterator[LoopbackServer]:
    with serving(tmp_path / "origin") as server:
        yield server


def store_of(server: LoopbackServer, tmp_path: Path, *, room: float = 1000, **options: object) -> RemoteStore:
    """A store whose cache has room for so many of the shards."""
    settings = {"folder": str(tmp_path / "cache"), "limit_gb": room * SIZE / 1e9, "timeout_s": 20.0, **options}
    return open_store(server.url, cache=CacheOptions(**settings))


def cached(tmp_path: Path) -> dict[str, int]:
    """Sizes of all that lies in the cache, by the beginning of the name."""
    found = {}
    for path in (tmp_path / "cache").rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and path.stat().st_size:
                found[path.name.rpartition("-")[0] if path.suffix == ".tar" else path.name] = path.stat().st_size
    return found


def is_right(data: bytes, shard: ShardInfo) -> bool:
    return hashlib.sha256(data).hexdigest() == shard.sha256


# In other processes ---------------------------------------------------------------------------------------------------


def read_all(store: RemoteStore, shards: list[ShardInfo], start: Barrier) -> None:
    start.wait()
    for shard in shards:
        assert is_right(store.read(shard, 0, shard.bytes), shard)


def read_at_random(store: RemoteStore, shards: list[ShardInfo], seed: int, times: int) -> None:
    chosen = random.Random(seed)
    for _ in range(times):
        ahead = chosen.sample(shards, 2)
        store.prefetch(ahead)
        assert is_right(store.read(shard := chosen.choice(shards), 0, shard.bytes), shard)


def read_one(store: RemoteStore, shard: ShardInfo) -> None:
    assert is_right(store.read(shard, 0, shard.bytes), shard)


def start(function: Callable[..., None], *arguments: object) -> multiprocessing.Process:
    process = processes.Process(target=function, args=arguments)
    process.start()
    return process


# ----------------------------------------------------------------------------------------------------------------------


def test_processes_fetch_each_shard_once_between_them(server, shards, tmp_path):
    store, barrier = store_of(server, tmp_path), processes.Barrier(4)
    orders = [shards, shards, shards[::-1], shards[4:] + shards[:4]]
    running = [start(read_all, store, order, barrier) for order in orders]
    for process in running:
        process.join(60)
        assert process.exitcode == 0
    assert server.bodies() == {shard.name: 1 for shard in shards}
    assert cached(tmp_path) == {shard.name.removesuffix(".tar"): SIZE for shard in shards}


def test_threads_fetch_each_shard_once_between_them(server, shards, tmp_path):
    store = store_of(server, tmp_path)
    results: list[bool] = []

    def read() -> None:
        results.extend(is_right(store.read(shard, 0, SIZE), shard) for shard in shards)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    store.prefetch(shards)
    for thread in threads:
        thread.join(60)
    assert results == [True] * 48
    assert server.bodies() == {shard.name: 1 for shard in shards}


def test_a_process_killed_while_it_fetches(server, shards, tmp_path):
    server.faults[shards[0].name].append("stall midway")
    store = store_of(server, tmp_path)
    first = start(read_one, store, shards[0])
    assert server.stalled.wait(60)
    second = start(read_one, store, shards[0])  # comes to wait for the first one's lock, or comes after its death
    begun = [name for name in cached(tmp_path) if name.endswith(".partial")]
    assert len(begun) == 1
    assert str(first.pid) in begun[0]
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    first.join(60)
    second.join(60)
    assert second.exitcode == 0
    assert server.bodies()[shards[0].name] == 2
    assert cached(tmp_path) == {"shard-000": SIZE}
    assert not list((tmp_path / "cache").rglob("*.lock"))


def test_what_a_killed_process_left_goes_when_another_shard_comes(server, shards, tmp_path):
    server.faults[shards[0].name].append("stall midway")
    store = store_of(server, tmp_path)
    process = start(read_one, store, shards[0])
    assert server.stalled.wait(60)
    process.kill()
    process.join(60)
    assert any(name.endswith(".partial") for name in cached(tmp_path))
    read_one(store, shards[1])
    assert cached(tmp_path) == {"shard-001": SIZE}


def test_a_forked_child_does_not_hold_its_parents_locks(tmp_path):
    path = tmp_path / "some.lock"
    end, ending = os.pipe()
    ready, is_ready = os.pipe()
    parent = os.fork()
    if not parent:  # takes a lock, forks, and dies without letting go
        held = locks.locked(path)
        held.__enter__()
        if os.fork() == 0:
            os.close(ending)
            os.write(is_ready, b".")
            os.read(end, 1)  # until the test ends
        os._exit(0)
    os.waitpid(parent, 0)
    assert os.read(ready, 1)
    with locks.locked(path, wait=False) as mine:
        assert mine
    with locks.locked(path), locks.locked(path, wait=False) as again:
        assert not again
    for descriptor in (ending, end, is_ready, ready):
        os.close(descriptor)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_goes_on_in_a_forked_child(server, shards, tmp_path):
    store = store_of(server, tmp_path)
    read_one(store, shards[0])
    child = os.fork()
    if not child:
        try:
            read_one(store, shards[0])
            read_one(store, shards[1])
            assert store.counts == {"hits": 1, "misses": 1, "bytes": SIZE}
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    read_one(store, shards[1])
    assert store.counts == {"hits": 1, "misses": 1, "bytes": SIZE}


def test_a_pickle_carries_nothing_that_lives(server, shards, tmp_path):
    store = store_of(server, tmp_path)
    read_one(store, shards[0])
    copy = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 1000
    read_one(copy, shards[0])
    assert copy.counts == {"hits": 1}


def test_least_recently_used_go_first(server, shards, tmp_path):
    store = store_of(server, tmp_path, room=3)
    for i in (0, 1, 2, 0, 3):
        store.path(shards[i])
    assert sorted(cached(tmp_path)) == ["shard-000", "shard-002", "shard-003"]
    store.path(shards[2])
    store.path(shards[4])
    assert sorted(cached(tmp_path)) == ["shard-002", "shard-003", "shard-004"]
    assert store.counts == {"misses": 5, "hits": 2, "evictions": 2, "bytes": 5 * SIZE}


def test_what_is_being_read_stays(server, shards, tmp_path):
    store = store_of(server, tmp_path, room=2, timeout_s=1.0)
    first = store.open(shards[0])
    for shard in shards[1:]:
        store.path(shard)
    assert sorted(cached(tmp_path)) == ["shard-000", "shard-007"]
    assert is_right(os.pread(first, SIZE, 0), shards[0])
    second = store.open(shards[1])
    with pytest.raises(DataError, match=r"data\.cache\.limit_gb = 0\.0002: .*are being read; raise the limit"):
        store.open(shards[2])
    store.prefetch(shards[2:])  # finds no room either, and says nothing
    os.close(first)
    read_one(store, shards[2])
    os.close(second)


def test_files_held_for_later_make_room(server, shards, tmp_path):
    one, other = store_of(server, tmp_path, room=3), store_of(server, tmp_path, room=3)
    for shard in shards[:3]:
        read_one(one, shard)
    for shard in shards[3:]:
        read_one(other, shard)
        read_one(one, shard)
    read_one(other, shards[0])
    assert len(cached(tmp_path)) <= 3


def test_many_processes_in_a_tiny_cache(server, shards, tmp_path):
    store = store_of(server, tmp_path, room=3)
    running = [start(read_at_random, store, shards, seed, 30) for seed in range(3)]
    most = 0
    while any(process.is_alive() for process in running):
        # A listing is no snapshot: a shard may leave and another come in while it is made.
        with locks.locked(tmp_path / "cache" / "lock", keep=True):
            most = max(most, sum(cached(tmp_path).values()))
        time.sleep(0.002)
    assert [process.exitcode for process in running] == [0, 0, 0]
    assert 2 * SIZE <= most <= 3 * SIZE
    assert sum(server.bodies().values()) > len(shards)


def test_a_shard_that_fits_into_no_cache(server, shards, tmp_path):
    store = store_of(server, tmp_path, room=0.9)
    for ask in (lambda: store.open(shards[0]), lambda: store.check(shards)):
        with pytest.raises(DataError, match=r"data\.cache\.limit_gb = 9e-05: .*shard-000\.tar alone has 100000 bytes"):
            ask()
    assert not server.asked


def test_what_is_cut_off_in_the_cache_is_fetched_again(server, shards, tmp_path):
    path = store_of(server, tmp_path).path(shards[0])
    os.truncate(path, SIZE - 1)
    store = store_of(server, tmp_path)
    read_one(store, shards[0])
    assert store.counts["misses"] == 1
    assert cached(tmp_path) == {"shard-000": SIZE}


def test_two_versions_and_two_sets_never_meet(server, shards, tmp_path):
    store = store_of(server, tmp_path)
    old = store.path(shards[0])
    data = os.urandom(SIZE)
    (tmp_path / "origin" / shards[0].name).write_bytes(data)
    new = shards[0]._replace(sha256=hashlib.sha256(data).hexdigest())
    assert store.path(new).read_bytes() == data
    assert is_right(old.read_bytes(), shards[0])
    elsewhere = open_store(f"{server.url}/../set", cache=store.options)
    assert elsewhere.path(new) != store.path(new)


def test_a_cache_that_is_tidied_away_fills_again(server, shards, tmp_path):
    store = store_of(server, tmp_path)
    for path in (store.path(shards[0]), store.path(shards[1])):
        path.unlink()
    for folder in (tmp_path / "cache").glob("*/"):
        folder.rmdir()
    read_one(store, shards[0])


def test_a_full_disk_is_said_to_be_one(server, shards, tmp_path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match=r"data\.cache\.folder: cannot be written \(No space left.*lower data\.cache"):
        store_of(server, tmp_path).open(shards[0])
    assert server.bodies()[shards[0].name] == 1
    assert cached(tmp_path) == {}


def test_where_the_cache_lies(tmp_path, monkeypatch):
    monkeypatch.delenv("BIAS_TRAIN_CACHE", raising=False)
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "job"))
    assert CacheOptions().root() == tmp_path / "job" / f"bias-train-{os.getuid()}"
    assert CacheOptions().root().stat().st_mode & 0o077 == 0
    monkeypatch.setenv("BIAS_TRAIN_CACHE", str(tmp_path / "mine"))
    assert CacheOptions().root() == tmp_path / "mine"
    assert CacheOptions(folder=str(tmp_path / "named")).root() == tmp_path / "named"
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/cache: cannot be the cache .*data\.cache\.folder"):
        CacheOptions(folder=str(tmp_path / "file" / "cache")).root()
    monkeypatch.delenv("BIAS_TRAIN_CACHE")
    somebody = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: somebody)
    with pytest.raises(DataError, match=r"belongs to another user; set data\.cache\.folder"):
        CacheOptions().root()
