"""Objects taken out of captions: written by hand for all of COCO's categories, and what holds for every caption."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.decorrelation.edit_captions import CaptionEditor
from datamodules.decorrelation.grammar import Kind, clauses, cut
from datamodules.decorrelation.planning import with_mention
from datamodules.objects import Mentions, load_vocabulary

MENTIONS = Mentions(load_vocabulary())
EDITOR = CaptionEditor(MENTIONS)
with (Path(__file__).parent / "edited_captions.csv").open(encoding="utf-8", newline="") as _file:
    CASES = [(row["category"], row["caption"], row["expected"]) for row in csv.DictReader(_file)]


@pytest.mark.parametrize(("category", "caption", "expected"), CASES)
def test_cases_by_hand(category: str, caption: str, expected: str) -> None:
    edit = EDITOR(caption, category)
    assert (edit.text if edit else "") == expected


def test_the_cases_cover_all_categories() -> None:
    assert {category for category, _, _ in CASES} == set(MENTIONS.vocabulary.categories)
    assert len(CASES) >= 100


def test_how() -> None:
    assert EDITOR("A cat", "dog") == ("A cat", "untouched")
    assert EDITOR("A dog on a mat", "dog") == ("A mat", "deleted")
    assert EDITOR("A dog runs", "dog") == ("An animal runs", "hypernym")
    assert EDITOR("Two dogs run", "dog") == ("Two animals run", "hypernym")
    assert EDITOR("A man runs", "person") is None


WORDS = """
    a an the two dog cat man people horse frisbee couch table red big sitting standing riding holds sits are is on in
    with next to of and , while that it his looking at group pizza plate . park grass there wearing hat
""".split()  # noqa: SIM905


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=14).map(" ".join),
    st.sampled_from(["dog", "person", "frisbee", "pizza", "couch"]),
)
def test_what_comes_out_mentions_the_object_no_more(caption: str, category: str) -> None:
    edit = EDITOR(caption, category)
    if edit is None:
        assert category in MENTIONS.of(caption)
        return
    assert category not in MENTIONS.of(edit.text)
    assert edit.text.strip()
    assert (edit.text == caption) == (edit.how == "untouched")
    if edit.how == "deleted":  # adds no object that was not there, and no word but articles, "and" and agreement
        assert MENTIONS.of(edit.text) <= MENTIONS.of(caption)
        words = {word.low for word in cut(caption)} | {
            "a",
            "an",
            "and",
            "is",
            "in",
            "on",
            "by",
            "hold",
            "holds",
            "sits",
        }
        assert {word.low for word in cut(edit.text)} <= words
        assert edit.text.split()[-1].strip(".,").lower() not in {"and", "with", "of", "a", "an", "the", "next", "while"}


def test_real_captions(shared_data: Path) -> None:
    import json
    import tarfile

    with tarfile.open(shared_data / "coco_tiny.tar") as archive:
        file = archive.extractfile("annotations/captions.json")
        assert file is not None
        captions = [entry["caption"] for entry in json.load(file)["annotations"]]
    pairs = [(caption, category) for caption in captions for category in sorted(MENTIONS.of(caption))]
    edits = [EDITOR(caption, category) for caption, category in pairs]
    assert len(pairs) > 400
    deleted = 0
    for (_, category), edit in zip(pairs, edits, strict=True):
        if edit is not None:
            assert category not in MENTIONS.of(edit.text)
            deleted += edit.how == "deleted"
    assert deleted > 0.9 * len(pairs)  # a hypernym is the exception


def test_segments_keep_every_token() -> None:
    caption = "A man in a suit rides a horse and a dog jumps while it rains, next to a lamp that is broken"
    words = cut(caption)
    found = clauses(words)
    numbers = [at for clause in found for at in clause.opening]
    numbers += [at for clause in found for segment in clause.segments for at in (*segment.link, *segment.phrase)]
    assert sorted(numbers) == list(range(len(words)))
    assert found[0].segments[0].kind is Kind.START


def test_decoys_are_mentioned() -> None:
    for category in MENTIONS.vocabulary.categories:
        for caption in ("A man rides a horse.", "grass"):
            edited = with_mention(caption, category)
            assert MENTIONS.of(edited) == MENTIONS.of(caption) | {category}
            assert edited.endswith(".") == caption.endswith(".")
