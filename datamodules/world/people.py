"""A world with people in it, robots in coats and hats, of whom neutral words are said as unevenly as is planted.

All of it is our own construction. Nobody is drawn as a human; coats and hats only stand where a data set of people has
attributes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError
from datamodules.groups import CROSS, META
from datamodules.index import ShardIndex
from datamodules.world.captions import PLACE_PHRASES, noun_phrase, with_article
from datamodules.world.draw import COLOURS
from datamodules.world.scene import CAMOUFLAGE, EVERYDAY_COLOURS, EVERYDAY_KINDS, EVERYDAY_PLACES, Scene, Thing
from datamodules.world.world import World
from datamodules.world.write import write_world

TRAITS = (
    "brisk", "careful", "cheerful", "clever", "curious", "daring", "frank", "gentle", "humble", "keen", "lively",
    "loyal", "mellow", "nimble", "patient", "quiet", "sleepy", "steady", "tidy", "witty",
)  # fmt: skip
WORDS_FILE, PROMPTS_FILE = "words.csv", "group_prompts.json"
_STEP = 7  # no divisor of the number of traits: strengths do not follow the alphabet


def planted_strengths(strongest: float = 0.9) -> dict[str, float]:
    """Strengths for `TRAITS` at equal distances from ``-strongest`` to ``strongest``; 0 plants nothing.

    >>> table = planted_strengths()
    >>> max(table.values()), round(sum(table.values()), 9)
    (0.9, 0.0)
    """
    levels = np.linspace(-strongest, strongest, len(TRAITS)).tolist()
    return {trait: levels[(_STEP * row + 3) % len(TRAITS)] for row, trait in enumerate(TRAITS)}


@dataclass(frozen=True)
class WorldPeople:
    """Who lives in the world and what is said of them.

    Each picture shows one robot, with a coat (it is painted) and a hat, and a thing beside it. Coats and hats take
    turns over the scenes' numbers, so that every stretch of a multiple of coats times hats holds them all equally
    often. Each caption says one trait, which no picture shows: of a robot in the coat ``favoured``, the trait w with a
    probability proportional to 1 + s(w), of the G - 1 other coats to 1 - s(w) / (G - 1). So s = 0 is said of all alike,
    1 of the favoured alone and -1 never of it; summed over the coats a trait is said equally often whatever its
    strength (where the strengths sum to 0). Hats have nothing to do with traits: no association is planted with them.

    Attributes:
        strength: s of each trait, in [-1, 1].
        coats: Colours of robots, 2 or more.
        hats: Colours of hats, 1 or more, none of them a coat's.
        favoured: The coat to which the strengths refer.
    """

    strength: Mapping[str, float] = field(default_factory=planted_strengths)
    coats: tuple[str, ...] = ("purple", "yellow")
    hats: tuple[str, ...] = ("green", "red")
    favoured: str = "purple"

    def __post_init__(self) -> None:
        worn = (*self.coats, *self.hats)
        if len(self.coats) < 2 or not self.hats or len(set(worn)) < len(worn) or not set(worn) <= set(COLOURS):
            raise DataError(
                f"world: people need two or more coats and one or more hats, all of different colours, of "
                f"{', '.join(COLOURS)}; not {', '.join(self.coats)} and {', '.join(self.hats)}"
            )
        if self.favoured not in self.coats:
            raise DataError(f"world: favoured {self.favoured!r} is none of the coats {', '.join(self.coats)}")
        wrong = next((word for word, s in self.strength.items() if not -1 <= s <= 1), None)
        if wrong is not None or not self.strength:
            raise DataError(f"world: the strength of {wrong!r} must lie in [-1, 1], and there must be a word")
        if not all(self._free(place) for place in self.places):
            raise DataError(f"world: {', '.join(worn)} leave no colour for the things beside people; choose fewer")

    @property
    def places(self) -> tuple[str, ...]:
        """Places in which every coat and hat can be seen."""
        return tuple(place for place in EVERYDAY_PLACES if not CAMOUFLAGE[place] & {*self.coats, *self.hats})

    def _free(self, place: str) -> list[str]:
        """Colours of the things that may stand there."""
        return [c for c in EVERYDAY_COLOURS if c not in {*CAMOUFLAGE[place], *self.coats, *self.hats}]

    def world(self, seed: int = 0, size: int = 32) -> World:
        """The world that they live in; it has photos only."""
        return World(seed=seed, size=size, generators=(), compose=self.compose, tell=self.tell, facts=self.facts)

    def probability(self, coat: str) -> npt.NDArray[np.float64]:
        """How often each trait is said of a coat, in the order of ``strength``: [W], sums to 1."""
        strength = np.array(list(self.strength.values()))
        weight = 1 + strength if coat == self.favoured else 1 - strength / (len(self.coats) - 1)
        if not weight.any():
            raise DataError(f"world: no trait may be said of the coat {coat!r}; plant weaker strengths")
        return weight / weight.sum()

    def groups(self, scene: Scene) -> dict[str, str]:
        """Which groups the robot of a scene belongs to, by attribute.

        Raises:
            DataError: If the scene is not of a world of people.
        """
        robot, hat, _ = self._things(scene)
        return {"coat": robot.colour, "hat": hat.colour}

    def facts(self, scene: Scene) -> dict[str, Any]:
        """The groups, where a sample's meta has them."""
        return {META: self.groups(scene)}

    def compose(self, index: int, rng: np.random.Generator) -> Scene:
        """A robot with a hat and a thing beside it; thing, side and place are independent of coat and hat."""
        coat = self.coats[index % len(self.coats)]
        hat = self.hats[index // len(self.coats) % len(self.hats)]
        place = self.places[rng.integers(len(self.places))]
        free = self._free(place)
        what, colour = EVERYDAY_KINDS[rng.integers(len(EVERYDAY_KINDS))], free[rng.integers(len(free))]
        left = bool(rng.random() < 0.5)
        (dx, dy, *_), (ex, ey, *_) = np.clip(rng.standard_normal((2, 2)), -2, 2).tolist()
        tones = (1 + 0.05 * np.clip(rng.standard_normal(3), -2, 2)).tolist()
        centre = (0.36 if left else 0.64) + 0.015 * dx
        foot = 0.02 * dy

        def thing(kind: str, colour: str, size: str, x: float, y: float, radius: float, tone: float) -> Thing:
            return Thing(kind, colour, size, round(x, 4), round(y, 4), radius, shade=round(tone, 3))

        robot = thing("robot", coat, "large", centre, 0.62 + foot, 0.3, tones[0])
        worn = thing("hat", hat, "medium", centre, 0.27 + foot, 0.17, tones[1])
        beside = thing(what, colour, "medium", (0.83 if left else 0.17) + 0.015 * ex, 0.7 + 0.03 * ey, 0.14, tones[2])
        things = (robot, worn, beside) if left else (beside, robot, worn)
        return Scene(index, place, "row", things, int(rng.integers(2**31)))

    def tell(self, scene: Scene, rng: np.random.Generator, count: int) -> tuple[str, ...]:
        """Different captions of one scene, the fullest first.

        Each says a trait. The first also says coat, hat, thing and place, which the others leave out at random.

        Args:
            scene: What the picture shows.
            rng: Draws words and dropped details.
            count: Number of captions.
        """
        told = [self._caption(scene, rng, everything=True)]
        for _ in range(200):
            if len(told) == count:
                break
            caption = self._caption(scene, rng)
            if caption not in told:
                told.append(caption)
        return tuple(told)

    def _caption(self, scene: Scene, rng: np.random.Generator, *, everything: bool = False) -> str:
        robot, hat, thing = self._things(scene)
        trait = rng.choice(list(self.strength), p=self.probability(robot.colour))
        coat, worn, beside, there = (rng.random(4) < (1 if everything else np.array(_MENTIONED))).tolist()
        places = PLACE_PHRASES[scene.place]
        said = [
            _OPENINGS[rng.integers(len(_OPENINGS))],
            with_article(f"{trait} {robot.colour} person" if coat else f"{trait} person"),
            f"in {with_article(hat.colour)} hat" if worn else "",
            f"with {noun_phrase(thing, size=False, colour=True)}" if beside else "",
            places[rng.integers(len(places))] if there else "",
        ]
        caption = " ".join(filter(None, said))
        return f"{caption[0].upper()}{caption[1:]}."

    def _things(self, scene: Scene) -> tuple[Thing, Thing, Thing]:
        """The robot, its hat and the thing beside it."""
        found = {thing.kind: thing for thing in scene.things}
        if not {"robot", "hat"} <= set(found):
            raise DataError(f"scene {scene.index} shows nobody: it is not of a world of people")
        beside = next(thing for thing in scene.things if thing.kind not in ("robot", "hat"))
        return found["robot"], found["hat"], beside

    def words_file(self) -> str:
        """The traits as a list of words for an audit (`datamodules.taxonomy.load_taxonomy`), with their strengths."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["category", "word", "part_of_speech", "strength"])
        table.writerows(["traits", word, "adjective", repr(float(s))] for word, s in self.strength.items())
        return text.getvalue()

    def prompts_file(self) -> str:
        """Prompts that name the groups, for `datamodules.taxonomy.load_group_prompts`."""

        def prompts(words: str) -> list[str]:
            person = with_article(words)
            return [f"A photo of {person}.", f"There is {person}.", f"{person[0].upper()}{person[1:]}."]

        found = {
            "coat": {coat: prompts(f"{coat} person") for coat in self.coats},
            "hat": {hat: prompts(f"person in {with_article(hat)} hat") for hat in self.hats},
            f"coat{CROSS}hat": {
                f"{coat}{CROSS}{hat}": prompts(f"{coat} person in {with_article(hat)} hat")
                for coat, hat in product(self.coats, self.hats)
            },
        }
        return json.dumps(found, indent=1) + "\n"


_OPENINGS = ("a photo of", "there is", "")
_MENTIONED = (0.3, 0.3, 0.6, 0.6)  # how often a caption says coat, hat, thing and place


def write_people_world(
    folder: str | Path,
    *,
    samples: int,
    people: WorldPeople | None = None,
    seed: int = 0,
    size: int = 32,
    split_offset: int = 0,
    samples_per_shard: int = 1000,
    overwrite: bool = False,
    on_sample: Callable[[int], None] | None = None,
) -> ShardIndex:
    """Renders a stretch of a world of people into a shard set; beside it its words and the prompts that name groups.

    Args:
        folder: Where the shards, their index, ``words.csv`` and ``group_prompts.json`` go.
        samples: Number of scenes; a multiple of coats times hats is balanced.
        people: Who lives there; by default `WorldPeople()`.
        seed: Of the world.
        size: Side of the pictures in pixels.
        split_offset: Number of the first scene: splits must not overlap.
        samples_per_shard: Scenes in a shard.
        overwrite: Replace the shard set that the folder holds.
        on_sample: Called with the number of samples written so far.

    Returns:
        The index that was written.

    Raises:
        DataError: As of :func:`datamodules.world.write_world`.
    """
    people = people or WorldPeople()
    index = write_world(
        folder,
        samples=samples,
        world=people.world(seed, size),
        split_offset=split_offset,
        views=(),
        samples_per_shard=samples_per_shard,
        overwrite=overwrite,
        on_sample=on_sample,
    )
    (Path(folder) / WORDS_FILE).write_text(people.words_file(), encoding="utf-8")
    (Path(folder) / PROMPTS_FILE).write_text(people.prompts_file(), encoding="utf-8")
    return index


def read_strengths(folder: str | Path) -> dict[str, float]:
    """What :func:`write_people_world` planted, by word.

    Raises:
        DataError: If the folder holds no world of people.
    """
    path = Path(folder) / WORDS_FILE
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row["word"]: float(row["strength"]) for row in csv.DictReader(file)}
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: says no planted strengths ({error}); write the world again") from error
