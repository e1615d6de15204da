"""Every fault that a shard set can have, end to end through the loader: counted and skipped, or refused by name."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import struct
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from damage import octal, padded, pax_record, tar_header
from pictures import jpeg, write_tar

from bias_train.cli.main import user_message
from datamodules.errors import DataError
from datamodules.index import ShardIndex, build_index
from datamodules.mixed_source import MixedSourceDataModule
from datamodules.plan import MixingPlan
from datamodules.stream import MixedStream

Members = list[tuple[str, bytes]]
Batch = dict[str, Any]

SIZE = 16
SAMPLES = 48
PER_SHARD = 12


def described(**fields: object) -> bytes:
    return json.dumps({"version": 1, "captions": ["a cat"], "source": "real"} | fields).encode()


def members_of(number: int) -> Members:
    """A photo with one twin, of bytes of its own."""
    key = f"k{number:03d}"
    return [
        (f"{key}.jpg", jpeg(number, 40, 40)),
        (f"{key}.gen.jpg", jpeg(1000 + number, 40, 40)),
        (f"{key}.json", described(captions=[f"caption {number}"], views={"gen": {"source": "gen"}})),
    ]


def write_set(folder: Path, change: Callable[[int, Members], Members] = lambda _, members: members) -> Path:
    """48 photos with twins in four shards, each sample's members as ``change`` would have them; and their index."""
    for shard in range(SAMPLES // PER_SHARD):
        numbers = range(shard * PER_SHARD, (shard + 1) * PER_SHARD)
        members = [member for number in numbers for member in change(number, members_of(number))]
        write_tar(folder / f"shard-{shard:06d}.tar", members)
    build_index(folder).save()
    return folder


def swap(name: str, data: bytes) -> Callable[[int, Members], Members]:
    """Put other bytes into one member."""
    return lambda number, members: [(one, data if one == name else old) for one, old in members]


def module(folder: Path, **options: Any) -> MixedSourceDataModule:
    settings: dict[str, Any] = {
        "batch_size": 24, "blocks": 2, "share": 0.5, "twin_share": 0.5, "missing_twins": "skip", "image_size": SIZE,
        "seed": 5, "max_bad_share": 1.0,
    }  # fmt: skip
    made = MixedSourceDataModule(train=[str(folder)], **{**settings, **options})
    made.setup()
    return made


def stream_of(made: MixedSourceDataModule, steps: int) -> list[Batch]:
    """Batches as training gets them, counted on the way as training counts them."""
    batches = []
    for batch in islice(iter(made.train_dataloader()), steps):
        batches.append(made.on_before_batch_transfer(batch, 0))
    return batches


def asked(plan: MixingPlan, step: int) -> list[str]:
    return [plan.catalogue.name(picture) for picture in plan.slots(step).picture.tolist()]


def check(made: MixedSourceDataModule, batches: list[Batch], bad: set[str]) -> Counter[str]:
    """Hold a stream over broken pictures to what it promises; return how often each kind of fault was met."""
    assert made.plan is not None
    plan, kinds = made.plan, Counter[str]()
    for step, batch in enumerate(batches):
        wanted = plan.catalogue.picture_source[plan.slots(step).picture].reshape(plan.blocks, -1)
        assert batch["source"].reshape(plan.blocks, -1).tolist() == wanted.tolist()  # slot for slot, so block for block
        names = asked(plan, step)
        assert not bad & set(batch["key"])
        kept = [now == then for now, then in zip(batch["key"], names, strict=True)]
        assert kept == [name not in bad for name in names]  # nothing else is touched
        kinds.update(skip.kind for skip in batch["skipped"])
        # Twins of what was given up, and twins that are broken themselves, are left out; the others lie where planned.
        twins = plan.slots(step).twin.tolist()
        rows = [
            row for row, twin in enumerate(twins) if twin >= 0 and kept[row] and plan.catalogue.name(twin) not in bad
        ]
        assert batch["twin_index"].tolist() == rows
        assert len(batch["twin"]) == len(batch["twin_source"]) == len(rows)
        broken_anchors = sum(name in bad for name in names)
        broken_twins = sum(twin >= 0 and kept[row] and row not in rows for row, twin in enumerate(twins))
        assert len(batch["skipped"]) >= broken_anchors + broken_twins  # spares may be broken too
        assert bool(batch["skipped"]) == bool(broken_anchors + broken_twins)
    assert made.skips == kinds
    assert made.skipped == kinds.total()
    assert made.seen == sum(len(batch["image"]) + len(batch["twin"]) for batch in batches)
    assert made.delivered.total() == 24 * len(batches)
    return kinds


def truncated(data: bytes) -> bytes:
    return data[: len(data) * 6 // 10]


def garbage(data: bytes) -> bytes:
    start = data.index(b"\xff\xda") + 14
    noise = np.random.default_rng(0).integers(0, 256, len(data) - start - 2, dtype=np.uint8).tobytes()
    return data[:start] + noise + data[-2:]


def claiming(height: int, width: int) -> bytes:
    data = bytearray(jpeg(0))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


PICTURE = jpeg(7, 40, 40)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (truncated(PICTURE), "undecodable"),
        (garbage(PICTURE), "undecodable"),
        (b"<html>404 Not Found</html>", "undecodable"),
        (b"\xff\xd8\xff", "undecodable"),
        (claiming(65_500, 65_500), "oversized"),
    ],
    ids=["truncated", "garbage", "html", "stub", "bomb"],
)
@pytest.mark.parametrize("view", ["", ".gen"], ids=["photo", "twin"])
def test_a_picture_that_was_broken_before_it_was_indexed(tmp_path: Path, data: bytes, kind: str, view: str) -> None:
    """Whether pictures can be decoded is not looked at by the index; the stream replaces what cannot."""
    folder = write_set(tmp_path, lambda number, members: swap(f"k010{view}.jpg", data)(number, members))
    made = module(folder)
    kinds = check(made, stream_of(made, 9), {f"k010{view}"})
    assert set(kinds) == {kind}


