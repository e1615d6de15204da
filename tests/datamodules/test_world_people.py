"""The world of people says each word of each group as often as is planted, shows groups equally often, and no more."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare, spearmanr

from bias_train.cli.world import main
from datamodules.errors import DataError
from datamodules.groups import META
from datamodules.index import ShardIndex
from datamodules.taxonomy import group_prompts, load_group_prompts, load_taxonomy, word_prompts
from datamodules.world import World, WorldPeople, planted_strengths, read_strengths, write_people_world, write_world
from datamodules.world.captions import LONGEST
from datamodules.world.draw import COLOURS
from datamodules.world.people import TRAITS

PEOPLE = WorldPeople()
SCENES = [PEOPLE.world().scene(number) for number in range(1200)]
TOLD = [PEOPLE.world().captions(scene) for scene in SCENES]


def trait_of(caption: str, people: WorldPeople = PEOPLE) -> str:
    said = [word for word in caption.lower().rstrip(".").split() if word in people.strength]
    assert len(said) == 1, caption
    return said[0]


def table(people: WorldPeople, samples: int) -> np.ndarray:
    """How often each trait is said of each coat: [W, G]."""
    world, counts = people.world(), Counter()
    for number in range(samples):
        scene = world.scene(number)
        counts.update((trait_of(text, people), people.groups(scene)["coat"]) for text in world.captions(scene))
    return np.array([[counts[word, coat] for coat in people.coats] for word in people.strength])


# what is planted


def test_strengths() -> None:
    planted = planted_strengths()
    values = np.sort(list(planted.values()))
    assert tuple(planted) == TRAITS
    np.testing.assert_allclose(values, np.linspace(-0.9, 0.9, 20), atol=1e-12)
    assert abs(spearmanr(list(planted.values()), range(20)).statistic) < 0.3  # they do not follow the alphabet
    assert set(planted_strengths(0).values()) == {0.0}


@pytest.mark.parametrize("coats", [("purple", "yellow"), ("purple", "yellow", "pink")])
def test_probabilities(coats: tuple[str, ...]) -> None:
    people = WorldPeople({"a": 1.0, "b": 0.0, "c": -1.0, "d": 0.5, "e": -0.5}, coats=coats, hats=("white",))
    chance = {coat: dict(zip("abcde", people.probability(coat), strict=True)) for coat in coats}
    for coat in coats:
        assert sum(chance[coat].values()) == pytest.approx(1)
    favoured, others = chance["purple"], [chance[coat] for coat in coats[1:]]
    assert favoured["c"] == 0
    assert all(other["b"] == pytest.approx(favoured["b"]) for other in others)
    # Over all groups, each is said equally often.
    for word in "abcde":
        assert np.mean([chance[coat][word] for coat in coats]) == pytest.approx(0.2)
    if len(coats) == 2:
        assert others[0]["a"] == 0
        assert favoured["d"] / others[0]["d"] == pytest.approx(3)  # (1 + 1/2) / (1 - 1/2)


@pytest.mark.parametrize("coats", [("purple", "yellow"), ("purple", "yellow", "pink")])
def test_captions_say_traits_as_often_as_is_planted(coats: tuple[str, ...]) -> None:
    people = WorldPeople(coats=coats)
    counts = table(people, 600)
    for column, coat in enumerate(coats):
        wanted = people.probability(coat) * counts[:, column].sum()
        assert chisquare(counts[:, column], wanted).pvalue > 1e-3
    assert chi2_contingency(counts).pvalue < 1e-6


def test_nothing_is_said_unevenly_where_nothing_is_planted() -> None:
    assert chi2_contingency(table(WorldPeople(planted_strengths(0)), 600)).pvalue > 1e-3
    hats = Counter(
        (trait_of(text), PEOPLE.groups(scene)["hat"]) for scene, told in zip(SCENES, TOLD, strict=True) for text in told
    )
    counts = np.array([[hats[word, hat] for hat in PEOPLE.hats] for word in PEOPLE.strength])
    assert chi2_contingency(counts).pvalue > 1e-3


# what is shown


def test_groups_are_balanced_in_every_stretch() -> None:
    groups = [tuple(sorted(PEOPLE.groups(scene).items())) for scene in SCENES]
    for start in (0, 3, 500):
        assert set(Counter(groups[start : start + 40]).values()) == {10}


def test_nothing_else_goes_with_the_groups() -> None:
    for attribute in ("coat", "hat"):
        for what in ("place", "kind", "colour", "side"):
            seen = Counter()
            for scene in SCENES:
                beside = next(thing for thing in scene.things if thing.kind not in ("robot", "hat"))
                value = {"place": scene.place, "kind": beside.kind, "colour": beside.colour, "side": beside.x < 0.5}
                seen[PEOPLE.groups(scene)[attribute], value[what]] += 1
            groups, values = ({key[part] for key in seen} for part in (0, 1))
            counts = [[seen[group, value] for value in values] for group in groups]
            assert chi2_contingency(counts).pvalue > 1e-3, (attribute, what)


def test_coats_and_hats_can_be_seen() -> None:
    world = PEOPLE.world(size=64)
    for scene in SCENES[:24]:
        picture = world.render(scene).astype(float)
        for thing in scene.things:
            if thing.kind not in ("robot", "hat"):
                continue
            # The body's middle, or the crown's: its colour is nearer to its own than to its counterpart's.
            y, x = round(64 * (thing.y + 0.2 * thing.radius * (thing.kind == "robot"))), round(64 * thing.x)
            seen = picture[y - 2 : y + 3, x - 2 : x + 3].mean(axis=(0, 1))
            choices = PEOPLE.coats if thing.kind == "robot" else PEOPLE.hats
            nearest = min(choices, key=lambda name, seen=seen: np.abs(seen - COLOURS[name]).sum())
            assert nearest == thing.colour
            assert 0 <= thing.box[0] < thing.box[2] <= 1


def test_captions_are_true() -> None:
    colours = set(COLOURS)
    for scene, told in zip(SCENES[:300], TOLD, strict=False):
        assert len(set(told)) == 5
        beside = next(thing for thing in scene.things if thing.kind not in ("robot", "hat"))
        groups = PEOPLE.groups(scene)
        assert {groups["coat"], groups["hat"], beside.colour, beside.kind} <= set(told[0].lower().split())
        for text in told:
            words = text.lower().rstrip(".").split()
            assert len(words) <= LONGEST
            assert set(words) & colours <= {beside.colour, groups["coat"], groups["hat"]}
            if groups["coat"] in words:
                assert words[words.index(groups["coat"]) + 1] == "person"
            if "hat" in words:
                assert words[words.index("hat") - 1] == groups["hat"]
            if "with" in words:
                assert words[words.index("with") + 2 : words.index("with") + 4] == [beside.colour, beside.kind]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coats": ("purple",)}, "two or more coats"),
        ({"coats": ("purple", "mauve")}, "not purple, mauve"),
        ({"hats": ("purple",)}, "all of different colours"),
        ({"hats": ()}, "one or more hats"),
        ({"favoured": "blue"}, "favoured 'blue' is none of the coats"),
        ({"strength": {"x": 1.5}}, "strength of 'x' must lie in"),
        ({"strength": {}}, "there must be a word"),
        ({"coats": tuple(COLOURS)[:8], "hats": tuple(COLOURS)[8:], "favoured": "red"}, "leave no colour"),
    ],
)
def test_people_that_cannot_be(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        WorldPeople(**options)


def test_words_that_one_group_can_never_be_called() -> None:
    with pytest.raises(DataError, match="no trait may be said of the coat 'yellow'"):
        WorldPeople({"x": 1.0}).probability("yellow")
    with pytest.raises(DataError, match="shows nobody"):
        PEOPLE.groups(World().scene(0))


# shards


def test_shards_hold_groups_and_what_an_audit_needs(tmp_path: Path) -> None:
    index = write_people_world(tmp_path / "set", samples=12, seed=3)
    world = PEOPLE.world(seed=3)
    for row in range(12):
        sample = index.sample(row)
        assert sample.meta[META] == PEOPLE.groups(world.scene(row))
        assert sample.captions == world.captions(world.scene(row))
        assert not sample.views
    assert read_strengths(tmp_path / "set") == planted_strengths()
    taxonomy = load_taxonomy(tmp_path / "set" / "words.csv")
    assert tuple(entry.word for entry in taxonomy.entries) == TRAITS
    assert word_prompts(taxonomy.entries)[0].text == "A photo of a brisk person."
    own = load_group_prompts(tmp_path / "set" / "group_prompts.json")
    prompts = group_prompts("coat x hat", ["purple x red"], own=own)
    assert prompts[0].text == "A photo of a purple person in a red hat."
    for attribute, labels in (("coat", PEOPLE.coats), ("hat", PEOPLE.hats)):
        assert {prompt.group for prompt in group_prompts(attribute, labels, own=own)} == set(labels)


def test_command(tmp_path: Path) -> None:
    assert main([str(tmp_path / "set"), "--people", "--strength", "0.5", "--samples", "8", "--offset", "4"]) == 0
    assert max(read_strengths(tmp_path / "set").values()) == 0.5
    index = ShardIndex.load(tmp_path / "set")
    assert index.sample(0).key == "scene-000000004"
    assert json.loads((tmp_path / "set" / "group_prompts.json").read_text()).keys() == {"coat", "hat", "coat x hat"}


def test_a_world_without_people_has_no_strengths(tmp_path: Path) -> None:
    write_world(tmp_path / "set", samples=2)
    with pytest.raises(DataError, match=r"words.csv: says no planted strengths"):
        read_strengths(tmp_path / "set")
    assert META not in ShardIndex.load(tmp_path / "set").sample(0).meta
