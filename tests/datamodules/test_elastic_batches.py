"""The global batches are the same for every number of ranks and workers, however often a run changes them."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from datamodules.catalogue import Catalogue
from datamodules.decode import Augmentation
from datamodules.index import ShardIndex
from datamodules.plan import MixingPlan, MixSpec
from datamodules.sample import Sample, View
from datamodules.stream import MixedStream
from datamodules.writer import ShardWriter

SIZE = 8
BROKEN = (5, 17, 30)
WORLD_SIZES = (1, 2, 4, 8)


def _picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """40 photos, each with two captions and twins of two generators; some photos cannot be read."""
    folder = tmp_path_factory.mktemp("shards")
    with ShardWriter(folder, samples_per_shard=9) as writer:
        for i in range(40):
            sample = Sample(f"s{i:02d}", (f"first {i}", f"second {i}"), views={"one": View("one"), "two": View("two")})
            writer.write(sample, _picture(i), {"one": _picture(100 + i), "two": _picture(200 + i)})
    index = ShardIndex.load(folder)
    for i in BROKEN:
        place = int(index.view_start[i])
        with (folder / index.shards[int(index.shard[i])].name).open("r+b") as file:
            file.seek(int(index.offset[place]))
            file.write(bytes(int(index.size[place])))
    return Catalogue.of([ShardIndex.load(folder)])


specs = st.builds(
    MixSpec,
    share=st.sampled_from((0.0, 0.1, 0.3, 0.5, 0.9, 1.0)),
    generators=st.sampled_from(({}, {"one": 1.0}, {"one": 1.0, "two": 2.0})),
    mode=st.sampled_from(("replace", "add", "unpaired")),
    composition=st.sampled_from(("mixed", "per_device_source", "per_batch_source")),
    batch_size=st.sampled_from((8, 16, 24)),
    blocks=st.sampled_from((0, 1, 4, 8)),
    twin_share=st.sampled_from((0.0, 0.25, 1.0)),
    shuffle_shards=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
# Early, amid many passes over the shards, and at the step that a run of ten million samples has come to.
steps = st.one_of(st.integers(0, 60), st.integers(0, 2_000_000))


def stream(plan: MixingPlan, **place: int) -> MixedStream:
    return MixedStream(
        plan, (SIZE, SIZE), lambda texts: torch.tensor([[len(t)] for t in texts]), Augmentation(), **place
    )


def loaded(made: MixedStream, workers: int) -> Iterator[dict[str, Any]]:
    """Batches as a loader hands them out: from its workers in turn, or from itself where it has none."""
    if workers == 0:
        yield from made
    streams = [iter(made) for _ in range(workers)]
    first = True
    while True:
        for worker, batches in enumerate(streams):
            told = SimpleNamespace(id=worker, num_workers=workers)
            with patch("datamodules.stream.get_worker_info", return_value=told if first else None):
                yield next(batches)
        first = False


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The global batch of the ranks' parts, in plain lists; what stores did, and which of a rank's captions repeat, is
    not part of it.
    """
    whole: dict[str, Any] = {}
    for rank, part in enumerate(parts):
        for name, value in part.items():
            if name in ("store", "distinct", "distinct_of"):
                continue
            if name in ("twin_index", "twin_rows"):
                value = torch.as_tensor(value, dtype=torch.int64) + rank * len(part["key"])
            rows = value.tolist() if isinstance(value, torch.Tensor) else list(value)
            whole.setdefault(name, []).extend(rows)
    return whole


@settings(deadline=None, max_examples=60)
@given(spec=specs, step=steps)
def test_ranks_hold_parts_of_one_global_batch(catalogue: Catalogue, spec: MixSpec, step: int) -> None:
    plan = MixingPlan(catalogue, spec)
    whole = joined([stream(plan).batch(step)])
    assert len(whole["image"]) == spec.batch_size
    for world_size in WORLD_SIZES[1:]:
        ranks = range(world_size)
        assert joined([stream(plan, rank=rank, world_size=world_size).batch(step) for rank in ranks]) == whole


@settings(deadline=None, max_examples=40)
@given(
    spec=specs,
    step=steps,
    starts=st.lists(
        st.tuples(st.sampled_from(WORLD_SIZES), st.integers(0, 8), st.integers(1, 4)), min_size=2, max_size=4
    ),
)
def test_a_run_may_change_ranks_and_workers_at_any_step(
    catalogue: Catalogue, spec: MixSpec, step: int, starts: list[tuple[int, int, int]]
) -> None:
    plan = MixingPlan(catalogue, spec)
    seen: list[dict[str, Any]] = []
    for world_size, workers, taken in starts:
        begin = step + len(seen)
        ranks = [
            loaded(stream(plan, rank=rank, world_size=world_size, start=begin), workers) for rank in range(world_size)
        ]
        seen.extend(joined([next(rank) for rank in ranks]) for _ in range(taken))
    assert seen == [joined([stream(plan).batch(step + i)]) for i in range(len(seen))]


@settings(deadline=None, max_examples=40)
@given(spec=specs, step=steps)
def test_where_nothing_is_broken_a_batch_is_its_slots(catalogue: Catalogue, spec: MixSpec, step: int) -> None:
    plan = MixingPlan(catalogue, spec)
    slots, batch = plan.slots(step), stream(plan).batch(step)
    broken = {f"s{i:02d}" for i in BROKEN}
    planned = [catalogue.name(int(picture)) for picture in slots.picture]
    for key, source, name, picture in zip(batch["key"], batch["source"].tolist(), planned, slots.picture, strict=True):
        assert source == catalogue.picture_source[picture]  # of a picture's stand-in too
        assert (key == name) == (name not in broken)
    # A twin goes with its anchor, where both can be read.
    readable = [
        row
        for row, twin in enumerate(slots.twin.tolist())
        if twin >= 0 and catalogue.name(twin) not in broken and planned[row] not in broken
    ]
    assert batch["twin_index"].tolist() == readable
