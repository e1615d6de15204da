"""Figures of words against loops, resamples against galleries written out, means, differences, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from naive_social import naive_c_asc, naive_word, shared_counts
from scipy import stats as scipy_stats

from bias_train.metrics.functional.social.representation import figure_limits, figure_names, ndkl, target_shares
from bias_train.metrics.functional.social.resampled_tops import TopWalk, count_table
from bias_train.metrics.functional.social.word_bias import WordBias, difference, word_bias
from bias_train.metrics.functional.social.word_resamples import percentiles
from bias_train.significance import benjamini_hochberg
from bias_train.stats import Bootstrap, interval, resample_counts

UNIT = torch.nn.functional.normalize


def tied_case(seed: int, words: int = 4, pictures: int = 30, groups: int = 3) -> dict:
    """Integer vectors, whose scores are exact and often tied."""
    rng = np.random.default_rng(seed)
    text, image = rng.integers(-2, 3, size=(words, 4)), rng.integers(-2, 3, size=(pictures, 4))
    text[(text == 0).all(axis=1)] = 1
    image[(image == 0).all(axis=1)] = 1
    group = rng.integers(0, groups, size=pictures)
    group[:groups] = np.arange(groups)
    return {"text": torch.tensor(text).float(), "image": torch.tensor(image).float(), "group": group, "groups": groups}


def associated(
    seed: int, strength: float = 0.0, words: int = 6, counts: tuple[int, ...] = (120, 80, 40), width: int = 16
) -> dict:
    """Unit vectors whose first direction sets the groups apart; words lean along it."""
    generator = torch.Generator().manual_seed(seed)
    group = np.repeat(np.arange(len(counts)), counts)
    image = torch.randn(len(group), width, generator=generator)
    image[:, 0] += strength * torch.linspace(1, -1, len(counts))[torch.from_numpy(group)]
    text = torch.randn(words, width, generator=generator)
    text[:, 0] = 2.0 * torch.linspace(1, -1, words)
    return {"text": UNIT(text, dim=1), "image": UNIT(image, dim=1), "group": group, "groups": len(counts)}


def scores_of(case: dict) -> np.ndarray:
    return (case["text"].double() @ case["image"].double().T).float().numpy()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("target", "zero", "groups"), [("pool", "count", 3), ("uniform", 1e-6, 2), ([0.2, 0.5, 0.2, 0.1], "count", 4)]
)
def test_values_against_loops(seed: int, target: object, zero: str | float, groups: int) -> None:
    case = tied_case(seed, groups=groups)
    ks = (1, 4, 9, 1000)
    found = word_bias(**case, ks=ks, target=target, zero=zero, floor_draws=10)
    shares = target_shares(target, found.counts)
    assert found.names == figure_names(groups, ks)
    for w, row in enumerate(scores_of(case)):
        reference = naive_word(row, case["group"], groups, ks, shares, zero)
        assert set(reference) == set(found.names)
        for f, name in enumerate(found.names):
            assert found.value[w, f] == pytest.approx(reference[name], abs=1e-5, nan_ok=True), name
        for place, k in enumerate((1, 4, 9, 30)):
            assert found.share[w, place] == pytest.approx(shared_counts(row, case["group"], groups, k) / k)
        for g in range(groups):
            assert found.association[w, g] == pytest.approx(naive_c_asc(row, case["group"], g), abs=1e-5, nan_ok=True)
    assert "k = 1000 capped at the 30 pictures" in found.notes
    assert "ties in expectation, 4 words have some" in found.notes
    assert found.excess == pytest.approx(found.value - found.floor.mean, nan_ok=True)
    assert np.isnan(found.low).all()
    assert found.draws is None


def written_out(case: dict, found: WordBias, counts: np.ndarray, ks: tuple[int, ...]) -> np.ndarray:
    """[W, F] figures of one resample, its gallery written out and ranked anew."""
    rows = np.repeat(np.arange(len(counts)), counts)
    values = []
    for row in scores_of(case):
        own = naive_word(
            row[rows], case["group"][rows], case["groups"], ks, found.target, "count", pool=found.counts
        )  # fmt: skip
        values.append([own[name] for name in found.names])
    return np.array(values)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tied", [True, False])
def test_resamples_equal_galleries_written_out(seed: int, tied: bool) -> None:
    case = tied_case(seed, groups=2) if tied else associated(seed, 0.5, words=3, counts=(9, 14, 7))
    bootstrap, ks = Bootstrap(12, level=0.8, seed=seed), (1, 5, 11)
    found = word_bias(**case, ks=ks, bootstrap=bootstrap, floor_draws=10)
    counts = np.concatenate(list(resample_counts(30, bootstrap, strata=case["group"])))
    reference = np.stack([written_out(case, found, row, ks) for row in counts])
    # Draws are shifted until their mean is the value.
    shifted = reference + found.value - np.nanmean(reference, axis=0)
    assert found.draws == pytest.approx(shifted, abs=2e-5, nan_ok=True)
    limits = figure_limits(found.names, case["groups"])
    for w in range(len(found.value)):
        ends = interval(found.value[w], shifted[:, w], bootstrap)
        assert found.low[w] == pytest.approx(np.maximum(ends.low, limits[0]), abs=2e-5)
        assert found.high[w] == pytest.approx(np.minimum(ends.high, limits[1]), abs=2e-5)
    # Association and shares are as they fall.
    for b, row in enumerate(counts):
        rows = np.repeat(np.arange(30), row)
        for w, own in enumerate(scores_of(case)):
            association = [naive_c_asc(own[rows], case["group"][rows], g) for g in range(case["groups"])]
            assert found.association_draws[b, w] == pytest.approx(association, abs=2e-5)
    shares = np.stack([
        [[shared_counts(own[r], case["group"][r], case["groups"], k) / k for k in ks] for own in scores_of(case)]
        for r in (np.repeat(np.arange(30), row) for row in counts)
    ])  # fmt: skip
    ends = interval(np.zeros(shares[0].size), shares.reshape(12, -1), bootstrap)
    assert found.share_low.ravel() == pytest.approx(ends.low, abs=1e-6)
    assert found.share_high.ravel() == pytest.approx(ends.high, abs=1e-6)


def test_one_large_tie_and_many_small_ones() -> None:
    """A collapsed model ranks at random: every count is the pool's share, in every resample."""
    group = np.repeat([0, 1], [30, 10])
    table = count_table(group, Bootstrap(20))
    assert (table[:30].sum(axis=0) == 30).all()
    target = np.array([0.5, 0.5])
    walk = TopWalk(table, group, target, (8, 40))
    counts, divergence = walk(np.zeros(40, dtype=np.float32))
    assert counts[0] == pytest.approx(np.array([[6.0], [2.0]]).repeat(20, axis=1))
    even = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert divergence == pytest.approx(np.full((2, 20), even), abs=1e-6)
    # Pairs of one picture of each group: whatever is drawn of a pair fills its places in proportion.
    pairs = np.repeat(np.arange(10), 2)[::-1].astype(np.float32)
    group = np.tile([0, 1], 10)
    counts, _ = TopWalk(np.ones((20, 1), dtype=np.uint8), group, target, (1, 2, 3))(pairs)
    assert counts[:, :, 0].tolist() == [[0.5, 0.5], [1.0, 1.0], [1.5, 1.5]]


