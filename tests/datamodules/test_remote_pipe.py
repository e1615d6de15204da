"""Shards by a shell command."""

import contextlib
import logging
import pickle
from pathlib import Path

import pytest
from loopback import write_files

from datamodules.errors import DataError, SampleError
from datamodules.remote import CacheOptions, RemoteStore, open_store
from datamodules.store import ShardInfo


@pytest.fixture
def shards(tmp_path: Path) -> list[ShardInfo]:
    return write_files(tmp_path / "origin", 2, 3_000_000)


def store_of(command: str, tmp_path: Path, **options: object) -> RemoteStore:
    settings = {"folder": str(tmp_path / "cache"), "timeout_s": 5.0, "backoff_s": 0.001, "retries": 2, **options}
    return open_store(f"pipe:{command}", cache=CacheOptions(**settings))


def test_reads_what_the_command_prints(shards, tmp_path):
    store = store_of(f"cat {tmp_path}/origin/{{name}} | cat", tmp_path)
    for shard in shards:
        data = (tmp_path / "origin" / shard.name).read_bytes()
        assert store.read(shard, 0, shard.bytes) == data
    store.check(shards)
    (tmp_path / "origin" / "index.arrow").write_bytes(b"first")
    assert store.index_file().read_bytes() == b"first"
    (tmp_path / "origin" / "index.arrow").write_bytes(b"other")
    assert store.index_file().read_bytes() == b"other"


def test_is_tried_again_and_its_last_words_are_told(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDER", str(tmp_path))
    store = store_of(
        "echo one >&2; echo 'no route to the disk' >&2; echo x >> $FOLDER/tries; exit 3 # {name}", tmp_path
    )
    with pytest.raises(SampleError, match=r"shard-000\.tar: the command ended with status 3: no route .*3 tries"):
        store.read(shards[0], 0, 1)
    assert (tmp_path / "tries").read_text() == "x\n" * 3


def test_succeeds_in_the_end(shards, tmp_path):
    once = tmp_path / "once"
    store = store_of(f"test -e {once} || {{ touch {once}; exit 1; }}; cat {tmp_path}/origin/{{name}}", tmp_path)
    assert store.read(shards[0], 0, 9) == (tmp_path / "origin" / shards[0].name).read_bytes()[:9]
    assert store.counts["retries"] == 1


def test_a_status_is_believed_even_where_the_bytes_are_right(shards, tmp_path):
    store = store_of(f"cat {tmp_path}/origin/{{name}}; exit 1", tmp_path, retries=0)
    with pytest.raises(SampleError, match="status 1"):
        store.read(shards[0], 0, 1)


def test_no_such_command_is_not_tried_again(shards, tmp_path):
    store = store_of("no-such-command-here {name}", tmp_path)
    with pytest.raises(SampleError, match=r"status 127: .*not found$"):
        store.read(shards[0], 0, 1)


def test_a_command_that_stands_still_is_ended_with_all_it_started(shards, tmp_path):
    store = store_of(f"sleep 1000 & echo $! > {tmp_path}/pid; wait # {{name}}", tmp_path, timeout_s=0.3, retries=0)
    with pytest.raises(SampleError, match=r"nothing came for 0\.3 s"):
        store.read(shards[0], 0, 1)
    status = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    with contextlib.suppress(FileNotFoundError):
        assert status.read_text().rpartition(")")[2].split()[0] in "ZX"  # dead, if perhaps not buried yet


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("head -c 1000 {origin}/{name}", "broke off after 1000 of 3000000 bytes"),
        ("cat {origin}/{name}; echo more", "is longer than the 3000000 bytes expected"),
        ("cat /dev/zero {name}", "is longer than the 3000000 bytes expected"),
    ],
)
def test_too_little_and_too_much(shards, tmp_path, command, said):
    store = store_of(command.replace("{origin}", str(tmp_path / "origin")), tmp_path)
    with pytest.raises(SampleError, match=rf"shard-000\.tar: {said}"):
        store.read(shards[0], 0, 1)
    assert not list((tmp_path / "cache").rglob("*.partial"))


@pytest.mark.parametrize("name", ["a b.tar", "$(touch x).tar", "-n.tar", "a;b.tar", "a'b.tar"])
def test_a_name_is_no_command(shards, tmp_path, name):
    with pytest.raises(DataError, match=r"a shell would misread|no path"):
        store_of("cat {name}", tmp_path).read(shards[0]._replace(name=name), 0, 1)


def test_secrets_of_the_environment_stay_there(shards, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("DATA_TOKEN", "middlename-4711")
    command = 'echo "Authorization: Bearer $DATA_TOKEN refused for $DATA_TOKEN" >&2; exit 1 # {name}'
    store = store_of(command, tmp_path)
    with pytest.raises(SampleError, match=r"status 1: .*refused") as raised:
        store.read(shards[0], 0, 1)
    traces = (str(raised.value), repr(raised.value.__context__), caplog.text, repr(store), str(pickle.dumps(store)))
    assert caplog.text
    for trace in traces:
        assert "middlename" not in trace


@pytest.mark.parametrize(
    "command",
    [
        'curl -fsS -H "Authorization: Bearer $TOKEN" https://host/{name}',
        'curl -fsS -u "me:$PASSWORD" https://host/{name}',
        "curl -fsS --netrc https://host/{name}",
        "AWS_PROFILE=lab aws s3 cp s3://bucket/set/{name} -",
        "AWS_SECRET_ACCESS_KEY=$KEY aws s3 cp s3://bucket/set/{name} -",
        "ssh -i ~/.ssh/id_ed25519 me@host cat /sets/{name}",
        "rclone --config ~/.config/rclone.conf cat lab:sets/{name}",
        "gsutil -u my-project cat gs://bucket/{name}",
        'tool --token "$(cat ~/.token)" {name}',
    ],
)
def test_ordinary_commands_are_no_secrets(command, tmp_path):
    assert store_of(command, tmp_path).location == f"pipe:{command}"
