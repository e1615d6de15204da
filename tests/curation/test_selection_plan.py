"""A selection in the mixing plan: frequencies against weights, left-out samples, edited captions, and refusals."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.catalogue import Catalogue
from datamodules.decode import Augmentation
from datamodules.decorrelated import DecorrelatedDataModule
from datamodules.errors import DataError
from datamodules.fingerprint import plan_differences
from datamodules.hashing import uniform
from datamodules.index import ShardIndex
from datamodules.mixed_source import MixedSourceDataModule
from datamodules.order import ShuffledOrder
from datamodules.plan import MixingPlan, MixSpec
from datamodules.plan_table import plan_table
from datamodules.sample import Sample, View
from datamodules.selection import Selection
from datamodules.stream import MixedStream
from datamodules.strings import Strings
from datamodules.weighted_order import WeightedOrder
from datamodules.writer import ShardWriter

PHOTOS = 40


def picture(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((4, 4, 1), dtype=np.uint8))


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with a generated twin each; every fourth one's twin has captions of its own."""
    folder = tmp_path_factory.mktemp("twins")
    with ShardWriter(folder, samples_per_shard=12) as writer:
        for i in range(PHOTOS):
            own = (f"twin {i}",) if i % 4 == 0 else None
            sample = Sample(f"p-{i:02d}", (f"first {i}", f"second {i}"), views={"gen": View("gen", own)})
            writer.write(sample, picture(i), {"gen": picture(100 + i)})
    return folder


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos and generated pictures that share two classes."""
    folder = tmp_path_factory.mktemp("classes")
    with ShardWriter(folder, samples_per_shard=12) as writer:
        for i in range(PHOTOS):
            source = "real" if i < PHOTOS // 2 else "gen"
            writer.write(Sample(f"c-{i:02d}", (f"caption {i}",), source, label=f"class-{i % 2}"), picture(i))
    return folder


def selection(folder: Path, weight: np.ndarray, edits: dict[tuple[int, int], str] | None = None) -> Selection:
    index = ShardIndex.load(folder)
    made = sorted((edits or {}).items())
    return Selection(
        shards=tuple(info.sha256 for info in index.shards), keys=index.keys, shard=index.shard,
        weight=np.asarray(weight, dtype=np.float32), row=np.array([row for (row, _), _ in made], dtype=np.int64),
        number=np.array([number for (_, number), _ in made], dtype=np.int32), text=Strings([text for _, text in made]),
    )  # fmt: skip


def saved(path: Path, folder: Path, weight: np.ndarray, edits: dict[tuple[int, int], str] | None = None) -> str:
    selection(folder, weight, edits).save(path)
    return str(path)


def plan_of(folder: Path, chosen: str | None, **spec: object) -> MixingPlan:
    options = {"batch_size": 8, "seed": 3, "selection": chosen, **spec}
    return MixingPlan(Catalogue.of([ShardIndex.load(folder)]), MixSpec(**options))  # type: ignore[arg-type]


def drawn(plan: MixingPlan, steps: int) -> np.ndarray:
    """How often each sample was drawn."""
    samples = np.concatenate([plan.slots(step).sample for step in range(steps)])
    return np.bincount(samples, minlength=len(plan.catalogue.anchor))


# Frequencies ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 8).map(lambda part: part / 8) | st.floats(0.001, 1.0), min_size=1, max_size=40),
    st.integers(1, 12), st.integers(0, 9),
)  # fmt: skip
def test_an_item_is_met_as_often_as_its_weight_says(weights: list[float], passes: int, seed: int) -> None:
    weight = np.array(weights)
    if not weight.any():
        weight[0] = 0.5
    count = len(weight)
    order = WeightedOrder(np.arange(count) // 7, weight, np.arange(count), 2, seed)
    share = weight / weight.max()
    total = order._begin(passes)
    items, epochs = order.take(np.arange(total))
    met = np.bincount(items, minlength=count)
    assert np.all(np.abs(met - passes * share) < 1 + 1e-6)
    np.testing.assert_array_equal(met[share == 1], passes)  # the heaviest: once a pass
    assert not met[weight == 0].any()
    assert np.all(np.diff(epochs) >= 0)
    assert epochs[-1] == passes - 1
    for epoch in range(passes):  # nothing twice in a pass
        assert Counter(items[epochs == epoch].tolist()).most_common(1)[0][1] == 1
    # Any place is found without those before it.
    again = WeightedOrder(np.arange(count) // 7, weight, np.arange(count), 2, seed)
    middle = np.arange(total // 2, total)
    np.testing.assert_array_equal(again.take(middle)[0], items[total // 2 :])


def test_equal_weights_are_the_plain_order() -> None:
    shard = np.arange(100) // 9
    plain, weighted = ShuffledOrder(shard, 3, 5, 1), WeightedOrder(shard, np.full(100, 0.3), np.arange(100), 3, 5, 1)
    for start in (0, 90, 730):
        draws = np.arange(start, start + 50)
        for one, other in zip(plain.take(draws), weighted.take(draws), strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(plain.shards_ahead(start), weighted.shards_ahead(start))


def test_weights_spread_over_the_passes(twins: Path, tmp_path: Path) -> None:
    weight = np.linspace(0.1, 1.0, PHOTOS)
    weight[:8] = 0.0
    plan = plan_of(twins, saved(tmp_path / "s.parquet", twins, weight))
    steps = 500
    found = drawn(plan, steps)
    assert not found[:8].any()
    due = weight / weight.sum() * steps * plan.spec.batch_size
    assert np.all(np.abs(found - due) < 2)  # one for the item's own place, one for the unfinished pass
    # Frequencies do not come in stretches: each tenth of the run holds its share.
    tenth = np.concatenate([plan.slots(step).sample for step in range(50)])
    assert np.all(np.abs(np.bincount(tenth, minlength=PHOTOS) - due / 10) < 2)


def test_copies_of_a_sample_have_other_crops_and_captions(twins: Path, tmp_path: Path) -> None:
    plan = plan_of(twins, saved(tmp_path / "s.parquet", twins, np.linspace(0.25, 1, PHOTOS)))
    slots = [plan.slots(step) for step in range(200)]
    sample, epoch = (np.concatenate([getattr(one, name) for one in slots]) for name in ("sample", "epoch"))
    pairs = list(zip(sample.tolist(), epoch.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)  # every draw has an epoch, and so a crop and a caption, of its own
    expected = (uniform(3, 2, sample, epoch) * 2).astype(int)
    np.testing.assert_array_equal(np.concatenate([one.caption for one in slots]), expected)
    assert {int(n) for n in expected[sample == PHOTOS - 1]} == {0, 1}


@pytest.mark.parametrize(
    "spec", [{}, {"share": 0.5, "twin_share": 0.25}, {"share": 0.5, "mode": "add"}, {"share": 0.25, "mode": "unpaired"}]
)
def test_weights_of_one_leave_the_plan_as_it_is(twins: Path, tmp_path: Path, spec: dict[str, object]) -> None:
    for weight in (1.0, 0.25):
        chosen = saved(tmp_path / f"{weight}.parquet", twins, np.full(PHOTOS, weight))
        plain, selected = plan_of(twins, None, **spec), plan_of(twins, chosen, **spec)
        for step in (0, 1, 17):
            one, other = plain.slots(step), selected.slots(step)
            for name in ("picture", "sample", "caption", "twin", "epoch"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            np.testing.assert_array_equal(plain.shards_ahead(step), selected.shards_ahead(step))
            assert [plain.spare(step, 1, n, 0) for n in range(4)] == [selected.spare(step, 1, n, 0) for n in range(4)]


@pytest.mark.parametrize("mode", ["replace", "add", "unpaired"])
def test_shares_of_sources_hold_and_every_source_is_weighted(twins: Path, tmp_path: Path, mode: str) -> None:
    weight = np.where(np.arange(PHOTOS) % 2 == 0, 1.0, 0.5)
    weight[:4] = 0
    plan = plan_of(twins, saved(tmp_path / "s.parquet", twins, weight), share=0.5, mode=mode)
    for step in range(100):
        slots = plan.slots(step)
        assert (plan.catalogue.picture_source[slots.picture] > 0).sum() == 4
        assert slots.sample.min() >= 4
        assert plan.catalogue.picture_sample[slots.picture].min() >= 4
    found = drawn(plan, 400)
    assert np.all(np.abs(found - weight / weight.sum() * 400 * 8) < 3)


@pytest.mark.parametrize("mode", ["replace", "add", "unpaired"])
def test_what_is_left_out_is_no_twin_by_class_and_no_spare(classes: Path, tmp_path: Path, mode: str) -> None:
    weight = np.ones(PHOTOS)
    weight[::4] = 0.0
    weight[1] = 0.5
    plan = plan_of(classes, saved(tmp_path / "s.parquet", classes, weight), share=0.5, mode=mode, twin_share=0.5)
    for made in (plan, pickle.loads(pickle.dumps(plan))):  # as it comes to loader workers
        for step in range(60):
            slots = made.slots(step)
            used = np.concatenate([slots.picture, slots.twin[slots.twin >= 0]])
            assert np.all(weight[made.catalogue.picture_sample[used]] > 0)
            for source in (0, 1):
                picture, sample, _ = made.spare(step, 0, 0, source)
                assert weight[sample] > 0
                assert made.catalogue.picture_source[picture] == source


def test_sets_of_the_same_photos_share_their_keys(tmp_path: Path) -> None:
    """Several edits of the same photos: the keys are the same, and a weight is one sample's of one set."""
    folders = [tmp_path / "one", tmp_path / "other"]
    for number, folder in enumerate(folders):
        with ShardWriter(folder, samples_per_shard=12) as writer:
            for i in range(PHOTOS):
                writer.write(Sample(f"p-{i:02d}", (f"set {number}, photo {i}",)), picture(100 * number + i))
    indexes = [ShardIndex.load(folder) for folder in folders]
    shards = [info.sha256 for index in indexes for info in index.shards]
    keys = [key for index in indexes for key in index.keys]
    shard = np.concatenate([indexes[0].shard, indexes[1].shard + len(indexes[0].shards)])
    weight = np.random.default_rng(0).integers(0, 2, 2 * PHOTOS).astype(np.float32)
    chosen = Selection(tuple(shards), Strings(keys), shard, weight)
    chosen.save(tmp_path / "s.parquet")
    spec = MixSpec(batch_size=8, seed=3, selection=str(tmp_path / "s.parquet"))
    plan = MixingPlan(Catalogue.of(indexes), spec)
    assert set(np.flatnonzero(drawn(plan, 40))) == set(np.flatnonzero(weight))

    keys[1] = keys[0]
    with pytest.raises(DataError, match="a key occurs twice in a shard"):
        Selection(tuple(shards), Strings(keys), shard, weight)


