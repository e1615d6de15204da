from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.catalogue import Catalogue
from datamodules.errors import DataError
from datamodules.plan import MixingPlan, MixSpec


def with_twins(photos: int, generators: int = 1, missing: int = 0, shards: int = 5) -> Catalogue:
    """Photos whose samples hold a view of every generator, but for the last ``missing`` photos."""
    views = np.full(photos, 1 + generators)
    views[photos - missing :] = 1
    start = np.concatenate([[0], np.cumsum(views)])
    number = np.arange(start[-1]) - np.repeat(start[:-1], views)
    names = tuple(f"gen-{g}" for g in range(generators))
    return Catalogue(
        indexes=(), sources=("real", *names), labels=(), picture_sample=np.repeat(np.arange(photos), views),
        picture_source=number, picture_view=number, view_names=("", *names), anchor=start[:-1],
        sample_shard=np.arange(photos) * shards // photos, sample_label=np.full(photos, -1),
        caption_count=np.full(photos, 5), group=np.arange(photos),
    )  # fmt: skip


def with_classes(photos: int, generated: int, classes: int = 3) -> Catalogue:
    """Two corpora that share classes and have no one-to-one twins."""
    count = photos + generated
    source = (np.arange(count) >= photos).astype(np.int64)
    return Catalogue(
        indexes=(), sources=("real", "gen"), labels=tuple("abcdefgh"[:classes]), picture_sample=np.arange(count),
        picture_source=source, picture_view=np.zeros(count, dtype=np.int64), view_names=("",), anchor=np.arange(count),
        sample_shard=source, sample_label=np.arange(count) % classes,
        caption_count=np.ones(count, dtype=np.int64), group=np.arange(count),
    )  # fmt: skip


CATALOGUES = {
    "twins": with_twins(97),
    "two generators": with_twins(97, generators=2),
    "five": with_twins(97, generators=5),
    "classes": with_classes(90, 60),
}
for made in CATALOGUES.values():
    object.__setattr__(made, "digest", "fixed")


@st.composite
def plans(draw: st.DrawFn) -> MixingPlan:
    catalogue = CATALOGUES[draw(st.sampled_from(sorted(CATALOGUES)))]
    return MixingPlan(
        catalogue,
        MixSpec(
            share=draw(st.integers(0, 20)) / 20,
            mode=draw(st.sampled_from(["replace", "add", "unpaired"])),
            composition=draw(st.sampled_from(["mixed", "per_device_source", "per_batch_source"])),
            batch_size=draw(st.sampled_from([8, 32, 48, 30])),
            twin_share=draw(st.sampled_from([0.0, 0.25, 1.0])),
            seed=draw(st.integers(0, 5)),
        ),
    )


def generated(plan: MixingPlan, picture: np.ndarray) -> np.ndarray:
    return plan.catalogue.picture_source[picture] > 0


@settings(deadline=None, max_examples=150)
@given(plans(), st.integers(0, 500))
def test_every_block_holds_its_share_to_within_one(plan: MixingPlan, step: int) -> None:
    pictures = plan.slots(step).picture
    made = generated(plan, pictures)
    batch, share = plan.spec.batch_size, plan.spec.share
    if plan.spec.composition == "mixed":
        source = plan.catalogue.picture_source[pictures]
        made_by = len(plan.catalogue.sources) - 1  # equal parts of the share
        for blocks in (1, 2, 4, 8):  # the global batch and the device batches of any number of ranks
            if plan.blocks % blocks == 0:
                counts = made.reshape(blocks, -1).sum(axis=1)
                assert np.all(np.abs(counts - share * batch / blocks) < 1)
                for code in range(1, 1 + made_by):
                    own = (source == code).reshape(blocks, -1).sum(axis=1)
                    assert np.all(np.abs(own - share / made_by * batch / blocks) < 1)
    else:
        parts = plan.blocks if plan.spec.composition == "per_device_source" else 1
        for part in made.reshape(parts, -1):
            assert part.all() or not part.any()


