"""The world of houses and balls: what is planted, what is said, and that an edit changes the ball alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from datamodules.catalogue import Catalogue
from datamodules.decorrelated import DecorrelatedDataModule
from datamodules.errors import DataError
from datamodules.objects.mentions import Mentions
from datamodules.objects.vocabulary import Vocabulary, load_vocabulary
from datamodules.world import WorldObjects, write_objects_world
from datamodules.world.scene import EVERYDAY_KINDS, Scene

COMPANION, HOST = "ball", "house"


def kinds(scene: Scene) -> set[str]:
    return {thing.kind for thing in scene.things}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    path = tmp_path_factory.mktemp("words") / "vocabulary.csv"
    path.write_text(WorldObjects.vocabulary_file())
    return load_vocabulary(str(path))


@pytest.mark.parametrize("together", [0.95, 0.5, 0.0])
def test_the_planted_share_is_there(together: float) -> None:
    world = WorldObjects(together=together).world(seed=3)
    count = np.zeros((2, 2))
    for index in range(2000):
        found = kinds(world.scene(index))
        count[int(HOST in found), int(COMPANION in found)] += 1
    with_host, without = count[1], count[0]
    assert with_host.sum() == pytest.approx(1000, abs=4 * np.sqrt(500))
    for of, share in ((with_host, together), (without, 1 - together)):
        spread = np.sqrt(share * (1 - share) / of.sum())
        assert of[1] / of.sum() == pytest.approx(share, abs=4 * spread + 1e-9)


def test_other_things_tell_nothing_of_host_and_companion() -> None:
    world = WorldObjects().world(seed=3)
    scenes = [kinds(world.scene(index)) for index in range(3000)]
    for kind in set(EVERYDAY_KINDS) - {COMPANION, HOST}:
        for planted in (COMPANION, HOST):
            table = np.zeros((2, 2))
            for found in scenes:
                table[int(kind in found), int(planted in found)] += 1
            shares = table[:, 1] / table.sum(axis=1)
            assert abs(shares[1] - shares[0]) < 4 * np.sqrt(0.25 / table.sum(axis=1).min() * 2)


def test_things_are_in_the_picture_and_do_not_overlap() -> None:
    world = WorldObjects().world()
    for index in range(200):
        things = world.scene(index).things
        assert 1 <= len(things) <= 4
        for i, one in enumerate(things):
            left, top, right, bottom = one.box
            assert right - left == pytest.approx(2 * one.radius)
            assert bottom - top == pytest.approx(2 * one.radius)
            for other in things[i + 1 :]:
                gap = max(abs(one.x - other.x), abs(one.y - other.y))
                assert gap > one.radius + other.radius - 0.03
                assert one.colour != other.colour


def test_captions_mention_the_companion_where_it_is_and_edits_change_that_alone(vocabulary: Vocabulary) -> None:
    objects = WorldObjects()
    world, mentions = objects.world(seed=1), Mentions(vocabulary)
    sorts = set()
    for index in range(300):
        scene = world.scene(index)
        has = COMPANION in kinds(scene)
        views = objects.edits(world, scene)
        name = f"{'no' if has else 'with'}-{COMPANION}"
        assert set(views) == {name, f"control-{COMPANION}"}
        before, after = world.captions(scene), views[name][1].captions
        assert after is not None
        assert len(before) == len(set(before)) == len(after)
        for one, two in zip(before, after, strict=True):
            assert mentions.of(one) <= kinds(scene)
            assert (COMPANION in mentions.of(one)) == has
            assert mentions.of(two) == mentions.of(one) ^ {COMPANION}
            assert mentions.of(two)
        assert mentions.of(before[0]) == kinds(scene)
        about = views[name][1].meta
        assert (about["edit"], about["object"]) == ("removed" if has else "added", COMPANION)
        assert about["mentioned"] == [True] * len(before)
        assert views[about["control"]][1].captions is None
        sorts.add((name, HOST in kinds(scene)))
    assert len(sorts) == 4


def test_edit_and_control_differ_in_the_companion_alone() -> None:
    objects = WorldObjects()
    world = objects.world(seed=2, size=96)
    for index in range(12):
        scene = world.scene(index)
        has = COMPANION in kinds(scene)
        views = objects.edits(world, scene)
        edit, _ = views[f"{'no' if has else 'with'}-{COMPANION}"]
        control, _ = views[f"control-{COMPANION}"]
        moved = np.abs(edit.astype(float) - control).mean(axis=2)
        smooth = cv2.blur(moved, (5, 5))
        if has:
            (thing,) = [t for t in objects.facts(scene, 96)["objects"] if t["category"] == COMPANION]
            mask = np.zeros((96, 96), np.uint8)
            cv2.fillPoly(mask, [np.array(p).reshape(-1, 2).astype(np.int32) for p in thing["polygons"]], (1,))
            assert smooth[mask > 0].mean() > 15
            near = cv2.dilate(mask, np.ones((25, 25), np.uint8)) > 0  # its shadow, and the camera's JPEG blocks
        else:
            near = smooth > 8
            assert near.any()
            rows, columns = np.nonzero(near)
            assert np.ptp(rows) < 50
            assert np.ptp(columns) < 50
            near = cv2.dilate(near.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
        assert smooth[~near].max() < 8


def test_objects_are_annotated_in_pixels() -> None:
    objects = WorldObjects()
    scene = objects.world(seed=2).scene(5)
    small, large = (objects.facts(scene, size)["objects"] for size in (32, 64))
    assert [thing["category"] for thing in small] == [thing.kind for thing in scene.things]
    for one, two, thing in zip(small, large, scene.things, strict=True):
        assert two["box"] == pytest.approx([2 * v for v in one["box"]], abs=0.03)
        left, top, width, height = one["box"]
        assert left + width / 2 == pytest.approx(32 * thing.x, abs=32 * 0.3 * thing.radius)
        assert max(width, height) < 2.3 * 32 * thing.radius
        points = np.concatenate([np.array(p).reshape(-1, 2) for p in one["polygons"]])
        assert points.min(axis=0) == pytest.approx([left, top], abs=0.02)
        assert points.max(axis=0) == pytest.approx([left + width, top + height], abs=0.02)
        assert one["crowd"] is False


def test_everything_is_a_function_of_the_number() -> None:
    first, second = WorldObjects().world(seed=4), WorldObjects().world(seed=4)
    late = second.scene(9)
    assert [second.scene(i) for i in range(9)] == [first.scene(i) for i in range(9)]
    assert first.scene(9) == late
    a, b = WorldObjects().edits(first, late), WorldObjects().edits(second, late)
    assert all(np.array_equal(a[name][0], b[name][0]) and a[name][1] == b[name][1] for name in a)


def test_written_shards_are_those_that_training_reads(tmp_path: Path) -> None:
    index = write_objects_world(tmp_path, samples=40, samples_per_shard=15)
    assert load_vocabulary(str(tmp_path / "vocabulary.csv")).categories == EVERYDAY_KINDS
    sample = Catalogue.of([index]).sample(0)
    assert {thing["category"] for thing in sample.meta["objects"]} == {
        thing["kind"] for thing in sample.meta["scene"]["objects"]
    }
    data = DecorrelatedDataModule(
        train=[str(tmp_path)], edited=[str(tmp_path)], edit_share=0.5, batch_size=16, image_size=32
    )
    data.setup()
    batch: dict[str, Any] = next(iter(data.train_dataloader()))
    assert len(batch["edit"]) == 8
    for row, after in zip(batch["edit_index"].tolist(), batch["edit_caption"], strict=True):
        assert (COMPANION in after.lower()) != (COMPANION in batch["caption"][row].lower())


def test_mistakes_are_named() -> None:
    for options, message in (
        ({"together": 1.5}, "together is 1.5; it is a share"),
        ({"companion": "frisbee"}, "companion 'frisbee' is no kind of thing; choose one of ball, box"),
        ({"host": "ball"}, "companion and host are both 'ball'"),
    ):
        with pytest.raises(DataError, match=message):
            WorldObjects(**options)  # type: ignore[arg-type]