def test_spares_follow_the_weights(twins: Path, tmp_path: Path) -> None:
    weight = np.zeros(PHOTOS)
    weight[3], weight[5] = 0.2, 0.8
    plan = plan_of(twins, saved(tmp_path / "s.parquet", twins, weight))
    found = Counter(plan.spare(step, 0, 0, 0)[1] for step in range(2000))
    assert set(found) == {3, 5}
    assert abs(found[5] / 2000 - 0.8) < 0.04  # four standard deviations


# Captions ------------------------------------------------------------------------------------------------------------


def test_edited_captions_stand_in_batches_and_tables(twins: Path, tmp_path: Path) -> None:
    edits = {(i, 1): f"edited {i}" for i in range(PHOTOS)} | {(6, 0): "edited first 6"}
    chosen = saved(tmp_path / "s.parquet", twins, np.ones(PHOTOS), edits)
    plan, plain = plan_of(twins, chosen, share=0.5), plan_of(twins, None, share=0.5)
    stream, unedited = (MixedStream(made, (8, 8), None, Augmentation()) for made in (plan, plain))
    seen = set()
    for step in range(20):
        slots = plan.slots(step)
        texts, before = stream.batch(step)["caption"], unedited.batch(step)["caption"]
        for row in range(plan.spec.batch_size):
            sample, number = int(slots.sample[row]), int(slots.caption[row])
            own = plan.catalogue.has_own_captions(int(slots.picture[row])) and slots.picture[row] % 2 == 1
            expected = before[row] if own else edits.get((sample, number), before[row])
            assert texts[row] == expected
            seen.add((own, (sample, number) in edits))
        listed = plan_table(plan, range(step, step + 1), captions=True)["caption_text"].to_pylist()
        assert listed == texts
    assert seen == {(False, True), (False, False), (True, True), (True, False)}


