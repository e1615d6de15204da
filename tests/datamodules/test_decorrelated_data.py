"""Edited anchors among pairs: exact and nested shares, the same batches for every number of ranks, and resuming."""

from __future__ import annotations

import hashlib
from collections import Counter
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
from datamodules.decorrelated import DecorrelatedDataModule, DecorrelatedPlan, DecorrelatedStream
from datamodules.edit_plan import EditSpec
from datamodules.errors import DataError
from datamodules.index import ShardIndex, build_index
from datamodules.mixed_source import MixedSourceDataModule
from datamodules.plan import MixSpec
from datamodules.sample import Sample, View
from datamodules.writer import ShardWriter

SIZE = 12
ORDINARY, EDITED = 40, 30


def picture(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((SIZE // 3, SIZE // 3, 1), dtype=np.uint8))


def captions(i: int) -> tuple[str, ...]:
    """The second does not mention the dog."""
    return f"a dog at place {i}", f"place {i} in the sun", f"two dogs, place {i}"


def views(i: int) -> dict[str, View]:
    """Samples of four sorts: two edits, one of each, a view that changes no caption, and controls alone."""
    before = captions(i)
    control = View("real", None, {"edit": "control"})
    removed = View("real", (f"place {i}", before[1], f"place {i} again"), {"edit": "removed"})
    pasted = View("real", tuple(f"{text} and a fire hydrant" for text in before), {"edit": "added"})
    if i % 6 == 4:
        return {"no-cat": View("real", before, {"edit": "removed"}), "control-cat": control}
    if i % 6 == 5:
        return {"control-dog": control}
    return {"no-dog": removed, "control-dog": control} | ({"with-fire-hydrant": pasted} if i % 2 else {})


def view_seed(i: int, name: str) -> int:
    return (
        10_000 + 10 * i + {"no-dog": 0, "no-cat": 1, "with-fire-hydrant": 2, "control-dog": 3, "control-cat": 4}[name]
    )


def write_edited(folder: Path) -> Path:
    with ShardWriter(folder, samples_per_shard=7) as writer:
        for i in range(EDITED):
            made = views(i)
            images = {name: picture(view_seed(i, name)) for name in made}
            writer.write(Sample(f"edited-{i:03d}", captions(i), views=made), picture(i), images)
    return folder


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_edited(tmp_path_factory.mktemp("edited"))


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ordinary")
    with ShardWriter(folder, samples_per_shard=10) as writer:
        for i in range(ORDINARY):
            writer.write(Sample(f"pair-{i:03d}", (f"caption {i}",)), picture(1000 + i))
    return folder


def spoil(folder: Path, view: str, numbers: range) -> Path:
    """Put garbage in the place of some views (or of anchors, for "")."""
    index = ShardIndex.load(folder)
    for i in numbers:
        for at in range(int(index.view_start[i]), int(index.view_start[i + 1])):
            if index.view_names[int(index.view_name[at])] == view:
                with (folder / index.shards[int(index.shard[i])].name).open("r+b") as file:
                    file.seek(int(index.offset[at]))
                    file.write(b"\xff\xd8" + bytes(int(index.size[at]) - 2))
    build_index(folder).save()  # as if they had been broken all along
    return folder


def plan(ordinary: Path, edited: Path, share: float = 0.25, kinds: Any = ("removed", "added"), **spec: Any) -> Any:
    both = Catalogue.of([ShardIndex.load(ordinary), ShardIndex.load(edited)])
    return DecorrelatedPlan(both, ORDINARY, MixSpec(**{"batch_size": 16, "seed": 5, **spec}), EditSpec(share, kinds))


def tokens(texts: list[str]) -> torch.Tensor:
    assert texts, "a tokenizer need not take an empty list"
    return torch.tensor([[len(text), sum(map(ord, text))] for text in texts])


def stream(made: DecorrelatedPlan, **place: int) -> DecorrelatedStream:
    return DecorrelatedStream(made, (SIZE, SIZE), tokens, Augmentation((0.5, 1.0), 0.5), **place)


def module(ordinary: Path, edited: Path, /, **options: Any) -> DecorrelatedDataModule:
    given: dict[str, Any] = {"train": [str(ordinary)], "edited": [str(edited)], "batch_size": 16, "image_size": SIZE}
    made = DecorrelatedDataModule(**(given | options))
    made.tokenize = tokens
    made.setup()
    return made


def digest(batch: dict[str, Any]) -> str:
    names = ("image", "edit", "edit_index", "edit_added", "edit_tokens", "edit_prompt_tokens", "edit_caption_id")
    content = [batch[name].numpy().tobytes() for name in names]
    return hashlib.sha256(b"".join(content) + " ".join(batch["key"] + batch["edit_key"]).encode()).hexdigest()


def is_edited(key: str) -> bool:
    return key.startswith("edited-")


@pytest.mark.parametrize("share", [0.0, 0.25, 0.3, 1.0])
def test_shares_are_exact_in_every_block_and_over_the_run(ordinary: Path, edited: Path, share: float) -> None:
    made = plan(ordinary, edited, share)
    total = 0
    for step in range(25):
        held = made.slots(step).sample >= ORDINARY
        total += int(held.sum())
        assert abs(total - (step + 1) * 16 * share) <= 0.5
        for parts in (1, 2, 4, 8):
            for part in np.split(held, parts):
                assert abs(int(part.sum()) - len(part) * share) < 1 + 1e-9


def test_shares_are_nested_and_ordinary_pairs_stay_where_they_are(ordinary: Path, edited: Path) -> None:
    shares = [plan(ordinary, edited, share) for share in (0.0, 0.5, 1.0)]
    for step in (0, 3, 10_000):
        none, half, every = (made.slots(step) for made in shares)
        held = half.sample >= ORDINARY
        assert not (none.sample >= ORDINARY).any()
        assert (every.sample >= ORDINARY).all()
        assert np.array_equal(half.sample[~held], none.sample[~held])
        assert np.array_equal(half.caption[~held], none.caption[~held])
        quarter = plan(ordinary, edited, 0.25, blocks=4).slots(step).sample >= ORDINARY
        assert not np.any(quarter & ~(plan(ordinary, edited, 0.5, blocks=4).slots(step).sample >= ORDINARY))


@pytest.mark.parametrize("kinds", [("removed",), ("added",), ("removed", "added")])
def test_every_edit_changes_its_caption_and_nothing_else_is_drawn(ordinary: Path, edited: Path, kinds: Any) -> None:
    made = plan(ordinary, edited, 0.5, kinds)
    seen: Counter[tuple[str, str]] = Counter()
    for step in range(40):
        batch = stream(made).batch(step)
        assert batch["edit"].shape == (8, 3, SIZE, SIZE)
        assert [is_edited(key) for key in batch["key"]] == [row in batch["edit_index"] for row in range(16)]
        for at, row in enumerate(batch["edit_index"].tolist()):
            key, view = batch["edit_key"][at].split(".")
            assert key == batch["key"][row]
            number, anchor = int(key.removeprefix("edited-")), batch["caption"][row]
            which = captions(number).index(anchor)
            of_view = views(number)[view].captions
            assert of_view is not None
            assert batch["edit_caption"][at] == of_view[which] != anchor
            assert bool(batch["edit_added"][at]) == (view == "with-fire-hydrant")
            prompt = "a photo of a fire hydrant" if batch["edit_added"][at] else "a photo of a dog"
            assert torch.equal(batch["edit_prompt_tokens"][at], tokens([prompt])[0])
            assert torch.equal(batch["edit_tokens"][at], tokens([of_view[which]])[0])
            seen[key, view] += 1
    expected = {
        (f"edited-{i:03d}", view)
        for i in range(EDITED)
        if i % 6 < 4
        for view in views(i)
        if (view == "no-dog" and "removed" in kinds) or (view == "with-fire-hydrant" and "added" in kinds)
    }
    assert set(seen) == expected
    by_sample: Counter[str] = Counter()
    for (key, _), count in seen.items():
        by_sample[key] += count
    assert max(by_sample.values()) - min(by_sample.values()) <= 1  # passes
    for key in by_sample:  # both views of a sample take turns
        of_key = [count for (one, _), count in seen.items() if one == key]
        assert max(of_key) - min(of_key) <= 1


def test_pictures_are_those_of_the_views(ordinary: Path, edited: Path) -> None:
    batch = DecorrelatedStream(plan(ordinary, edited, 0.5), (SIZE, SIZE), tokens).batch(2)
    for shown, name in zip(batch["edit"], batch["edit_key"], strict=True):
        key, view = name.split(".")
        expected = picture(view_seed(int(key.removeprefix("edited-")), view))
        assert abs(shown.permute(1, 2, 0).numpy().astype(float) - expected).mean() < 20  # JPEG's blur


def test_an_edit_that_is_its_anchor_is_cropped_to_the_same_pixels(tmp_path: Path, ordinary: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        for i in range(8):
            view = View("real", ("nothing",))
            writer.write(Sample(f"edited-{i}", ("a dog",), views={"no-dog": view}), picture(i), {"no-dog": picture(i)})
    batch = stream(plan(ordinary, tmp_path, 1.0)).batch(0)
    assert torch.equal(batch["edit"], batch["image"][batch["edit_index"]])


@settings(deadline=None, max_examples=15)
@given(
    step=st.one_of(st.integers(0, 60), st.integers(0, 2_000_000)),
    share=st.sampled_from((0.0, 0.1, 0.25, 1.0)),
)
def test_ranks_hold_parts_of_one_global_batch(ordinary: Path, edited: Path, step: int, share: float) -> None:
    made = plan(ordinary, edited, share)
    whole = stream(made).batch(step)
    for world_size in (2, 4, 8):
        parts = [stream(made, rank=rank, world_size=world_size).batch(step) for rank in range(world_size)]
        for name in ("image", "edit", "edit_tokens", "edit_prompt_tokens", "edit_added", "edit_caption_id", "source"):
            assert torch.equal(torch.cat([part[name] for part in parts]), whole[name]), name
        rows = [part["edit_index"] + rank * 16 // world_size for rank, part in enumerate(parts)]
        assert torch.equal(torch.cat(rows), whole["edit_index"])
        assert [key for part in parts for key in part["edit_key"]] == whole["edit_key"]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_and_a_later_start_give_the_same_batches(ordinary: Path, edited: Path) -> None:
    def batches(count: int, start: int = 0) -> list[str]:
        made = module(ordinary, edited, num_workers=count, edit_share=0.3)
        made.start = start
        return [digest(batch) for batch in islice(iter(made.train_dataloader()), 6 - start)]

    expected = batches(0)
    assert batches(2) == expected
    assert batches(0, start=4) == expected[4:]


def test_a_share_of_nothing_is_the_run_without_edits(ordinary: Path, edited: Path) -> None:
    alone = MixedSourceDataModule(train=[str(ordinary)], batch_size=16, image_size=SIZE)
    alone.setup()
    assert alone.plan is not None
    expected = alone.plan.slots(7)
    found = module(ordinary, edited, edit_share=0.0).plan.slots(7)  # type: ignore[union-attr]
    for name in ("picture", "sample", "caption", "epoch", "twin"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_broken_views_and_anchors_cost_their_edit_alone(tmp_path: Path, ordinary: Path) -> None:
    folder = spoil(write_edited(tmp_path / "views"), "no-dog", range(EDITED))
    made = plan(ordinary, folder, 0.5, ("removed",))
    batch = stream(made).batch(0)
    assert (len(batch["edit"]), len(batch["edit_tokens"]), len(batch["skipped"])) == (0, 0, 8)
    assert sum(map(is_edited, batch["key"])) == 8  # the anchors are there all the same
    folder = spoil(write_edited(tmp_path / "anchors"), "", range(15))
    made = plan(ordinary, folder, 1.0, ("removed",))
    batch = stream(made).batch(0)
    spares = [row for row, key in enumerate(batch["key"]) if not is_edited(key)]
    assert 0 < len(spares) < 16
    assert set(batch["edit_index"].tolist()) == set(range(16)) - set(spares)
    checked = module(ordinary, folder, edit_share=1.0, max_bad_share=1.0)
    checked.on_before_batch_transfer(batch, 0)
    assert checked.seen == 16 + len(batch["edit"])


def test_one_folder_may_be_both(edited: Path) -> None:
    """Its samples are ordinary pairs and edited anchors; a sample met as both is of one group."""
    made = module(edited, edited, edit_share=0.5)
    batch = next(iter(made.train_dataloader()))
    assert len(batch["edit"]) == 8
    by_key: dict[str, set[int]] = {}
    for key, group in zip(batch["key"], batch["group"].tolist(), strict=True):
        by_key.setdefault(key, set()).add(group)
    assert all(len(groups) == 1 for groups in by_key.values())


def test_edits_stay_out_of_the_evaluation(ordinary: Path, edited: Path) -> None:
    """The picture without the dog is no answer to the caption with it."""
    made = DecorrelatedDataModule(
        train=[str(ordinary)], edited=[str(edited)], val=[str(edited)], image_size=SIZE, batch_size=16
    )
    made.setup()
    assert made.evaluation is not None
    assert sorted(made.evaluation.keys) == [f"edited-{i:03d}" for i in range(EDITED)]
    assert len(made.evaluation.queries) == 3 * EDITED


def test_the_fingerprint_covers_the_edits(ordinary: Path, edited: Path) -> None:
    state = module(ordinary, edited).state_dict()
    module(ordinary, edited).load_state_dict(state)
    for change, difference in (
        ({"edit_share": 0.5}, r"edits.share was 0.25, is 0.5"),
        ({"kinds": ["removed"]}, r"edits.kinds was"),
    ):
        with pytest.raises(DataError, match=difference):
            module(ordinary, edited, **change).load_state_dict(state)
        module(ordinary, edited, force_resume=True, **change).load_state_dict(state)


def test_mistakes_are_named(tmp_path: Path, ordinary: Path, edited: Path) -> None:
    for options, message in (
        ({"edited": []}, r"data\.edited is empty.*synthesize decorrelated"),
        ({"train": []}, r"data\.train is empty"),
        ({"edited": [str(ordinary)]}, r"hold no edits of data\.kinds = removed, added"),
        ({"edit_share": 1.5}, r"data\.edit_share must lie in \[0, 1\]"),
        ({"kinds": []}, r"data\.kinds is empty"),
        ({"kinds": ["swapped"]}, r"data\.kinds names 'swapped'; choose removed or added"),
        ({"share": 0.5}, r"data\.share is 0\.5, but DecorrelatedDataModule mixes photos"),
        ({"twin_share": 0.5}, r"data\.twin_share is 0\.5"),
        ({"edit_prompt": "a photo"}, r"data\.edit_prompt: 'a photo' has no place for the object"),
    ):
        with pytest.raises(DataError, match=message):
            module(ordinary, edited, **options)
    with ShardWriter(tmp_path) as writer:
        view = View("real", ("one caption",))
        writer.write(Sample("edited-0", ("a dog", "dogs"), views={"no-dog": view}), picture(0), {"no-dog": picture(1)})
    with pytest.raises(DataError, match=r"edited-0\.no-dog: has 1 captions, but its anchor has 2"):
        module(ordinary, tmp_path)
