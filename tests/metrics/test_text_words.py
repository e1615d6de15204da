"""Sync score, NS and retrieval of rendered words against loops, by hand, and against what must hold."""

from __future__ import annotations

import math

import naive_text
import numpy as np
import pytest
import torch

from bias_train.metrics.functional.text.drawn import Drawn, apart, means
from bias_train.metrics.functional.text.match_gap import Matches
from bias_train.metrics.functional.text.rendered_words import CLEAR, rendered_words, undefined_because
from bias_train.stats import Bootstrap, resample_counts

STYLES = ("white/black", "black/white")


def vectors(*shape: int, seed: int = 0, top: int = 2) -> torch.Tensor:
    """Small whole numbers, so that many scores tie, and none all zeros."""
    made = np.random.default_rng(seed).integers(-top, top + 1, size=shape).astype(np.float64)
    made[(made == 0).all(axis=-1), 0] = 1.0
    return torch.from_numpy(made)


def ordinary(pictures: int = 30, seed: int = 9) -> tuple[torch.Tensor, ...]:
    """Pictures with one to three captions each, which resemble them."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(pictures, 6, generator=generator, dtype=torch.float64)
    of = torch.arange(pictures).repeat_interleave(torch.arange(pictures) % 3 + 1)
    text = image[of] + 0.3 * torch.randn(len(of), 6, generator=generator, dtype=torch.float64)
    return image, text, torch.arange(pictures), of


def value(found: list[Drawn], name: str, label: str | None = None) -> float:
    (one,) = [each for each in found if (each.name, each.label) == (name, label)]
    return one.value


def test_by_hand() -> None:
    """Two words, one style: cosines .8 and .6 with themselves, .6 and .8 with each other; pairs match at 1 and 0."""
    rendered = torch.tensor([[[0.8, 0.6], [0.8, 0.6]]])
    word = torch.eye(2)
    found = rendered_words(rendered, word, Matches.pairs(torch.eye(5), torch.eye(5)), styles=STYLES[:1])
    assert value(found, "sync") == pytest.approx(0.7)
    assert value(found, "sync_std") == pytest.approx(0.1)
    assert value(found, "NS_numerator") == pytest.approx(0.7 - 0.7)
    assert value(found, "NS_denominator") == pytest.approx(1.0)
    assert value(found, "NS") == pytest.approx(0.0, abs=1e-7)
    # The first rendering finds its word, the second finds the other; each word has both renderings tied.
    assert value(found, "rendered_i2t_R") == 0.5
    assert value(found, "rendered_t2i_R") == 0.5
    assert value(found, "rendered_R_floor") == 0.5


@pytest.mark.parametrize("seed", range(4))
def test_every_figure_agrees_with_loops(seed: int) -> None:
    rendered, word = vectors(2, 5, 6, seed=seed), vectors(5, 6, seed=seed + 50)
    image, text, group, of = ordinary(seed=seed)
    found = rendered_words(rendered, word, Matches.of(image, text, group, of), styles=STYLES)
    below = naive_text.gap(image.numpy(), text.numpy(), group.numpy(), of.numpy())
    assert value(found, "NS_denominator") == pytest.approx(below)
    each: dict[str, list[float]] = {}
    for s, style in enumerate(STYLES):
        pictures, words = rendered[s].numpy(), word.numpy()
        own = [float(pictures[w] @ words[w]) for w in range(5)]
        top = naive_text.gap(pictures, words, np.arange(5), np.arange(5))
        is_word = np.eye(5, dtype=bool)
        wanted = {
            "sync": np.mean(own),
            "sync_std": np.std(own),
            "NS_numerator": top,
            "NS": top / below,
            "rendered_i2t_R": np.mean([naive_text.hit(words @ pictures[w], is_word[w], 1) for w in range(5)]),
            "rendered_t2i_R": np.mean([naive_text.hit(pictures @ words[w], is_word[w], 1) for w in range(5)]),
        }
        for name, expected in wanted.items():
            assert value(found, name, style) == pytest.approx(expected), (name, style)
            each.setdefault(name, []).append(float(expected))
    for name, values in each.items():
        assert value(found, name) == pytest.approx(np.mean(values)), name


@pytest.mark.parametrize(("constant", "factor"), [(0.7, 1.0), (0.0, 3.5), (-0.4, 0.2)])
def test_ns_does_not_move_with_the_gap_between_towers_or_the_temperature(constant: float, factor: float) -> None:
    rendered, word = vectors(2, 6, 6).double(), vectors(6, 6, seed=3).double()
    image, text, group, of = ordinary()

    def scored(pictures: torch.Tensor, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add a constant to all scores by one more dimension, and multiply them all by a factor."""

        def one(rows: torch.Tensor, added: float) -> torch.Tensor:
            return torch.cat([rows, torch.full((*rows.shape[:-1], 1), added, dtype=rows.dtype)], dim=-1)

        root = abs(constant) ** 0.5
        return factor * one(pictures, root), one(texts, math.copysign(root, constant))

    before = rendered_words(rendered, word, Matches.of(image, text, group, of), styles=STYLES)
    moved = rendered_words(*scored(rendered, word), Matches.of(*scored(image, text), group, of), styles=STYLES)
    for name in ("NS", "rendered_i2t_R", "rendered_t2i_R"):
        for label in (None, *STYLES):
            assert value(moved, name, label) == pytest.approx(value(before, name, label)), name
    assert value(moved, "sync") == pytest.approx(factor * (value(before, "sync") + constant))


