"""Which objects captions mention, and the tables that say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules import DataError
from datamodules.objects import Mentions, load_vocabulary, slug

MENTIONS = Mentions(load_vocabulary())

# The categories of COCO's instances, in the order of their ids.
COCO = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag,
tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush
"""


def test_the_categories_are_cocos() -> None:
    assert list(load_vocabulary().categories) == [name.strip() for name in COCO.split(",")]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A hot dog on a plate", {"hot dog"}),
        ("A dog eats a hot dog", {"dog", "hot dog"}),
        ("Two teddy bears and a bear", {"teddy bear", "bear"}),
        ("A MOTOR-BIKE, parked", {"motorcycle"}),
        ("a man's bike", {"person", "bicycle"}),
        ("A woman at the bus stop", {"person"}),
        ("An orange cat", {"cat"}),
        ("An orange and white cat", {"cat"}),
        ("An orange next to an apple", {"orange", "apple"}),
        ("A peeled orange", set()),  # the rule for modifiers wants the determiner right before: too few, not too many
        ("Oranges", {"orange"}),
        ("A baseball player with a baseball bat", {"person", "baseball bat"}),
        ("A baby elephant", {"elephant"}),
        ("A couple of dogs", {"dog"}),
        ("A train car at a train station", {"train"}),
        ("A dog house beside a bird bath", set()),
        ("A pastry", set()),  # no word within a word
        ("", set()),
        ("...", set()),
    ],
)
def test_mentions(caption: str, expected: set[str]) -> None:
    assert MENTIONS.of(caption) == expected


def test_every_synonym_mentions_its_category() -> None:
    vocabulary = load_vocabulary()
    for category, synonyms in vocabulary.synonyms.items():
        for phrase in synonyms:
            assert MENTIONS.of(f"there is a {phrase}") == {category}, phrase
    for decoy in vocabulary.decoys:
        assert MENTIONS.of(decoy) == set(), decoy


def test_matrix_is_the_sets() -> None:
    captions = ["A dog and a cat", "nothing", "A pizza"]
    matrix = MENTIONS.matrix(captions)
    assert matrix.shape == (3, 80)
    for row, caption in zip(matrix, captions, strict=True):
        found = {name for name, there in zip(MENTIONS.vocabulary.categories, row, strict=True) if there}
        assert found == MENTIONS.of(caption)
    assert MENTIONS.matrix([]).shape == (0, 80)


def test_slug() -> None:
    assert [slug(name) for name in ("dog", "baseball bat")] == ["dog", "baseball-bat"]
    with pytest.raises(DataError, match="view's name"):
        slug("犬")


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text("# version: 7\ncategory,synonyms,decoys\nlamp,lamp/lamps;ceiling light,lamp post\n")
    vocabulary = load_vocabulary(str(file))
    assert (vocabulary.categories, vocabulary.version, vocabulary.hypernym["lamp"]) == (("lamp",), "7", "")
    assert Mentions(vocabulary).of("Ceiling lights? No, a ceiling-light") == {"lamp"}
    assert Mentions(vocabulary).of("A lamp post") == set()
    assert vocabulary.number("lamp") == 0
    with pytest.raises(DataError, match="'car': the vocabulary does not have it"):
        vocabulary.number("car")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("word\nx\n", "line 1: no column 'category'"),
        ("category,synonyms\n", "holds no categories"),
        ("category,synonyms\na,x\nb,x\n", "line 3: 'x' is a synonym of 'a' and of 'b'"),
        ("category,synonyms\na,x\na,y\n", "line 3: stands on another line too"),
        ("category,synonyms\na,x/y/z\n", "line 2: 'x/y/z' is neither"),
        ("category,synonyms,decoys\na,x,x\n", "line 2: 'x' cannot mention nothing and 'a'"),
    ],
)
def test_tables_that_contradict_themselves(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        load_vocabulary(str(file))
    with pytest.raises(DataError, match="cannot be read"):
        load_vocabulary(str(tmp_path / "none.csv"))
