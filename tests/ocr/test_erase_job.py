"""Whole sets with text taken out: what is in them, and that neither kills, parts nor workers change a byte."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scenes_with_text import CAPTIONS, LINES, SIZE, TrueReader, write_scenes
from written import ENGINES, needs_rapidocr, written

from bias_train.cli.erase_text import reader_of_options, settings_of
from bias_train.cli.synthesize import _parser, main
from datamodules import DataError
from datamodules.decode import Picture
from datamodules.decorrelation import OpenCvInpainter
from datamodules.index import ShardIndex
from datamodules.ocr import reader_of
from datamodules.ocr.cache import TextCache
from datamodules.ocr.fill import BlurFill, MeanFill
from datamodules.ocr.polygons import quads_mask
from datamodules.reencode import decode_rgb
from datamodules.synthesis import Part
from datamodules.synthesis.photos import Photos
from datamodules.synthesis.work import ShardWork
from datamodules.text_removal import VIEWS, EraseJob, EraseOutcome, EraseSettings
from datamodules.text_removal.editing import BROKEN, NO_DONOR, UNEDITED, TextEditor
from datamodules.text_removal.planning import ErasePlanner
from datamodules.text_spans import META, REMOVED, PictureText

KNOWN = EraseSettings({"name": "known"}, {"name": "telea"})
READ = replace(KNOWN, reader=TrueReader().describe())


def make(index: ShardIndex, out: Path, settings: EraseSettings = READ, **more: Any) -> EraseOutcome:
    reader = None if settings.is_known else TrueReader()
    return EraseJob(index, out, settings, OpenCvInpainter, reader=reader, **more).run()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def picture(index: ShardIndex, row: int, view: str = "") -> Picture:
    first = int(index.view_start[row])
    names = [index.view_names[int(index.view_name[at])] for at in range(first, int(index.view_start[row + 1]))]
    at = first + names.index(view)
    data = index.read_picture(int(index.shard[row]), int(index.offset[at]), int(index.size[at]), int(index.crc[at]))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return write_scenes(tmp_path_factory.mktemp("scenes") / "in")


@pytest.fixture(scope="module")
def whole(scenes: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    make(scenes, out)
    return out


def test_views(scenes: ShardIndex, whole: Path) -> None:
    index = ShardIndex.load(whole)
    said = [["stop", "sign"], [], [], ["orange", "lantern"], []]
    for row, lines in enumerate(LINES):
        sample = index.sample(row)
        assert sample.captions == CAPTIONS[row]
        assert sorted(sample.views) == sorted(["clean", *VIEWS])
        text = PictureText.from_meta(sample.meta, "")
        assert text is not None
        assert (text.size, text.engine) == (SIZE, "truth 1")
        assert [span.text for span in text.spans] == [line for line, _, _ in lines]
        for view, words in (("erased", [line for line, _, _ in lines]), ("erased-caption", said[row])):
            meta = sample.views[view].meta
            assert (meta["edit"], meta["found"], meta["edited"]) == (view, len(words), bool(words))
            assert [span["text"] for span in meta[REMOVED]["spans"]] == words
            assert META not in meta  # it stands there no more
            assert sample.views[view].captions is None
            if not words:
                np.testing.assert_array_equal(picture(index, row, view), picture(index, row))
            else:
                for quad in (span["quad"] for span in meta[REMOVED]["spans"]):
                    (left, top), _, (right, bottom), _ = quad
                    part = slice(int(top), int(bottom) + 1), slice(int(left), int(right) + 1)
                    assert picture(index, row)[part].min() < 60  # ink
                    assert picture(index, row, view)[part].min() > 110


def test_controls_have_as_many_polygons_of_other_pictures(whole: Path) -> None:
    index = ShardIndex.load(whole)
    checked = 0
    for row in range(len(index)):
        sample = index.sample(row)
        own = PictureText.from_meta(sample.meta, "")
        assert own is not None
        for view in ("erased", "erased-caption"):
            control = sample.views.get(f"control-{view}")
            if control is None:
                continue
            found = sample.views[view].meta["found"]
            assert len(control.meta["polygons"]) == len(control.meta["donors"]) == control.meta["found"] == found
            assert sample.key not in control.meta["donors"]
            checked += found
            ink = quads_mask([span.quad for span in own.spans], SIZE[1], SIZE[0])
            spots = quads_mask([tuple(map(tuple, quad)) for quad in control.meta["polygons"]], SIZE[1], SIZE[0])
            if view == "erased" and row in (1, 4):  # where there is a polygon elsewhere, text is left alone
                assert not (ink & spots).any()
    assert checked >= 8
    # Three in a shard: the fourth scene has one neighbour with one polygon, which is borrowed three times.
    assert index.sample(3).views["control-erased"].meta["donors"] == ["scene-4"] * 3


@pytest.mark.parametrize("fill", [OpenCvInpainter(), OpenCvInpainter("ns"), MeanFill(), BlurFill()])
def test_pixels_outside_of_the_polygons_are_untouched(scenes: ShardIndex, fill: Any) -> None:
    photos = Photos(scenes)
    editor = TextEditor(photos, KNOWN, None, fill)
    texts = {row: editor.read(row) for row in range(5)}
    assert all(texts.values())
    planner = ErasePlanner(texts, dict(enumerate(CAPTIONS)), dict(enumerate(scenes.keys)), KNOWN)  # type: ignore[arg-type]
    for row, text in texts.items():
        anchor = np.asarray(decode_rgb(photos.picture(row), "it"))
        plan = planner.plan(row)
        assert text is not None
        result = editor.edit(row, text, plan)
        assert [one.suffix for one in result.chosen] == list(VIEWS)
        for one, erasure in zip(result.chosen, plan, strict=True):
            mask = quads_mask(erasure.quads, SIZE[1], SIZE[0], KNOWN.dilation)
            assert one.meta["mask"]["area"] == pytest.approx(mask.mean())
            assert (one.png == UNEDITED) == (not erasure.quads) == (not one.meta["edited"])
            if one.png == UNEDITED:
                continue
            shown = np.asarray(one.image())
            np.testing.assert_array_equal(shown[~mask], anchor[~mask])
            if erasure.spans:
                assert (shown[mask] != anchor[mask]).any()


def test_known_text_stays_and_says_the_same(scenes: ShardIndex, whole: Path, tmp_path: Path) -> None:
    outcome = make(scenes, tmp_path / "out", KNOWN)
    assert outcome.index is not None
    for row in range(5):
        sample = outcome.index.sample(row)
        assert sample.meta == scenes.sample(row).meta
        for view in VIEWS:
            np.testing.assert_array_equal(picture(outcome.index, row, view), picture(ShardIndex.load(whole), row, view))


def test_where_nothing_is_known(tmp_path: Path) -> None:
    outcome = make(write_scenes(tmp_path / "in", known=False), tmp_path / "out", KNOWN)
    assert outcome.index is not None
    assert {view.meta["found"] for name, view in outcome.index.sample(0).views.items() if name != "clean"} == {0}


def test_report_and_sheet(whole: Path) -> None:
    report = json.loads((whole / "erased.json").read_text())
    assert report["samples"] == 5
    assert report["samples_with_text"] == 4
    assert report["engines"] == ["truth 1"]
    views = report["views"]
    assert {view: (it["made"], it["edited"], it["pieces"]) for view, it in views.items()} == {
        "erased": (5, 4, 7),
        "erased-caption": (5, 2, 4),
        "control-erased": (5, 4, 7),
        "control-erased-caption": (5, 2, 4),
    }
    assert views["erased"]["mean_area"] > views["erased-caption"]["mean_area"] / 3 > 0
    assert report["most_common_words"]["stop"] == 1
    with Image.open(whole / "contact_sheet.jpg") as sheet:
        assert sheet.width > 1000


def test_parts_and_workers_make_the_same(scenes: ShardIndex, whole: Path, tmp_path: Path) -> None:
    first = make(scenes, tmp_path / "out", part=Part(1, 2), workers=2)
    assert first.index is None
    assert first.missing == ["shard-000001.tar"]
    with pytest.raises(DataError, match="1 of 2 shards are not done"):
        EraseJob(scenes, tmp_path / "out", KNOWN, OpenCvInpainter).finish()
    assert make(scenes, tmp_path / "out", part=Part(2, 2)).index is not None
    assert files(tmp_path / "out") == files(whole)


@pytest.mark.parametrize("after", [0, 2, 4])
def test_killed_and_resumed_it_is_the_same(
    scenes: ShardIndex, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    save, saved = ShardWork.save, list[str]()

    def save_or_die(self: ShardWork, key: str, *rest: Any) -> None:
        if len(saved) == after:
            raise KeyboardInterrupt
        saved.append(key)
        save(self, key, *rest)

    monkeypatch.setattr(TrueReader, "reads", 0)
    with monkeypatch.context() as context:
        context.setattr(ShardWork, "save", save_or_die)
        with pytest.raises(KeyboardInterrupt):
            make(scenes, tmp_path / "out")

    def save_once(self: ShardWork, key: str, *rest: Any) -> None:
        assert key not in saved
        saved.append(key)
        save(self, key, *rest)

    monkeypatch.setattr(ShardWork, "save", save_once)
    make(scenes, tmp_path / "out")
    assert len(saved) == TrueReader.reads == 5  # nothing is read twice, nor filled
    assert files(tmp_path / "out") == files(whole)


@needs_rapidocr
def test_a_command_that_is_killed_goes_on(tmp_path: Path) -> None:
    write_scenes(tmp_path / "in", known=False)
    argv = ["erase", str(tmp_path / "in"), str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-m", "bias_train.cli.main", "synthesize", *argv])
    kept = tmp_path / "out" / ".synthesis" / "texts.sqlite"
    while process.poll() is None and not (kept.is_file() and len(TextCache(kept.parent)) >= 2):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len(TextCache(kept.parent)) >= 2
    assert main(argv) == 0
    assert main([*argv[:2], str(tmp_path / "whole")]) == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_shared_cache_spares_all_reading(
    scenes: ShardIndex, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(scenes, tmp_path / "one", cache=tmp_path / "cache")
    monkeypatch.setattr(TrueReader, "reads", 0)
    make(scenes, tmp_path / "two", replace(READ, views=("erased",)), cache=tmp_path / "cache")
    assert TrueReader.reads == 0
    assert files(tmp_path / "one") == files(whole)
    index = ShardIndex.load(tmp_path / "two")
    assert sorted(index.sample(0).views) == ["clean", "erased"]
    np.testing.assert_array_equal(picture(index, 0, "erased"), picture(ShardIndex.load(whole), 0, "erased"))


def test_other_settings_are_another_set(scenes: ShardIndex, whole: Path, tmp_path: Path) -> None:
    settings = replace(READ, seed=1)
    make(scenes, tmp_path / "out", settings)
    one, other = ShardIndex.load(tmp_path / "out"), ShardIndex.load(whole)
    assert all(one.sample(row).views["erased"] == other.sample(row).views["erased"] for row in range(5))
    assert any(one.sample(row).views["control-erased"] != other.sample(row).views["control-erased"] for row in range(5))
    with pytest.raises(DataError, match="was begun with seed"):
        make(scenes, tmp_path / "out", replace(READ, seed=2))


def test_broken_pictures_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = write_scenes(tmp_path / "in", broken=1)
    for settings in (READ, KNOWN):
        outcome = make(index, tmp_path / settings.reader["name"], settings)
        assert outcome.index is not None
        assert outcome.counts.skipped[BROKEN] == 1
        assert [outcome.index.keys[row] for row in range(4)] == ["scene-0", "scene-2", "scene-3", "scene-4"]
        # Its shard's other picture without text has no polygons to lend.
        assert outcome.counts.skipped[NO_DONOR] == 2
        assert outcome.index.sample(0).meta["not_erased"] == [
            f"control-erased: {NO_DONOR}", f"control-erased-caption: {NO_DONOR}",
        ]  # fmt: skip
    assert "scene-1" in caplog.text


def test_an_engine_that_fails_ends_the_job(scenes: ShardIndex, tmp_path: Path) -> None:
    class Failing(TrueReader):
        def read(self, image: Picture) -> Any:
            raise DataError("tesseract: failed with exit code 3")

    with pytest.raises(DataError, match="exit code 3"):
        EraseJob(scenes, tmp_path / "out", READ, OpenCvInpainter, reader=Failing()).run()


def test_what_cannot_be(scenes: ShardIndex, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has views of erased text already"):
        make(ShardIndex.load(whole), tmp_path / "out")
    with pytest.raises(DataError, match="--reader"):
        EraseJob(scenes, tmp_path / "out", READ, OpenCvInpainter)
    for wrong, match in (
        ({"views": ("gone",)}, "--views gone"),
        ({"views": ()}, "--views"),
        ({"dilation": -1.0}, "--dilation"),
        ({"quality": 0}, "quality"),
        ({"limit": 0}, "--limit"),
    ):
        with pytest.raises(DataError, match=match):
            replace(KNOWN, **wrong)


def test_text_of_another_size_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scenes_with_text.SIZE", (640, 480))
    index = write_scenes(tmp_path / "in")
    with pytest.raises(DataError, match=r"sample 'scene-0', field 'text': is for a picture of 640 x 480"):
        make(index, tmp_path / "out", KNOWN)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_command_removes_what_an_engine_finds(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes(tmp_path / "in", known=False)
    argv = ["erase", str(tmp_path / "in"), str(tmp_path / "out"), "--reader", engine]
    assert main([*argv, "--text-cache", str(tmp_path / "cache")]) == 0
    assert "5 samples, 20 views made" in capsys.readouterr().out
    index, reader = ShardIndex.load(tmp_path / "out"), reader_of(engine)
    for row, lines in enumerate(LINES):
        text = PictureText.from_meta(index.sample(row).meta, "")
        assert text is not None
        assert sorted(text.words()) == sorted(word for line, _, _ in lines for word in line.split())
        assert text.engine == reader.name
        assert reader.read(picture(index, row, "erased")) == ()
        left = {word for span in reader.read(picture(index, row, "erased-caption")) for word in span.text.split()}
        gone = {span["text"] for span in index.sample(row).views["erased-caption"].meta[REMOVED]["spans"]}
        assert left <= set(text.words()) - gone
        assert engine == "tesseract" or left == set(text.words()) - gone  # it overlooks some beside inpainted spots
        kept = {word for span in reader.read(picture(index, row, "control-erased")) for word in span.text.split()}
        if row in (1, 4):
            assert kept == set(text.words())


def test_the_command_says_what_is_wrong(
    scenes: ShardIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["erase", scenes.store.location, str(tmp_path / "out"), "--reader"]
    assert main([*argv, "known", "--views", "erased,gone"]) == 2
    assert "--views gone" in capsys.readouterr().err
    assert main([*argv, "known", "--fill", "some/pipeline", "--workers", "2"]) == 2
    assert "--workers" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "/nowhere")
    assert main([*argv, "tesseract"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("fill", ["mask", "blur", "ns"])
def test_fills_of_the_command(fill: str, scenes: ShardIndex, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert (
        main(["erase", scenes.store.location, str(out), "--reader", "known", "--fill", fill, "--views", "erased"]) == 0
    )
    index = ShardIndex.load(out)
    meta = index.sample(1).views["erased"].meta
    assert fill in meta["fill"].values()
    mask = quads_mask([tuple(map(tuple, span["quad"])) for span in meta[REMOVED]["spans"]], SIZE[1], SIZE[0])
    shown = picture(index, 1, "erased")[mask].astype(int)
    if fill == "mask":
        truth = written(LINES[1], seed=1)[0]
        wide = quads_mask([tuple(map(tuple, span["quad"])) for span in meta[REMOVED]["spans"]], SIZE[1], SIZE[0], 4.0)
        assert np.abs(shown - truth[~wide].mean(axis=0)).max() < 20  # JPEG
    assert shown.min() > 30


@pytest.mark.slow
def test_a_diffusers_pipeline_fills_the_letters_alone(scenes: ShardIndex, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from tiny_pipeline import save_tiny_pipeline

    pipeline = save_tiny_pipeline(tmp_path / "pipeline")
    out = tmp_path / "out"
    command = ["erase", scenes.store.location, str(out), "--reader", "known", "--views", "erased", "--limit", "2"]
    assert main([*command, "--fill", str(pipeline), "--steps", "2", "--device", "cpu"]) == 0
    index = ShardIndex.load(out)
    for row in range(2):
        meta = index.sample(row).views["erased"].meta
        assert meta["fill"]["pipeline"] == "StableDiffusionInpaintPipeline"
        mask = quads_mask([tuple(map(tuple, span["quad"])) for span in meta[REMOVED]["spans"]], SIZE[1], SIZE[0], 4.0)
        changed = np.abs(picture(index, row, "erased").astype(int) - picture(index, row))
        assert changed[mask].mean() > 10
        assert changed[~mask].mean() < 3  # JPEG


@needs_rapidocr
def test_options_left_out_are_the_settings_defaults() -> None:
    options = _parser().parse_args(["erase", "in", "out"])
    reader = reader_of_options(options)
    assert reader is not None
    assert reader.describe() == reader_of("rapidocr").describe()
    assert settings_of(options, reader) == EraseSettings(reader.describe(), {"name": "telea"})