def test_pushing_blank_canvases_away_lowers_sync_and_nothing_else() -> None:
    """The cheat of the reference: every rendering moves by one vector v.

    That adds v.t(w) to all scores of word w: to matched and mismatched pairs alike, and to all renderings of a search.
    """
    word = torch.nn.functional.normalize(vectors(8, 6, seed=1).double() + 1.5, dim=1)
    rendered = word[None] + 0.4 * torch.randn(1, 8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = Matches.of(*ordinary())
    away = rendered - 1.5 * word.mean(dim=0)
    before, after = (rendered_words(one, word, pairs, styles=STYLES[:1]) for one in (rendered, away))
    assert value(after, "sync") < 0.2 < 0.8 < value(before, "sync")
    for name in ("NS", "rendered_t2i_R"):
        assert value(after, name) == pytest.approx(value(before, name)), name


class TestUndefined:
    word, rendered = torch.eye(3), torch.eye(3)[None]

    def figures(self, pairs: Matches, bootstrap: Bootstrap | None = None) -> dict[str, Drawn]:
        found = rendered_words(self.rendered, self.word, pairs, styles=STYLES[:1], bootstrap=bootstrap)
        return {one.name: one for one in found if one.label is None}

    def test_pairs_that_match_worse_than_others(self) -> None:
        found = self.figures(Matches.pairs(torch.eye(5), -torch.eye(5)), Bootstrap(30))
        assert math.isnan(found["NS"].value)
        assert "undefined: ordinary pairs score no higher than others" in found["NS"].note
        assert found["NS"].draws is None
        assert found["NS_numerator"].value == 1.0

    def test_pairs_that_match_by_chance(self) -> None:
        """Noise has a positive gap half of the time, which must not be divided by."""
        generator = torch.Generator().manual_seed(0)
        undefined = positive = 0
        for _ in range(60):
            image, text = (torch.randn(20, 4, generator=generator) for _ in range(2))
            pairs = Matches.pairs(image, text)
            positive += float(pairs.gap()) > 0
            undefined += math.isnan(self.figures(pairs)["NS"].value)
        assert positive > 15
        assert undefined >= 58

    def test_too_few_pictures(self) -> None:
        assert "fewer than three" in self.figures(Matches.pairs(torch.eye(2), torch.eye(2)))["NS"].note
        nothing = Matches.of(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), torch.tensor([2, 3]))
        assert len(nothing) == 0
        assert math.isnan(self.figures(nothing)["NS"].value)

    def test_near_zero_is_told_from_zero_by_its_error(self) -> None:
        assert undefined_because(0.1, 0.1 / CLEAR * 1.01)
        assert not undefined_because(0.1, 0.1 / CLEAR * 0.99)
        assert not undefined_because(1e-6, 1e-8)  # small by its scale alone
        assert not undefined_because(0.2, 0.0)


def test_standard_error_is_the_jackknife() -> None:
    image, text, group, of = (part[:n] for part, n in zip(ordinary(), (8, 15, 8, 15), strict=True))
    left = []
    for out in range(8):
        keep, also = group != out, of != out
        left.append(naive_text.gap(image[keep].numpy(), text[also].numpy(), group[keep].numpy(), of[also].numpy()))
    expected = np.sqrt(7 / 8 * np.sum((np.array(left) - np.mean(left)) ** 2))
    assert Matches.of(image, text, group, of).standard_error() == pytest.approx(expected)


