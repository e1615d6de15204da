"""What people say about a scene: true, grammatical, not all of it, and not always in the same words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from datamodules.errors import DataError
from datamodules.world.scene import Scene, Thing

# Phrases that can open a sentence and close one. No colour word stands in them, so that every colour word of a caption
# is the colour of a thing.
PLACE_PHRASES: Mapping[str, tuple[str, ...]] = {
    "brick": ("in front of a brick wall", "by a brick wall"),
    "grass": ("on the grass", "in a grassy meadow"),
    "night": ("at night", "under a starry night sky"),
    "sand": ("on the sand", "on a sandy beach"),
    "sky": ("in the sky", "in the cloudy sky"),
    "snow": ("in the snow", "on a snowy field"),
    "stone": ("on stone", "on a stone floor"),
    "sunset": ("at sunset", "under a sunset sky"),
    "water": ("on the water", "in deep water"),
    "wood": ("on a wooden table", "on a wooden floor"),
}
SIDE_PHRASES: Mapping[str, tuple[str, ...]] = {
    "left": ("on the left", "on the left side"),
    "centre": ("in the middle", "in the centre"),
    "right": ("on the right", "on the right side"),
}
LONGEST = 24
"""No caption has more words than this."""


def with_article(phrase: str) -> str:
    """The phrase with its indefinite article; the world's vocabulary has no silent h and no "yoo" to mislead it.

    >>> with_article("orange cup"), with_article("large orange cup"), with_article("umbrella")
    ('an orange cup', 'a large orange cup', 'an umbrella')
    """
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def captions(scene: Scene, rng: np.random.Generator, count: int = 5) -> tuple[str, ...]:
    """Different captions of one scene.

    The first names every thing with its colour, the place and, for one or two things, sizes and positions. The others
    drop details at random: a place in a fifth of them, sizes in half, one thing's colour in a tenth, and now and then a
    whole thing of a group.

    Args:
        scene: What the picture shows.
        rng: Draws words and dropped details.
        count: Number of captions, at most 6.

    Returns:
        `count` different sentences or noun phrases.

    Raises:
        DataError: If the scene does not hold one to three things.
    """
    if len(scene.things) not in _TEMPLATES:
        raise DataError(
            f"scene {scene.index} holds {len(scene.things)} things, but only scenes of 1 to 3 have words; "
            "add templates to datamodules/world/captions.py or change the composer"
        )
    templates = _TEMPLATES[len(scene.things)]
    order = rng.permutation(len(templates))
    told = [_spaced(_full(scene, rng))]
    for attempt in range(200):
        if len(told) == count:
            break
        caption = _spaced(templates[order[attempt % len(order)]](_Teller(scene, rng)))
        if caption not in told:
            told.append(caption)
    # Most people end with a full stop.
    return tuple(caption[0].upper() + caption[1:] + ("." if rng.random() < 0.7 else "") for caption in told)


class _Teller:
    """Chooses which details of a scene one caption mentions."""

    def __init__(self, scene: Scene, rng: np.random.Generator, *, everything: bool = False) -> None:
        self.scene = scene
        self._rng = rng
        many = len(scene.things)
        tell_sizes = everything or rng.random() < 0.5
        plain = -1 if everything or rng.random() >= 0.1 else int(rng.integers(many))
        self.names = [
            noun_phrase(thing, size=tell_sizes, colour=position != plain) for position, thing in enumerate(scene.things)
        ]
        phrases = PLACE_PHRASES[scene.place]
        mention = everything or rng.random() < 0.8
        self.place = phrases[rng.integers(len(phrases))] if mention else ""

    def one_of(self, *choices: str) -> str:
        return choices[self._rng.integers(len(choices))]

    def where(self) -> str:
        """Where a single thing stands."""
        return self.one_of(*SIDE_PHRASES[self.scene.arrangement])

    def some_names(self) -> list[str]:
        """The things in a random order; one of three or more may be overlooked."""
        names = [self.names[position] for position in self._rng.permutation(len(self.names))]
        return names[:-1] if len(names) > 2 and self._rng.random() < 0.3 else names

    def relation(self) -> str:
        """How the first of two things lies to the second, in a random direction; in a phrase with both."""
        first, second = self.names
        if self.scene.arrangement == "row":
            there, back, beside = "to the left of", "to the right of", "next to"
        else:
            there, back, beside = "above", "below", self.one_of("above", "over")
        how = self._rng.random()
        if how < 0.4:
            return f"{first} {there} {second}"
        if how < 0.8:
            return f"{second} {back} {first}"
        return f"{first} {beside} {second}"


def noun_phrase(thing: Thing, *, size: bool, colour: bool) -> str:
    """The thing with its article: "a large red ball".

    Args:
        thing: What to name.
        size: Mention the size, unless it is medium.
        colour: Mention the colour.
    """
    words = []
    if size and thing.size != "medium":
        words.append(thing.size)
    if colour:
        words.append(thing.colour)
    return with_article(" ".join([*words, thing.kind]))


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _full(scene: Scene, rng: np.random.Generator) -> str:
    teller = _Teller(scene, rng, everything=True)
    if len(scene.things) == 1:
        return f"{teller.names[0]} {teller.place}, {teller.where()}"
    if len(scene.things) == 2:
        return f"{teller.relation()} {teller.place}"
    return f"{_listed(teller.names)} {teller.place}"


_Template = Callable[[_Teller], str]

_ONE: tuple[_Template, ...] = (
    lambda t: f"{t.names[0]} {t.place}",
    lambda t: f"there is {t.names[0]} {t.place}",
    lambda t: f"{t.names[0]} {t.place}, {t.where()}",
    lambda t: f"a picture of {t.names[0]} {t.place}",
    lambda t: f"{t.place}, there is {t.names[0]}" if t.place else f"{t.names[0]} can be seen {t.where()}",
    lambda t: f"{t.names[0]} is {t.where()} of the picture",
)
_TWO: tuple[_Template, ...] = (
    lambda t: f"{t.relation()} {t.place}",
    lambda t: f"{_listed(t.some_names())} {t.place}",
    lambda t: f"there is {_listed(t.some_names())} {t.place}",
    lambda t: f"a picture of {t.relation()} {t.place}",
    lambda t: f"{t.place}, there is {t.relation()}" if t.place else f"you can see {t.relation()}",
    lambda t: f"{_listed(t.some_names())} can be seen {t.place}",
)


def _between(t: _Teller) -> str:
    left, middle, right = t.names[0], t.names[1], t.names[-1]
    outer = t.one_of(f"{left} and {right}", f"{right} and {left}")
    return f"{middle} between {outer} {t.place}"


_THREE: tuple[_Template, ...] = (
    lambda t: f"{_listed(t.some_names())} {t.place}",
    lambda t: f"there is {_listed(t.some_names())} {t.place}",
    _between,
    lambda t: f"a picture of {_listed(t.some_names())} {t.place}",
    lambda t: f"from left to right, {_listed(t.names)} {t.place}",
    lambda t: f"{t.place}, you can see {_listed(t.some_names())}" if t.place else f"here is {_listed(t.some_names())}",
)
_TEMPLATES: Mapping[int, tuple[_Template, ...]] = {1: _ONE, 2: _TWO, 3: _THREE}


def _spaced(caption: str) -> str:
    """Without the gaps that dropped details leave."""
    return " ".join(caption.split()).replace(" ,", ",")