@settings(deadline=None, max_examples=30)
@given(plans())
def test_the_running_share_never_strays(plan: MixingPlan) -> None:
    total = 0
    unit = {
        "mixed": 1,
        "per_device_source": plan.spec.batch_size // plan.blocks,
        "per_batch_source": plan.spec.batch_size,
    }
    for step in range(40):
        total += int(generated(plan, plan.slots(step).picture).sum())
        due = plan.spec.share * plan.spec.batch_size * (step + 1)
        assert abs(total - due) <= unit[plan.spec.composition]


@settings(deadline=None, max_examples=60)
@given(plans(), st.integers(0, 300))
def test_slots_are_a_pure_function_of_the_step(plan: MixingPlan, step: int) -> None:
    first = plan.slots(step)
    plan.slots(step + 1000)
    again = MixingPlan(plan.catalogue, plan.spec).slots(step)
    for name in ("picture", "sample", "caption", "twin", "epoch"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


def test_replace_meets_every_photo_once_an_epoch_at_every_share() -> None:
    for share in (0.0, 0.3, 1.0):
        plan = MixingPlan(with_twins(96), MixSpec(share=share, batch_size=16))
        epochs = [np.concatenate([plan.slots(6 * e + s).sample for s in range(6)]) for e in range(3)]
        for epoch in epochs:
            np.testing.assert_array_equal(np.sort(epoch), np.arange(96))
        assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize("catalogue", ["twins", "classes"])
def test_what_is_generated_at_a_share_is_generated_at_every_higher_one(catalogue: str) -> None:
    shares = [0.0, 0.125, 0.25, 0.5, 0.75, 1.0]
    for step in range(50):
        slots = [MixingPlan(CATALOGUES[catalogue], MixSpec(share=share, batch_size=64)).slots(step) for share in shares]
        made = [CATALOGUES[catalogue].picture_source[s.picture] > 0 for s in slots]
        for lower, higher, low, high in zip(made, made[1:], slots, slots[1:], strict=False):
            assert not np.any(lower & ~higher)
            # The same photo in the same slot with the same caption, and the same twin where it is replaced.
            np.testing.assert_array_equal(low.sample, high.sample)
            np.testing.assert_array_equal(low.caption, high.caption)
            np.testing.assert_array_equal(low.picture[lower], high.picture[lower])


def test_add_keeps_the_order_of_the_photos() -> None:
    def photos(share: float) -> np.ndarray:
        plan = MixingPlan(with_twins(96), MixSpec(share=share, mode="add", batch_size=16))
        slots = [plan.slots(step) for step in range(24)]
        return np.concatenate([s.picture[~generated(plan, s.picture)] for s in slots])

    plain, mixed = photos(0.0), photos(0.5)
    np.testing.assert_array_equal(mixed, plain[: len(mixed)])


@settings(deadline=None, max_examples=60)
@given(plans(), st.integers(0, 100))
def test_twins_are_of_the_other_source_and_of_the_same_scene_or_class(plan: MixingPlan, step: int) -> None:
    slots, catalogue = plan.slots(step), plan.catalogue
    has = slots.twin >= 0
    due = plan.spec.twin_share * plan.spec.batch_size
    assert abs(has.sum() - due) < 1
    made = generated(plan, slots.picture[has])
    assert np.all(generated(plan, slots.twin[has]) == ~made)
    twin_sample = catalogue.picture_sample[slots.twin[has]]
    if catalogue.labels:
        np.testing.assert_array_equal(catalogue.sample_label[twin_sample], catalogue.sample_label[slots.sample[has]])
    else:
        np.testing.assert_array_equal(twin_sample, slots.sample[has])


def test_class_twins_are_one_to_one_while_they_last() -> None:
    catalogue = with_classes(60, 60)
    twins = catalogue.twins(1, catalogue.photos, 0)
    assert len(set(twins.tolist())) == 60
    assert not np.array_equal(twins, catalogue.twins(1, catalogue.photos, 1))


def test_generators_get_their_weights() -> None:
    catalogue = with_twins(96, generators=3)
    plan = MixingPlan(catalogue, MixSpec(share=0.5, generators={"gen-0": 3, "gen-2": 1}, batch_size=64))
    counts = np.zeros(4)
    for step in range(10):
        counts += np.bincount(catalogue.picture_source[plan.slots(step).picture], minlength=4)
    np.testing.assert_array_equal(counts, [320, 240, 0, 80])


@pytest.mark.parametrize("mode", ["replace", "unpaired"])
def test_no_source_of_several_strays_by_a_sample(mode: str) -> None:
    weights = {"gen-0": 5, "gen-1": 1, "gen-2": 3, "gen-3": 0.2}
    plan = MixingPlan(with_twins(96, generators=4), MixSpec(0.37, weights, mode, batch_size=24))
    due = np.array([0.63, *(0.37 * weight / 9.2 for weight in weights.values())])
    counts = [
        np.bincount(block, minlength=5)
        for step in range(300)
        for block in plan.catalogue.picture_source[plan.slots(step).picture].reshape(plan.blocks, -1)
    ]
    size = 24 // plan.blocks
    assert np.all(np.abs(counts - due * size) < 1)
    batches = np.reshape(counts, (300, plan.blocks, 5)).sum(axis=1)
    assert np.all(np.abs(batches - due * 24) < 1 + 1e-4 * 24)
    running = np.cumsum(batches, axis=0) - np.arange(1, 301)[:, None] * due * 24
    # Shares that are no short fractions are held to a ten-thousandth.
    assert np.abs(running).max() < 1 + 1e-4 * 24 * 300


def test_captions_are_drawn_evenly() -> None:
    plan = MixingPlan(with_twins(960), MixSpec(batch_size=64))
    drawn = np.concatenate([plan.slots(step).caption for step in range(150)])
    assert np.all(np.abs(np.bincount(drawn, minlength=5) / len(drawn) - 0.2) < 0.02)


def test_shards_are_shuffled_in_windows_only() -> None:
    plan = MixingPlan(with_twins(1000, shards=20), MixSpec(batch_size=100, shuffle_shards=2))
    shard = plan.catalogue.sample_shard
    for step in range(10):
        assert len(np.unique(shard[plan.slots(step).sample])) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": 1.5}, r"data.share must lie in \[0, 1\]"),
        ({"twin_share": -0.1}, r"data.twin_share must lie in \[0, 1\]"),
        ({"share": 0.2, "generators": {"sdxl": 1.0}}, "'sdxl', which no shard holds"),
        ({"blocks": 7}, "does not divide"),
        ({"batch_size": 0}, "at least 1"),
    ],
)
def test_wrong_options_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        MixingPlan(CATALOGUES["twins"], replace(MixSpec(), **change))