@pytest.mark.parametrize(
    ("change", "problems", "lost"),
    [
        (lambda number, members: members * 2 if number == 3 else members, {"duplicate member": 3}, set()),
        (
            lambda number, members: [*members, *(members_of(3) if number == 30 else [])],
            {"duplicate key": 1},
            set(),
        ),
        (
            lambda number, members: [m for m in members if m[0] != "k003.jpg"],
            {"no picture": 1},
            {"k003", "k003.gen"},
        ),
        (
            lambda number, members: [m for m in members if m[0] != "k003.json"],
            {"no json and no txt": 1},
            {"k003", "k003.gen"},
        ),
        (lambda number, members: [m for m in members if m[0] != "k003.gen.jpg"], {"missing view": 1}, {"k003.gen"}),
        (swap("k003.jpg", b""), {"empty picture": 1, "no picture": 1}, {"k003", "k003.gen"}),
        (swap("k003.gen.jpg", b""), {"empty picture": 1, "missing view": 1}, {"k003.gen"}),
        (swap("k003.json", b""), {"unusable description": 1}, {"k003", "k003.gen"}),
        (
            lambda number, members: [(m[0].replace("k003", "../../../../k003"), m[1]) for m in members],
            {"unsafe member name": 3},
            {"k003", "k003.gen"},
        ),
        (
            lambda number, members: [(m[0].replace("k003", "/k003"), m[1]) for m in members],
            {"unsafe member name": 3},
            {"k003", "k003.gen"},
        ),
    ],
    ids=[
        "duplicate members", "duplicate key", "missing photo", "missing json", "missing twin", "empty photo",
        "empty twin", "empty json", "path traversal", "absolute path",
    ],
)  # fmt: skip
def test_what_the_index_leaves_out_is_never_asked_for(
    tmp_path: Path, change: Callable[[int, Members], Members], problems: dict[str, int], lost: set[str]
) -> None:
    folder = write_set(tmp_path / "set", change)
    assert ShardIndex.load(folder).problems.counts == problems
    made = module(folder)
    assert made.plan is not None
    batches = stream_of(made, 8)
    assert check(made, batches, set()) == Counter()
    assert not lost & {name for step in range(8) for name in asked(made.plan, step)}
    assert [path.name for path in tmp_path.iterdir()] == ["set"]  # no name led out of the folder


