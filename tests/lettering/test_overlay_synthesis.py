"""Whole sets with words on their pictures: shares, words, pixels; and that kills, parts and workers change no byte."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bias_train.cli.shards import main as main_of_shards
from bias_train.cli.synthesize import main
from datamodules import DataError
from datamodules.index import ShardIndex
from datamodules.lettering.fonts import font_names
from datamodules.lettering.overlay import Lettering, LetteringOptions, write
from datamodules.lettering.words import digest_of, load_words
from datamodules.overlaying import OverlayJob, OverlayOutcome, OverlaySettings
from datamodules.overlaying.planning import OverlayPlanner, largest_remainder
from datamodules.overlaying.worker import SampleWriter
from datamodules.reencode import ImageFormat
from datamodules.sample import Sample, View
from datamodules.synthesis.part import Part
from datamodules.text_spans import PictureText, Span
from datamodules.writer import ShardWriter

WORDS = ("cat", "dog", "tree", "house", "boat", "lamp", "horse", "cup", "bread", "bicycle", "cloud", "spoon")
PER_SHARD, SAMPLES = 7, 20
ALL = OverlaySettings(
    digest_of(WORDS), parroting=0.3, neutral=0.25, misleading=0.2, keep_clean=True,
    looks=(LetteringOptions(stroke=(0, 0.01), rotation=(-20, 20), paper=0.2),),
)  # fmt: skip


def smooth(seed: int, height: int = 120, width: int = 160) -> npt.NDArray[np.uint8]:
    corners = np.random.default_rng(seed).integers(60, 190, (2, 3, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC))


def captions(number: int) -> tuple[str, ...]:
    one, other = WORDS[number % 10], WORDS[(number * 3 + 1) % 10]
    return (f"A {one.upper()}, next to the {other}s.", f"There is a '{one}'!")


def write_set(folder: Path, samples: int = SAMPLES, per_shard: int = PER_SHARD, **more: Any) -> ShardIndex:
    with ShardWriter(folder, samples_per_shard=per_shard, image_format=ImageFormat(quality=95)) as writer:
        for number in range(samples):
            sample = Sample(f"picture-{number:03d}", captions(number), **more)
            writer.write(sample, smooth(number))
    assert writer.index is not None
    return writer.index


def make(index: ShardIndex, out: Path, settings: OverlaySettings = ALL, **more: Any) -> OverlayOutcome:
    return OverlayJob(index, out, settings, WORDS, **more).run()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def picture(index: ShardIndex, row: int, view: str = "") -> npt.NDArray[np.int_]:
    first = int(index.view_start[row])
    at = next(
        at for at in range(first, int(index.view_start[row + 1])) if index.view_names[int(index.view_name[at])] == view
    )
    data = index.read_picture(int(index.shard[row]), int(index.offset[at]), int(index.size[at]), int(index.crc[at]))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def said_in(word: str, texts: tuple[str, ...]) -> bool:
    return any(re.search(rf"\b{re.escape(word)}s?\b", text, re.IGNORECASE) for text in texts)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return write_set(tmp_path_factory.mktemp("plain") / "in")


@pytest.fixture(scope="module")
def whole(plain: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    make(plain, out)
    return out


# Shares --------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 5000), st.lists(st.integers(0, 100), min_size=1, max_size=4))
def test_shares_are_exact(total: int, parts: list[int]) -> None:
    """Whole parts are met exactly; others are off by less than one, the largest remainders rounded up."""
    whole = max(sum(parts), 100)
    counts = largest_remainder(total, [part / whole for part in parts])
    dues = [Fraction(part, whole) * total for part in parts]
    rests = [due - int(due) for due in dues]
    for count, due, rest in zip(counts, dues, rests, strict=True):
        assert count == due if rest == 0 else count in (int(due), int(due) + 1)
    assert sum(counts) <= total
    up = [rest for count, due, rest in zip(counts, dues, rests, strict=True) if count > due]
    down = [rest for count, due, rest in zip(counts, dues, rests, strict=True) if count < due]
    assert not up or not down or min(up) >= max(down)


def test_by_hand() -> None:
    assert largest_remainder(10, (0.3, 0.3, 0.4)) == (3, 3, 4)
    assert largest_remainder(7, (0.5, 0.25)) == (3, 2)  # 3.5, 1.75, and 1.75 that stay as they are
    assert largest_remainder(30, (0.1,)) == (3,)  # 0.1 * 30 is more than 3 in floats
    assert largest_remainder(5, (0, 0, 0)) == (0, 0, 0)


def test_kinds_depend_on_seed_and_keys_alone(plain: ShardIndex, tmp_path: Path) -> None:
    planner = OverlayPlanner(plain, WORDS, ALL)
    kinds = dict(zip(plain.keys, planner.kinds.tolist(), strict=True))
    counts = np.bincount(planner.kinds + 1, minlength=4).tolist()
    assert counts == [5, 6, 5, 4]  # of 20: 0.25, 0.3, 0.25, 0.2
    other = write_set(tmp_path / "other", per_shard=3)
    again = OverlayPlanner(other, WORDS, ALL)
    assert dict(zip(other.keys, again.kinds.tolist(), strict=True)) == kinds
    key = {plan.key: plan for plan in map(planner.plan, range(SAMPLES))}
    assert {plan.key: plan for plan in map(again.plan, range(SAMPLES))} == key
    assert OverlayPlanner(plain, WORDS, replace(ALL, seed=1)).kinds.tolist() != planner.kinds.tolist()


def test_a_higher_share_keeps_what_a_lower_one_had(plain: ShardIndex) -> None:
    def parroting(share: float) -> set[int]:
        planner = OverlayPlanner(plain, WORDS, replace(ALL, parroting=share, misleading=0, neutral=0))
        return set(np.flatnonzero(planner.kinds == 0).tolist())

    assert parroting(0.2) < parroting(0.45) < parroting(1.0)
    assert len(parroting(1.0)) == SAMPLES


# What is written -----------------------------------------------------------------------------------------------------


def test_words_and_meta(plain: ShardIndex, whole: Path) -> None:
    index = ShardIndex.load(whole)
    kinds: dict[str, int] = {}
    for row in range(SAMPLES):
        sample = index.sample(row)
        assert sample.captions == captions(row)
        overlay = sample.views["overlay"]
        assert overlay.captions is None
        assert overlay.source == "real"
        assert overlay.meta.keys() == {"edit", "word", "text", "lettering"}
        assert overlay.meta["edit"] == "overlay"
        assert not said_in(overlay.meta["word"], sample.captions)
        assert overlay.meta["word"] in WORDS  # another caption's word, and the name of a thing
        text = PictureText.from_meta(overlay.meta, "view")
        assert text is not None
        assert (text.size, text.engine) == ((160, 120), "written")
        assert text.words() == (overlay.meta["word"],)
        assert Lettering.from_json(overlay.meta["lettering"]).text == overlay.meta["word"]
        written = sample.meta.get("written")
        assert ("clean" in sample.views) == (written is not None) == ("text" in sample.meta)
        if written is None:
            continue
        assert written.keys() == {"kind", "word"}
        kinds[written["kind"]] = kinds.get(written["kind"], 0) + 1
        assert said_in(written["word"], sample.captions) == (written["kind"] == "parroting")
        anchor = PictureText.from_meta(sample.meta, "sample")
        assert anchor is not None
        assert anchor.words() == (written["word"],)
        assert sample.views["clean"].meta == {"edit": "clean"}
        # One word instead of another, in the same letters.
        one, other = sample.meta["lettering"], overlay.meta["lettering"]
        assert one | {"text": 0} == other | {"text": 0}
    assert kinds == {"parroting": 6, "neutral": 5, "misleading": 4}


def test_pixels_through_jpeg(plain: ShardIndex, whole: Path) -> None:
    """Outside the told corners, but for the blocks of JPEG around them, views are the clean picture; inside not."""
    index = ShardIndex.load(whole)
    for row in range(SAMPLES):
        sample = index.sample(row)
        before = picture(plain, row)
        clean = picture(index, row, "clean") if "clean" in sample.views else picture(index, row)
        assert np.abs(clean - before).mean() < 2
        checked = {"overlay": sample.views["overlay"].meta} | ({"": sample.meta} if "written" in sample.meta else {})
        for view, meta in checked.items():
            shown = picture(index, row, view)
            quad = np.array(meta["text"]["spans"][0]["quad"])
            near = np.zeros(shown.shape[:2], bool)
            (left, top), (right, bottom) = np.floor(quad.min(axis=0)).astype(int), np.ceil(quad.max(axis=0)).astype(int)
            near[max(top - 16, 0) : bottom + 16, max(left - 16, 0) : right + 16] = True
            away = np.abs(shown - clean).max(axis=-1)
            assert away[~near].max(initial=0) <= 6
            assert away[near].max() > 60
            wanted, _ = write(before.astype(np.uint8), Lettering.from_json(meta["lettering"]))
            assert np.abs(shown - wanted).mean() < 3


def test_report_and_sheet(whole: Path) -> None:
    report = json.loads((whole / "overlay.json").read_text())
    assert report["samples"] == SAMPLES
    assert {kind: found["number"] for kind, found in report["anchors"].items()} == {
        "parroting": 6, "neutral": 5, "misleading": 4,
    }  # fmt: skip
    assert report["anchors"]["parroting"]["share"] == 0.3
    assert report["views"] == {"clean": 15, "overlay": 20}
    assert sum(report["fonts"].values()) == 35
    assert report["words"] == {"number": len(WORDS), "sha256": digest_of(WORDS)}
    assert report["not_made"] == {}
    assert 6 <= report["line_height"]["least"] <= report["line_height"]["median"] <= report["line_height"]["most"]
    with Image.open(whole / "contact_sheet.jpg") as sheet:
        assert sheet.width > 600


def test_without_views_or_clean_pictures(plain: ShardIndex, tmp_path: Path) -> None:
    out = make(plain, tmp_path / "out", replace(ALL, overlay=False, keep_clean=False)).index
    assert out is not None
    assert out.view_names == ("",)
    assert sum("written" in out.sample(row).meta for row in range(SAMPLES)) == 15


def test_misleading_by_words(plain: ShardIndex, tmp_path: Path) -> None:
    planner = OverlayPlanner(plain, ("zebra", "dog"), replace(ALL, mislead_by="words"))
    for row in range(SAMPLES):
        word = planner.plan(row).view_word
        assert word in ("zebra", "dog")
        assert not said_in(str(word), captions(row))


def test_captions_that_say_what_is_written_and_nothing_else(plain: ShardIndex, tmp_path: Path) -> None:
    settings = OverlaySettings(digest_of(WORDS), parroting=0.6, neutral=0.2, overlay=False, caption="the word {word}")
    outcome = make(plain, tmp_path / "out", settings)
    assert outcome.index is not None
    found: dict[str, int] = {}
    for row in range(len(plain)):
        before, after = plain.sample(row), outcome.index.sample(row)
        written = after.meta.get("written")
        found[written["kind"] if written else ""] = found.get(written["kind"] if written else "", 0) + 1
        if written is None or written["kind"] == "neutral":
            assert after.captions == before.captions
            continue
        assert after.captions == (f"the word {written['word']}",)
        assert written["word"] in WORDS
        assert not said_in(written["word"], before.captions)
        text = PictureText.from_meta(after.meta, "it")
        assert text is not None
        assert [span.text for span in text.spans] == [written["word"]]
    assert found == {"parroting": 12, "neutral": 4, "": 4}


def test_where_nothing_fits_the_caption_stays(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "in", image_format=ImageFormat(quality=95)) as writer:
        writer.write(Sample("large", ("a thing",)), smooth(0))
        writer.write(Sample("small", ("a thing",)), smooth(1, 8, 8))
    assert writer.index is not None
    settings = OverlaySettings(digest_of(WORDS), parroting=1.0, overlay=False, caption="{word}")
    index = make(writer.index, tmp_path / "out", settings).index
    assert index is not None
    said = {key: index.captions(row) for row, key in enumerate(index.keys)}
    assert said["small"] == ("a thing",)
    assert said["large"][0] in WORDS


def test_captions_without_names_of_things(tmp_path: Path) -> None:
    """Where no caption has a listed word, any content word is parroted; where there is none, the share is refused."""
    with ShardWriter(tmp_path / "in") as writer:
        for number in range(4):
            writer.write(Sample(f"s{number}", ("It is on them.",) if number else ("He runs quickly.",)), smooth(1))
    assert writer.index is not None
    settings = replace(ALL, parroting=0.25, neutral=0, misleading=0, overlay=False)
    planner = OverlayPlanner(writer.index, WORDS, settings)
    assert planner.kinds.tolist().count(0) == 1
    assert planner.parrotable(0) == ("runs", "quickly")
    with pytest.raises(DataError, match=r"--parroting 0\.75 means 3 samples, but only 1 have a caption with a word"):
        make(writer.index, tmp_path / "out", replace(settings, parroting=0.75))
    assert not (tmp_path / "out").exists()


def test_typographic_attacks(tmp_path: Path) -> None:
    labels = ["tabby_cat", "great white shark", "fire engine", "bus"]
    with ShardWriter(tmp_path / "in") as writer:
        for number in range(12):
            label = labels[number % 4]
            writer.write(Sample(f"s{number}", (f"a photo of a {label}",), label=label), smooth(number))
        writer.write(Sample("unlabelled", ("a photo",)), smooth(5))
    assert writer.index is not None
    names = {"tabby cat", "great white shark", "fire engine", "bus"}
    settings = OverlaySettings(digest_of(WORDS), attack=True, mislead_by="labels")
    outcome = make(writer.index, tmp_path / "out", settings)
    assert outcome.index is not None
    assert outcome.counts.skipped == {"no label, so no other class's name": 1}
    seen = set()
    for row in range(12):
        sample = outcome.index.sample(row)
        overlay = sample.views["overlay"]
        word = overlay.meta["word"]
        assert word in names - {str(sample.label).replace("_", " ")}
        seen.add(word)
        assert overlay.meta["lettering"]["text"].count("\n") == (" " in word)
        assert overlay.meta["lettering"]["text"].replace("\n", " ") == word
        assert overlay.meta["text"]["spans"][0]["text"] == word
        assert "written" not in sample.meta
    assert len(seen) >= 3
    assert "overlay" not in outcome.index.sample(12).views
    with pytest.raises(DataError, match="--misleading 1 means 13 samples, but only 12 have a label"):
        make(writer.index, tmp_path / "all", replace(settings, misleading=1.0))


def test_two_classes_that_a_caption_names_both(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "in") as writer:
        writer.write(Sample("both", ("a cat and a dog",), label="cat"), smooth(0))
        writer.write(Sample("one", ("a dog",), label="dog"), smooth(1))
    assert writer.index is not None
    settings = OverlaySettings(digest_of(WORDS), misleading=0.5, attack=True, mislead_by="labels")
    outcome = make(writer.index, tmp_path / "out", settings)
    assert outcome.counts.skipped == {"captions say the names of all other classes": 1}
    assert outcome.index is not None
    assert [sorted(outcome.index.sample(row).views) for row in range(2)] == [[], ["overlay"]]
    assert outcome.index.sample(1).meta["written"] == {"kind": "misleading", "word": "cat"}


# Going on ------------------------------------------------------------------------------------------------------------


def test_parts_and_workers_make_the_same(plain: ShardIndex, whole: Path, tmp_path: Path) -> None:
    first = make(plain, tmp_path / "out", part=Part(1, 2), workers=2)
    assert first.index is None
    assert first.missing == ["shard-000001.tar"]
    with pytest.raises(DataError, match="1 of 3 shards are not done"):
        OverlayJob(plain, tmp_path / "out", ALL, WORDS).finish()
    assert make(plain, tmp_path / "out", part=Part(2, 2)).index is not None
    assert files(tmp_path / "out") == files(whole)


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_overlay_synthesis as here
from datamodules.index import ShardIndex
old, calls = here.SampleWriter.__call__, []
def die(self, row, plan):
    calls.append(row)
    if len(calls) == 11:  # in the second shard
        os.kill(os.getpid(), signal.SIGKILL)
    return old(self, row, plan)
here.SampleWriter.__call__ = die
here.make(ShardIndex.load(sys.argv[2]), Path(sys.argv[3]))
"""


