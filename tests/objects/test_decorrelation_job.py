"""Whole sets with objects taken out: what is in them, and that neither kills, parts nor workers change a byte."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scenes import COLOURS, PLACES, SCENES, draw, thing, write_scenes

from bias_train.cli.shards import main as main_of_shards
from bias_train.cli.synthesize import main
from datamodules import DataError
from datamodules.decorrelation import DecorrelationJob, DecorrelationSettings, EditOutcome, OpenCvInpainter
from datamodules.decorrelation.editing import COVERS, LARGE, SMALL
from datamodules.decorrelation.planning import CROWD
from datamodules.index import ShardIndex
from datamodules.objects import Mentions, load_vocabulary
from datamodules.sample import Sample
from datamodules.synthesis import Part
from datamodules.synthesis.work import ShardWork

VOCABULARY = load_vocabulary()
SETTINGS = DecorrelationSettings(
    OpenCvInpainter().describe(), VOCABULARY.digest, min_support=2, min_npmi=0.0, dilation=8.0
)


def make(index: ShardIndex, out: Path, settings: DecorrelationSettings = SETTINGS, **more: Any) -> EditOutcome:
    return DecorrelationJob(index, out, settings, VOCABULARY, OpenCvInpainter, **more).run()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def picture(index: ShardIndex, row: int, view: str = "") -> npt.NDArray[np.uint8]:
    first = int(index.view_start[row])
    at = next(
        at for at in range(first, int(index.view_start[row + 1])) if index.view_names[int(index.view_name[at])] == view
    )
    data = index.read_picture(int(index.shard[row]), int(index.offset[at]), int(index.size[at]), int(index.crc[at]))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return write_scenes(tmp_path_factory.mktemp("scenes") / "in")


@pytest.fixture(scope="module")
def whole(scenes: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    make(scenes, out, replace(SETTINGS, all_objects=True))
    return out


def test_what_is_mined_and_made(scenes: ShardIndex, tmp_path: Path) -> None:
    """Dogs and frisbees come together in three scenes of six; nothing else does."""
    outcome = make(scenes, tmp_path / "out")
    assert {(pair.a, pair.b) for pair in outcome.planner.mined} == {("dog", "frisbee"), ("frisbee", "dog")}
    assert outcome.index is not None
    made = [sorted(outcome.index.sample(row).views) for row in range(len(SCENES))]
    pair = ["control-dog", "control-frisbee", "no-dog", "no-frisbee"]
    assert [[view for view in views if not view.startswith("with-")] for views in made] == [
        pair,
        pair,
        [],
        [],
        pair,
        [],
    ]
    with (tmp_path / "out" / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["a"], row["b"], row["support"], row["why"]) for row in rows[:2]] == [
        ("dog", "frisbee", "3", ""), ("frisbee", "dog", "3", ""),
    ]  # fmt: skip


def test_views(whole: Path) -> None:
    index, mentions = ShardIndex.load(whole), Mentions(VOCABULARY)
    for row, (categories, captions) in enumerate(SCENES):
        sample = index.sample(row)
        assert sample.captions == captions
        anchor = picture(index, row)
        assert np.abs(anchor.astype(int) - draw(categories, row)).mean() < 4  # JPEG
        removed = {view.meta["object"]: (name, view) for name, view in sample.views.items() if name.startswith("no-")}
        assert removed.keys() == {name for name in categories if any(name in mentions.of(c) for c in captions)}
        for category, (_, view) in removed.items():
            assert view.source == "real"
            assert view.captions is not None
            assert len(view.captions) == len(captions)
            for old, new, was in zip(captions, view.captions, view.meta["mentioned"], strict=True):
                assert was == (category in mentions.of(old))
                assert category not in mentions.of(new)
                assert was or new == old
            left, top, width, height = PLACES[category]
            spot = (slice(top, top + height), slice(left, left + width))
            away = np.abs(picture(index, row, f"no-{category}")[spot].astype(int) - COLOURS[category]).sum(axis=2)
            assert away.min() > 100, (row, category)
            control = sample.views[view.meta["control"]]
            assert control.captions is None
            shown = picture(index, row, view.meta["control"])
            for other in categories:  # nothing annotated is touched
                left, top, width, height = PLACES[other]
                spot = (slice(top + 2, top + height - 2), slice(left + 2, left + width - 2))
                assert np.abs(shown[spot].astype(int) - anchor[spot]).max() < 40
            assert control.meta["mask"]["area"] == pytest.approx(view.meta["mask"]["area"])
            assert view.meta["edit"] == "removed"
            assert control.meta["edit"] == "control"
        for name, view in sample.views.items():
            if name.startswith("with-"):
                added = view.meta["object"]
                assert added not in categories
                assert view.captions is not None
                for old, new in zip(captions, view.captions, strict=True):
                    assert mentions.of(new) == mentions.of(old) | {added}
                left, top, width, height = view.meta["mask"]["box"]
                shown = picture(index, row, name)[top + height // 2, left + width // 2].astype(int)
                assert np.abs(shown - COLOURS[added]).sum() < 60
    assert any(name.startswith("with-") for name in index.view_names)


def test_report(whole: Path) -> None:
    report = json.loads((whole / "decorrelated.json").read_text())
    index = ShardIndex.load(whole)
    views = [view for row in range(len(index)) for view in index.sample(row).views.values()]
    assert report["views"] == {kind: sum(v.meta["edit"] == kind for v in views) for kind in sorted(report["views"])}
    assert sum(report["removed"].values()) == report["views"]["removed"] == report["views"]["control"]
    assert report["settings"]["seed"] == 0
    with Image.open(whole / "contact_sheet.jpg") as sheet:
        assert sheet.width > 900


def test_parts_and_workers_make_the_same(scenes: ShardIndex, whole: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, all_objects=True)
    first = make(scenes, tmp_path / "out", settings, part=Part(1, 2), workers=2)
    assert first.index is None
    assert first.missing == ["shard-000001.tar"]
    with pytest.raises(DataError, match="1 of 3 shards are not done"):
        DecorrelationJob(scenes, tmp_path / "out", settings, VOCABULARY, OpenCvInpainter).finish()
    assert make(scenes, tmp_path / "out", settings, part=Part(2, 2)).index is not None
    assert files(tmp_path / "out") == files(whole)


def test_killed_and_resumed_it_is_the_same(
    scenes: ShardIndex, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, save, saved = replace(SETTINGS, all_objects=True), ShardWork.save, list[str]()

    def save_or_die(self: ShardWork, key: str, *rest: Any) -> None:
        if len(saved) == 3:
            raise KeyboardInterrupt
        saved.append(key)
        save(self, key, *rest)

    with monkeypatch.context() as context:
        context.setattr(ShardWork, "save", save_or_die)
        with pytest.raises(KeyboardInterrupt):
            make(scenes, tmp_path / "out", settings)

    def save_once(self: ShardWork, key: str, *rest: Any) -> None:
        assert key not in saved
        saved.append(key)
        save(self, key, *rest)

    monkeypatch.setattr(ShardWork, "save", save_once)
    make(scenes, tmp_path / "out", settings)
    assert len(saved) == len(SCENES)
    assert files(tmp_path / "out") == files(whole)


def test_another_seed_is_another_set(scenes: ShardIndex, whole: Path, tmp_path: Path) -> None:
    make(scenes, tmp_path / "out", replace(SETTINGS, all_objects=True, seed=1))
    assert files(tmp_path / "out")["shard-000000.tar"] != files(whole)["shard-000000.tar"]
    with pytest.raises(DataError, match="was begun with seed"):
        make(scenes, tmp_path / "out", replace(SETTINGS, all_objects=True, seed=2))


def test_what_is_dropped_is_counted_and_recorded(
    scenes: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(sample: Sample) -> Sample:
        if sample.key == "scene-0":  # a frisbee like a pea, a dog like a house
            objects = [thing("dog") | {"polygons": [[0, 0, 160, 0, 160, 90, 0, 90]]}]
            objects += [thing("frisbee") | {"polygons": [[150, 110, 154, 110, 154, 114]]}]
        elif sample.key == "scene-1":  # the frisbee lies on the dog
            objects = [thing("dog"), thing("frisbee") | {"polygons": thing("dog")["polygons"]}, thing("person")]
        elif sample.key == "scene-4":
            objects = [thing("dog", crowd=True), thing("frisbee")]
        else:
            return sample
        return replace(sample, meta={"objects": objects})

    old = ShardIndex.sample
    with monkeypatch.context() as context:
        context.setattr(ShardIndex, "sample", lambda self, row: change(old(self, row)))
        outcome = make(scenes, tmp_path / "out", replace(SETTINGS, all_objects=True, decoys=False))
    assert outcome.counts.skipped == {LARGE: 1, SMALL: 1, COVERS: 2, CROWD: 1}
    assert outcome.index is not None
    assert outcome.index.sample(0).meta["not_edited"] == [f"no-dog: {LARGE}", f"no-frisbee: {SMALL}"]
    assert "no-dog" not in outcome.index.sample(4).views


def test_only_objects_beside_another_are_mined(
    scenes: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.decorrelation.planning.Planner.mined", property(lambda self: self.pairs))
    job = DecorrelationJob(scenes, tmp_path / "out", SETTINGS, VOCABULARY, OpenCvInpainter)
    plans = {plan.key: plan for plan in job.plans()}
    assert not plans["scene-2"].removals  # a person alone
    assert [removal.category for removal in plans["scene-5"].removals] == ["person", "vase"]


class Colour:
    """Finds an object by its very colour."""

    name = "colour"

    def __init__(self, blind: bool = False) -> None:
        self.blind = blind

    def __call__(self, pictures: Sequence[Image.Image]) -> npt.NDArray[np.float64]:
        found = np.zeros((len(pictures), 80))
        for row, image in enumerate(pictures):
            for category, colour in COLOURS.items():
                away = np.abs(np.asarray(image).astype(int) - colour).sum(axis=2)
                found[row, VOCABULARY.number(category)] = 1.0 if self.blind else (away < 60).mean()
        return found


def test_verification(scenes: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.decorrelation.verify.FEWEST", 2)
    settings = replace(SETTINGS, all_objects=True, retriever="colour", verify=True, decoys=False)
    seen = make(scenes, tmp_path / "blind", settings, scorer=Colour(blind=True))  # everything scores alike
    assert seen.index is not None
    assert not [name for name in seen.index.view_names if name]
    assert seen.counts.skipped["the object is still found"] == 11  # two, three, one, one, two, two
    sample = seen.index.sample(0)
    assert sample.meta["not_edited"] == [f"no-{name}: the object is still found" for name in ("dog", "frisbee")]

    class Sharp(Colour):
        def __call__(self, pictures: Sequence[Image.Image]) -> npt.NDArray[np.float64]:
            return super().__call__(pictures) - 1e-9 * np.arange(len(pictures))[:, None]  # so that none ties

    made = make(scenes, tmp_path / "sharp", settings, scorer=Sharp())
    assert made.index is not None
    verdicts = [view.meta["verified"] for row in range(6) for view in made.index.sample(row).views.values()
                if view.meta["edit"] == "removed"]  # fmt: skip
    assert verdicts
    assert all(verdict["gone"] and verdict["by"] == "colour" for verdict in verdicts)


def test_objects_of_a_side_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scenes(tmp_path / "in", objects=False)
    with pytest.raises(DataError, match="no sample has objects"):
        make(ShardIndex.load(tmp_path / "in"), tmp_path / "out")
    boxes = {
        f"scene-{number}": [{"category": name, "box": PLACES[name]} for name in names]
        for number, (names, _) in enumerate(SCENES)
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    arguments = ["decorrelated", str(tmp_path / "in"), str(tmp_path / "out"), "--objects", str(tmp_path / "boxes.json")]
    assert main([*arguments, "--min-support", "3", "--min-npmi", "0", "--dilation", "8"]) == 0
    said = capsys.readouterr().out
    assert "2 ordered pairs" in said
    assert "6 views made" not in said
    assert "12 views made" in said  # three scenes, a dog and a frisbee each, with its control; boxes paste nothing
    sample = ShardIndex.load(tmp_path / "out").sample(0)
    assert [entry["category"] for entry in sample.meta["objects"]] == ["dog", "frisbee"]
    assert "no-dog" in sample.views


def test_a_dry_run_writes_nothing(scenes: ShardIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["decorrelated", scenes.store.location, str(tmp_path / "out"), "--min-support", "2", "--dry-run"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "scene-4\tno dog\tdeleted\tA frisbee" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-support", "50"], "no pair of objects reaches"),
        (["--verify"], "--verify: needs a retriever"),
        (["--min-area", "0.5"], "--min-area"),
        (["--min-npmi", "3"], "--min-npmi 3"),
        (["--part", "3/2"], "--part 3/2"),
        (["--objects", "none.json"], "cannot be read"),
        (["--vocabulary", "none.csv"], "cannot be read"),
        (["--inpainter", "a/b", "--workers", "2"], "--workers: a pipeline works in one process"),
    ],
)
def test_mistakes_end_in_one_line(
    scenes: ShardIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["decorrelated", scenes.store.location, str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bias-train synthesize decorrelated: ")
    assert message in error
    assert error.count("\n") == 1


def test_objects_that_are_none(scenes: ShardIndex, tmp_path: Path, whole: Path) -> None:
    with pytest.raises(DataError, match="sample 'scene-0': its objects must be"):
        make(scenes, tmp_path / "out", side={"scene-0": [{"category": "dog"}]})
    with pytest.raises(DataError, match="has views of edited objects already"):
        make(ShardIndex.load(whole), tmp_path / "out")


@pytest.mark.slow
def test_a_diffusion_pipeline_fills_the_mask_alone(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from tiny_pipeline import save_tiny_pipeline

    from datamodules.decorrelation.diffusion import DiffusionInpainter
    from datamodules.synthesis import GeneratorSettings

    pipeline = save_tiny_pipeline(tmp_path / "pipeline")
    inpainter = partial(DiffusionInpainter, GeneratorSettings("inpainter", str(pipeline), steps=2))()
    image = draw(("dog",))
    mask = np.zeros(image.shape[:2], dtype=bool)
    mask[60:90, 20:56] = True
    first, again, other = (inpainter(image, mask, seed) for seed in (1, 1, 2))
    assert np.array_equal(first[~mask], image[~mask])
    assert np.array_equal(first, again)
    assert not np.array_equal(first[mask], other[mask])
    assert np.abs(first[mask].astype(int) - image[mask]).mean() > 10
    assert inpainter.describe()["pipeline"] == "StableDiffusionInpaintPipeline"


def test_the_command_as_its_user_calls_it(tmp_path: Path, shared_data: Path) -> None:
    """COCO's files to edited shards, in two commands; real pictures, real polygons."""
    command = str(Path(sys.executable).with_name("bias-train"))
    source, shards, out = str(shared_data / "coco_tiny.tar"), str(tmp_path / "coco"), str(tmp_path / "out")
    importing = ["import", "coco", source, shards, "--instances", "annotations/instances.json", "--limit", "24"]
    assert main_of_shards([*importing, "--workers", "1"]) == 0
    model = shared_data / "checkpoint" / "MobileNetV2-tiny"
    retriever = ["--model-config", f"{model}.json", "--pretrained", f"{model}.safetensors", "--device", "cpu"]
    edit = ["synthesize", "decorrelated", shards, out, "--all-objects", "--min-support", "1", "--verify", *retriever]
    run = subprocess.run([command, *edit], capture_output=True, text=True, check=True)
    assert "24 samples" in run.stdout
    assert ", cosine " in run.stdout
    index, mentions = ShardIndex.load(out), Mentions(VOCABULARY)
    edits = 0
    for row in range(len(index)):
        sample = index.sample(row)
        for name, view in sample.views.items():
            if name.startswith("no-"):
                edits += 1
                assert not any(view.meta["object"] in mentions.of(caption) for caption in view.captions or ())
                assert 0.01 <= view.meta["mask"]["object_area"] <= 0.3
                verdict = view.meta["verified"]
                assert verdict["gone"] is (None if verdict["threshold"] is None else True)
    assert edits >= 5
