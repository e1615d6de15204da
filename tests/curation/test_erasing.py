"""Area under text, and pictures without it, against cases by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from noted_shards import box

from datamodules.curation.area import area_share
from datamodules.curation.corpus import corpus_statistics
from datamodules.curation.erasing import erase, mask_text
from datamodules.curation.examine import Examined
from datamodules.curation.scoring import VARIANTS, ScorePlanner
from datamodules.text_spans import PictureText, Span


def text(*quads: tuple[tuple[float, float], ...], size: tuple[int, int] = (100, 50)) -> PictureText:
    return PictureText(size, tuple(Span(f"word{n}", quad) for n, quad in enumerate(quads)), "written")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("quads", "share", "exact"),
    [
        ([], 0.0, True),
        ([box(0, 0, 20, 10)], 0.04, True),
        ([box(0, 0, 20, 10), box(20, 0, 40, 10)], 0.08, True),  # they touch
        ([((10, 0), (20, 10), (10, 20), (0, 10))], 200 / 5000, True),  # a square on its corner
        ([box(0, 0, 20, 10), box(10, 0, 30, 10)], 0.06, False),  # they overlap: united, not 0.08
        ([box(-50, 0, 50, 50)], 0.5, False),  # half of it is outside
        ([box(0, 0, 100, 50), box(0, 0, 100, 50)], 1.0, False),
    ],
)
def test_area_by_hand(quads: list[tuple[tuple[float, float], ...]], share: float, exact: bool) -> None:
    assert area_share(text(*quads)) == pytest.approx(share, abs=1e-12 if exact else 0.01)


def picture() -> np.ndarray:
    """Green, with a white box of text with black letters in it at (20, 10) to (60, 30)."""
    pixels = np.zeros((50, 100, 3), dtype=np.uint8)
    pixels[..., 1] = 120
    pixels[10:30, 20:60] = 255
    pixels[14:26:3, 24:56] = 0
    return pixels


def test_erased_and_masked_text_takes_the_colour_around() -> None:
    written = text(box(20, 10, 60, 30))
    for made in (erase(picture(), written, [written.spans[0].quad]), mask_text(picture(), written)):
        assert np.abs(made.astype(int) - [0, 120, 0]).max() <= 4  # of 255: Telea rounds
    untouched = picture()
    assert erase(untouched, written, []) is untouched
    assert mask_text(untouched, text()) is untouched


def test_polygons_are_of_the_size_that_they_name() -> None:
    """Corners refer to a picture of half the size."""
    half = text(box(10, 5, 30, 15), size=(50, 25))
    assert np.abs(mask_text(picture(), half).astype(int) - [0, 120, 0]).max() <= 1


def test_a_picture_that_is_all_text_is_masked_by_its_own_mean() -> None:
    made = mask_text(picture(), text(box(0, 0, 100, 50)))
    np.testing.assert_allclose(made[0, 0], picture().mean(axis=(0, 1)), atol=1)
    assert (made == made[0, 0]).all()


class _Index:
    """As much of an index as plans look at: one picture a sample."""

    view_names = ("",)
    view_start = np.arange(10)
    view_name = np.zeros(10, dtype=np.int16)


def examined(row: int, captions: tuple[str, ...], written: PictureText | None) -> Examined:
    rates = (0.0,) * len(captions)
    return Examined(row, captions, written, "", False, 0.0, rates, (), (False,) * len(captions))


def test_only_the_captions_words_are_erased_for_rsc_and_as_many_foreign_ones() -> None:
    line = Span("BIG sale", box(0, 0, 80, 10))  # type: ignore[arg-type]
    own = PictureText((100, 50), (line, Span("exit", box(0, 20, 40, 30))), "written")  # type: ignore[arg-type]
    other = text(box(50, 35, 90, 45), box(0, 40, 20, 48), box(60, 12, 70, 18), size=(100, 50))
    samples = [examined(0, ("a sale",), own), examined(1, ("a dog",), other), examined(2, ("a cat",), None)]
    planner = ScorePlanner(_Index(), samples, seed=0)  # type: ignore[arg-type]
    plan = planner.plan(samples[0])
    assert plan is not None
    # Of the line "BIG sale", of eight characters, the last four.
    assert plan.quads["erased-caption"] == (((40.0, 0.0), (80.0, 0.0), (80.0, 10.0), (40.0, 10.0)),)
    assert plan.quads["erased"] == tuple(span.quad for span in own.spans)
    # As many, at foreign places, each as large as what it stands for.
    places = [np.mean(span.quad, axis=0) for span in other.spans]
    for control, areas in (("control-erased", [800, 400]), ("control-erased-caption", [400])):
        lent = [Span("", quad) for quad in plan.quads[control]]
        np.testing.assert_allclose([one.area() for one in lent], areas)
        for one in lent:
            assert any(np.allclose(np.mean(one.quad, axis=0), place, atol=15) for place in places)
    assert plan.pictures == VARIANTS
    # Written, but not said: RSC is 0, and so its pictures are the picture itself.
    said = planner.plan(samples[1])
    assert said is not None
    assert said.same == {"raw", "erased-caption", "control-erased-caption"}
    nothing = planner.plan(samples[2])
    assert nothing is not None
    assert nothing.pictures == ("raw",)
    # A control depends on the seed.
    others = set()
    for seed in range(20):
        drawn = ScorePlanner(_Index(), samples, seed).plan(samples[0])  # type: ignore[arg-type]
        assert drawn is not None
        others.add(drawn.quads["control-erased-caption"])
    assert len(others) > 1


rate = st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0, float("nan")])


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.lists(rate, max_size=3)), min_size=1, max_size=12))
def test_statistics_agree_with_loops(pictures: list[tuple[bool, bool, list[float]]]) -> None:
    sample = np.array([n for n, (_, _, rates) in enumerate(pictures) for _ in rates], dtype=np.int64)
    cotr = np.array([one for _, _, rates in pictures for one in rates], dtype=np.float64)
    written, known = (np.array([row[at] for row in pictures], dtype=bool) for at in (0, 1))
    found = corpus_statistics(sample, cotr, has_text=written, known=known, area=np.full(len(pictures), 0.5))
    every, with_text, parroted = [], [], 0
    for has_text, is_known, rates in pictures:
        valid = [one for one in rates if one == one]
        if is_known and valid:
            every.append(sum(valid) / len(valid))
            parroted += any(one > 0 for one in valid)
            if has_text:
                with_text.append(every[-1])
    assert found.captioned == len(every)
    assert found.cotr == pytest.approx(sum(every) / len(every) if every else np.nan, nan_ok=True)
    assert found.cotr_with_text == pytest.approx(sum(with_text) / len(with_text) if with_text else np.nan, nan_ok=True)
    assert found.parroted == parroted
    assert found.unknown == sum(not row[1] for row in pictures)
    share = sum(row[0] and row[1] for row in pictures) / max(sum(row[1] for row in pictures), 1)
    assert found.share_with_text == pytest.approx(share if known.any() else np.nan, nan_ok=True)
    assert found.empty_captions == sum(one != one for row in pictures if row[1] for one in row[2])
