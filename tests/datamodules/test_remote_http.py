"""Shards over HTTP: what the network does wrong, and what becomes of it."""

import logging
import pickle
from pathlib import Path

import pytest
from loopback import LoopbackServer, serving, write_files

from datamodules.errors import DataError, SampleError
from datamodules.remote import CacheOptions, RemoteStore, is_remote, open_store
from datamodules.store import ShardInfo


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    return tmp_path / "origin"


@pytest.fixture
def shards(origin: Path) -> list[ShardInfo]:
    return write_files(origin, 3, 200_000)


@pytest.fixture
def server(origin: Path, shards: list[ShardInfo]):
    with serving(origin) as server:
        yield server


def store_of(server: LoopbackServer, tmp_path: Path, **options: object) -> RemoteStore:
    settings = {"folder": str(tmp_path / "cache"), "timeout_s": 5.0, "backoff_s": 0.001, "retries": 4, **options}
    return open_store(server.url, cache=CacheOptions(**settings))


def contents(origin: Path, shard: ShardInfo) -> bytes:
    return (origin / shard.name).read_bytes()


def leftovers(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache").rglob("*") if path.suffix in (".partial", ".lock")]


def test_reads_what_lies_there_and_fetches_it_once(server, origin, shards, tmp_path):
    store = store_of(server, tmp_path)
    for shard in shards:
        assert store.read(shard, 17, 1000) == contents(origin, shard)[17:1017]
        assert store.read(shard, shard.bytes - 5, 100) == contents(origin, shard)[-5:]
    assert server.bodies() == {shard.name: 1 for shard in shards}
    assert store.counts == {"misses": 3, "bytes": 600_000}
    again = store_of(server, tmp_path)
    assert again.path(shards[0]).read_bytes() == contents(origin, shards[0])
    assert again.counts == {"hits": 1}
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("fault", [503, 500, 429, "truncate", "damage", "longer"])
def test_comes_through_after_a_fault(server, origin, shards, tmp_path, fault, ranges, caplog):
    server.ranges = ranges
    server.faults[shards[0].name].extend([fault, "", "truncate"] if fault != "truncate" else ["truncate", "truncate"])
    store = store_of(server, tmp_path)
    assert store.path(shards[0]).read_bytes() == contents(origin, shards[0])
    assert store.counts["retries"] == (2 if fault == "truncate" else 1)
    assert shards[0].name in caplog.text
    assert "retry 1 of 4" in caplog.text
    assert leftovers(tmp_path) == []


def test_goes_on_where_it_broke_off(server, origin, tmp_path):
    (shard,) = write_files(origin, 1, 4_000_000, "large")
    server.faults[shard.name].append("truncate")
    store = store_of(server, tmp_path)
    assert store.path(shard).read_bytes() == contents(origin, shard)
    first, second = [asked for method, _, asked in server.asked if method == "GET"]
    assert first == ""
    # Less than was sent, perhaps: what lay in buffers when the connection ended is lost.
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= 2_000_000


@pytest.mark.parametrize("fault", ["stall", "stall midway"])
def test_a_server_that_sends_nothing_is_asked_again(server, origin, shards, tmp_path, fault):
    server.faults[shards[0].name].append(fault)
    store = store_of(server, tmp_path, timeout_s=0.3, retries=20)
    assert store.path(shards[0]).read_bytes() == contents(origin, shards[0])
    assert server.stalled.is_set()
    assert store.counts["retries"] >= 1  # more where the machine itself stands still for so long


def test_gives_up_when_it_never_comes(server, shards, tmp_path):
    server.faults[shards[0].name].extend([503] * 5)
    store = store_of(server, tmp_path)
    with pytest.raises(SampleError, match=rf"set/{shards[0].name}: HTTP 503 .*after 5 tries") as raised:
        store.read(shards[0], 0, 1)
    assert raised.value.kind == "unreadable"
    # A shard that cannot be had is asked for by each of its samples: the origin is left alone for a while.
    with pytest.raises(SampleError, match="HTTP 503"):
        store.read(shards[0], 0, 1)
    assert server.bodies()[shards[0].name] == 5
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("status", "said"), [(404, "is not there"), (403, "netrc"), (401, "netrc"), (410, "HTTP 410")])
def test_does_not_insist_where_it_is_useless(server, shards, tmp_path, status, said):
    server.faults[shards[1].name].append(status)
    with pytest.raises(SampleError, match=f"(?s){shards[1].name}.*{status}.*") as raised:
        store_of(server, tmp_path).read(shards[1], 0, 1)
    assert said in str(raised.value)
    assert server.bodies()[shards[1].name] == 1


