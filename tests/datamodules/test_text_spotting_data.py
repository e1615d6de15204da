"""Overlays and rendered words beside pairs: exact shares, the same batches everywhere, and what is written."""

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

from datamodules import text_spotting
from datamodules.decode import Augmentation
from datamodules.errors import DataError
from datamodules.index import ShardIndex, build_index
from datamodules.lettering.canvas import STYLES, render_word
from datamodules.mixed_source import MixedSourceDataModule
from datamodules.sample import Sample, View
from datamodules.selection import Selection
from datamodules.strings import Strings
from datamodules.text_spotting import TextSpottingDataModule, TextSpottingPlan, TextSpottingStream, Wording
from datamodules.world.text import WORDS_FILE, write_text_world
from datamodules.writer import ShardWriter

SIZE = 64
SAMPLES = 40
WORDS = ("anchor", "null", "place", "sun", "river", "nan", "tower", "candle", "dog", "glove")


def picture(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((SIZE // 4, SIZE // 4, 1), dtype=np.uint8))


def captions(i: int) -> tuple[str, ...]:
    """Which words of the list they say depends on the sample."""
    return f"A {WORDS[i % 10]}, at number {i}.", f"Number {i} in the SUN."


def write_shards(folder: Path, overlays: range = range(SAMPLES)) -> Path:
    """Photos with a generated twin each, and some with a stored overlay."""
    with ShardWriter(folder, samples_per_shard=9) as writer:
        for i in range(SAMPLES):
            views = {"gen": View("gen")}
            images = {"gen": picture(1000 + i)}
            if i in overlays:
                views["overlay"] = View("real", None, {"edit": "overlay", "word": f"word{i}"})
                images["overlay"] = picture(2000 + i)
            writer.write(Sample(f"s-{i:03d}", captions(i), views=views), picture(i), images)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "words.txt"
    path.write_text("\n".join(WORDS))
    return path


def tokens(texts: list[str]) -> torch.Tensor:
    assert texts, "a tokenizer need not take an empty list"
    return torch.tensor([[len(text), sum(map(ord, text))] for text in texts])


def module(shards: Path, words: Path, /, **options: Any) -> TextSpottingDataModule:
    given: dict[str, Any] = {
        "train": [str(shards)], "words": str(words), "batch_size": 16, "image_size": SIZE, "seed": 5,
        "augment": Augmentation((0.5, 1.0), 0.5),
    }  # fmt: skip
    made = TextSpottingDataModule(**(given | options))
    made.tokenize = tokens
    made.setup()
    return made


def plan_of(made: TextSpottingDataModule) -> TextSpottingPlan:
    assert isinstance(made.plan, TextSpottingPlan)
    return made.plan


def stream(made: TextSpottingDataModule, rank: int = 0, world_size: int = 1) -> TextSpottingStream:
    return made._stream(rank, world_size)


def digest(batch: dict[str, Any]) -> str:
    names = ("image", "twin", "edit", "edit_index", "edit_tokens", "edit_prompt_tokens", "edit_caption_id", "word")
    return hashlib.sha256(b"".join(np.ascontiguousarray(batch[name]).tobytes() for name in names)).hexdigest()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1 / 3, 0.9, 1.0])
def test_the_share_is_exact_in_every_block_and_nested(shards: Path, words: Path, share: float) -> None:
    made = plan_of(module(shards, words, overlay_share=share, blocks=4))
    more = plan_of(module(shards, words, overlay_share=min(share + 0.5, 1.0), blocks=4))
    total = 0
    for step in range(60):
        pairs = made.slots(step)
        position = made.overlays.slots(step, pairs).position
        counts = np.bincount(position // 4, minlength=4)
        assert np.all((counts == np.floor(4 * share)) | (counts == np.ceil(4 * share)))
        assert set(position.tolist()) <= set(more.overlays.slots(step, pairs).position.tolist())
        total += len(position)
        assert abs(total - 16 * (step + 1) * share) < 1
    assert len(np.unique(position)) == len(position)


@pytest.mark.parametrize("mode", ["replace", "add"])
def test_pairs_and_twins_are_those_of_the_run_without(shards: Path, words: Path, mode: str) -> None:
    """At every share of generated pictures and of twins: overlays and words only come along."""
    options: dict[str, Any] = {"share": 0.5, "twin_share": 0.25, "mode": mode}
    alone = MixedSourceDataModule(
        train=[str(shards)], batch_size=16, image_size=SIZE, seed=5, augment=Augmentation((0.5, 1.0), 0.5), **options
    )
    alone.setup()
    made = module(shards, words, overlay_share=0.5, rendered_words=3, **options)
    for step in (0, 3):
        expected, found = alone._stream(0, 1).batch(step), stream(made).batch(step)
        for name in ("image", "twin", "twin_index", "source", "group", "caption_id"):
            assert torch.equal(found[name], expected[name]), name
        assert found["caption"] == expected["caption"]
        assert len(found["edit"]) == 8
        assert {bool(found["source"][row]) for row in found["edit_index"]} == {False, True}


def test_what_is_written_stays_within_its_corners(shards: Path, words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = []

    def recorded(*arguments: Any) -> Any:
        image, span = write(*arguments)
        spans.append(span)
        return image, span

    write = text_spotting.write
    monkeypatch.setattr(text_spotting, "write", recorded)
    batch = stream(module(shards, words, overlay_share=1.0)).batch(0)
    assert batch["edit_index"].tolist() == list(range(16))
    assert len(spans) == 16
    for row, span in enumerate(spans):
        changed = (batch["edit"][row] != batch["image"][row]).any(dim=0).numpy()
        ys, xs = np.nonzero(changed)
        left, right = min(x for x, _ in span.quad), max(x for x, _ in span.quad)
        top, bottom = min(y for _, y in span.quad), max(y for _, y in span.quad)
        assert 0 <= left < right <= SIZE
        assert 0 <= top < bottom <= SIZE
        assert len(xs) > 10
        assert xs.min() >= left - 0.5
        assert xs.max() <= right
        assert ys.min() >= top - 0.5
        assert ys.max() <= bottom
        assert span.text == batch["edit_word"][row]


def test_the_word_is_in_no_caption_and_all_words_are_used(shards: Path, words: Path) -> None:
    made = stream(module(shards, words, overlay_share=0.5))
    seen = set()
    for step in range(30):
        batch = made.batch(step)
        for at, row in enumerate(batch["edit_index"].tolist()):
            word, number = batch["edit_word"][at], int(batch["key"][row].split(".")[0].removeprefix("s-"))
            said = {part.strip(".,").lower() for text in captions(number) for part in text.split()}
            assert word not in said
            seen.add(word)
            caption = batch["caption"][row]
            assert batch["edit_caption"][at] == f"{caption.rstrip('.')} with the word {word}"
            assert torch.equal(batch["edit_tokens"][at], tokens([batch["edit_caption"][at]])[0])
            assert torch.equal(batch["edit_prompt_tokens"][at], tokens([f"a photo of a {word}"])[0])
            assert batch["edit_key"][at] == batch["key"][row]
        assert batch["edit_added"].all()
    assert seen == set(WORDS) - {"sun"}  # which every sample's captions say


def test_an_overlay_depends_on_seed_sample_and_epoch_alone(shards: Path, words: Path) -> None:
    """In other batches, beside other samples, it is the same picture; in another epoch or seed it is another."""

    def drawn(steps: int, **options: Any) -> dict[tuple[str, int], tuple[str, bytes]]:
        made = module(shards, words, overlay_share=1.0, augment=Augmentation(), **options)
        found: dict[tuple[str, int], tuple[str, bytes]] = {}
        for step in range(steps):
            batch, epoch = stream(made).batch(step), plan_of(made).slots(step).epoch
            for at, row in enumerate(batch["edit_index"].tolist()):
                key = batch["key"][row], int(epoch[row])
                found[key] = batch["edit_word"][at], batch["edit"][at].numpy().tobytes()
        return found

    one, other = drawn(10), drawn(20, batch_size=8)
    assert len(one) == 160
    assert one == other
    again = drawn(10, seed=6)
    assert sum(one[key] == again[key] for key in one.keys() & again.keys()) < 20
    keys = {key for key, _ in one}
    assert any(one[key, 0][0] != one[key, 1][0] for key in keys if (key, 0) in one and (key, 1) in one)


@settings(deadline=None, max_examples=12)
@given(
    step=st.one_of(st.integers(0, 60), st.integers(0, 2_000_000)),
    share=st.sampled_from((0.0, 0.1, 0.25, 1.0)),
)
def test_ranks_hold_parts_of_one_global_batch(shards: Path, words: Path, step: int, share: float) -> None:
    made = module(shards, words, overlay_share=share, share=0.25, twin_share=0.5, rendered_words=3)
    whole = stream(made).batch(step)
    for world_size in (2, 4, 8):
        parts = [stream(made, rank, world_size).batch(step) for rank in range(world_size)]
        for name in ("image", "twin", "edit", "edit_tokens", "edit_prompt_tokens", "edit_added", "edit_caption_id"):
            if share or not name.startswith("edit"):
                assert torch.equal(torch.cat([part[name] for part in parts]), whole[name]), name
        if share:
            rows = [part["edit_index"] + rank * 16 // world_size for rank, part in enumerate(parts)]
            assert torch.equal(torch.cat(rows), whole["edit_index"])
            assert [word for part in parts for word in part["edit_word"]] == whole["edit_word"]
        for part in parts:  # words are the same on all
            assert torch.equal(part["word"], whole["word"])
            assert torch.equal(part["word_tokens"], whole["word_tokens"])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_and_a_later_start_give_the_same_batches(shards: Path, words: Path) -> None:
    """Workers send pictures through a ring, which must have room for all of them."""

    def batches(count: int, start: int = 0, share: float = 1.0) -> list[str]:
        made = module(shards, words, num_workers=count, overlay_share=share, twin_share=share, rendered_words=5)
        made.start = start
        return [digest(batch) for batch in islice(iter(made.train_dataloader()), 6 - start)]

    expected = batches(0)
    assert batches(2) == expected
    assert batches(0, start=4) == expected[4:]
    assert batches(0, start=2, share=0.3) == batches(0, share=0.3)[2:]


@pytest.mark.parametrize(("points", "y"), [(None, 0.5), (14.0, 0.5), (None, 0.25)])
def test_rendered_words_are_the_probes(shards: Path, words: Path, points: float | None, y: float) -> None:
    made = stream(module(shards, words, rendered_words=6, rendered_points=points, rendered_y=y, overlay_share=0.0))
    seen, styles = set(), []
    for step in range(10):
        batch = made.batch(step)
        assert "edit" not in batch  # a loss that reads overlays then says so
        assert len(set(batch["word_text"])) == 6
        assert torch.equal(batch["word_tokens"], tokens(batch["word_text"]))
        seen |= set(batch["word_text"])
        for shown, word in zip(batch["word"], batch["word_text"], strict=True):
            pixels = shown.permute(1, 2, 0).numpy()
            probes = {s: render_word(word, size=SIZE, style=s, points=points, fit=True, y=y).image for s in STYLES}
            styles += [style for style, probe in probes.items() if np.array_equal(pixels, probe)]
    assert seen == set(WORDS)
    assert styles == [tuple(STYLES)[i % 4] for i in range(60)]


def test_stored_overlays_are_taken_with_their_word(shards: Path, words: Path) -> None:
    made = stream(module(shards, words, views="overlay", overlay_share=0.5, augment=Augmentation()))
    for step in range(6):
        batch = made.batch(step)
        assert len(batch["edit"]) == 8
        for at, row in enumerate(batch["edit_index"].tolist()):
            number = int(batch["key"][row].removeprefix("s-"))
            assert batch["edit_word"][at] == f"word{number}"
            assert batch["edit_key"][at] == f"s-{number:03d}.overlay"
            shown = batch["edit"][at].permute(1, 2, 0).numpy().astype(float)
            assert abs(shown - picture(2000 + number)).mean() < 20  # JPEG's blur


def test_a_stored_overlay_that_is_its_anchor_is_cropped_to_the_same_pixels(tmp_path: Path, words: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        for i in range(8):
            view = View("real", None, {"word": "glove"})
            writer.write(Sample(f"s-{i}", ("a dog",), views={"overlay": view}), picture(i), {"overlay": picture(i)})
    made = module(tmp_path, words, views="overlay", overlay_share=1.0, augment=Augmentation((0.3, 0.9)))
    batch = stream(made).batch(0)
    assert torch.equal(batch["edit"], batch["image"][batch["edit_index"]])
    assert len(batch["edit"]) == 16


def test_photos_without_a_stored_overlay_come_last(tmp_path: Path, words: Path) -> None:
    folder = write_shards(tmp_path, range(0, SAMPLES, 2))
    with pytest.raises(DataError, match=r"20 of 40 photos of data\.train have no view 'overlay', the first .*s-001"):
        module(folder, words, views="overlay", augment=Augmentation())
    made = module(folder, words, views="overlay", augment=Augmentation(), missing_views="skip", blocks=1)
    assert plan_of(made).overlays.without_view == 20
    for step in range(20):
        batch = stream(made).batch(step)
        held = sum(int(key.removeprefix("s-")) % 2 == 0 for key in batch["key"])
        assert len(batch["edit"]) == min(4, held)


def test_generated_anchors_carry_no_stored_overlay(shards: Path, words: Path) -> None:
    options: dict[str, Any] = {"views": "overlay", "augment": Augmentation(), "share": 0.5}
    batch = stream(module(shards, words, overlay_share=0.5, **options)).batch(1)
    assert len(batch["edit"]) == 8
    assert not batch["source"][batch["edit_index"]].any()
    for change in ({"overlay_share": 0.75}, {"overlay_share": 0.25, "composition": "per_batch_source"}):
        with pytest.raises(DataError, match=r"stored overlays of photos, but data\.overlay_share"):
            module(shards, words, **(options | change))


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


def test_broken_pictures_cost_their_overlay_alone(tmp_path: Path, words: Path) -> None:
    folder = spoil(write_shards(tmp_path / "anchors"), "", range(0, SAMPLES, 4))
    made = module(folder, words, overlay_share=1.0, max_bad_share=1.0)
    batch = stream(made).batch(0)
    spoilt = len(batch["skipped"])
    assert spoilt > 0
    assert len(batch["edit"]) == 16 - len({s.message for s in batch["skipped"]})
    assert not any("overlay" in key for key in batch["key"])  # a spare is no view
    folder = spoil(write_shards(tmp_path / "views"), "overlay", range(0, SAMPLES, 4))
    made = module(folder, words, views="overlay", overlay_share=1.0, max_bad_share=1.0, augment=Augmentation())
    batch = stream(made).batch(0)
    assert len(batch["image"]) == 16
    assert len(batch["edit"]) == 16 - len(batch["skipped"]) < 16
    made.on_before_batch_transfer(batch, 0)
    assert made.seen == 16 + len(batch["edit"])


def test_a_list_that_captions_say_leaves_pictures_without(tmp_path: Path, shards: Path) -> None:
    short = tmp_path / "words.txt"
    short.write_text("sun\nanchor\n")
    made = stream(module(shards, short, overlay_share=1.0))
    skipped = []
    for step in range(3):  # all samples, and some of them twice
        batch = made.batch(step)
        assert len(batch["edit"]) == sum(int(key.removeprefix("s-")) % 10 > 0 for key in batch["key"])
        assert set(batch["edit_word"]) == {"anchor"}
        skipped += batch["skipped"]
    assert len(skipped) >= 4
    assert {skip.kind for skip in skipped} == {"no wrong word"}


def test_a_selection_is_honoured(tmp_path: Path, shards: Path, words: Path) -> None:
    """What it leaves out carries no overlay either, and the wrong word is in no caption as edited or as it was."""
    index = ShardIndex.load(shards)
    number = np.array([int(key.removeprefix("s-")) for key in index.keys])
    edited = Strings([f"Now a glove, once {WORDS[i % 10]}" for i in number])
    Selection(
        shards=tuple(info.sha256 for info in index.shards),
        keys=Strings(list(index.keys)),
        shard=np.asarray(index.shard, dtype=np.int32),
        weight=np.where(number % 2 == 0, 0.0, 1.0).astype(np.float32),
        row=np.arange(len(number), dtype=np.int64),
        number=np.zeros(len(number), dtype=np.int32),
        text=edited,
    ).save(tmp_path / "selection.parquet")
    made = stream(module(shards, words, overlay_share=1.0, selection=str(tmp_path / "selection.parquet")))
    glove = 0
    for step in range(5):
        batch = made.batch(step)
        assert len(batch["edit"]) == 16
        for row, (caption, word) in enumerate(zip(batch["caption"], batch["edit_word"], strict=True)):
            i = int(batch["key"][row].removeprefix("s-"))
            assert i % 2 == 1
            assert word not in (WORDS[i % 10], "sun")
            if caption.startswith("Now"):
                assert word != "glove"
                assert batch["edit_caption"][row] == f"{caption} with the word {word}"
                glove += 1
    assert glove > 10


def test_overlays_of_the_embedded_world(tmp_path: Path) -> None:
    write_text_world(tmp_path, samples=24, overlays=True, size=SIZE)
    made = TextSpottingDataModule(
        train=[str(tmp_path)], words=str(tmp_path / WORDS_FILE), batch_size=8, image_size=SIZE, views="overlay",
        overlay_share=0.5, rendered_words=4,
    )  # fmt: skip
    made.setup()
    batch = stream(made).batch(2)
    assert len(batch["edit"]) == 4
    for row, word in zip(batch["edit_index"].tolist(), batch["edit_word"], strict=True):
        assert word not in batch["caption"][row].lower().split()
    assert set(batch["word_text"]) <= set(plan_of(made).words)


def test_the_shipped_list_is_used_without_a_file(shards: Path) -> None:
    made = TextSpottingDataModule(train=[str(shards)], batch_size=16, image_size=SIZE, rendered_words=8)
    made.setup()
    batch = stream(made).batch(0)
    assert len(batch["word"]) == 8
    assert len(batch["edit"]) == 4
    assert "edit_tokens" not in batch


def test_the_fingerprint_covers_overlays_and_words(tmp_path: Path, shards: Path, words: Path) -> None:
    state = module(shards, words).state_dict()
    module(shards, words).load_state_dict(state)
    longer = tmp_path / "longer.txt"
    longer.write_text("\n".join((*WORDS, "pebble")))
    for change, difference in (
        ({"overlay_share": 0.5}, r"overlays.share was 0.25, is 0.5"),
        ({"words": str(longer)}, r"overlays.words was 10 words, .* is 11 words"),
        ({"rendered_words": 4}, r"overlays.rendered_words was 0, is 4"),
        ({"rendered_points": 20.0}, r"overlays.rendered_points was null, is 20"),
        ({"rendered_y": 0.25}, r"overlays.rendered_y was 0.5, is 0.25"),
        ({"word_query": "a {word}"}, r"overlays.word_query was"),
        ({"caption_with_word": "{word}: {caption}"}, r"overlays.caption_with_word was"),
        ({"lettering": text_spotting.LetteringOptions(height=(0.2, 0.3))}, r"overlays.lettering was"),
        ({"views": "overlay", "augment": Augmentation()}, r"overlays.views was null, is .overlay"),
    ):
        with pytest.raises(DataError, match=difference):
            module(shards, words, **change).load_state_dict(state)
        module(shards, words, force_resume=True, **change).load_state_dict(state)


def test_wording() -> None:
    assert Wording("{word}!", "{word} on {caption}").caption("A {word}. ", "cat") == "cat on A {word}"
    assert Wording("a {word} and a {word}").query("cat") == "a cat and a cat"


def test_mistakes_are_named(tmp_path: Path, shards: Path, words: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("cat\n猫\n")
    for options, message in (
        ({"train": []}, r"data\.train is empty"),
        ({"overlay_share": 1.5}, r"data\.overlay_share must lie in \[0, 1\]"),
        ({"missing_views": "warn"}, r"data\.missing_views is 'warn'; choose error or skip"),
        ({"views": ""}, r"data\.views is empty"),
        ({"views": "overlay"}, r"data\.augment\.flip is 0\.5, which would mirror the words"),
        ({"views": "notes", "augment": Augmentation()}, r"hold no views 'notes': .*synthesize overlay"),
        ({"word_query": "a photo"}, r"data\.word_query: 'a photo' has no place for the word; write \{word\}"),
        ({"caption_with_word": "{word}"}, r"data\.caption_with_word: '\{word\}' has no place for the caption"),
        ({"rendered_words": 1}, r"data\.rendered_words is 1; give 0 for none, or at least 2"),
        ({"rendered_words": -1}, r"data\.rendered_words is -1"),
        ({"rendered_points": 0.0}, r"data\.rendered_points is 0\.0; letters need more than 0 pixels"),
        ({"rendered_y": 1.5}, r"data\.rendered_y is 1\.5; it is a share of the canvas's height, in \[0, 1\]"),
        ({"rendered_y": -0.1}, r"data\.rendered_y is -0\.1"),
        ({"rendered_words": 11}, r"data\.rendered_words is 11, but data\.words holds 10 words"),
        ({"words": str(tmp_path / "none.txt")}, r"none\.txt: cannot be read"),
        ({"words": str(other)}, r"'猫': no chosen font can write it"),
    ):
        with pytest.raises(DataError, match=message):
            module(shards, words, **options)
    wide = module(shards, words, rendered_words=4)
    wide.image_size = (64, 32)
    with pytest.raises(DataError, match=r"square canvases, but pictures are 64 by 32"):
        stream(wide)
    with ShardWriter(tmp_path / "views") as writer:
        for i in range(4):
            writer.write(
                Sample(f"s-{i}", ("a dog",), views={"overlay": View("real")}), picture(i), {"overlay": picture(i)}
            )
    nameless = stream(module(tmp_path / "views", words, views="overlay", augment=Augmentation()))
    with pytest.raises(DataError, match=r"\.overlay: its meta has no 'word'"):
        nameless.batch(0)
