"""The social audit on vectors: planted ties are found in their order, means and floors agree with naive ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from scipy.stats import false_discovery_control, spearmanr

from bias_train.audit.social.group_terms import load_group_terms
from bias_train.audit.social.options import SocialOptions
from bias_train.audit.social.outcome import Cell, Row, SocialOutcome, write_social
from bias_train.audit.social.run import Corpus, Subject, aligned, audit_social
from bias_train.audit.social.table import terminal
from bias_train.embeddings import Embeddings
from bias_train.errors import RunError
from bias_train.people.vectors import GroupPrompts, People, Words
from bias_train.stats import Bootstrap
from datamodules.groups import Grouping

WIDTH = 16
QUICK = SocialOptions(ks=(40, 100), minimum=5, bootstrap=Bootstrap(60), floor_draws=300)
STRENGTH = np.linspace(-0.6, 0.6, 13)


def unit(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True)).float()


def people(seed: int = 0, count: int = 600) -> People:
    """Gender on the first axis, three races on the next; no gender for some, one race with three pictures."""
    rng = np.random.default_rng(seed)
    gender, race = rng.integers(0, 2, size=count), rng.choice(3, size=count, p=(0.5, 0.3, 0.2))
    race[:3] = 3
    image = rng.normal(size=(count, WIDTH))
    image[:, 0] += 2.0 * gender - 1.0
    image[np.arange(count), 1 + race] += 2.0
    gender[-10:] = -1
    return People(
        unit(image),
        tuple(f"p{i}" for i in range(count)),
        (
            Grouping("gender", ("Male", "Female"), gender),
            Grouping("race", ("Black", "White", "Indian", "Rare", "Nobody"), race),
        ),
    )


def words(strength: np.ndarray = STRENGTH, seed: int = 1, category: str = "") -> Words:
    """Words that ask for gender with a given strength, in directions that are otherwise their own."""
    rng = np.random.default_rng(seed)
    text = np.zeros((len(strength), WIDTH))
    other = rng.normal(size=(len(strength), WIDTH - 5))
    text[:, 5:] = other / np.linalg.norm(other, axis=1, keepdims=True)
    text[:, 0] = strength
    names = tuple(f"{category}word{i}" for i in range(len(strength)))
    categories = tuple(category or ("one", "two")[i % 2] for i in range(len(strength)))
    return Words(unit(text), names, categories, tuple(f"A photo of {name}." for name in names), ("core",) * len(names))


def subject(**changes: object) -> Subject:
    return replace(Subject(people(), {"article": words()}), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def outcome() -> SocialOutcome:
    return audit_social(subject(), QUICK, inputs={"vectors": "x.npz"}, about_words={"version": "1", "sha256": "abc"})


def cells_of(outcome: SocialOutcome, attribute: str, **wanted: object) -> list[Cell]:
    return [
        cell for cell in outcome.cells
        if cell.attribute == attribute and all(getattr(cell, name) == value for name, value in wanted.items())
    ]  # fmt: skip


def find(outcome: SocialOutcome, name: str, k: int | None, **place: str) -> Row:
    row = outcome.find(name, k, **place)  # type: ignore[arg-type]
    assert row is not None
    return row


def test_the_planted_order_is_found(outcome: SocialOutcome) -> None:
    female = cells_of(outcome, "gender", group="Female")
    assert spearmanr([cell.association for cell in female], STRENGTH).statistic > 0.95
    by_size = {cell.word: cell for cell in female}
    assert by_size["word0"].p_adjusted < 1e-6
    assert by_size["word0"].high < 0 < by_size["word12"].low
    # The word without a strength is tied to nobody more than chance, and to no race is any.
    assert by_size["word6"].p_adjusted > 0.05
    gender = next(headline for headline in outcome.headlines if headline.attribute == "gender")
    assert gender.highest is not None
    assert {gender.highest.word, gender.lowest.word} <= {"word0", "word12"}  # type: ignore[union-attr]
    assert gender.significant >= 14
    assert gender.cells == 26


def test_the_first_attribute_leads_and_all_are_there(outcome: SocialOutcome) -> None:
    assert [headline.attribute for headline in outcome.headlines] == ["gender", "race", "race x gender"]
    assert outcome.headlines[1].groups.keys() == {"Black", "White", "Indian"}
    assert outcome.headlines[2].groups.keys() == {f"{race} x {gender}" for race in ("Black", "White", "Indian")
                                                 for gender in ("Male", "Female")}  # fmt: skip
    assert sum(outcome.headlines[1].target.values()) == pytest.approx(1.0)
    codes = {warning.code for warning in outcome.warnings}
    assert {"small_groups_left_out", "absent_groups"} <= codes
    assert any("Rare (3)" in warning.text for warning in outcome.warnings)
    assert any("Nobody" in warning.text for warning in outcome.warnings if warning.code == "absent_groups")


def naive_max_skew(data: People, text: torch.Tensor, attribute: str, k: int) -> list[float]:
    grouping = data.grouping(attribute, QUICK.minimum)
    known = np.flatnonzero(grouping.known)
    code = grouping.code[known]
    scores = (text.double() @ data.image.double().T).numpy()[:, known]
    pool = np.bincount(code) / len(code)
    found = []
    for row in scores:
        top = np.bincount(code[np.argsort(-row)[:k]], minlength=len(grouping))
        found.append(max(np.log(max(count, 1) / k / share) for count, share in zip(top, pool, strict=True)))
    return found


def test_means_floors_and_cells_agree_with_naive_ones(outcome: SocialOutcome) -> None:
    data, asked = people(), words()
    rng = np.random.default_rng(5)
    for attribute in ("gender", "race x gender"):
        grouping = data.grouping(attribute, QUICK.minimum)
        code = grouping.code[grouping.known]
        for k in QUICK.ks:
            expected = naive_max_skew(data, asked.text, attribute, k)
            assert find(outcome, "max_skew", k, attribute=attribute).value == pytest.approx(np.mean(expected))
            odd = find(outcome, "max_skew", k, attribute=attribute, category="two")
            assert odd.value == pytest.approx(np.mean(expected[1::2]))
            assert odd.words == 6
            pool = np.bincount(code) / len(code)
            tops = [np.bincount(rng.permutation(code)[:k], minlength=len(pool)) for _ in range(600)]
            random = np.mean([np.log(np.maximum(top, 1) / k / pool).max() for top in tops])
            assert odd.floor == pytest.approx(random, abs=0.03)
            assert odd.excess == pytest.approx(odd.value - odd.floor)
            assert odd.low <= odd.value <= odd.high
            assert odd.high_words - odd.low_words > odd.high - odd.low  # words vary, too
        scores = (asked.text.double() @ data.image.double().T).numpy()[:, grouping.known]
        tied = cells_of(outcome, attribute)
        for place, cell in enumerate(tied):
            w, g = divmod(place, len(grouping))
            row, mine = scores[w], code == g
            assert (cell.word, cell.group) == (asked.word[w], grouping.labels[g])
            gap = row[mine].mean() - row[~mine].mean()
            assert cell.association == pytest.approx(gap / row.std(ddof=1), abs=1e-5)
            assert cell.share == pytest.approx(mine[np.argsort(-row)[: QUICK.ks[0]]].mean())
            assert cell.pool == pytest.approx(mine.mean())
        p = np.array([cell.p for cell in tied])
        np.testing.assert_allclose([cell.p_adjusted for cell in tied], false_discovery_control(p), atol=1e-12)


def test_words_have_every_figure(outcome: SocialOutcome) -> None:
    expected = naive_max_skew(people(), words().text, "gender", 40)
    found = [row for row in outcome.words if (row.attribute, row.name, row.k) == ("gender", "max_skew", 40)]
    assert [row.word for row in found] == list(words().word)
    assert [row.value for row in found] == pytest.approx(expected)
    assert all(row.floor == found[0].floor for row in found)


def test_changes_are_paired(outcome: SocialOutcome) -> None:
    weaker = Subject(people(), {"article": words(0.3 * STRENGTH)})
    changed = audit_social(subject(), QUICK, against=weaker)
    alone = audit_social(weaker, QUICK)
    assert {row.attribute for row in changed.changes} == {"gender", "race", "race x gender"}
    for category in ("", "one"):
        before = find(alone, "max_skew", 40, attribute="gender", category=category)
        after = find(outcome, "max_skew", 40, attribute="gender", category=category)
        row = find(changed, "max_skew", 40, attribute="gender", category=category, change=True)
        assert row.value == pytest.approx(after.value - before.value)
        assert 0 < row.low <= row.value <= row.high
        # Both sides saw the same resamples, and share most of their pictures' luck.
        assert row.high - row.low < (after.high - after.low) + (before.high - before.low)
    assert {row.name for row in changed.word_changes} == {"max_skew"}
    probe = [effect for effect in changed.effects if effect.name == "leakage_accuracy"]
    assert all(effect.value == effect.before for effect in probe)  # the pictures are the same
    # The file's order is no matter: pictures are matched by key, words by name.
    order = np.random.default_rng(0).permutation(600)
    shuffled = Subject(weaker.people.rows(order), {"article": weaker.words["article"].rows(np.arange(12, -1, -1))})
    again = audit_social(subject(), QUICK, against=shuffled)
    assert find(again, "max_skew", 40, attribute="race", change=True) == find(
        changed, "max_skew", 40, attribute="race", change=True
    )


def test_another_side_must_be_of_the_same(outcome: SocialOutcome) -> None:
    base = subject()
    cases = {
        "pictures are missing there, such as 'p0'": replace(base, people=people().rows(np.arange(1, 600))),
        "words are missing there": replace(base, words={"article": words().rows(np.arange(5))}),
        "no words in the wording 'article'": replace(base, words={"bare": words()}),
        "asks with other prompts": replace(
            base, words={"article": replace(words(), prompt=tuple(f"{word}!" for word in words().word))}
        ),
        "several pictures have one name": replace(base, people=replace(people(), key=("p",) * 600)),
    }
    for message, other in cases.items():
        with pytest.raises(RunError, match=message):
            aligned(other, base)


def test_side_effects_stand_beside(outcome: SocialOutcome) -> None:
    rng = np.random.default_rng(3)
    text = np.zeros((2, WIDTH))
    text[:, 0] = (-1.0, 1.0)
    prompts = GroupPrompts(unit(text), "gender", ("Male", "Female"), ("a man", "a woman"))
    scene = rng.normal(size=(30, WIDTH))
    pairs = Embeddings(
        image=unit(scene), image_key=tuple(map(str, range(30))), image_target=np.arange(30),
        image_source=np.zeros(30, dtype=np.int64), sources=("real",),
        text=unit(scene + 0.1 * rng.normal(size=scene.shape)), query=("",) * 30, query_target=np.arange(30),
        query_slot=np.zeros(30, dtype=np.int64),
    )  # fmt: skip
    terms = {"gender": {"Male": ("man",), "Female": ("woman",)}}
    captions = [f"a word{w} {'woman' if i < 10 * (1 + STRENGTH[w]) else 'man'}" for w in range(13) for i in range(20)]
    found = audit_social(
        subject(prompts=(prompts,), pairs=pairs), QUICK, transfer=people(7), corpus=Corpus(captions, terms)
    )
    effects = {(effect.kind, effect.attribute, effect.key): effect for effect in found.effects if not effect.label}
    assert effects["utility", "", "t2i_R@1"].value > 0.9
    assert effects["retention", "gender", "retention@40"].value > 0.95
    assert effects["leakage", "gender", "leakage_auc"].value > 0.8
    transfer = next(e for e in found.effects if (e.kind, e.attribute) == ("transfer", "gender"))
    assert transfer.value > 0.9
    assert transfer.label == "Male"  # of two groups, one mirrors the other
    assert {headline.set for headline in found.headlines} == {"people", "transfer"}
    assert {row.set for row in found.rows if row.category == "one"} == {"people", "transfer"}
    corpus = next(e for e in found.effects if e.kind == "corpus")
    assert corpus.value > 0.9
    assert found.counts["captions"] == len(captions)
    cell = cells_of(found, "gender", word="word12", group="Female", set="people")[0]
    assert (cell.mentions, cell.log_odds > 0) == (16, True)
    assert cells_of(found, "race", word="word12", set="people")[0].mentions == -1  # nobody's race is named
    assert "corpus_terms" in {warning.code for warning in found.warnings}


def test_two_wordings_are_two_sets_of_figures() -> None:
    both = audit_social(subject(words={"article": words(), "bare": words(0.0 * STRENGTH, seed=2)}), QUICK)
    assert [headline.mode for headline in both.headlines] == ["article"] * 3 + ["bare"] * 3
    article, bare = (find(both, "max_skew", 40, attribute="gender", mode=mode) for mode in ("article", "bare"))
    assert article.excess > bare.excess
    assert both.conventions["modes"] == ["article", "bare"]


def test_no_attribute_of_the_pictures_is_tied_where_none_is_planted() -> None:
    flat = Subject(people(), {"article": words(0.0 * STRENGTH, seed=4)})
    found = audit_social(flat, replace(QUICK, attributes=("gender",)))
    assert found.headlines[0].significant <= 2
    excess = found.headlines[0].excess
    assert excess.low_words - excess.floor <= 0.02 <= 0.02 + excess.high_words - excess.floor


def test_conventions_are_recorded(outcome: SocialOutcome, tmp_path: Path) -> None:
    document = outcome.document()
    conventions = document["conventions"]
    assert conventions["ks"] == [40, 100]
    assert conventions["words"] == {"version": "1", "sha256": "abc"}
    assert conventions["pool"]["gender"] == dict(zip(("Male", "Female"), people().grouping("gender").counts.tolist(),
                                                     strict=True))  # fmt: skip
    assert conventions["target"]["race"].keys() == {"Black", "White", "Indian"}
    assert {"scores", "ties", "zero", "floor", "modes", "tests", "intervals", "seed"} <= conventions.keys()
    assert conventions["scores"] == "cosines"

    write_social(outcome, tmp_path)
    assert json.loads((tmp_path / "audit.json").read_text()) == json.loads(json.dumps(document))
    figures = pyarrow.parquet.read_table(tmp_path / "figures.parquet").to_pylist()
    assert len(figures) == len(outcome.rows) + len(outcome.words)
    for row, listed in zip(figures, document["figures"], strict=False):
        assert {name: row[name] for name in ("category", "name", "k")} == {
            name: listed[name] for name in ("category", "name", "k")
        }
        assert row["value"] == listed["value"]
        assert row["excess"] == pytest.approx(listed["excess"])
    cells = pyarrow.parquet.read_table(tmp_path / "cells.parquet").to_pylist()
    assert [cell["association"] for cell in cells] == [cell.association for cell in outcome.cells]
    significant = [cell for cell in cells if cell["p_adjusted"] <= 0.05]
    assert len(significant) == sum(headline.significant for headline in outcome.headlines)
    for headline in outcome.headlines:
        listed, strong = (
            [cell for cell in some if cell["attribute"] == headline.attribute]
            for some in (document["strongest_cells"], significant)
        )
        expected = sorted((abs(cell["association"]) for cell in strong), reverse=True)[:50]
        assert [abs(cell["association"]) for cell in listed] == expected


def test_guardrails() -> None:
    data, asked = people(), words()
    gender = data.groupings[0]
    lone = replace(gender, code=np.where(np.arange(600) < 520, -1, gender.code))
    twice = Words(
        torch.cat([asked.text, asked.text[:1]]), (*asked.word, "word0"), (*asked.category, "three"), ("",) * 14,
        ("core",) * 14,
    )  # fmt: skip
    found = audit_social(
        Subject(replace(data, image=3.0 * data.image, groupings=(lone,)), {"file": twice}),
        replace(QUICK, ks=(40, 100), permutations=9, target="uniform"),
    )
    codes = {warning.code for warning in found.warnings}
    assert {"unknown_groups", "k_capped", "k_above_half", "word_in_two_categories", "unnormalised", "coarse_p"} <= codes
    few = audit_social(subject(), replace(QUICK, attributes=("race",), minimum=3, target="uniform"))
    assert {"few_pictures", "uniform_target"} <= {warning.code for warning in few.warnings}
    # A retriever that gives everybody the same score has no association, and says so.
    same = audit_social(Subject(replace(data, image=torch.ones(600, WIDTH)), {"file": asked}), QUICK)
    assert "no_spread" in {warning.code for warning in same.warnings}
    assert same.headlines[0].highest is None
    assert same.headlines[0].cells == 0
    terminal(same)
    json.dumps(same.document(), allow_nan=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ks": ()}, "k holds nothing"),
        ({"ks": (0,)}, "a cut-off is at least 1"),
        ({"minimum": 0}, "minimum is 0"),
        ({"permutations": -1}, "permutations is -1"),
        ({"alpha": 1.0}, "alpha is 1"),
        ({"adjust": "fdr"}, "choose bh, holm or none"),
        ({"target": "equal"}, "choose pool or uniform"),
        ({"attributes": ("height",)}, "no attribute 'height'"),
        ({"attributes": ("gender",), "minimum": 300}, "bias is between"),
        ({"target": {"gender": {"Male": 0.5, "Other": 0.5}}}, "names the groups Male, Other"),
        ({"target": {"gender": {"Male": 0.7, "Female": 0.5}}}, "sum to 1"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(RunError, match=message):
        audit_social(subject(), replace(QUICK, **options))  # type: ignore[arg-type]


def test_a_target_of_ones_own() -> None:
    shares = {"gender": {"Male": 0.2, "Female": 0.8}}
    found = audit_social(subject(), replace(QUICK, attributes=("gender", "race"), target=shares))
    assert found.headlines[0].target == pytest.approx(shares["gender"])
    assert found.headlines[1].target == pytest.approx(
        {label: count / sum(found.headlines[1].groups.values()) for label, count in found.headlines[1].groups.items()}
    )


def test_people_without_attributes_are_refused() -> None:
    with pytest.raises(RunError, match="no attribute"):
        audit_social(subject(people=replace(people(), groupings=())), QUICK)
    other = replace(people(), groupings=(Grouping("height", ("tall",), np.zeros(600, dtype=np.int64)),))
    with pytest.raises(RunError, match="--transfer: its pictures carry none"):
        audit_social(subject(), QUICK, transfer=other)


def test_packaged_terms_know_the_usual_labels() -> None:
    terms = load_group_terms()
    for label in ("East Asian", "Indian", "Black", "White", "Middle Eastern", "Latino_Hispanic", "Southeast Asian"):
        assert terms["race"][label]
    assert terms["gender"].keys() == {"Male", "Female"}
