"""The words that came along are those of the reference, prompts are worded as published, and bad lists are refused."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from datamodules.errors import DataError
from datamodules.taxonomy import (
    PROMPT_SETS,
    Entry,
    attribute_prompts,
    group_prompts,
    load_group_prompts,
    load_taxonomy,
    prompt_set,
    with_article,
    word_prompts,
)

# Counts of the published transcriptions, category by category.
CORE = {
    "appearance": 25, "behavioral": 77, "education and wealth": 23, "criminal justice": 28, "healthcare": 14,
    "portrayal in media": 23, "political": 24, "religion": 25, "occupation": 166,
}  # fmt: skip
EXTENDED = {
    "behavioral": 1, "education and wealth": 1, "criminal justice": 1, "portrayal in media": 1, "political": 1,
    "stereotyping": 30,
}  # fmt: skip
FAIRFACE = {
    "race": ("East Asian", "Indian", "Black", "White", "Middle Eastern", "Latino_Hispanic", "Southeast Asian"),
    "gender": ("Male", "Female"),
    "age": ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"),
}


# words


def test_the_words_are_those_of_the_transcriptions() -> None:
    core, every = load_taxonomy(), load_taxonomy(tiers=None)
    assert Counter(entry.category for entry in core.entries) == CORE
    extended = load_taxonomy(tiers=("extended",))
    assert Counter(entry.category for entry in extended.entries) == EXTENDED
    assert (len(core), len(extended), len(every)) == (405, 35, 440)
    assert len({entry.word for entry in core.entries}) == 400
    assert len({entry.word for entry in every.entries}) == 433
    twice = [word for word, count in Counter(entry.word for entry in core.entries).items() if count > 1]
    assert sorted(twice) == ["aggressive", "lazy", "primitive", "radical", "savage"]
    words = {entry.word for entry in every.entries}
    assert {"attorney", "uncaring"} <= words
    assert not {"attourney", "uncare"} & words


def test_parts_of_speech() -> None:
    every = {(entry.category, entry.word): entry.part_of_speech for entry in load_taxonomy(tiers=None).entries}
    unique = {entry.word: entry.part_of_speech for entry in load_taxonomy().entries}
    # CVC's table has 225 nouns and 175 adjectives, of which working-class is a slip.
    assert Counter(unique.values()) == {"noun": 224, "adjective": 176}
    assert every["education and wealth", "working-class"] == "adjective"
    assert all(part == "noun" for (category, _), part in every.items() if category == "occupation")
    adjectives = {word for (category, word), part in every.items() if (category, part) == ("political", "adjective")}
    assert adjectives == {
        "anti-american", "anti-semitic", "apolitical", "authoritarian", "divisive", "interventionist", "militant",
        "radical",
    }  # fmt: skip
    assert {word for (category, word), part in every.items() if (category, part) == ("behavioral", "noun")} == {
        "breadwinner", "conformist", "outcast",
    }  # fmt: skip


def test_version_and_digest_are_the_files() -> None:
    data = (files("datamodules.taxonomy") / "words.csv").read_bytes()
    core, crime = load_taxonomy(), load_taxonomy(categories=("criminal justice",))
    assert core.version == "1"
    assert core.digest == crime.digest == hashlib.sha256(data).hexdigest()
    assert crime.categories == ("criminal justice",)


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("word\nsmart\n  night   owl \n", encoding="utf-8-sig")
    mine = load_taxonomy(path)
    assert [(e.category, e.word, e.tier, e.part_of_speech) for e in mine.entries] == [
        ("words", "smart", "core", "adjective"),
        ("words", "night owl", "core", "adjective"),
    ]
    assert mine.version == ""
    path.write_text(
        "# version: 2024-05\n# mine\ncategory, word, part_of_speech, note\nsport,runner,noun,x\nsport,swift,,\n"
    )
    mine = load_taxonomy(path)
    assert (mine.version, mine.digest) == ("2024-05", hashlib.sha256(path.read_bytes()).hexdigest())
    assert [prompt.text for prompt in word_prompts(mine.entries)] == [
        "A photo of a runner.",
        "A photo of a swift person.",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("category,term\na,b\n", "line 1: no column 'word' .found: category, term"),
        ("# version: 1\n\nword\n", "line 2: no column 'word'|holds no words"),
        ("word\n", "holds no words"),
        ("", "no column 'word' .found: nothing"),
        ("category,word\na,b\na,\n", "line 3: the word is empty"),
        ("# version: 1\ncategory,word\na,b\na,b\n", "line 4: 'b' of category 'a' stands on line 3 too"),
        ("word,part_of_speech\nrun,verb\n", "line 2: part_of_speech 'verb'; choose noun, adjective, activity"),
        (b"word\n\xff\n", "is not UTF-8"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=f"bad.csv: .*({message})"):
        load_taxonomy(path)


def test_parts_that_are_not_there() -> None:
    with pytest.raises(DataError, match="has no tier 'gold'; it has core, extended"):
        load_taxonomy(tiers=("gold",))
    with pytest.raises(DataError, match="has no category 'crime'; it has appearance"):
        load_taxonomy(categories=("crime",))
    with pytest.raises(DataError, match="no word is of tier"):
        load_taxonomy(tiers=("core",), categories=("stereotyping",))
    with pytest.raises(DataError, match=r"nowhere.csv: the list of words cannot be read"):
        load_taxonomy("nowhere.csv")


def test_prompt_sets() -> None:
    sets = {name: prompt_set(name) for name in PROMPT_SETS}
    assert {name: len(found) for name, found in sets.items() if name != "activities"} == {
        "words": 405, "berg": 29, "opposites": 10, "stereotypes": 25, "occupations": 166,
    }  # fmt: skip
    assert all(found.name == name and found.version == "1" for name, found in sets.items())
    assert sets["opposites"].categories == (
        "good/evil", "smart/dumb", "attractive/unattractive", "lawful/criminal", "friendly/unfriendly",
    )  # fmt: skip
    crime = {entry.word for entry in load_taxonomy(categories=("criminal justice",)).entries}
    asked = {entry.word for entry in sets["stereotypes"].entries}
    assert crime - asked == {"aggressive", "diseased", "gang-related"}
    assert asked <= crime
    for prompt in word_prompts(sets["activities"].entries):
        assert prompt.text == f"A photo of a person {prompt.word}."
    with pytest.raises(DataError, match="no prompt set 'bergs'; choose words, berg"):
        prompt_set("bergs")


# prompts


def test_modes() -> None:
    entries = [
        Entry("occupation", "actor", part_of_speech="noun"),
        Entry("political", "authoritarian"),
        Entry("religion", "atheist", part_of_speech="noun"),
        Entry("wealth", "rich"),
        Entry("home", "cooking", part_of_speech="activity"),
    ]
    texts = {
        mode: [prompt.text for prompt in word_prompts(entries, mode)] for mode in ("article", "bare", "literal", "bm")
    }
    assert texts["article"] == [
        "A photo of an actor.",
        "A photo of an authoritarian person.",
        "A photo of an atheist.",
        "A photo of a rich person.",
        "A photo of a person cooking.",
    ]
    assert texts["bare"] == ["actor", "authoritarian", "atheist", "rich", "cooking"]
    assert texts["literal"][:2] == ["a photo of a/an actor", "a photo of a/an authoritarian person"]
    assert texts["bm"][:4] == [
        "a photo of a actor", "a photo of a authoritarian", "a photo of a atheist person", "a photo of a rich person",
    ]  # fmt: skip
    with pytest.raises(DataError, match="no mode 'paper'; choose article, bare, literal, bm"):
        word_prompts(entries, "paper")  # type: ignore[arg-type]


def test_the_first_letter_gives_the_article_of_every_word_that_came_along() -> None:
    for prompt in word_prompts(load_taxonomy(tiers=None).entries):
        match = re.fullmatch(r"A photo of (an?) (.).*\.", prompt.text)
        assert match is not None
        assert (match[1] == "an") == (match[2].lower() in "aeiou"), prompt.text


@pytest.mark.parametrize(
    ("words", "article"),
    [
        ("honest person", "an"), ("hourly worker", "an"), ("handsome person", "a"), ("house painter", "a"),
        ("university student", "a"), ("European", "a"), ("user", "a"), ("one-eyed person", "a"), ("unhappy man", "an"),
        ("uninsured person", "an"), ("umpire", "an"), ("onlooker", "an"), ("East Asian person", "an"),
    ],
)  # fmt: skip
def test_where_the_first_letter_misleads(words: str, article: str) -> None:
    assert with_article(words) == f"{article} {words}"


# groups


@pytest.mark.parametrize("attribute", ["race", "gender", "age", "race x gender", "race x gender x age"])
def test_every_group_of_fairface_has_prompts_that_name_it_alone(attribute: str) -> None:
    labels = [""]
    for part in attribute.split(" x "):
        labels = [f"{label} x {value}" if label else value for label in labels for value in FAIRFACE[part]]
    prompts = group_prompts(attribute, labels)
    assert {prompt.group for prompt in prompts} == set(labels)
    texts = [prompt.text for prompt in prompts]
    assert len(set(texts)) == len(texts)
    assert min(Counter(prompt.group for prompt in prompts).values()) >= 3
    assert all(text.endswith(".") and "  " not in text and "_" not in text for text in texts)


def test_how_groups_are_named() -> None:
    def first(attribute: str, label: str) -> str:
        return group_prompts(attribute, [label])[0].text

    assert first("gender", "Female") == "A photo of a woman."
    assert first("race", "Black") == "A photo of a Black person."
    assert first("race", "East Asian") == "A photo of an East Asian person."
    assert first("age", "20-29") == "A photo of a person aged 20 to 29."
    assert first("age", "more than 70") == "A photo of a person aged over 70."
    assert first("race x gender", "Black x Female") == "A photo of a Black woman."
    assert first("gender x race", "Female x Black") == "A photo of a Black woman."
    assert first("gender x age", "Male x 3-9") == "A photo of a boy aged 3 to 9."
    assert first("race x gender", "Others x Male") == "A photo of a man of another ethnicity."
    assert [prompt.text for prompt in group_prompts("race", ["Latino_Hispanic"], "bare")] == [
        "Latino person",
        "Hispanic person",
    ]


def test_word_and_group_together() -> None:
    doctor = Entry("occupation", "doctor", part_of_speech="noun")
    words = [doctor, Entry("wealth", "rich"), Entry("home", "cooking", part_of_speech="activity")]
    found = attribute_prompts("race x gender x age", ["White x Female x 20-29"], words)
    assert [prompt.text for prompt in found] == [
        "A photo of a White female doctor aged 20 to 29.",
        "A photo of a rich White woman aged 20 to 29.",
        "A photo of a White woman aged 20 to 29 cooking.",
    ]
    both = attribute_prompts("gender", ["Male", "Female"], [doctor])
    assert [(prompt.group, prompt.word, prompt.text) for prompt in both] == [
        ("Male", "doctor", "A photo of a male doctor."),
        ("Female", "doctor", "A photo of a female doctor."),
    ]


def test_prompts_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(
        json.dumps({"hair": {"red": ["A photo of a person with red hair."]}, "gender": {"Male": ["A man."]}})
    )
    own = load_group_prompts(path)
    assert [prompt.text for prompt in group_prompts("hair", ["red"], own=own)] == ["A photo of a person with red hair."]
    texts = [prompt.text for prompt in group_prompts("gender", ["Male", "Female"], own=own)]
    assert texts[:2] == ["A man.", "A photo of a woman."]
    with pytest.raises(DataError, match="no words for hair 'blond'; give prompts of your own"):
        group_prompts("hair", ["blond"], own=own)
    with pytest.raises(DataError, match="no words for race 'Female'"):
        group_prompts("race", ["Female"])
    with pytest.raises(DataError, match="does not have a part for each"):
        group_prompts("race x gender", ["Female"])
    with pytest.raises(DataError, match="no mode 'literal'"):
        group_prompts("gender", ["Female"], "literal")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "must hold an object"),
        ('{"hair": ["red"]}', "must hold an object"),
        ('{"hair": {"red": "x"}}', "hair, red: must be a list of prompts"),
        ('{"hair": {"red": []}}', "hair, red: must be a list"),
        ('{"hair": {"red": [" "]}}', "hair, red: must be a list"),
    ],
)
def test_prompts_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(DataError, match=f"bad.json: .*{message}"):
        load_group_prompts(tmp_path / "bad.json")
