"""Words and groups in captions, against naive counts, a case by hand, and scipy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from bias_train.audit.social.corpus import (
    CorpusAssociation,
    corpus_association,
    log_odds,
    rank_correlation,
)
from bias_train.audit.social.correlation import weighted_spearman
from bias_train.audit.social.group_terms import load_group_terms, terms_of
from bias_train.audit.social.terms import TermIndex, plural
from bias_train.errors import RunError
from bias_train.stats import Bootstrap

CAPTIONS = (
    "A doctor talks to two ladies.",
    "Three women, all doctors.",
    "The boys play near a nurse",
    "A mandoline and a black dog in Germany",  # no man, nobody black
    "A black man is a nurse.",
    "An old gentleman and his wife meet the working-class doctor",
    "working class heroes: a black woman",
    "nothing at all",
    "",
)


def test_tokens_and_plurals_by_hand() -> None:
    terms = load_group_terms()
    associations = corpus_association(
        CAPTIONS,
        [["doctor", "doctors"], ["nurse", "nurses"], ["working-class"], ["pilot"]],
        [("gender", ("Male", "Female")), ("race", ("Black", "White")), ("race x gender", ("Black x Male",)),
         ("age", ("old",))],
        terms,
    )  # fmt: skip
    assert [found.attribute for found in associations] == ["gender", "race", "race x gender"]  # age has no terms
    gender, race, both = associations
    assert gender.captions == len(CAPTIONS)
    # Male: boys, black man, gentleman. Female: ladies, women, wife, black woman.
    assert gender.named.tolist() == [3, 4]
    assert gender.mentions.tolist() == [[1, 3], [2, 0], [1, 2], [0, 0]]
    assert race.named.tolist() == [2, 0]
    assert race.mentions.tolist() == [[0, 0], [1, 0], [1, 0], [0, 0]]
    assert np.isnan(race.log_odds).all()  # no caption names anybody white
    assert both.named.tolist() == [1]
    assert both.mentions[:, 0].tolist() == [0, 1, 0, 0]


def test_counts_agree_with_regular_expressions() -> None:
    rng = np.random.default_rng(0)
    vocabulary = [
        "man",
        "women",
        "boys",
        "lady",
        "germany",
        "nurse",
        "nurses",
        "police",
        "officer",
        "dog",
        "human",
        "a",
    ]
    captions = [" ".join(rng.choice(vocabulary, size=rng.integers(0, 9))) for _ in range(300)]
    words = [["nurse", "nurses"], ["police officer", "police officers"], ["dog"]]
    labels = ("Male", "Female")
    (found,) = corpus_association(captions, words, [("gender", labels)], load_group_terms())

    def pattern(entries: list[str] | tuple[str, ...]) -> re.Pattern[str]:
        return re.compile("|".join(rf"\b{re.escape(entry)}\b" for entry in entries))

    groups = [pattern(("man", "men", "boy", "boys")), pattern(("woman", "women", "lady", "ladies"))]
    for w, forms in enumerate(words):
        for g, group in enumerate(groups):
            expected = sum(bool(pattern(forms).search(c)) and bool(group.search(c)) for c in captions)
            assert found.mentions[w, g] == expected
    assert found.named.tolist() == [sum(bool(group.search(c)) for c in captions) for group in groups]


def naive_log_odds(mentions: np.ndarray, named: np.ndarray, prior: float) -> tuple[np.ndarray, np.ndarray]:
    odds, z = np.empty(mentions.shape), np.empty(mentions.shape)
    for w in range(len(mentions)):
        for g in range(len(named)):
            alpha = prior * named[g] / sum(named)
            values, variance = [], 0.0
            for count in (mentions[w], named - mentions[w]):
                yes = count[g] + alpha
                no = sum(count) + prior - yes
                values.append(np.log(yes) - np.log(no))
                variance += 1 / yes + 1 / no
            odds[w, g] = values[0] - values[1]
            z[w, g] = odds[w, g] / variance**0.5
    return odds, z


def test_log_odds() -> None:
    rng = np.random.default_rng(1)
    named = rng.integers(20, 200, size=4)
    mentions = np.stack([rng.integers(0, named) for _ in range(6)])
    for prior in (0.5, 10.0):
        odds, z = log_odds(mentions, named, prior)
        expected = naive_log_odds(mentions, named, prior)
        np.testing.assert_allclose(odds, expected[0])
        np.testing.assert_allclose(z, expected[1])
    # By hand: 9 against 1 with the word, 41 against 49 without, a prior of five captions for each group.
    odds, z = log_odds(np.array([[9, 1]]), np.array([50, 50]), 10.0)
    assert odds[0, 0] == pytest.approx(np.log(14 / 6) - np.log(46 / 54))
    assert z[0, 0] == pytest.approx(odds[0, 0] / np.sqrt(1 / 14 + 1 / 6 + 1 / 46 + 1 / 54))
    # Of two groups, one is the other's mirror image; a word that no caption holds is tied to nobody.
    assert odds[0, 1] == pytest.approx(-odds[0, 0])
    assert z[0, 1] == pytest.approx(-z[0, 0])
    np.testing.assert_allclose(log_odds(np.zeros((1, 3), dtype=np.int64), np.array([5, 10, 20]))[0], 0.0, atol=1e-12)
    # The prior draws a rare word in.
    assert abs(log_odds(np.array([[1, 0]]), np.array([50, 50]), 10.0)[0][0, 0]) < 0.3


@pytest.mark.parametrize("named", [[10, 0], [10], [0, 0]])
def test_log_odds_without_another_group(named: list[int]) -> None:
    assert np.isnan(log_odds(np.zeros((1, len(named)), dtype=np.int64), np.array(named))[0]).all()


def test_log_odds_refuses() -> None:
    with pytest.raises(ValueError, match="prior is 0"):
        log_odds(np.array([[1, 1]]), np.array([2, 2]), 0.0)
    with pytest.raises(ValueError, match="more captions"):
        log_odds(np.array([[3, 1]]), np.array([2, 2]))


def test_weighted_spearman_is_scipys_on_repeated_items() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 6, size=15).astype(float), rng.normal(size=15)
    weight = rng.integers(0, 4, size=(20, 15))
    found = weighted_spearman(x, y, weight.astype(float))
    for row, counts in zip(found, weight, strict=True):
        assert row == pytest.approx(spearmanr(np.repeat(x, counts), np.repeat(y, counts)).statistic)
    assert np.isnan(weighted_spearman(np.ones(3), np.arange(3.0), np.ones((1, 3)))[0])


def test_rank_correlation() -> None:
    rng = np.random.default_rng(3)
    labels = ("a", "b", "c")
    odds = rng.normal(size=(60, 3))
    mentions = np.full((60, 3), 4, dtype=np.int64)
    mentions[-10:] = 1  # three captions, too few
    corpus = CorpusAssociation("kind", labels, mentions, np.array([99, 99, 99]), odds, odds, 500, ())
    association = odds + 0.5 * rng.normal(size=odds.shape)
    association[0, 1] = np.nan
    mean, *each = rank_correlation(corpus, association, Bootstrap(300))
    assert [figure.label for figure in each] == ["a", "b", "c"]
    assert [figure.count for figure in each] == [50, 49, 50]
    for g, figure in enumerate(each):
        rows = np.isfinite(association[:50, g])
        assert figure.value == pytest.approx(spearmanr(odds[:50, g][rows], association[:50, g][rows]).statistic)
        assert figure.low < figure.value < figure.high
    assert mean.label is None
    assert mean.value == pytest.approx(np.mean([figure.value for figure in each]))
    # Two groups mirror each other, so one stands for both; too few words are no correlation.
    two = CorpusAssociation("kind", labels[:2], mentions[:, :2], np.array([99, 99]), odds[:, :2], odds, 500, ())
    (only,) = rank_correlation(two, association[:, :2], Bootstrap(50))
    assert only.label == "a"
    few = CorpusAssociation("kind", labels, mentions[-19:], np.array([99] * 3), odds[-19:], odds, 500, ())
    assert all(np.isnan(figure.value) for figure in rank_correlation(few, association[-19:], Bootstrap(50)))


def test_terms_of_crossed_groups() -> None:
    terms = load_group_terms()
    found = terms_of(terms, "race x gender", ("Black x Female", "Martian x Male"))
    assert found is not None
    assert len(found[0]) == 2
    assert "black women" in found[0][0]
    assert "ladies" in found[0][1]
    assert found[1] == []
    assert terms_of(terms, "height", ("tall",)) is None


def test_own_terms(tmp_path: Path) -> None:
    path = tmp_path / "terms.json"
    path.write_text(json.dumps({"kind": {"Round": ["round PERSON", "ball-like"]}, "PERSON": ["robot"]}))
    assert load_group_terms(path) == {"kind": {"Round": ("round robot", "ball like", "round robots", "ball likes")}}
    for wrong in ("[]", '{"kind": ["a"]}', '{"kind": {"a": "b"}}', '{"kind": {"a": ["x PERSON"]}}', "{"):
        path.write_text(wrong)
        with pytest.raises(RunError, match=r"terms\.json"):
            load_group_terms(path)
    with pytest.raises(RunError, match="no such file"):
        load_group_terms(tmp_path / "none.json")


@pytest.mark.parametrize(("noun", "expected"), [("wife", "wives"), ("child", "children"), ("church", "churches"),
                                                ("boy", "boys"), ("delivery man", "delivery men")])  # fmt: skip
def test_plurals(noun: str, expected: str) -> None:
    assert plural(noun) == expected


def test_an_empty_term_matches_nothing() -> None:
    assert TermIndex([["--"], []]).mentioned("a -- b") == set()
