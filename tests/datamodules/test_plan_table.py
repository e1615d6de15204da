from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from datamodules.catalogue import Catalogue
from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.plan import MixingPlan, MixSpec
from datamodules.plan_table import Named, plan_table, planned_slots, slots_table
from datamodules.stream import MixedStream
from datamodules.world import World, write_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes with twins in shards of five."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, samples=12, world=World(size=16), samples_per_shard=5)
    return folder


@pytest.fixture(scope="module")
def two_sets(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two shard sets, in whose tars other keys stand."""
    more = tmp_path_factory.mktemp("more")
    write_world(more, samples=7, world=World(size=16), split_offset=12)
    return [folder, more]


def plan_of(folders: list[Path], **options: object) -> MixingPlan:
    spec = MixSpec(**{"share": 0.25, "twin_share": 0.5, "batch_size": 8, "seed": 3, **options})  # type: ignore[arg-type]
    return MixingPlan(Catalogue.of([ShardIndex.load(folder) for folder in folders]), spec)


def name(key: str, view: str | None) -> str:
    return f"{key}.{view}" if view else key


@pytest.mark.parametrize("mode", ["replace", "unpaired"])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_table_tells_what_the_stream_delivers(two_sets: list[Path], mode: str, world_size: int) -> None:
    plan = plan_of(two_sets, mode=mode)
    steps = range(3, 8)  # over the end of the first epoch
    rows = plan_table(plan, steps, world_size, captions=True).to_pylist()
    assert [(row["step"], row["position"]) for row in rows] == [(s, p) for s in steps for p in range(8)]
    for step in steps:
        for rank in range(world_size):
            batch = MixedStream(plan, (16, 16), rank=rank, world_size=world_size).batch(step)
            mine = [row for row in rows if (row["step"], row["rank"]) == (step, rank)]
            assert [row["row"] for row in mine] == list(range(8 // world_size))
            assert [name(row["key"], row["view"]) for row in mine] == batch["key"]
            assert [row["source"] for row in mine] == [plan.catalogue.sources[code] for code in batch["source"]]
            assert [row["caption_text"] for row in mine] == batch["caption"]
            twins = [(row["row"], row["twin_source"]) for row in mine if row["twin_source"] is not None]
            sources = [plan.catalogue.sources[code] for code in batch["twin_source"]]
            assert twins == list(zip(batch["twin_index"].tolist(), sources, strict=True))
    # A scene's twin is of the same scene and of the other source.
    for row in rows:
        assert row["twin_key"] in (None, row["key"])
        assert row["twin_source"] != row["source"]
        assert (row["twin_key"] is None) == (row["twin_source"] is None)


def test_the_shard_holds_the_sample(two_sets: list[Path]) -> None:
    for row in plan_table(plan_of(two_sets), range(2)).to_pylist():
        with tarfile.open(row["shard"]) as archive:
            assert any(member.startswith(row["key"] + ".") for member in archive.getnames())


def test_an_epoch_is_counted(folder: Path) -> None:
    table = plan_table(plan_of([folder], batch_size=4), range(9))
    assert Counter(table["epoch"].to_pylist()) == {0: 12, 1: 12, 2: 12}
    for epoch in range(3):
        keys = table.filter(pc.equal(table["epoch"], epoch))["key"].to_pylist()
        assert len(set(keys)) == len(keys) == 12


def test_a_range_is_its_steps_one_after_the_other(folder: Path) -> None:
    plan = plan_of([folder])
    pieces = [plan_table(plan, range(step, step + 1), 2) for step in range(4)]
    whole = plan_table(plan, range(4), 2)
    assert whole.to_pylist() == [row for piece in pieces for row in piece.to_pylist()]
    empty = plan_table(plan, range(0), 2)
    assert (empty.num_rows, empty.schema) == (0, whole.schema)


def test_no_shard_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a shard was opened")

    plan = plan_of([folder])
    monkeypatch.setattr(ShardIndex, "read_bytes", refuse)
    assert plan_table(plan, range(3), captions=True).num_rows == 24
    with pytest.raises(AssertionError, match="was opened"):
        MixedStream(plan, (16, 16)).batch(0)


def test_a_key_is_found_as_anchor_as_twin_and_by_its_view(folder: Path) -> None:
    plan = plan_of([folder])
    rows = plan_table(plan, range(12)).to_pylist()
    key = next(row["key"] for row in rows if row["twin_source"] == "world-gen")
    view = next(row["view"] for row in rows if row["view"])

    def used(row: dict[str, Any]) -> set[str]:
        return {name(row["key"], row["view"]), name(row["twin_key"] or "", row["twin_view"])}

    for wanted, expected in (
        (key, [row for row in rows if row["key"] == key]),
        (f"{key}.{view}", [row for row in rows if f"{key}.{view}" in used(row)]),
    ):
        slots = planned_slots(plan, range(12))
        found = slots_table(plan, slots.where(Named.of(plan.catalogue, wanted).marks(slots))).to_pylist()
        assert found == expected
        assert 0 < len(found) < len(rows)


def test_wrong_questions_are_named(folder: Path) -> None:
    plan = plan_of([folder])
    with pytest.raises(DataError, match=r"no shard of data.train holds a sample 'nobody'"):
        Named.of(plan.catalogue, "nobody")
    with pytest.raises(DataError, match=r"data.batch_size = 8 .* multiple of the 3 processes"):
        plan_table(plan, range(1), 3)
    with pytest.raises(DataError, match="multiple of the 0 processes"):
        plan_table(plan, range(1), 0)
