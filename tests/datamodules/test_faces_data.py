"""People beside pairs: exact quotas, the same batches for every number of ranks and workers, spares, and resuming."""

from __future__ import annotations

import hashlib
from itertools import islice
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from datamodules.catalogue import Catalogue
from datamodules.decode import Augmentation
from datamodules.errors import DataError
from datamodules.faces import FacesDataModule, FacesPlan, FacesStream
from datamodules.groups import META
from datamodules.index import ShardIndex, build_index
from datamodules.people_plan import PeoplePlan, PeopleSpec
from datamodules.plan import MixingPlan, MixSpec
from datamodules.sample import Sample
from datamodules.stream import MixedStream
from datamodules.writer import ShardWriter

SIZE = 12
RACES, GENDERS = ("Black", "Indian", "White"), ("Female", "Male")
BROKEN = (3, 40, 41)


def picture(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((SIZE // 3, SIZE // 3, 1), dtype=np.uint8))


def labels(number: int) -> dict[str, str]:
    """Unequal groups: White men are most frequent, Indian women are rare; age goes with gender."""
    rng = np.random.default_rng(number)
    gender = GENDERS[int(rng.random() < 0.7)]
    race = RACES[int(np.searchsorted([0.25, 0.4], rng.random()))]
    old = rng.random() < (0.7 if gender == "Male" else 0.3)
    return {"race": race, "gender": gender, "age": "old" if old else "young"}


def write_people(folder: Path, count: int = 120) -> Path:
    with ShardWriter(folder, samples_per_shard=25) as writer:
        for i in range(count):
            # Some say nothing, and some do not say all.
            meta = {} if i % 20 == 7 else {META: labels(i)}
            if i % 20 == 8:
                meta = {META: {"race": "White"}}
            writer.write(Sample(f"person-{i:03d}", (), meta=meta), picture(i))
    return folder


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    with ShardWriter(folder, samples_per_shard=10) as writer:
        for i in range(30):
            writer.write(Sample(f"pair-{i:03d}", (f"caption {i}",)), picture(1000 + i))
    return folder


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_people(tmp_path_factory.mktemp("broken"))
    index = ShardIndex.load(folder)
    for i in BROKEN:
        place = int(index.view_start[i])
        with (folder / index.shards[int(index.shard[i])].name).open("r+b") as file:
            file.seek(int(index.offset[place]))
            file.write(b"\xff\xd8" + bytes(int(index.size[place]) - 2))
    build_index(folder).save()  # as if they had been broken all along
    return folder


def catalogue(folder: Path) -> Catalogue:
    return Catalogue.of([ShardIndex.load(folder)])


def plan(folder: Path, **spec: Any) -> PeoplePlan:
    return PeoplePlan(catalogue(folder), PeopleSpec(**{"attribute": "race x gender", "batch_size": 24, **spec}))


def module(pairs: Path, people: Path, /, **options: Any) -> FacesDataModule:
    given: dict[str, Any] = {
        "batch_size": 16,
        "people_batch_size": 24,
        "image_size": SIZE,
        "attribute": "race x gender",
    }
    given |= {"people": [str(people)], "train": [str(pairs)]}
    made = FacesDataModule(**{**given, **options})
    made.setup()
    return made


def truth(key: str) -> dict[str, str]:
    return labels(int(key.removeprefix("person-")))


def digest(batch: dict[str, Any]) -> str:
    tensors = [batch[name].numpy().tobytes() for name in ("image", "person", "person_group", "person_attributes")]
    return hashlib.sha256(b"".join(tensors) + " ".join(batch["key"] + batch["person_key"]).encode()).hexdigest()


def test_groups_counts_and_who_is_left_out(people: Path) -> None:
    made = plan(people)
    known = [i for i in range(120) if i % 20 not in (7, 8)]
    assert made.left_out == 120 - len(known)
    expected: dict[str, int] = {}
    for i in known:
        name = f"{labels(i)['race']} x {labels(i)['gender']}"
        expected[name] = expected.get(name, 0) + 1
    assert dict(zip(made.groups, made.counts.tolist(), strict=True)) == expected
    assert made.groups == tuple(sorted(expected))
    # Who says a race but no gender counts where the race alone is asked for.
    assert plan(people, attribute="race").left_out == 6


def test_groups_below_the_minimum_are_left_out(people: Path) -> None:
    whole = plan(people)
    smallest = int(whole.counts.min())
    made = plan(people, minimum=smallest + 1)
    assert len(made.groups) == int((whole.counts > smallest).sum())
    assert made.left_out == whole.left_out + int(whole.counts[whole.counts <= smallest].sum())


@pytest.mark.parametrize("sampling", ["balanced", "pool"])
@pytest.mark.parametrize("attribute", ["gender", "race x gender"])
def test_quotas_are_exact_in_every_block_and_over_the_run(people: Path, sampling: Any, attribute: str) -> None:
    made = plan(people, sampling=sampling, attribute=attribute, batch_size=40)
    count = len(made.groups)
    shares = np.full(count, 1 / count) if sampling == "balanced" else made.counts / made.counts.sum()
    total = np.zeros(count)
    for step in range(30):
        slots = made.slots(step)
        total += np.bincount(slots.group, minlength=count)
        # Quotas of odd shares hold to a ten-thousandth.
        assert np.all(abs(total - (step + 1) * 40 * shares) < 1 + (step + 1) * 40e-4)
        for parts in (1, 2, 4, 8):
            for part in np.split(slots.group, parts):
                assert np.all(abs(np.bincount(part, minlength=count) - len(part) * shares) < 2)


def test_slots_hold_people_of_their_group(people: Path) -> None:
    made = plan(people)
    held = catalogue(people)
    for step in (0, 1, 1000):
        slots = made.slots(step)
        for sample, group, attributes in zip(slots.sample, slots.group, slots.attributes, strict=True):
            person = truth(held.key(int(sample)))
            assert made.groups[group] == f"{person['race']} x {person['gender']}"
            assert (RACES[attributes[0]], GENDERS[attributes[1]]) == (person["race"], person["gender"])


def test_a_group_is_gone_through_before_anybody_comes_again(people: Path) -> None:
    made = plan(people, attribute="gender", batch_size=20)
    women = int(made.counts[0])
    seen = np.concatenate([made.slots(step).sample[made.slots(step).group == 0] for step in range(20)])
    assert len(set(seen[:women].tolist())) == women
    assert sorted(seen[:women].tolist()) == sorted(seen[women : 2 * women].tolist())
    assert seen[:women].tolist() != seen[women : 2 * women].tolist()


def test_weights_make_groups_and_ages_uncorrelated(people: Path) -> None:
    held = catalogue(people)

    def table(**spec: Any) -> np.ndarray:
        made = plan(people, attribute="gender", batch_size=64, **spec)
        counts = np.zeros((2, 2))
        for step in range(60):
            for sample, group in zip(made.slots(step).sample, made.slots(step).group, strict=True):
                counts[group, int(truth(held.key(int(sample)))["age"] == "old")] += 1
        return counts / counts.sum()

    before, after = table(), table(sampling="weights", independent_of=("age",))
    assert before[1, 1] / before[1].sum() - before[0, 1] / before[0].sum() > 0.25
    assert after.sum(axis=1) == pytest.approx([0.5, 0.5], abs=0.01)
    assert after[1, 1] / after[1].sum() == pytest.approx(after[0, 1] / after[0].sum(), abs=0.02)


def stream(made: FacesPlan, **place: int) -> FacesStream:
    augment = Augmentation((0.5, 1.0), 0.5)
    return FacesStream(made, (SIZE, SIZE), lambda texts: torch.tensor([[len(t)] for t in texts]), augment, **place)


def faces_plan(pairs: Path, people: Path, **spec: Any) -> FacesPlan:
    return FacesPlan(catalogue(pairs), MixSpec(batch_size=16, seed=5), plan(people, seed=5, **spec))


@settings(deadline=None, max_examples=20)
@given(
    step=st.one_of(st.integers(0, 60), st.integers(0, 2_000_000)),
    attribute=st.sampled_from(("gender", "race x gender", "race x gender x age")),
    sampling=st.sampled_from(("balanced", "pool")),
)
def test_ranks_hold_parts_of_one_global_batch(
    pairs: Path, broken: Path, step: int, attribute: str, sampling: Any
) -> None:
    made = faces_plan(pairs, broken, attribute=attribute, sampling=sampling)
    whole = stream(made).batch(step)
    slots = made.people.slots(step)
    assert whole["person_group"].tolist() == slots.group.tolist()  # of a picture's stand-in too
    bad = {f"person-{i:03d}" for i in BROKEN}
    for key, sample, attributes in zip(
        whole["person_key"], slots.sample, whole["person_attributes"].tolist(), strict=True
    ):
        planned = made.people.catalogue.key(int(sample))
        assert (key == planned) == (planned not in bad)
        assert key not in bad
        if attribute != "gender":
            assert (RACES[attributes[0]], GENDERS[attributes[1]]) == (truth(key)["race"], truth(key)["gender"])
    for world_size in (2, 4, 8):
        parts = [stream(made, rank=rank, world_size=world_size).batch(step) for rank in range(world_size)]
        for name in ("image", "person", "person_group", "person_attributes", "source"):
            assert torch.equal(torch.cat([part[name] for part in parts]), whole[name]), name
        for name in ("person_key", "key"):
            assert [key for part in parts for key in part[name]] == whole[name]


def test_pairs_are_those_of_a_run_without_people(pairs: Path, people: Path) -> None:
    alone = MixedStream(MixingPlan(catalogue(pairs), MixSpec(batch_size=16, seed=5)), (SIZE, SIZE)).batch(3)
    beside = FacesStream(faces_plan(pairs, people), (SIZE, SIZE)).batch(3)
    assert torch.equal(beside["image"], alone["image"])
    assert beside["key"] == alone["key"]


def test_pictures_are_those_of_the_people(pairs: Path, people: Path) -> None:
    batch = FacesStream(faces_plan(pairs, people), (SIZE, SIZE)).batch(0)
    assert batch["person"].shape == (24, 3, SIZE, SIZE)
    assert batch["person"].dtype == torch.uint8
    for shown, key in zip(batch["person"], batch["person_key"], strict=True):
        expected = picture(int(key.removeprefix("person-")))
        assert abs(shown.permute(1, 2, 0).numpy().astype(float) - expected).mean() < 20  # JPEG's blur


def test_broken_people_are_replaced_and_counted(pairs: Path, broken: Path) -> None:
    made = module(pairs, broken, people_batch_size=120, max_bad_share=1.0)
    batch = stream(made.plan).batch(0)  # type: ignore[arg-type]
    slots = made.plan.people.slots(0)  # type: ignore[union-attr]
    asked = [made.plan.people.catalogue.key(int(s)) for s in slots.sample]  # type: ignore[union-attr]
    broken_slots = sum(key in {f"person-{i:03d}" for i in BROKEN} for key in asked)
    assert broken_slots > 0
    assert len(batch["skipped"]) >= broken_slots
    made.on_before_batch_transfer(batch, 0)
    assert made.seen == 16 + 120
    assert made.skips == {"undecodable": len(batch["skipped"])}
    strict = module(pairs, broken, people_batch_size=120, max_bad_share=0.0)
    with pytest.raises(DataError, match=r"could not be read, more than data\.max_bad_share"):
        strict.on_before_batch_transfer(batch, 0)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_and_a_later_start_give_the_same_batches(pairs: Path, people: Path) -> None:
    def batches(count: int, start: int = 0) -> list[str]:
        made = module(pairs, people, num_workers=count)
        made.start = start
        return [digest(batch) for batch in islice(iter(made.train_dataloader()), 6 - start)]

    expected = batches(0)
    assert batches(2) == expected
    assert batches(0, start=4) == expected[4:]


def test_the_fingerprint_covers_the_people(pairs: Path, people: Path, broken: Path) -> None:
    state = module(pairs, people).state_dict()
    module(pairs, people).load_state_dict(state)
    for change, difference in (
        ({"attribute": "race"}, r'people.attribute was "race x gender", is "race"'),
        ({"people_batch_size": 16}, r"people.batch_size was 24, is 16"),
        ({"sampling": "pool"}, r'people.sampling was "balanced", is "pool"'),
        ({"minimum": 2}, r"people.minimum was 0, is 2"),
    ):
        with pytest.raises(DataError, match=difference):
            module(pairs, people, **change).load_state_dict(state)
        module(pairs, people, force_resume=True, **change).load_state_dict(state)
    with pytest.raises(DataError, match=r"people\.shards was"):
        module(pairs, broken).load_state_dict(state)
    assert module(pairs, people).plan.fingerprint != module(pairs, people, minimum=2).plan.fingerprint  # type: ignore[union-attr]


def test_what_the_module_tells_the_losses(pairs: Path, people: Path) -> None:
    made = FacesDataModule(people=[str(people)], train=[str(pairs)], attribute="gender", image_size=SIZE)
    assert made.groups is None
    made.setup()
    assert (made.attribute, made.groups) == ("gender", GENDERS)
    batch = next(iter(made.train_dataloader()))
    assert batch["person_attributes"].tolist() == [[code] for code in batch["person_group"].tolist()]


def test_mistakes_are_named(pairs: Path, people: Path) -> None:
    for options, message in (
        ({"people": []}, r"data\.people is empty.*MixedSourceDataModule"),
        ({"train": []}, r"data\.train is empty.*ordinary pairs"),
        ({"people": [str(pairs)]}, r"say no groups of people.*shards import faces"),
        ({"attribute": "hair"}, r"no attribute 'hair'; the pictures have age, gender, race"),
        ({"minimum": 1000}, r"race x gender: no group has 1000 pictures"),
        ({"sampling": "even"}, r"data\.sampling is 'even'; choose balanced, pool, weights"),
        ({"sampling": "weights"}, r"data\.independent_of go together"),
        ({"independent_of": ["age"]}, r"data\.independent_of go together"),
        ({"sampling": "weights", "independent_of": ["race"]}, r"data\.independent_of names race"),
        ({"people_batch_size": 0}, r"data\.people_batch_size must be at least 1"),
    ):
        with pytest.raises(DataError, match=message):
            module(pairs, people, **options)
    with pytest.raises(DataError, match=r"data\.people_batch_size = 12 .* multiple of the 8 processes"):
        FacesStream(faces_plan(pairs, people, batch_size=12), (SIZE, SIZE), world_size=8)


def test_one_group_only_is_refused(tmp_path: Path, pairs: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        for i in range(4):
            writer.write(Sample(f"person-{i}", (), meta={META: {"gender": "Female"}}), picture(i))
    with pytest.raises(DataError, match=r"data\.attribute = gender has the one group Female"):
        module(pairs, tmp_path, attribute="gender")


def test_groups_that_are_no_names_are_refused(tmp_path: Path, pairs: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        writer.write(Sample("person-0", (), meta={META: {"gender": 1}}), picture(0))
    with pytest.raises(DataError, match=r"sample 'person-0': meta\.groups is \{'gender': 1\}"):
        module(pairs, tmp_path, attribute="gender")