def names_in(folder: Path, shard: str) -> set[str]:
    """Names of all pictures in a shard."""
    index = ShardIndex.load(folder / shard)
    return {name for key in index.keys for name in (key, f"{key}.gen")}


def overwrite(path: Path) -> None:
    """Other pictures of the same sizes, written over the old ones: what `cp` does."""
    data = bytearray(path.read_bytes())
    index = ShardIndex.load(path)
    for offset, size in zip(index.offset.tolist(), index.size.tolist(), strict=True):
        data[offset + size - 3] ^= 0x55
    with open(path, "r+b") as file:
        file.write(data)


def replace(path: Path) -> None:
    """The same, put in its place as a whole: what `mv` does."""
    other = path.with_suffix(".new")
    shutil.copyfile(path, other)
    data = bytearray(other.read_bytes())
    index = ShardIndex.load(path)
    for offset, size in zip(index.offset.tolist(), index.size.tolist(), strict=True):
        data[offset : offset + size] = bytes(size)
    other.write_bytes(data)
    os.replace(other, path)


def cut(path: Path) -> None:
    os.truncate(path, 600)


def into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (overwrite, {"checksum"}),
        (replace, {"checksum"}),
        (cut, {"checksum"}),
        (Path.unlink, {"unreadable"}),
        (into_folder, {"unreadable", "checksum"}),
    ],
    ids=["overwritten", "replaced", "cut off", "deleted", "now a folder"],
)
def test_a_shard_that_changes_under_the_run(tmp_path: Path, damage: Callable[[Path], None], expected: set[str]) -> None:
    folder = write_set(tmp_path)
    made = module(folder)
    name = "shard-000002.tar"
    bad = names_in(folder, name)
    damage(folder / name)
    kinds = check(made, stream_of(made, 8), bad)
    assert kinds
    assert set(kinds) <= expected


@pytest.mark.parametrize(("damage", "kind"), [(overwrite, "checksum"), (cut, "unreadable")])
def test_a_shard_that_changes_while_it_is_open(tmp_path: Path, damage: Callable[[Path], None], kind: str) -> None:
    folder = write_set(tmp_path)
    made = module(folder)
    bad = names_in(folder, "shard-000002.tar")
    assert made.plan is not None
    stream = MixedStream(made.plan, (SIZE, SIZE))
    for step in range(8):
        assert not stream.batch(step)["skipped"]  # every shard is open now
    damage(folder / "shard-000002.tar")
    batches = [made.on_before_batch_transfer(stream.batch(step), 0) for step in range(8)]
    assert set(check(made, batches, bad)) == {kind}