# Identity and refusals -----------------------------------------------------------------------------------------------


def test_the_digest_is_part_of_the_fingerprint(twins: Path, tmp_path: Path) -> None:
    weight = np.ones(PHOTOS)
    plain = plan_of(twins, None)
    assert "selection" not in plain.fingerprint_parts
    one = saved(tmp_path / "one.parquet", twins, weight)
    same = saved(tmp_path / "same.parquet", twins, weight)
    edited = saved(tmp_path / "edited.parquet", twins, weight, {(2, 0): "else"})
    weight[4] = 0.5
    other = saved(tmp_path / "other.parquet", twins, weight)
    prints = [plan_of(twins, chosen).fingerprint for chosen in (None, one, same, edited, other)]
    assert prints[1] == prints[2]  # where the file lies does not matter
    assert len(set(prints)) == 4
    assert "selection was not set, is " in plan_differences(
        plain.fingerprint_parts, plan_of(twins, one).fingerprint_parts
    )


def test_a_selection_of_other_shards_is_refused(twins: Path, classes: Path, tmp_path: Path) -> None:
    of_classes = saved(tmp_path / "s.parquet", classes, np.ones(PHOTOS))
    with pytest.raises(DataError, match=r"made of other shards: it does not know .*\.tar and 3 more"):
        plan_of(twins, of_classes)
    both = Catalogue.of([ShardIndex.load(twins), ShardIndex.load(classes)])
    with pytest.raises(DataError, match="made of other shards"):
        MixingPlan(both, MixSpec(batch_size=8, selection=of_classes))
    first = ShardIndex.load(twins).select(np.arange(12)).without_empty_shards()
    with pytest.raises(DataError, match="3 of its 4 shards"):
        MixingPlan(
            Catalogue.of([first]),
            MixSpec(batch_size=8, selection=saved(tmp_path / "t.parquet", twins, np.ones(PHOTOS))),
        )