def test_a_resample_never_sets_a_word_against_itself() -> None:
    image, text = vectors(5, 4).numpy(), vectors(5, 4, seed=1).numpy()
    matches = Matches.pairs(torch.from_numpy(image), torch.from_numpy(text))
    bootstrap = Bootstrap(40, seed=3)
    draws = matches.draws(bootstrap)
    assert draws is not None
    counts = np.concatenate(list(resample_counts(5, bootstrap)))
    for draw, count in zip(draws, counts, strict=True):
        drawn = np.repeat(np.arange(5), count).tolist()
        if len(set(drawn)) > 1:
            assert draw == pytest.approx(naive_text.gap_of_draw(image, text, drawn))
        else:
            assert np.isnan(draw)


def test_words_and_pictures_are_drawn_apart() -> None:
    """As many words as pictures: the same draws for both would tie numerator and denominator together."""
    image, text, group, of = ordinary(40)
    generator = torch.Generator().manual_seed(2)
    word = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    rendered = word + torch.randn(40, 6, generator=generator, dtype=torch.float64)
    bootstrap = Bootstrap(1000)
    found = {
        one.name: one
        for one in rendered_words(
            rendered[None], word, Matches.of(image, text, group, of), styles=STYLES[:1], bootstrap=bootstrap
        )
        if one.label is None
    }
    top, below, ratio = (found[name].draws for name in ("NS_numerator", "NS_denominator", "NS"))
    assert top is not None
    assert below is not None
    assert abs(np.corrcoef(top, below)[0, 1]) < 0.12
    np.testing.assert_allclose(ratio, top / below)
    # The variance of a ratio of independent figures, by the delta method.
    expected = found["NS"].value * np.hypot(np.std(top) / np.mean(top), np.std(below) / np.mean(below))
    assert np.std(ratio) == pytest.approx(expected, rel=0.15)
    figure = found["NS"].figure(bootstrap)
    assert figure.low < figure.value < figure.high
    assert apart(bootstrap, "words") != apart(bootstrap, "pairs")
    assert apart(None, "words") is None


def test_intervals_cover_the_true_ns() -> None:
    """Words and pairs are drawn from a model whose NS is known; 95 % intervals hold it about as often."""
    generator = torch.Generator().manual_seed(0)
    covered, trials = 0, 200
    for _ in range(trials):
        word, scene = (torch.randn(60, 16, generator=generator, dtype=torch.float64) for _ in range(2))
        rendered = 0.5 * word + 0.5 * torch.randn(60, 16, generator=generator, dtype=torch.float64)
        photo = scene + 0.5 * torch.randn(60, 16, generator=generator, dtype=torch.float64)
        found = rendered_words(
            rendered[None], word, Matches.pairs(photo, scene), styles=STYLES[:1], bootstrap=Bootstrap(300)
        )
        figure = next(one for one in found if one.name == "NS").figure(Bootstrap(300))
        covered += figure.low <= 0.5 <= figure.high  # E r.t = 8, E photo.scene = 16; others 0
    assert 0.90 <= covered / trials <= 0.985


def test_errors() -> None:
    pairs = Matches.pairs(torch.eye(3), torch.eye(3))
    with pytest.raises(ValueError, match=r"rendered must be \[2 styles, 3 words, width\]"):
        rendered_words(torch.eye(3)[None], torch.eye(3), pairs, styles=STYLES)
    with pytest.raises(ValueError, match="word row 1 is all zeros"):
        rendered_words(torch.eye(3)[None], torch.diag(torch.tensor([1.0, 0.0, 1.0])), pairs, styles=STYLES[:1])
    with pytest.raises(ValueError, match="measure both retrievers on the same set"):
        Drawn("NS", 0.1, 5, "").minus(Drawn("NS", 0.1, 6, ""))
    undefined = Drawn("NS", 0.1, 5, "fine").minus(Drawn("NS", float("nan"), 5, "undefined: no pairs"))
    assert (math.isnan(undefined.value), undefined.note) == (True, "undefined: no pairs")


def test_means_without_queries() -> None:
    found, draws, count = means(np.empty((0, 2)), np.empty(0, dtype=np.int64), Bootstrap(10))
    assert np.isnan(found).all()
    assert (draws, count.tolist()) == (None, [0, 0])
