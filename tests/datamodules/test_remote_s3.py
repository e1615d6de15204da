"""Shards in buckets: s3 by moto's server, gs by what Google's API answers to a download."""

import logging
import pickle
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from loopback import LoopbackServer, serving, write_files
from moto.server import ThreadedMotoServer

from datamodules.errors import DataError, SampleError
from datamodules.remote import CacheOptions, RemoteStore, open_store, transport
from datamodules.store import ShardInfo

SECRET = "middlename-4711-middlename"


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(moto_url: str, monkeypatch: pytest.MonkeyPatch):
    """An empty bucket, its address and keys in the environment as a user would have them."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    bucket = boto3.resource("s3", region_name="us-east-1").create_bucket(Bucket="photos")
    yield bucket
    bucket.objects.all().delete()
    bucket.delete()


@pytest.fixture
def shards(tmp_path: Path) -> list[ShardInfo]:
    return write_files(tmp_path / "origin", 3, 500_000)


def upload(bucket, tmp_path: Path) -> None:
    for path in (tmp_path / "origin").iterdir():
        bucket.upload_file(str(path), f"set/train/{path.name}")


def store_of(location: str, tmp_path: Path, **options: object) -> RemoteStore:
    settings = {"folder": str(tmp_path / "cache"), "timeout_s": 5.0, "backoff_s": 0.001, "retries": 3, **options}
    return open_store(location, cache=CacheOptions(**settings))


def test_reads_a_bucket_piece_by_piece(bucket, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(transport, "_PIECE", 200_000)
    upload(bucket, tmp_path)
    store = store_of("s3://photos/set/train", tmp_path)
    store.check(shards)
    for shard in shards:
        assert store.read(shard, 0, shard.bytes) == (tmp_path / "origin" / shard.name).read_bytes()
    assert store.counts == {"misses": 3, "bytes": 1_500_000}


def test_index_by_its_tag(bucket, tmp_path):
    store = store_of("s3://photos/set", tmp_path)
    bucket.put_object(Key="set/index.arrow", Body=b"first")
    first = store.index_file()
    assert first.read_bytes() == b"first"
    assert store.index_file() == first
    assert store.counts == {"misses": 1, "hits": 1, "bytes": 5}
    bucket.put_object(Key="set/index.arrow", Body=b"other")
    assert store.index_file().read_bytes() == b"other"


def test_what_is_missing_or_changed(bucket, shards, tmp_path):
    upload(bucket, tmp_path)
    bucket.Object(f"set/train/{shards[0].name}").delete()
    bucket.put_object(Key=f"set/train/{shards[1].name}", Body=b"short")
    bucket.put_object(Key=f"set/train/{shards[2].name}", Body=b"x" * shards[2].bytes)
    store = store_of("s3://photos/set/train/", tmp_path)
    with pytest.raises(DataError, match=r"s3://photos/set/train/shard-000\.tar: the index lists this shard but"):
        store.check(shards)
    with pytest.raises(DataError, match=r"shard-001\.tar: has 5 bytes but had 500000"):
        store.check(shards[1:])
    with pytest.raises(SampleError, match=r"shard-000\.tar: is not there \(HTTP 404, NoSuchKey\)$"):
        store.read(shards[0], 0, 1)
    with pytest.raises(SampleError, match=r"shard-001\.tar: is shorter there.*416.*the set was changed"):
        store.read(shards[1], 0, 1)
    with pytest.raises(SampleError, match=r"shard-002\.tar: arrived with another checksum.*the set was changed"):
        store.read(shards[2], 0, 1)
    with pytest.raises(SampleError, match=r"nowhere/shard-000\.tar: is not there \(HTTP 404, NoSuchBucket\)$"):
        store_of("s3://nowhere", tmp_path).read(shards[0], 0, 1)
    with pytest.raises(DataError, match=r"s3://nowhere/index\.arrow: is not there"):
        store_of("s3://nowhere", tmp_path).index_file()


def test_credentials_stay_where_they_are(bucket, shards, tmp_path, caplog, monkeypatch):
    upload(bucket, tmp_path)
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"session-of-{SECRET}")
    caplog.set_level(logging.DEBUG)
    store = store_of("s3://photos/set/train", tmp_path)
    store.read(shards[0], 0, 1)
    with pytest.raises(SampleError) as raised:
        store.read(shards[0]._replace(name="none.tar"), 0, 1)
    assert caplog.text
    for trace in (str(raised.value), caplog.text, repr(store), str(pickle.dumps(store))):
        assert SECRET not in trace
    assert not any(SECRET.encode() in path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_no_credentials(bucket, shards, tmp_path, monkeypatch):
    upload(bucket, tmp_path)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SampleError, match="no credentials were found; credentials come from AWS_ACCESS_KEY_ID"):
        store_of("s3://photos/set/train", tmp_path).read(shards[0], 0, 1)


@pytest.fixture
def failing(tmp_path: Path, shards: list[ShardInfo], bucket, monkeypatch) -> Iterator[LoopbackServer]:
    """A server in the place of s3 that knows nothing but what to do wrong."""
    with serving(tmp_path / "origin") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        yield server


@pytest.mark.parametrize("fault", [503, 500, 429, "truncate", "stall", "stall midway", "damage"])
def test_comes_through_after_a_fault(failing, shards, tmp_path, fault):
    # Without a bucket's name in its host, the address of an object is that of a file: /set/NAME.
    failing.faults[shards[0].name].append(fault)
    store = store_of("s3://set", tmp_path, timeout_s=0.5, retries=20)
    assert store.read(shards[0], 0, 100) == (tmp_path / "origin" / shards[0].name).read_bytes()[:100]
    assert store.counts["retries"] >= 1  # more where the machine itself stands still for so long


def test_access_denied(failing, shards, tmp_path):
    failing.faults[shards[0].name].append(403)
    with pytest.raises(
        SampleError, match=r"access is denied \(HTTP 403.*credentials come from AWS_ACCESS_KEY_ID"
    ) as raised:
        store_of("s3://set", tmp_path).read(shards[0], 0, 1)
    assert SECRET not in str(raised.value)
    assert len(failing.asked) == 1


@pytest.fixture
def google(tmp_path: Path, shards: list[ShardInfo], monkeypatch) -> Iterator[LoopbackServer]:
    with serving(tmp_path / "origin") as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")
        server.bucket = "photos"
        yield server


def test_reads_googles_buckets(google, shards, tmp_path):
    store = store_of(google.url, tmp_path)
    assert store.location == "gs://photos/set"
    for shard in shards:
        assert store.read(shard, 0, shard.bytes) == (tmp_path / "origin" / shard.name).read_bytes()
    with pytest.raises(SampleError, match=r"gs://photos/set/none\.tar: is not there"):
        store.read(shards[0]._replace(name="none.tar"), 0, 1)
    (tmp_path / "origin" / "index.arrow").write_bytes(b"first")
    first = store.index_file()
    assert (first.read_bytes(), store.index_file()) == (b"first", first)


@pytest.mark.parametrize("fault", [503, "stall", "damage"])
def test_googles_faults(google, shards, tmp_path, fault):
    google.faults[shards[0].name].append(fault)
    store = store_of(google.url, tmp_path, timeout_s=0.5, retries=20)
    assert store.read(shards[0], 0, 100) == (tmp_path / "origin" / shards[0].name).read_bytes()[:100]
    assert google.bodies()[shards[0].name] >= 2


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("https", "aiohttp")])
def test_a_missing_package_is_named(scheme, package, monkeypatch):
    find = transport.importlib.util.find_spec
    monkeypatch.setattr(transport.importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(DataError, match=rf"{scheme}://photos/set: .*{package}; pip install 'bias-train\[remote\]'"):
        open_store(f"{scheme}://photos/set")