@pytest.mark.parametrize("exact", [1 << 24, 1])
def test_a_walk_goes_on_until_all_resamples_have_enough(exact: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resamples that drew nothing of the first pictures at all, as none by chance would; in either precision."""
    monkeypatch.setattr("bias_train.metrics.functional.social.resampled_tops._EXACT", exact)
    group = np.random.default_rng(0).integers(0, 3, size=600)
    table = np.zeros((600, 2), dtype=np.uint8)
    table[:, 0] = 1
    table[400:, 1] = 3
    target = np.full(3, 1 / 3)
    counts, divergence = TopWalk(table, group, target, (5, 20))(-np.arange(600, dtype=np.float32))
    late = np.repeat(group[400:], 3)
    for place, k in enumerate((5, 20)):
        assert counts[place, :, 0] == pytest.approx(np.bincount(group[:k], minlength=3))
        assert counts[place, :, 1] == pytest.approx(np.bincount(late[:k], minlength=3))
    assert divergence[:, 0] == pytest.approx(ndkl(group[:20], 3, target, (5, 20)), abs=1e-6)
    assert divergence[:, 1] == pytest.approx(ndkl(late[:20], 3, target, (5, 20)), abs=1e-6)


def test_percentiles_are_those_of_one_figure_at_a_time() -> None:
    draws = np.random.default_rng(0).normal(size=(101, 4, 3))
    draws[3:9, 1, 1] = np.nan
    draws[:, 2, 2] = np.nan
    for level in (0.9, 0.95, 0.5):
        low, high = percentiles(draws, level)
        reference = interval(np.zeros(12), draws.reshape(101, 12), Bootstrap(101, level=level))
        assert low.ravel() == pytest.approx(reference.low, nan_ok=True)
        assert high.ravel() == pytest.approx(reference.high, nan_ok=True)


def test_order_of_pictures_and_chunks_change_nothing() -> None:
    case = associated(0, 0.3)
    options = {"ks": (5, 30), "permutations": 50, "floor_draws": 20}
    whole = word_bias(**case, **options)
    assert (word_bias(**case, **options, chunk_size=1).value == whole.value).all()
    order = np.random.default_rng(0).permutation(len(case["group"]))
    moved = word_bias(**{**case, "image": case["image"][order], "group": case["group"][order]}, **options)
    assert moved.value == pytest.approx(whole.value, abs=1e-6)
    # Arrays of NumPy do as well as tensors.
    plain = word_bias(
        case["text"].numpy(), case["image"].numpy(), torch.from_numpy(case["group"]), case["groups"], **options
    )
    assert (plain.p == whole.p).all()


def test_relabelling_the_groups_relabels_the_figures() -> None:
    case = associated(1, 0.5)
    turned = {**case, "group": 2 - case["group"]}
    one, two = (word_bias(**c, ks=(20,), floor_draws=10) for c in (case, turned))
    assert two.association[:, ::-1] == pytest.approx(one.association)
    assert two.value == pytest.approx(one.value)
    two_groups = associated(1, 0.5, counts=(60, 40))
    one, two = (
        word_bias(**c, ks=(20,), floor_draws=10) for c in (two_groups, {**two_groups, "group": 1 - two_groups["group"]})
    )
    for name in ("bias", "amplification"):
        assert two.value[:, two.column(name, 20)] == pytest.approx(-one.value[:, one.column(name, 20)])
    assert one.value[:, one.column("amplification", 20)] == pytest.approx(one.value[:, one.column("bias", 20)] - 0.2)


def test_a_given_ranking_stands_in_for_the_scores() -> None:
    case = associated(2, 0.5)
    options = {"ks": (7, 50), "bootstrap": Bootstrap(20), "floor_draws": 10}
    own = word_bias(**case, **options)
    same = word_bias(**case, **options, ranking=np.argsort(-scores_of(case), axis=1, kind="stable"))
    assert same.value == pytest.approx(own.value)
    assert (same.draws == own.draws).all()
    assert "ranked by a given order" in same.notes
    # Alternating groups as long as there are pictures of each: no bias in the first 7 of a uniform target.
    group = case["group"]
    turn = np.concatenate([np.arange((group == g).sum()) for g in range(3)])
    fair = np.argsort(turn * 3 + group, kind="stable")
    rows = torch.from_numpy(np.tile(fair, (6, 1)))
    found = word_bias(**case, **options, target="uniform", ranking=rows)
    assert found.share[:, 0] == pytest.approx(np.tile(np.array([3, 2, 2]) / 7, (6, 1)))
    # Association is still of the scores.
    assert (found.association == own.association).all()
    for wrong, message in ((rows[:, :5], "has shape"), (rows * 0, "every picture's row once")):
        with pytest.raises(ValueError, match=message):
            word_bias(**case, **options, ranking=wrong)


def test_skew_follows_from_shares() -> None:
    case = associated(3, 0.6)
    found = word_bias(**case, ks=(10, 60), bootstrap=Bootstrap(50), floor_draws=10)
    skew = found.skew()
    assert skew.value.shape == (6, 2, 3)
    place = found.column("max_skew", 10)
    assert skew.value[:, 0].max(axis=1) == pytest.approx(found.value[:, place])
    assert skew.value[:, 1].min(axis=1) == pytest.approx(found.value[:, found.column("min_skew", 60)])
    assert (skew.low <= skew.value + 1e-9).all()
    assert (skew.value <= skew.high + 1e-9).all()
    lowest = np.maximum(found.share_low[:, 0], np.minimum(1 / 10, found.target))
    assert skew.low[:, 0] == pytest.approx(np.log(lowest / found.target))


def test_means_over_words() -> None:
    case = associated(4, 0.4)
    bootstrap = Bootstrap(200, seed=3)
    found = word_bias(**case, ks=(20,), bootstrap=bootstrap, floor_draws=10)
    rows = np.array([0, 2, 5])
    mean = found.mean(rows)
    assert mean.value == pytest.approx(found.value[rows].mean(axis=0))
    f = found.column("max_skew", 20)
    draws = found.draws[:, rows, f].astype(float).mean(axis=1)
    ends = interval(np.zeros(1), draws[:, None], bootstrap)
    assert (mean.low[f], mean.high[f]) == pytest.approx((ends.low[0], ends.high[0]), abs=1e-6)
    mask = np.isin(np.arange(6), rows)
    assert (found.mean(mask).low == mean.low).all()
    # Over words too: each resample of pictures goes with one of the words, of another seed.
    both = found.mean(rows, over_words=True)
    weight = np.concatenate(list(resample_counts(3, Bootstrap(200, seed=4))))
    nested = (found.draws[:, rows, f] * weight).sum(axis=1) / 3
    ends = interval(np.zeros(1), nested[:, None], bootstrap)
    assert (both.low[f], both.high[f]) == pytest.approx((ends.low[0], ends.high[0]), abs=1e-6)
    assert both.high[f] - both.low[f] > mean.high[f] - mean.low[f]
    with pytest.raises(ValueError, match="at least one word"):
        found.mean(np.array([], dtype=int))
    with pytest.raises(ValueError, match="no figure max_skew@21; there are entropy@20"):
        found.column("max_skew", 21)


def test_words_in_which_a_figure_is_undefined_are_left_out() -> None:
    case = associated(5, 0.4, words=3)
    # All pictures are alike in the last direction, and the last word looks along nothing else.
    case["image"] = torch.cat([case["image"], torch.ones(240, 1)], dim=1)
    case["text"] = torch.cat([case["text"], torch.zeros(3, 1)], dim=1)
    case["text"][2] = torch.eye(17)[16]
    found = word_bias(**case, ks=(20,), bootstrap=Bootstrap(20), permutations=9, floor_draws=10)
    assert np.isnan(found.association[2]).all()
    assert np.isnan(found.p[2]).all()
    assert found.share[2, 0] == pytest.approx(found.target)
    assert "1 words score all pictures alike: no C-ASC" in found.notes
    f = found.column("abs_association", None)
    mean = found.mean()
    assert mean.value[f] == pytest.approx(found.value[:2, f].mean())
    assert mean.low[f] < mean.value[f] < mean.high[f]
    figure = next(figure for figure in found.figures() if figure.key == "abs_association")
    assert figure.count == 2
    assert "undefined for 1 words, which are left out" in figure.note


def test_figures_as_records() -> None:
    case = associated(6, 0.5)
    found = word_bias(**case, ks=(20,), bootstrap=Bootstrap(50), floor_draws=100)
    figures = {figure.key: figure for figure in found.figures(np.arange(2), label="health")}
    assert set(figures) == {
        prefix + (name if k is None else f"{name}@{k}") for name, k in found.names for prefix in ("", "excess_")
    }
    plain, excess = figures["max_skew@20"], figures["excess_max_skew@20"]
    floor = found.floor.of("max_skew", 20)[0]
    assert (excess.value, excess.low, excess.high) == pytest.approx(
        (plain.value - floor, plain.low - floor, plain.high - floor)
    )
    assert plain.value == pytest.approx(found.value[:2, found.column("max_skew", 20)].mean())
    assert (plain.count, plain.label) == (2, "health")
    for part in ("a random retriever has", "target pool", "absent groups count as one", "no ties", "these words"):
        assert part in plain.note
    assert "words like these" in found.figures(over_words=True)[0].note


def test_difference_on_the_same_resamples() -> None:
    before, after = associated(7, 0.8, counts=(60, 40)), associated(7, 0.0, counts=(60, 40))
    bootstrap = Bootstrap(100)
    one, two = (word_bias(**case, ks=(20,), bootstrap=bootstrap, floor_draws=10) for case in (before, after))
    change = difference(two, one)
    assert change.value == pytest.approx(two.value - one.value)
    assert change.draws == pytest.approx(two.draws - one.draws)
    low, high = percentiles(two.draws - one.draws, 0.95)
    assert change.low == pytest.approx(low)
    assert change.high == pytest.approx(high)
    f = change.column("abs_bias", 20)
    assert change.mean().value[f] == pytest.approx((two.value - one.value)[:, f].mean())
    # A model against itself: no difference, and no width.
    itself = difference(one, one).mean()
    assert (np.abs(itself.value) == 0).all()
    assert (itself.high == itself.low).all()
    # A shared part of the noise cancels: a hair's breadth of change is told from none.
    nudged = {**before, "text": UNIT(before["text"] + 0.01 * torch.eye(16)[0], dim=1)}
    near = difference(word_bias(**nudged, ks=(20,), bootstrap=bootstrap, floor_draws=10), one).mean()
    f = one.column("max_association", None)
    assert near.high[f] - near.low[f] < 0.2 * (one.mean().high[f] - one.mean().low[f])
    for other in (
        word_bias(**before, ks=(30,), bootstrap=bootstrap, floor_draws=10),
        word_bias(**before, ks=(20,), bootstrap=Bootstrap(100, seed=1), floor_draws=10),
        word_bias(**before, ks=(20,), floor_draws=10),
        word_bias(**{**before, "text": before["text"][:2]}, ks=(20,), bootstrap=bootstrap, floor_draws=10),
    ):
        with pytest.raises(ValueError, match="other figures, words or resamples"):
            difference(other, one)
    bare = word_bias(**before, ks=(20,), floor_draws=10)
    assert np.isnan(difference(bare, bare).low).all()


def test_small_and_empty_groups_are_flagged() -> None:
    case = {**associated(8, counts=(60, 40, 12)), "groups": 4}
    found = word_bias(**case, ks=(20,), bootstrap=Bootstrap(20), permutations=9, floor_draws=10)
    assert "fewer than 30 pictures in group 2" in found.notes
    assert "no picture in group 3" in found.notes
    for table in (found.association, found.p, found.association_low):
        assert np.isnan(table).all(axis=0).tolist() == [False, False, False, True]
    assert np.isfinite(found.value).all()
    assert np.isfinite(found.low).all()


def test_planted_associations_come_back_in_order() -> None:
    case = associated(9, 1.0, words=12, counts=(400, 400))
    found = word_bias(**case, ks=(50,), permutations=200, floor_draws=10)
    planted = np.linspace(1, -1, 12)
    assert scipy_stats.spearmanr(planted, found.association[:, 0]).statistic > 0.95
    assert scipy_stats.spearmanr(planted, found.value[:, found.column("bias", 50)]).statistic > 0.95
    assert found.p[0, 0] == found.p[-1, 0] == 1 / 201


@pytest.mark.parametrize("permutations", [0, 999])
def test_no_discoveries_where_nothing_is_planted(permutations: int) -> None:
    """Worlds without association, in which words are far from independent: few share any false discovery."""
    false = 0
    for world in range(40):
        case = associated(100 + world, words=12, counts=(60, 50, 40), width=6)
        case["group"] = np.random.default_rng(world).permutation(case["group"])
        found = word_bias(**case, ks=(10,), permutations=permutations, floor_draws=2, seed=world)
        false += bool((benjamini_hochberg(found.p.ravel()) <= 0.05).any())
    # With nothing planted every discovery is false, so that the rate is the chance of any: at most 5 % of worlds.
    assert false <= scipy_stats.binom.ppf(0.999, 40, 0.05)


def test_intervals_cover_what_galleries_have_on_average() -> None:
    """The truth is a figure's mean over galleries of this size: with and without association, for words and means."""
    galleries, words = 80, 4
    for strength in (0.0, 0.6):
        values, inside = [], []
        effect = strength * np.array([1.0, -0.2, -1.0])
        group = np.repeat(np.arange(3), (150, 100, 50))
        for gallery in range(galleries):
            rng = np.random.default_rng(gallery)
            image = rng.normal(size=(300, words)) + effect[group][:, None]
            found = word_bias(
                torch.eye(words).double(), image, group, 3, ks=(40,), bootstrap=Bootstrap(150), floor_draws=2
            )
            values.append(found.value)
            inside.append((found, found.mean()))
        truth = np.mean(values, axis=(0, 1))
        for name in ("entropy", "max_skew", "abs_association"):
            f = found.column(name, None if name == "abs_association" else 40)
            single = [bool(a.low[w, f] <= truth[f] <= a.high[w, f]) for a, _ in inside for w in range(words)]
            means = [bool(m.low[f] <= truth[f] <= m.high[f]) for _, m in inside]
            # Near a bound (nothing planted) intervals are somewhat wide; nowhere may they be much too narrow.
            assert np.mean(single) >= 0.90, (strength, name)
            assert np.mean(means) >= scipy_stats.binom.ppf(0.001, galleries, 0.95) / galleries, (strength, name)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"group": np.zeros(5, dtype=int)}, "group has shape"),
        ({"group": -np.ones(240, dtype=int)}, "leave pictures of unknown group out"),
        ({"group": np.full(240, 3)}, "group holds 3, which is none of 0 to 2"),
        ({"groups": 1}, "at least 2"),
        ({"ks": ()}, "at least one"),
        ({"ks": (5, 5)}, "give each cut-off once"),
        ({"ks": (0,)}, "cut-off must be at least 1"),
        ({"zero": "skip"}, "zero is 'skip'"),
        ({"target": "even"}, "target is 'even'"),
        ({"permutations": -1}, "permutations is -1"),
        ({"floor_draws": 1}, "at least 2 random rankings"),
        ({"text": torch.zeros(1, 16)}, "text row 0 is all zeros"),
        ({"image": torch.full((240, 16), math.nan)}, "image row 0 is not finite"),
        ({"text": torch.ones(1, 4)}, "image is 16 wide"),
    ],
)
def test_what_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        word_bias(**(associated(0) | {"floor_draws": 10} | wrong))


def test_unnormalised_vectors_are_told() -> None:
    case = associated(0)
    assert "scores are dot products of unnormalised embeddings" in word_bias(
        **{**case, "image": 2 * case["image"]}, floor_draws=10
    ).notes  # fmt: skip