def test_unknown_and_missing_keys_are_named(twins: Path, tmp_path: Path) -> None:
    whole = selection(twins, np.ones(PHOTOS))
    keys = list(whole.keys)
    keys[7] = "stranger"
    replace(whole, keys=Strings(keys)).save(tmp_path / "strange.parquet")
    with pytest.raises(DataError, match="says nothing of sample 'p-07'"):
        plan_of(twins, str(tmp_path / "strange.parquet"))
    more = replace(
        whole, keys=Strings([*whole.keys, "stranger"]), shard=np.append(whole.shard, np.int32(0)),
        weight=np.ones(PHOTOS + 1, dtype=np.float32),
    )  # fmt: skip
    more.save(tmp_path / "more.parquet")
    with pytest.raises(DataError, match="knows sample 'stranger'"):
        plan_of(twins, str(tmp_path / "more.parquet"))
    with pytest.raises(DataError, match="edits caption 2 of 'p-03', which has 2 captions"):
        plan_of(twins, saved(tmp_path / "edit.parquet", twins, np.ones(PHOTOS), {(3, 2): "no"}))


def test_a_selection_that_leaves_nothing_is_refused(classes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leaves no sample"):
        selection(classes, np.zeros(PHOTOS))
    generated = (np.arange(PHOTOS) >= PHOTOS // 2).astype(float)
    with pytest.raises(DataError, match="leaves no photos"):
        plan_of(classes, saved(tmp_path / "s.parquet", classes, generated))
    with pytest.raises(DataError, match="leaves no pictures by gen"):
        plan_of(classes, saved(tmp_path / "t.parquet", classes, 1 - generated), share=0.5, mode="unpaired")
    # What no slot needs may be left out whole.
    alone = plan_of(classes, str(tmp_path / "s.parquet"), share=1.0, mode="unpaired")
    assert alone.slots(0).sample.min() >= PHOTOS // 2
    assert plan_of(classes, str(tmp_path / "t.parquet"), mode="unpaired").slots(0).sample.max() < PHOTOS // 2


@pytest.mark.parametrize("weight", [-0.1, 1.5, np.nan])
def test_weights_lie_in_the_unit_interval(twins: Path, weight: float) -> None:
    weights = np.ones(PHOTOS)
    weights[9] = weight
    with pytest.raises(DataError, match="sample 'p-09' has the weight"):
        selection(twins, weights)


def test_files_that_are_no_selection_are_refused(twins: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    with pytest.raises(DataError, match="there is no such selection"):
        Selection.load(path)
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match="is no selection"):
        Selection.load(path)
    whole = selection(twins, np.ones(PHOTOS), {(1, 1): "x"})
    whole.save(path)
    assert Selection.load(path).digest == whole.digest
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"bias_train_selection"])
    about["version"] = 99
    pq.write_table(table.replace_schema_metadata({b"bias_train_selection": json.dumps(about)}), path)
    with pytest.raises(DataError, match="of version 99"):
        Selection.load(path)
    changed = table.set_column(2, table.schema.field(2), [np.full(PHOTOS, 0.5, dtype=np.float32)])
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(DataError, match="its digest differs"):
        Selection.load(path)
    pq.write_table(table.drop_columns(["weight"]), path)
    with pytest.raises(DataError, match="damaged"):
        Selection.load(path)