@pytest.mark.parametrize("damage", [overwrite, replace])
def test_verifying_finds_what_sizes_do_not_show(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = write_set(tmp_path)
    damage(folder / "shard-000001.tar")
    ShardIndex.load(folder)
    with pytest.raises(DataError, match=r"shard-000001\.tar: its checksum is not the one that was indexed"):
        ShardIndex.load(folder, verify=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"shard-000002\.tar: has 600 bytes but had \d+ when it was indexed; run `bias-train shards index"),
        (lambda path: path.write_bytes(b""), r"shard-000002\.tar: has 0 bytes but had"),
        (Path.unlink, r"shard-000002\.tar: the index lists this shard but it is not there"),
        (into_folder, r"shard-000002\.tar: has \d+ bytes but had"),
        (lambda path: (path.parent / "index.arrow").unlink(), "has no index; run `bias-train shards index"),
        (
            lambda path: (path.parent / "index.arrow").rename(path.parent / "index.parquet"),
            "has only one of an older release; run `bias-train shards index",
        ),
        (lambda path: (path.parent / "index.arrow").write_bytes(b"PAR1"), "is no index of shards, or a damaged one"),
        (
            lambda path: _edit_index(path.parent, b'"version": 2', b'"version": 9'),
            "is an index of version 9, this release reads 2; run `bias-train shards index",
        ),
        (lambda path: write_set_of_other_sizes(path.parent), r"shard-000000\.tar: has \d+ bytes but had"),
    ],
    ids=[
        "cut off", "empty shard", "deleted", "now a folder", "no index", "old index", "no index at all",
        "other version", "index of another set",
    ],
)  # fmt: skip
def test_a_set_that_is_not_what_was_indexed_is_refused_before_the_run(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    folder = write_set(tmp_path)
    damage(folder / "shard-000002.tar")
    with pytest.raises(DataError, match=message) as caught:
        module(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def _edit_index(folder: Path, old: bytes, new: bytes) -> None:
    file = folder / "index.arrow"
    data = file.read_bytes()
    assert old in data
    file.write_bytes(data.replace(old, new))


def write_set_of_other_sizes(folder: Path) -> None:
    index = (folder / "index.arrow").read_bytes()
    write_set(folder, swap("k003.jpg", jpeg(3, 200, 200)))
    (folder / "index.arrow").write_bytes(index)


def test_an_index_of_another_set_whose_shards_have_the_same_sizes_stops_the_run(tmp_path: Path) -> None:
    """Tars are padded to ten kilobytes, so this is no rare chance; every picture's checksum is wrong then."""
    one = write_set(tmp_path / "one")
    other = write_set(
        tmp_path / "other",
        lambda number, members: [
            (name, data[:-3] + b"\x00" + data[-2:] if name.endswith(".jpg") else data) for name, data in members
        ],
    )
    assert {p.stat().st_size for p in one.glob("*.tar")} == {p.stat().st_size for p in other.glob("*.tar")}
    shutil.copyfile(one / "index.arrow", other / "index.arrow")
    with pytest.raises(
        DataError, match=r"20 pictures in a row could not be read, the last: .*shard-00000\d\.tar: was "
    ):
        stream_of(module(other), 1)


# Limits


def test_bad_pictures_beyond_the_limit_stop_the_run_with_one_clear_error(tmp_path: Path) -> None:
    folder = write_set(tmp_path, swap("k010.jpg", truncated(PICTURE)))
    made = module(folder, max_bad_share=0.001)
    with pytest.raises(DataError) as caught:
        stream_of(made, 40)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{made.skipped} of {made.seen} training pictures could not be read" in message
    assert "data.max_bad_share = 0.001 allows; the last: k010: cannot be decoded (" in message
    assert made.skipped == 2  # one in the first thousand is allowed


def test_a_limit_of_nothing_stops_at_the_first(tmp_path: Path) -> None:
    made = module(write_set(tmp_path, swap("k010.jpg", truncated(PICTURE))), max_bad_share=0.0)
    with pytest.raises(DataError, match="1 of "):
        stream_of(made, 9)


class Nothing(pl.LightningModule):
    """Learns nothing, from pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.keys: list[str] = []

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        self.keys += batch["key"]
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(folder: Path, steps: int) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip


def untouched(folder: Path, **options: Any) -> MixedSourceDataModule:
    """A module that the trainer sets up."""
    return MixedSourceDataModule(
        train=[str(folder)], batch_size=24, share=0.5, twin_share=0.5, image_size=SIZE, seed=5, **options
    )


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_training_ends_well_below_the_limit_and_at_once_beyond_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_set(tmp_path / "set", swap("k010.jpg", truncated(PICTURE)))
    made, model = untouched(folder, max_bad_share=0.2), Nothing()
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, 8).fit(model, datamodule=made)
    assert len(model.keys) == 8 * 24
    assert made.skips == {"undecodable": made.skipped}
    assert 0 < made.skipped < 0.2 * made.seen
    assert made.delivered == {"real": 96, "gen": 96}
    assert "replaced a picture that could not be used (undecodable): k010: cannot be decoded" in caplog.text
    model = Nothing()
    with pytest.raises(DataError, match=r"data\.max_bad_share = 0\.0001 allows; the last: k010"):
        trainer(tmp_path, 8).fit(model, datamodule=untouched(folder, max_bad_share=0.0001))
    assert len(model.keys) < 8 * 24


@pytest.fixture
def broken_in_every_way(tmp_path: Path) -> tuple[Path, set[str]]:
    """A set with a fault of each kind, and the names of the pictures that have one."""
    evil: dict[str, bytes] = {
        "k001.jpg": truncated(PICTURE),
        "k002.gen.jpg": garbage(PICTURE),
        "k004.jpg": claiming(65_500, 65_500),
        "k005.gen.jpg": b"\xff\xd8\xff",
    }
    folder = write_set(tmp_path, lambda number, members: [(name, evil.get(name, data)) for name, data in members])
    bad = {name.removesuffix(".jpg") for name in evil}
    index = ShardIndex.load(folder / "shard-000001.tar")
    with open(folder / "shard-000001.tar", "r+b") as file:  # one picture changed since it was indexed
        file.seek(int(index.offset[0]) + 100)
        file.write(b"\x00" * 50)
    return folder, bad | {index.keys[0]}


KINDS = {"undecodable", "oversized", "checksum", "unreadable"}


def test_two_ranks_choose_the_spares_of_one(broken_in_every_way: tuple[Path, set[str]]) -> None:
    folder, bad = broken_in_every_way
    made = module(folder)
    bad |= names_in(folder, "shard-000003.tar")
    (folder / "shard-000003.tar").unlink()
    assert made.plan is not None
    whole = [MixedStream(made.plan, (SIZE, SIZE)).batch(step) for step in range(6)]
    kinds: Counter[str] = Counter()
    for world_size in (2, 4):
        for step in range(6):
            parts = [
                MixedStream(made.plan, (SIZE, SIZE), rank=rank, world_size=world_size).batch(step)
                for rank in range(world_size)
            ]
            assert [key for part in parts for key in part["key"]] == whole[step]["key"]
            assert [text for part in parts for text in part["caption"]] == whole[step]["caption"]
            assert [skip for part in parts for skip in part["skipped"]] == whole[step]["skipped"]
            for name in ("image", "twin", "source", "group", "caption_id"):
                torch.testing.assert_close(torch.cat([part[name] for part in parts]), whole[step][name])
            kinds.update(skip.kind for part in parts for skip in part["skipped"])
    assert set(kinds) == KINDS
    for batch in whole:
        made.on_before_batch_transfer(batch, 0)
    check(made, whole, bad)


def test_a_loader_worker_counts_and_skips_as_the_process_itself(broken_in_every_way: tuple[Path, set[str]]) -> None:
    folder, bad = broken_in_every_way
    alone, helped = module(folder), module(folder, num_workers=1)
    bad |= names_in(folder, "shard-000003.tar")
    (folder / "shard-000003.tar").unlink()
    expected, found = stream_of(alone, 6), stream_of(helped, 6)
    assert set(check(helped, found, bad)) == KINDS
    assert helped.skips == alone.skips
    for one, other in zip(expected, found, strict=True):
        assert one["key"] == other["key"]
        assert one["skipped"] == other["skipped"]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["twin"], other["twin"])


def test_an_error_of_a_loader_worker_is_one_line_for_the_user(tmp_path: Path) -> None:
    made = module(write_set(tmp_path), num_workers=1)
    for path in tmp_path.glob("*.tar"):
        path.unlink()
    try:
        stream_of(made, 1)
    except DataError as error:  # not pytest.raises, which would keep the worker alive by the traceback
        message = user_message(error)
    else:
        pytest.fail("batches were made of nothing")
    gc.collect()  # the exception and its frames hold each other, and with them the worker
    assert message is not None
    assert message.startswith("20 pictures in a row could not be read, the last: ")
    assert "No such file" in message
    assert "\n" not in message


# Descriptions that are made to do harm


def nested(depth: int) -> bytes:
    return b'{"version": 1, "source": "real", "captions": ' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    "data",
    [
        *(nested(depth) for depth in (50, 900, 985, 100_000)),
        described(captions=["\ud800"]),
        described(label="\ud800"),
        described(group="\udfff"),
        described(views={"gen": {"source": "gen", "captions": ["\ud800"]}}),
        described(source="\ud800"),
        described().replace(b"a cat", b"caf\xe9"),
        b'{"version": 1, "source": "real", "captions": ["x"], "meta": {"n": ' + b"9" * 5000 + b"}}",
        described(captions=None),
        described(captions={"a": 1}),
        described(views=[1]),
        described(group=5),
        described(label=[]),
        b'{"version": 1, "captions": ["a"',
        b"null",
        b"\xff\xfe{",
    ],
)
def test_a_description_that_is_made_to_do_harm_costs_its_sample_alone(tmp_path: Path, data: bytes) -> None:
    folder = write_set(tmp_path, swap("k003.json", data))
    index = ShardIndex.load(folder)
    assert index.problems.counts == {"unusable description": 1}
    "\n".join(index.problems.lines()).encode()
    assert len(index) == SAMPLES - 1


@pytest.mark.parametrize("many", [40_000])
def test_many_and_long_captions_are_kept(tmp_path: Path, many: int) -> None:
    captions = [f"caption {i}" for i in range(many)] + ["y" * 10_000_000, "with \x00 inside", "NaN"]
    write_tar(tmp_path / "a.tar", [("a.jpg", PICTURE), ("a.json", described(captions=captions, meta={"n": 1e400}))])
    build_index(tmp_path).save()
    assert ShardIndex.load(tmp_path).captions(0) == tuple(captions)


@pytest.mark.parametrize("what", ["sources", "views"])
def test_more_names_than_the_index_can_number_are_refused(tmp_path: Path, what: str) -> None:
    with open(tmp_path / "a.tar", "wb") as file:
        for i in range(2**15 + 1):  # int16 numbers them
            about = {"source": f"g{i}"} if what == "sources" else {"views": {f"v{i}": {"source": "gen"}}}
            members = [(f"k{i}.jpg", b"x"), (f"k{i}.json", described(**about))]
            for name, data in [*members, (f"k{i}.v{i}.jpg", b"y")][: 2 if what == "sources" else 3]:
                file.write(tar_header(name.encode(), octal(len(data))) + padded(data))
        file.write(bytes(1024))
    with pytest.raises(DataError, match=rf"more than 32,?768 {what}"):
        build_index(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of a process's memory are Linux's")
@pytest.mark.parametrize(("name", "size"), [("b.json", 3 * 2**30), ("b.txt", 2**31 - 513), ("b.jpg", 2**31 - 513)])
def test_a_member_of_gigabytes_is_left_out_or_read_in_pieces(tmp_path: Path, name: str, size: int) -> None:
    """In a process that may grow by half a gigabyte."""
    described_or_shown = ("b.json", described()) if name == "b.jpg" else ("b.jpg", PICTURE)
    with open(tmp_path / "a.tar", "wb") as file:
        for one, data in [("a.jpg", PICTURE), ("a.json", described()), described_or_shown]:
            file.write(tar_header(one.encode(), octal(len(data))) + padded(data))
        file.write(tar_header(name.encode(), octal(size)))
        file.truncate(file.tell() + -(-size // 512) * 512)  # a hole: no disk is used
        file.seek(0, os.SEEK_END)
        for one, data in [("c.jpg", PICTURE), ("c.json", described())]:
            file.write(tar_header(one.encode(), octal(len(data))) + padded(data))
        file.write(bytes(1024))
    program = """
        import resource, sys
        from pathlib import Path
        from datamodules.index import build_index

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
        index = build_index(sys.argv[1], source="real", checksums={"a.tar": "0" * 64})
        assert [key for key in index.keys if key != "b"] == ["a", "c"], list(index.keys)
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], check=True, timeout=300)


def test_names_that_are_no_text_are_left_out_and_can_be_printed(tmp_path: Path) -> None:
    def member(name: bytes, data: bytes) -> bytes:
        body = pax_record(b"path", name)
        return (
            tar_header(b"x", octal(len(body)), b"x") + padded(body) + tar_header(b"z", octal(len(data))) + padded(data)
        )

    pairs = [(name + suffix, data) for name in (b"caf\xe9", b"\xed\xa0\x80", b"a\nb", b"a\x1b[2J", b"..", b"good")
             for suffix, data in ((b".jpg", PICTURE), (b".json", described()))]  # fmt: skip
    (tmp_path / "a.tar").write_bytes(b"".join(member(*pair) for pair in pairs) + bytes(1024))
    index = build_index(tmp_path)
    assert list(index.keys) == ["good"]
    assert set(index.problems.counts) <= {"unsafe member name"}
    index.save()
    text = "\n".join(ShardIndex.load(tmp_path).problems.lines())
    assert text.isprintable()