def test_refuses_a_set_that_changed(server, origin, shards, tmp_path):
    (origin / shards[0].name).write_bytes(b"x" * shards[0].bytes)
    (origin / shards[1].name).write_bytes(b"x" * (shards[1].bytes + 10))
    (origin / shards[2].name).write_bytes(contents(origin, shards[2])[:-10])
    store = store_of(server, tmp_path)
    for shard in shards[:2]:
        with pytest.raises(
            SampleError, match=f"{shard.name}.*the set was changed after it was indexed or is damaged"
        ) as e:
            store.read(shard, 0, 1)
        assert e.value.kind == "checksum"
        assert server.bodies()[shard.name] == 2  # the same wrong file twice is no accident
    with pytest.raises(SampleError, match=shards[2].name):
        store.read(shards[2], 0, 1)
    assert leftovers(tmp_path) == []
    with pytest.raises(DataError, match=f"{shards[1].name}: has 200010 bytes but had 200000"):
        store.check(shards)


def test_check_finds_what_is_missing_and_passes_what_is_not(server, origin, shards, tmp_path):
    store = store_of(server, tmp_path)
    store.check(shards)
    assert not server.bodies()
    (origin / shards[2].name).unlink()
    with pytest.raises(DataError, match=f"{shards[2].name}: the index lists this shard but it is not there"):
        store.check(shards)
    server.allow = ("Authorization", "none")
    with pytest.raises(DataError, match=r"/set: access is denied \(HTTP 401\); credentials come from"):
        store.check(shards)


def test_prefetch_brings_shards_and_forgives(server, origin, shards, tmp_path):
    server.faults[shards[0].name].append(404)
    server.faults[shards[1].name].append("stall midway")
    store = store_of(server, tmp_path)
    store.prefetch(shards)
    assert server.stalled.wait(30)
    server.go_on.set()
    for shard in shards:  # waits for what is on its way, and asks again for what failed
        assert store.read(shard, 0, shard.bytes) == contents(origin, shard)
    assert server.bodies()[shards[2].name] == 1
    assert server.bodies()[shards[0].name] == 2


def test_index_is_always_the_current_one(server, origin, tmp_path):
    store = store_of(server, tmp_path)
    with pytest.raises(DataError, match=r"index\.arrow: is not there.*shards index"):
        store.index_file()
    (origin / "index.arrow").write_bytes(b"first")
    first = store.index_file()
    assert first.read_bytes() == b"first"
    before = server.bodies()["index.arrow"]
    stamp = first.stat().st_mtime_ns
    assert store_of(server, tmp_path).index_file() == first
    assert server.bodies()["index.arrow"] == before  # told by its ETag
    assert first.stat().st_mtime_ns == stamp
    (origin / "index.arrow").write_bytes(b"other")
    assert store.index_file().read_bytes() == b"other"
    assert first.read_bytes() == b"first"  # whoever has it mapped goes on
    server.tags = False
    (origin / "index.arrow").write_bytes(b"third")
    assert store.index_file().read_bytes() == b"third"
    (origin / "index.arrow").write_bytes(b"four.")
    assert store.index_file().read_bytes() == b"four."


def test_index_comes_through_faults(server, origin, tmp_path):
    (origin / "index.arrow").write_bytes(b"i" * 100_000)
    server.faults["index.arrow"].extend([503, "truncate", "stall"])
    store = store_of(server, tmp_path, timeout_s=0.3, retries=20)
    assert store.index_file().read_bytes() == b"i" * 100_000
    assert store.counts["retries"] >= 3