def test_a_missing_twin_is_named_or_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Catalogue, "name", lambda self, picture: f"photo-{picture}")
    catalogue = with_twins(50, missing=10)
    with pytest.raises(DataError, match=r"10 of 50 photos have none, the first being 'photo-80'"):
        MixingPlan(catalogue, MixSpec(share=0.1))
    plan = MixingPlan(catalogue, MixSpec(share=0.1, missing_twins="skip", batch_size=8))
    assert plan.skipped_photos == 10
    assert plan.slots(0).sample.max() < 40
    MixingPlan(catalogue, MixSpec(share=0.0))  # nothing is replaced, so nothing is missing


def test_photos_alone_cannot_be_mixed() -> None:
    with pytest.raises(DataError, match="hold no generated pictures"):
        MixingPlan(with_twins(10, generators=0), MixSpec(share=0.5))


def test_fingerprints_tell_plans_apart() -> None:
    catalogue = CATALOGUES["twins"]
    one = MixingPlan(catalogue, MixSpec(share=0.2))
    assert one.fingerprint == MixingPlan(catalogue, MixSpec(share=0.2)).fingerprint
    assert one.fingerprint != MixingPlan(catalogue, MixSpec(share=0.3)).fingerprint


@settings(deadline=None, max_examples=50)
@given(plans(), st.integers(0, 50), st.integers(0, 7), st.integers(0, 5))
def test_a_spare_is_of_the_slots_source(plan: MixingPlan, step: int, position: int, attempt: int) -> None:
    source = plan.catalogue.picture_source
    wanted = int(source[plan.slots(step).picture[position]])
    picture, sample, caption = plan.spare(step, position, attempt, wanted)
    assert source[picture] == wanted
    assert 0 <= caption < plan.catalogue.caption_count[sample]
