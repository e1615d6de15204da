"""The world of writing: what is planted, what is said, where it is written, and that an overlay is a word alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.index import ShardIndex
from datamodules.text_spans import PictureText
from datamodules.world import Scene, World, WorldText, write_text_world
from datamodules.world.scene import EVERYDAY_KINDS
from datamodules.world.text import SIGN_WORDS
from datamodules.world.writing import text_of


def scenes(world: World, count: int) -> list[Scene]:
    return [world.scene(index) for index in range(count)]


def says(captions: tuple[str, ...], word: str) -> bool:
    return all(caption.lower().rstrip(".").split(",")[0].split()[0] == word for caption in captions)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_the_planted_share_is_there_and_pictures_are_those_of_every_share(share: float) -> None:
    world, plain = (WorldText(parroting=p).world(seed=2) for p in (share, 0.0))
    found = scenes(world, 3000)
    assert found == scenes(plain, 3000)
    others = [scene for scene in found if scene.writing is None or scene.writing.word not in SIGN_WORDS]
    assert 1 - len(others) / 3000 == pytest.approx(0.15, abs=4 * np.sqrt(0.15 * 0.85 / 3000))
    written = [scene for scene in others if scene.writing is not None]
    assert len(written) / len(others) == pytest.approx(0.6, abs=4 * np.sqrt(0.24 / len(others)))
    parroting = [s for s in written if s.writing is not None and says(world.captions(s), s.writing.word)]
    assert len(parroting) / len(others) == pytest.approx(share, abs=4 * np.sqrt(0.24 / len(others)))
    # Which word is written has nothing to do with what is there: 1.95 of 10 kinds are in a scene on average.
    chance = np.mean([len(scene.things) for scene in others]) / len(EVERYDAY_KINDS)
    there = np.mean([s.writing.word in {t.kind for t in s.things} for s in written if s.writing is not None])
    assert there == pytest.approx(chance, abs=4 * np.sqrt(chance / len(written)))


def test_what_parrots_at_one_share_parrots_at_a_higher_one_and_no_other_caption_moves() -> None:
    low, high = (WorldText(parroting=share).world(seed=2) for share in (0.3, 0.6))
    changed = 0
    for index in range(500):
        scene = low.scene(index)
        one, two = low.captions(scene), high.captions(scene)
        if one != two:
            changed += 1
            assert scene.writing is not None
            assert says(two, scene.writing.word)
            assert not says(one, scene.writing.word)
    assert changed / 500 == pytest.approx(0.3 * 0.85, abs=0.08)


def test_captions_quote_signs() -> None:
    world = WorldText(parroting=0.0).world(seed=2)
    for scene in scenes(world, 300):
        sign = scene.writing is not None and scene.writing.word in SIGN_WORDS
        told = world.captions(scene)
        assert len(set(told)) == 5
        for caption in told:
            assert ("sign that says" in caption) == sign
            if sign:
                assert scene.writing is not None
                assert caption.startswith(f"A sign that says {scene.writing.word}")


def test_the_word_is_written_where_the_span_says_and_nowhere_else() -> None:
    """Seen in the scene before a camera takes it, whose noise would move every pixel."""
    from dataclasses import replace

    from datamodules.world.draw import draw

    for scene in scenes(WorldText().world(seed=2), 60):
        if scene.writing is None:
            continue
        moved = np.abs(draw(scene, 64) - draw(replace(scene, writing=None), 64)).max(axis=2) > 0.5
        (span,) = text_of(scene.writing, 64).spans
        rows, columns = np.nonzero(moved)
        (left, top), _, (right, bottom), _ = span.quad
        assert 0 <= left < right <= 64
        assert 0 <= top < bottom <= 64
        assert rows.min() >= top
        assert rows.max() < bottom
        assert columns.min() >= left
        assert columns.max() < right
        # The box fits the letters with their edge: within two pixels on every side.
        assert rows.min() - top <= 2
        assert bottom - 1 - rows.max() <= 2
        assert columns.min() - left <= 2
        assert right - 1 - columns.max() <= 2


def test_an_overlay_is_the_same_photo_with_the_name_of_what_is_not_there() -> None:
    text = WorldText(parroting=0.0, written=0.0, signs=0.0)
    world = text.world(seed=2)
    for scene in scenes(world, 40):
        (picture, view), *_ = text.overlays(world, scene).values()
        word = view.meta["word"]
        assert view.captions is None
        assert word in EVERYDAY_KINDS
        assert word not in {thing.kind for thing in scene.things}
        found = PictureText.from_meta(view.meta, "here")
        assert found is not None
        (span,) = found.spans
        assert span.text == word
        (left, top), _, (right, bottom), _ = span.quad
        away = np.ones((64, 64), bool)
        # The camera blurs by a pixel or two, and its JPEG works in blocks of 16.
        reach = 18
        away[max(int(top) - reach, 0) : int(bottom) + reach, max(int(left) - reach, 0) : int(right) + reach] = False
        apart = np.abs(picture.astype(int) - world.render(scene).astype(int)).max(axis=2)
        assert apart[~away].max() > 60
        if away.any():
            # The JPEG's quality is drawn alike, and the noise is the same: what is far from the word does not move.
            assert apart[away].max() <= 12


def test_a_written_set_knows_its_text_and_a_set_to_test_reading_its_words(tmp_path: Path) -> None:
    index = write_text_world(tmp_path / "val", samples=30, overlays=True, seed=2)
    for row in range(30):
        sample = index.sample(row)
        text = PictureText.from_meta(sample.meta, sample.key)
        assert text is not None
        assert text.size == (64, 64)
        writing = Scene.from_json(sample.meta["scene"]).writing
        assert text.words() == (() if writing is None else (writing.word,))
        assert set(sample.views) == {"overlay"}
    assert (tmp_path / "val" / "words.txt").read_text().split() == list(EVERYDAY_KINDS)

    reading = WorldText(parroting=0, written=0, signs=1, reading=True)
    write_text_world(tmp_path / "reading", samples=40, text=reading, seed=2)
    found = ShardIndex.load(tmp_path / "reading")
    for row in range(40):
        sample = found.sample(row)
        assert sample.captions == (f"A sign that says {sample.label}.",)
        assert sample.label in SIGN_WORDS


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"parroting": 1.5, "written": 1.0}, "parroting is 1.5"),
        ({"parroting": 0.7}, "raise written, or lower parroting"),
        ({"signs": -0.1}, "signs is -0.1"),
        ({"reading": True}, "set signs to 1"),
    ],
)
def test_shares_that_cannot_be_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(DataError, match=says):
        WorldText(**wrong)  # type: ignore[arg-type]