# Data modules --------------------------------------------------------------------------------------------------------


def test_data_modules_take_a_selection(twins: Path, tmp_path: Path) -> None:
    weight = np.ones(PHOTOS)
    weight[:10] = 0
    chosen = saved(tmp_path / "s.parquet", twins, weight)
    data = MixedSourceDataModule(train=[str(twins)], batch_size=8, image_size=8, seed=1, selection=chosen)
    data.setup("fit")
    assert data.plan is not None
    assert data.plan.selected is not None
    assert all(int(key.split("-")[1]) >= 10 for batch in [data._stream(0, 1).batch(0)] for key in batch["key"])
    other = MixedSourceDataModule(train=[str(twins)], batch_size=8, image_size=8, seed=1)
    other.load_state_dict(data.state_dict())
    with pytest.raises(DataError, match="another mixing plan"):
        other.setup("fit")


def test_edited_anchors_are_not_asked_about(classes: Path, tmp_path: Path) -> None:
    edited = tmp_path / "edited"
    with ShardWriter(edited) as writer:
        for i in range(6):
            view = View("real", (f"empty {i}",), {"edit": "removed"})
            writer.write(Sample(f"e-{i}", (f"dog {i}",), views={"no-dog": view}), picture(i), {"no-dog": picture(i)})
    weight = np.ones(PHOTOS)
    weight[:10] = 0
    data = DecorrelatedDataModule(
        edited=[str(edited)], edit_share=0.25, train=[str(classes)], batch_size=8, image_size=8, seed=1,
        selection=saved(tmp_path / "s.parquet", classes, weight),
    )  # fmt: skip
    plan = data.make_plan()
    keys = {plan.catalogue.key(int(sample)) for step in range(40) for sample in plan.slots(step).sample}
    assert keys == {f"e-{i}" for i in range(6)} | {f"c-{i:02d}" for i in range(10, 20)}
    assert {plan.spare(step, 0, 0, 0)[1] for step in range(200)} == set(range(10, 20))
