"""Words: the traps of case, punctuation and missing values, and that picked words are never said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules import DataError
from datamodules.lettering.fonts import DEFAULT, covers, font_names, is_unspaced
from datamodules.lettering.words import (
    FUNCTION_WORDS,
    content_words,
    digest_of,
    load_words,
    normalised,
    pick_word,
    says,
    words_of,
)


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("STOP", "stop"), ("stop!", "stop"), ("“Stop”", "stop"), ("(stop)", "stop"), ("$9.99", "9.99"),
        ("t-shirt,", "t-shirt"), ("don't", "don't"), ("ﬁre", "fire"), ("Ｓtop", "stop"), ("STRASSE", "strasse"),
        ("Straße", "strasse"), ("ΣΊΣΥΦΟΣ", "σίσυφοσ"), ("İstanbul", "i̇stanbul"), ("cafe\u0301", "café"),
        ("हिन्दी।", "हिन्दी"), ("猫。", "猫"), ("--", ""), ("", ""), ("null", "null"),
    ],
)  # fmt: skip
def test_normalised(word: str, wanted: str) -> None:
    assert normalised(word) == wanted


@given(st.text())
def test_normalising_again_changes_nothing(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


def test_words_of_captions() -> None:
    caption = "  A man, in a RED t-shirt - walks (slowly)\tto St. John's... "
    assert words_of(caption) == ("a", "man", "in", "a", "red", "t-shirt", "walks", "slowly", "to", "st", "john's")
    assert content_words(caption) == ("man", "red", "t-shirt", "walks", "slowly", "st", "john's")
    assert content_words("The 3 of them are on it.") == ()
    assert words_of("一只猫。") == ("一只猫",)


@pytest.mark.parametrize(
    ("caption", "word", "said"),
    [
        ("Two dogs play.", "dog", True), ("A dog.", "DOGS", True), ("Two BOXES", "box", True), ("ladies", "lady", True),
        ("some leaves", "leaf", True), ("The dog's bone", "dog", True), ("a horse", "horses", True),
        ("two mice", "mouse", False), ("a doghouse", "dog", False), ("a glass", "glas", False), ("a bus", "bus", True),
        ("glasses", "glass", True), ("a hot, dog", "hot dog", True), ("a dog is hot", "hot dog", False),
        ("Two hot dogs!", "hot dog", True), ("buses", "bus", True), ("a bee", "be", False), ("a car", "care", False),
        ("草地上的猫", "猫", True), ("草地上的猫", "狗", False), ("a cat", "...", False), ("", "cat", False),
    ],
)  # fmt: skip
def test_says(caption: str, word: str, said: bool) -> None:
    assert says([caption], word) is said


@given(
    st.lists(st.sampled_from(["cat", "dog", "cow", "hot dog", "null", "nan", "bus"]), min_size=1, unique=True),
    st.lists(st.sampled_from(["A cat.", "Dogs and cows", "a hot dog", "NULL and void", "A bus!", "nothing"])),
    st.floats(0, 1, exclude_max=True),
)
def test_picked_words_are_not_said(words: list[str], captions: list[str], u: float) -> None:
    """Against a search for the word, in one number or the other, between the captions' letters."""
    text = " | ".join(captions).lower()
    free = [word for word in words if not re.search(rf"\b{word}(s|es)?\b", text)]
    if not free:
        with pytest.raises(DataError, match="captions say every word of the list"):
            pick_word(words, captions, u)
        return
    picked = pick_word(words, captions, u)
    assert picked in free
    at = int(u * len(words))
    assert picked == next(word for word in words[at:] + words[:at] if word in free)


def test_an_empty_list() -> None:
    with pytest.raises(DataError, match="the list of words is empty"):
        pick_word((), ["a cat"], 0.5)


def test_lists_of_lines_and_columns(tmp_path: Path) -> None:
    lines = tmp_path / "words.txt"
    lines.write_bytes("\ufeffnull\n\n nan\nNaN\nhot  dog\nCat\ncat!\n猫\n...\n".encode())
    assert load_words(lines) == ("null", "nan", "hot dog", "Cat", "猫")
    table = tmp_path / "words.csv"
    table.write_text('count,word\n12,null\n3,"cat, black"\n1,NA\n', encoding="utf-8")
    assert load_words(table) == ("null", "cat, black", "NA")
    table.write_text("null,9\nnan,8\nNone,7\n", encoding="utf-8")  # as the paper's list: no header, the first column
    assert load_words(str(table)) == ("null", "nan", "None")


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt: cannot be read as UTF-8"):
        load_words(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("Kühe\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt: cannot be read as UTF-8"):
        load_words(tmp_path / "latin.txt")
    (tmp_path / "empty.txt").write_text("\n ... \n")
    with pytest.raises(DataError, match=r"empty\.txt: holds no word"):
        load_words(tmp_path / "empty.txt")
    (tmp_path / "short.csv").write_text("count,word\n3\n")
    with pytest.raises(DataError, match=r"short\.csv: row \['3'\] has no column 2"):
        load_words(tmp_path / "short.csv")


def test_the_shipped_list() -> None:
    words = load_words()
    assert 950 <= len(words) <= 1100
    assert all(re.fullmatch("[a-z]{3,}", word) or word in ("ax", "ox") for word in words)
    assert len({normalised(word) for word in words}) == len(words)
    assert not set(words) & FUNCTION_WORDS
    assert all(covers(DEFAULT, word) for word in words)
    assert digest_of(words) != digest_of(words[::-1])
    assert len(digest_of(words)) == 64


@pytest.mark.parametrize(
    ("name", "font"),
    [
        ("ru", DEFAULT), ("el", DEFAULT), ("ar", DEFAULT), ("he", DEFAULT), ("hi", "noto-sans-devanagari"),
        ("th", "noto-sans-thai"), ("zh", "noto-sans-cjk"), ("ja", "noto-sans-cjk"), ("ko", "noto-sans-cjk"),
    ],
)  # fmt: skip
def test_lists_of_other_scripts(name: str, font: str) -> None:
    words = load_words(name)
    assert 50 <= len(words) <= 70
    assert not any(re.search("[a-zA-Z]", word) for word in words)
    if font not in font_names():
        pytest.skip(f"the font {font} of the extra `text` is not installed")
    assert all(covers(font, word) for word in words)
    # What one says is found in its own writing, with or without spaces around it.
    assert all(says([f"{word}。" if is_unspaced(word) else f"{words[0]} {word}!"], word) for word in words)