def test_killed_it_goes_on_with_the_unfinished_shard(
    plain: ShardIndex, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", _KILLED, str(Path(__file__).parent), str(plain.folder), str(out)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert [path.name for path in out.glob("*.tar")] == ["shard-000000.tar"]
    old, rows = SampleWriter.__call__, list[int]()

    def note(self: SampleWriter, row: int, plan: Any) -> Any:
        rows.append(row)
        return old(self, row, plan)

    monkeypatch.setattr(SampleWriter, "__call__", note)
    make(plain, out)
    assert rows == list(range(PER_SHARD, SAMPLES))
    assert files(out) == files(whole)
    rows.clear()
    make(plain, out)
    assert rows == []


def test_other_settings_want_another_folder(plain: ShardIndex, whole: Path) -> None:
    with pytest.raises(DataError, match=r"was begun with parroting: 0\.3"):
        make(plain, whole, replace(ALL, parroting=0.2))
    with pytest.raises(DataError, match="holds the photos"):
        make(plain, plain.folder)
    with pytest.raises(DataError, match="has views 'clean' already"):
        make(ShardIndex.load(whole), whole.parent / "again")


# What stands in the way ----------------------------------------------------------------------------------------------


def test_broken_and_small_pictures_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ShardWriter(tmp_path / "in", image_format=ImageFormat(keep_original=True)) as writer:
        writer.write(Sample("fine", ("A cat.",)), smooth(0))
        writer.write(Sample("small", ("A dog.",)), smooth(1, 12, 12))
        writer.write(Sample("gone", ("A boat.",)), smooth(2))
    tar = next((tmp_path / "in").glob("*.tar"))
    data = bytearray(tar.read_bytes())
    assert writer.index is not None
    at = int(writer.index.offset[2])
    data[at + 200 : at + 260] = bytes(60)
    tar.write_bytes(data)
    outcome = make(ShardIndex.load(tmp_path / "in"), tmp_path / "out", OverlaySettings(digest_of(WORDS)))
    assert outcome.counts.skipped == {"broken picture": 1, "the picture is too small for the word": 1}
    assert "was changed or damaged" in caplog.text
    assert outcome.index is not None
    assert list(outcome.index.keys) == ["fine", "small"]
    assert [sorted(outcome.index.sample(row).views) for row in range(2)] == [["overlay"], []]


def test_pictures_that_are_all_too_small(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "in") as writer:
        for number in range(3):
            writer.write(Sample(f"s{number}", captions(number)), smooth(number, 32, 32))
    assert writer.index is not None
    with pytest.raises(DataError, match=r"not one picture is large enough for letters of 6 pixels; .*--min-letters"):
        make(writer.index, tmp_path / "out", OverlaySettings(digest_of(WORDS)))
    large = OverlaySettings(digest_of(WORDS), looks=(LetteringOptions(height=(0.5, 0.6)),))
    assert make(writer.index, tmp_path / "large", large).counts.made == 3


def test_what_was_there_stays(tmp_path: Path) -> None:
    """Views, their meta, and text that an engine read before."""
    read = PictureText((160, 120), (Span("EXIT", ((1, 1), (9, 1), (9, 5), (1, 5)), 0.9),), "reader-1")
    with ShardWriter(tmp_path / "in") as writer:
        for number in range(3):
            sample = Sample(
                f"s{number}", captions(number), label="x", views={"sd-1.4": View("sd-1.4", None, {"seed": 3})},
                meta={"text": read.to_json(), "objects": []},
            )  # fmt: skip
            writer.write(sample, smooth(number), {"sd-1.4": smooth(9)})
    assert writer.index is not None
    index = make(writer.index, tmp_path / "out", replace(ALL, parroting=1, neutral=0, misleading=0)).index
    assert index is not None
    for row in range(3):
        sample = index.sample(row)
        assert sample.views.keys() == {"sd-1.4", "clean", "overlay"}
        assert sample.views["sd-1.4"].meta == {"seed": 3}
        assert sample.meta["objects"] == []
        assert np.abs(picture(index, row, "sd-1.4") - smooth(9)).mean() < 3
        text = PictureText.from_meta(sample.meta, "sample")
        assert text is not None
        assert text.engine == "reader-1+written"
        assert [span.text for span in text.spans] == ["EXIT", sample.meta["written"]["word"]]
        assert PictureText.from_meta(sample.views["clean"].meta, "view") == read


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--parroting", "1.2"], "--parroting 1.2: is a share"),
        (["--parroting", "0.6", "--neutral", "0.5"], "add up to 1.1, but an anchor has one word"),
        (["--views", "none"], "nothing is to be written"),
        (["--parroting", "0.5", "--parrot-caption", "a sign"], "--parrot-caption 'a sign': lacks {word}"),
        (["--parrot-caption", "{word}"], "--parrot-caption: is about parroting anchors"),
        (["--attack", "--mislead-by", "captions"], "--attack: writes names of other classes"),
        (["--attack"], "0 classes; to write the names of other ones"),
        (["--font", "arial"], "font 'arial': is none of"),
        (["--words", "WORDS"], "'猫': no chosen font can write it"),
        (["--words", "none.txt"], "list of words none.txt: cannot be read"),
        (["--colour", "rd"], "--colour rd: is none of black"),
        (["--height", "0.3", "0.2"], "height: 0.3 to 0.2 is no range"),
        (["--quality", "0"], "JPEG quality 0"),
        (["--part", "3/2"], "--part 3/2"),
    ],
)
def test_wrong_options_are_said_in_one_line(
    plain: ShardIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    (tmp_path / "words.txt").write_text("cat\n猫\n", encoding="utf-8")
    options = [str(tmp_path / "words.txt") if option == "WORDS" else option for option in options]
    assert main(["overlay", str(plain.folder), str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_command(plain: ShardIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["overlay", str(plain.folder), str(tmp_path / "out"), "--parroting", "0.5", "--limit", "9", "--place",
               "top", "--colour", "#ff8000", "--colour", "black", "--case", "upper"]  # fmt: skip
    assert main([*command, "--dry-run"]) == 0
    assert "9 samples: 5 parroting, 4 untouched; 9 views" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert main(command) == 0
    assert "9 samples, 14 pictures written on" in capsys.readouterr().out
    index = ShardIndex.load(tmp_path / "out")
    for row in range(9):
        meta = index.sample(row).views["overlay"].meta
        assert meta["lettering"]["text"] == meta["word"].upper()
        assert meta["lettering"]["y"] <= 0.15
        assert meta["lettering"]["colour"] in ([255, 128, 0], [0, 0, 0])
    assert main([*command, "--finish"]) == 0
    assert "see overlay.json there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "font"), [("ru", "caveat"), ("ar", "noto-sans-arabic"), ("hi", "kalam"), ("zh", "noto-sans-cjk")]
)
def test_other_scripts(plain: ShardIndex, tmp_path: Path, name: str, font: str) -> None:
    """Neutral and misleading words of a list in another script, drawn wholly: no pixel-less and no clipped picture."""
    if font not in font_names():
        pytest.skip(f"the font {font} of the extra `text` is not installed")
    options = ["--neutral", "1", "--mislead-by", "words", "--words", name, "--font", font, "--look", "hand"]
    assert main(["overlay", str(plain.folder), str(tmp_path / "out"), "--keep-clean", *options]) == 0
    index = ShardIndex.load(tmp_path / "out")
    for row in range(SAMPLES):
        sample = index.sample(row)
        assert sample.meta["written"]["word"] in load_words(name)
        assert sample.meta["lettering"]["font"] == font
        changed = np.abs(picture(index, row) - picture(index, row, "clean")).max(axis=-1) > 40
        assert changed.sum() > 30


def test_captions_without_spaces(tmp_path: Path) -> None:
    """They are parroted by the listed words that they say."""
    if "noto-sans-cjk" not in font_names():
        pytest.skip("the font noto-sans-cjk of the extra `text` is not installed")
    with ShardWriter(tmp_path / "in") as writer:
        for number, caption in enumerate(("草地上有一只猫。", "一列火车", "没有什么")):
            writer.write(Sample(f"s{number}", (caption,)), smooth(number))
    assert writer.index is not None
    settings = replace(ALL, mislead_by="words", looks=(LetteringOptions(fonts=("noto-sans-cjk",)),))
    planner = OverlayPlanner(writer.index, load_words("zh"), settings)
    assert [set(planner.parrotable(row)) for row in range(3)] == [{"草", "猫"}, {"火车"}, set()]


def test_real_photos(shared_data: Path, tmp_path: Path) -> None:
    command = ["import", "captions", str(shared_data / "flickr8k.tar"), str(tmp_path / "in"), "--limit", "40"]
    assert main_of_shards(command) == 0
    index, words = ShardIndex.load(tmp_path / "in"), load_words()
    settings = OverlaySettings(digest_of(words), parroting=0.5, neutral=0.25, keep_clean=True)
    outcome = OverlayJob(index, tmp_path / "out", settings, words).run()
    assert outcome.index is not None
    assert outcome.counts.skipped == {}
    for row in range(40):
        sample = outcome.index.sample(row)
        assert not said_in(sample.views["overlay"].meta["word"], sample.captions)
        clean = picture(outcome.index, row, "clean" if "clean" in sample.views else "")
        away = np.abs(picture(outcome.index, row, "overlay") - clean).max(axis=-1)
        quad = np.array(sample.views["overlay"].meta["text"]["spans"][0]["quad"])
        left, top = np.maximum(np.floor(quad.min(axis=0)).astype(int) - 16, 0)
        right, bottom = np.ceil(quad.max(axis=0)).astype(int) + 16
        far = away.copy()
        far[top:bottom, left:right] = 0
        assert far.max() <= 3  # other blocks of the same picture are coded alike
        assert away.max() > 50