def test_netrc_opens_the_door(server, origin, shards, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    server.allow = ("Authorization", "Basic bWU6bWlkZGxlbmFtZS00NzEx")  # me:middlename-4711
    with pytest.raises(SampleError, match="HTTP 401"):
        store_of(server, tmp_path).read(shards[0], 0, 1)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password middlename-4711\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    store = store_of(server, tmp_path)
    assert store.read(shards[0], 0, 9) == contents(origin, shards[0])[:9]
    for trace in (caplog.text, repr(store), repr(vars(store)), str(pickle.dumps(store)), store.location):
        assert "middlename" not in trace
        assert "bWlkZGxlbmFtZS00NzEx" not in trace
    assert not any(b"middlename" in path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_nobody_there(shards, tmp_path):
    store = open_store(
        "http://127.0.0.1:9/set", cache=CacheOptions(str(tmp_path / "cache"), retries=1, backoff_s=0.001)
    )
    with pytest.raises(SampleError, match=r"127\.0\.0\.1:9.*after 2 tries"):
        store.read(shards[0], 0, 1)


@pytest.mark.parametrize(
    "location",
    [
        "https://me:hunter-2@host/set",
        "https://hunter-2@host/set",
        "https://me:12/hunter-2@host/set",
        "https://me:hunter-2?x@host/set",
        "https://host/set?X-Amz-Signature=hunter-2",
        "https://host/set#hunter-2",
        "s3://KEY:hunter-2@bucket/set",
        "s3://KEY:12/hunter-2@bucket/set",
        "gs://bucket/set?token=hunter-2",
        "ftp://me:hunter-2@host/set",
        "pipe:curl -u me:hunter-2 https://host/{name}",
        "pipe:curl -H 'Authorization: Bearer hunter-2' https://host/{name}",
        "pipe:curl -H 'Authorization: Token hunter-2' https://host/{name}",
        "pipe:curl --oauth2-bearer hunter-2 -H 'X-Api-Key: hunter-2' https://host/{name}",
        "pipe:AWS_SECRET_ACCESS_KEY=hunter-2 aws s3 cp s3://bucket/{name} -",
        "pipe:env AWS_SESSION_TOKEN='hunter-2' aws s3 cp s3://bucket/{name} -",
        "pipe:tool --password=hunter-2 {name}",
        "pipe:tool --token hunter-2 {name}",
        "pipe:curl https://me:hunter-2@host/{name}",
        "pipe:curl 'https://host/{name}?sig=hunter-2'",
    ],
)
def test_a_secret_in_a_location_is_refused_and_not_repeated(location):
    with pytest.raises(DataError) as raised:
        open_store(location)
    assert "hunter" not in str(raised.value)
    assert "hunter" not in repr(raised.value.__context__)


@pytest.mark.parametrize("location", ["ftp://h/set", "https:///set", "s3://", "pipe:cat /set", "https://ho st:port/x"])
def test_what_is_no_location_is_refused(location):
    with pytest.raises(DataError):
        open_store(location)


def test_remote_or_not():
    assert all(map(is_remote, ["http://h/s", "HTTPS://h/s", "s3://b", "gs://b/s", "pipe:cat {name}"]))
    assert not any(map(is_remote, ["/data/set", "data/set", "C:\\set", "s3", "pipes/set", "./http://x", "file:///set"]))


@pytest.mark.parametrize("name", ["../x.tar", "/x.tar", "a/../../x.tar", "", "a\nb.tar", "a\\b.tar", "./x.tar"])
def test_an_index_cannot_point_outside_of_its_set(server, shards, tmp_path, name):
    store = store_of(server, tmp_path)
    with pytest.raises(DataError, match="no path within the set"):
        store.read(shards[0]._replace(name=name), 0, 1)
    assert not server.asked


@pytest.mark.parametrize("name", ["part/a b.tar", "ä%20#?.tar", "x" * 200 + ".tar"])
def test_odd_names(server, origin, shards, tmp_path, name):
    (origin / name).parent.mkdir(exist_ok=True)
    (origin / name).write_bytes(contents(origin, shards[0]))
    assert store_of(server, tmp_path).read(shards[0]._replace(name=name), 3, 9) == contents(origin, shards[0])[3:12]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("limit_gb", 0),
        ("limit_gb", float("nan")),
        ("retries", -1),
        ("timeout_s", 0),
        ("backoff_s", -1),
        ("downloads", 0),
    ],
)
def test_options_that_make_no_sense(field, value):
    with pytest.raises(DataError, match=rf"data\.cache\.{field}"):
        CacheOptions(**{field: value})
