"""Captions without the words of their picture: cases by hand, and what holds of all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.curation.caption_edit import edit_caption
from datamodules.curation.overlap import word_set
from datamodules.lettering.words import FUNCTION_WORDS


@pytest.mark.parametrize(
    ("caption", "words", "expected"),
    [
        ("a big dog", ["cat"], "a big dog"),
        ("a big dog.", [], "a big dog."),
        ('A red sign that says "STOP" on a pole.', ["stop"], "A red sign on a pole."),
        ("A sign reading: NO PARKING.", ["no", "parking"], "A sign."),  # "no" goes with its neighbour
        ("no dogs on the beach", ["NO SMOKING"], "no dogs on the beach"),  # "no" alone stays
        ('A man in a shirt with the words "Just Do It" runs.', ["JUST DO IT"], "A man in a shirt runs."),
        ("Welcome to Las Vegas poster", ["WELCOME TO", "Las Vegas"], "Poster"),
        ("a bottle of Coca Cola on a table", ["coca", "cola"], "a bottle on a table"),
        ("The store is called Walmart", ["walmart"], "The store"),
        ("a bus with the number 42 on it", ["42"], "a bus on it"),
        ("a poster (2019) of Batman", ["2019", "batman"], "a poster"),
        ("an apple and a pear", ["pear"], "an apple"),
        ("a white umbrella next to an open door", ["open"], "a white umbrella next to a door"),
        ("a green apple", ["GREEN"], "an apple"),
        ("A dog runs with the word stop", ["stop"], "A dog runs"),
        ("a photo of a stop", ["stop"], "a photo"),
        ("It's a 'STOP' sign, stop here.", ["stop"], "It's a sign, here."),
        ("Sale, sale, sale at the mall!", ["SALE"], "At the mall!"),
        ("the picture says open and the door is closed", ["open"], "the picture and the door is closed"),
        ("Open air concert", ["open"], "Air concert"),
        ("une affiche « CIRQUE » au mur", ["cirque"], "une affiche au mur"),
        ("stop", ["STOP"], None),
        ("“Stop!”", ["stop"], None),
        ("the stop", ["STOP"], None),  # an article says nothing
        ("停车场", ["停车场"], None),
        ("", ["stop"], ""),
    ],
)
def test_captions_by_hand(caption: str, words: list[str], expected: str | None) -> None:
    assert edit_caption(caption, words) == expected


def test_function_words_can_go_too() -> None:
    assert edit_caption("a dog in the sun", ["the"]) == "a dog in the sun"
    assert edit_caption("a dog in the sun", ["the"], keep_function_words=False) == "a dog in sun"


vocabulary = st.sampled_from(
    ["a", "an", "the", "of", "on", "with", "says", "reading", "open", "closed", "stop", "sign", "red", "apple", "door"]
)
marks = st.sampled_from(["", "", "", ",", ".", "!", ":"])
tokens = st.tuples(st.sampled_from(["", "", '"', "("]), vocabulary, marks, st.sampled_from(["", "", '"', ")"]))


@given(st.lists(tokens, min_size=1, max_size=12), st.lists(vocabulary, max_size=5))
def test_what_holds_of_every_caption(parts: list[tuple[str, str, str, str]], written: list[str]) -> None:
    caption = " ".join("".join(part) for part in parts)
    edited = edit_caption(caption, written)
    drop = set(written) - FUNCTION_WORDS
    if not drop & word_set(caption):
        assert edited == caption
        return
    if edited is None:
        return
    left = word_set(edited)
    assert not left & drop  # no word of content that is written
    assert left - {"a", "an"} <= word_set(caption)  # nothing is invented
    assert left - FUNCTION_WORDS
    assert edited == " ".join(edited.split())
    assert "\x00" not in edited
    assert "\x01" not in edited
    assert edit_caption(edited, written) == edited  # once is enough
