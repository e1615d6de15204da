"""Captions of the embedded world: true, grammatical, different."""

import re
from dataclasses import replace

import pytest

from datamodules.errors import DataError
from datamodules.world import Scene, Thing, World
from datamodules.world.captions import LONGEST, PLACE_PHRASES, noun_phrase, with_article
from datamodules.world.draw import COLOURS, KINDS
from datamodules.world.scene import EVERYDAY_PLACES

WORLD = World(seed=21)
SCENES = [WORLD.scene(index) for index in range(1500)]
TOLD = [(scene, caption) for scene in SCENES for caption in WORLD.captions(scene)]
_NOUN = re.compile(
    r"\b(?P<article>an?) (?:(?P<size>small|large) )?"
    rf"(?:(?P<colour>{'|'.join(COLOURS)}) )?(?P<kind>{'|'.join(KINDS)})\b",
    re.IGNORECASE,
)


def test_five_different_captions_each() -> None:
    for scene in SCENES:
        told = WORLD.captions(scene)
        assert len({caption.rstrip(".").lower() for caption in told}) == 5


def test_every_thing_that_is_mentioned_is_in_the_scene_with_colour_and_size() -> None:
    for scene, caption in TOLD:
        mentioned = list(_NOUN.finditer(caption))
        assert mentioned, caption
        assert len({match["kind"].lower() for match in mentioned}) == len(mentioned), caption
        for match in mentioned:
            [thing] = [thing for thing in scene.things if thing.kind == match["kind"].lower()]
            assert match["colour"] in (None, thing.colour), caption
            assert match["size"] in (None, thing.size), caption


def test_no_word_of_a_thing_stands_outside_its_noun_phrase() -> None:
    words = set(COLOURS) | set(KINDS) | {"small", "large", "medium"}
    for _, caption in TOLD:
        rest = _NOUN.sub(" ", caption)
        assert not words & set(re.findall(r"[a-z]+", rest.lower())), caption


def test_no_other_place_is_named() -> None:
    for scene, caption in TOLD:
        named = {place for place, phrases in PLACE_PHRASES.items() if any(p in caption.lower() for p in phrases)}
        assert named <= {scene.place}, caption
    assert set(EVERYDAY_PLACES) <= set(PLACE_PHRASES)


def test_relations_are_true() -> None:
    checked = dict.fromkeys(("to the left of", "to the right of", "above", "over", "below", "between", "from left"), 0)
    for scene, caption in TOLD:
        at = {thing.kind: (thing.x, thing.y) for thing in scene.things}
        named = [at[match["kind"].lower()] for match in _NOUN.finditer(caption)]
        for relation in checked:
            if f"{relation} " not in caption.lower() or (relation == "over" and len(named) != 2):
                continue
            checked[relation] += 1
            (x0, y0), (x1, y1) = named[:2]
            match relation:
                case "to the left of":
                    assert x0 < x1, caption
                case "to the right of":
                    assert x0 > x1, caption
                case "above" | "over":
                    assert y0 < y1, caption
                case "below":
                    assert y0 > y1, caption
                case "between":
                    assert min(x1, named[2][0]) < x0 < max(x1, named[2][0]), caption
                case "from left":
                    assert [x for x, _ in named] == sorted(x for x, _ in named), caption
    assert min(checked.values()) > 20, checked


def test_sides_are_true() -> None:
    seen = 0
    for scene, caption in TOLD:
        for words, arrangement in (("on the left", "left"), ("in the middle", "centre"), ("on the right", "right")):
            if words in caption.lower():
                assert scene.arrangement == arrangement, caption
                seen += 1
    assert seen > 100


def test_grammar() -> None:
    for _, caption in TOLD:
        assert caption[0].isupper()
        assert "  " not in caption
        assert " ," not in caption
        assert caption.rstrip(".").split()[-1] not in {"and", "of", "is", "there", "a", "an", "to", "between", "seen,"}
        assert len(caption.split()) <= LONGEST
        for article, word in re.findall(r"\b(an?) (\w)", caption, re.IGNORECASE):
            assert (article.lower() == "an") == (word in "aeiou"), caption


def test_the_first_caption_tells_most_and_not_all_tell_everything() -> None:
    whole = partial = 0
    for scene in SCENES:
        for slot, caption in enumerate(WORLD.captions(scene)):
            matches = list(_NOUN.finditer(caption))
            complete = (
                len(matches) == len(scene.things)
                and all(match["colour"] for match in matches)
                and any(phrase in caption.lower() for phrase in PLACE_PHRASES[scene.place])
            )
            if slot == 0:
                assert complete, caption
            else:
                whole += complete
                partial += not complete
    assert 0.15 < partial / (whole + partial) < 0.7


def test_articles() -> None:
    cup = Thing("cup", "orange", "large", 0.5, 0.5, 0.2)
    assert noun_phrase(cup, size=True, colour=True) == "a large orange cup"
    assert noun_phrase(cup, size=False, colour=True) == "an orange cup"
    assert noun_phrase(replace(cup, kind="umbrella"), size=False, colour=False) == "an umbrella"
    assert noun_phrase(replace(cup, size="medium"), size=True, colour=False) == "a cup"
    assert with_article("ear") == "an ear"


def test_a_crowd_has_no_words_yet() -> None:
    crowd = tuple(Thing("cup", "red", "small", 0.5, 0.5, 0.1) for _ in range(4))
    with pytest.raises(DataError, match="4 things"):
        WORLD.captions(Scene(0, "sky", "row", crowd))
