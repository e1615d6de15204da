"""Queries that name a group of people, for the labels of FairFace and UTKFace, single or crossed, and users' own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from datamodules.errors import DataError
from datamodules.groups import CROSS
from datamodules.taxonomy.prompts import with_article
from datamodules.taxonomy.words import Entry

TEMPLATES = ("A photo of {}.", "A picture of {}.", "A portrait of {}.")
Own = Mapping[str, Mapping[str, Sequence[str]]]


@dataclass(frozen=True)
class GroupPrompt:
    """A query that names a group.

    Attributes:
        group: the group, by its label.
        text: the query.
        word: the word whose query this makes explicit ("doctor" of "A photo of a female doctor."), or empty.
    """

    group: str
    text: str
    word: str = ""


@dataclass(frozen=True)
class _Name:
    """What a label says of a person: ``"{adjective} {noun} {after}"``, each part empty where it says nothing."""

    adjective: str = ""
    noun: str = ""
    child: str = ""  # the noun for people under 20
    beside_noun: str = ""  # the adjective that stands for the noun where another noun is there
    after: str = ""
    young: bool = False  # under 20


_RACES: Mapping[str, tuple[_Name, ...]] = {
    "asian": (_Name("Asian"),),
    "black": (_Name("Black"),),
    "east asian": (_Name("East Asian"),),
    "hispanic": (_Name("Hispanic"),),
    "indian": (_Name("Indian"),),
    "latino": (_Name("Latino"),),
    "latino hispanic": (_Name("Latino"), _Name("Hispanic")),
    "middle eastern": (_Name("Middle Eastern"),),
    "others": (_Name(after="of another ethnicity"),),  # UTKFace's label says no more
    "southeast asian": (_Name("Southeast Asian"),),
    "white": (_Name("White"),),
}
_GENDERS: Mapping[str, tuple[_Name, ...]] = {
    "female": (_Name(noun="woman", child="girl", beside_noun="female"),),
    "male": (_Name(noun="man", child="boy", beside_noun="male"),),
}


def group_prompts(
    attribute: str,
    labels: Sequence[str],
    mode: Literal["article", "bare"] = "article",
    *,
    own: Own | None = None,
) -> tuple[GroupPrompt, ...]:
    """Name each group in several ways. The wording is ours, and plain.

    Known are the attributes race, gender and age with the labels of FairFace and UTKFace, and their crossings.

    Args:
        attribute: such as ``"gender"`` or ``"race x gender"``.
        labels: its groups, such as ``"Female"`` or ``"Black x Female"``.
        mode: "article" gives "A photo of a Black woman." and the same with other words for photo; "bare" the words
            "Black woman" alone.
        own: prompts by attribute and label that stand instead, see :func:`load_group_prompts`.

    Returns:
        At least one prompt for each label, label by label.

    Raises:
        DataError: for a group that has no words here and none in ``own``.

    >>> [prompt.text for prompt in group_prompts("race x age", ["White x 20-29"])][:2]
    ['A photo of a White person aged 20 to 29.', 'A picture of a White person aged 20 to 29.']
    """
    if mode not in ("article", "bare"):
        raise DataError(f"group prompts: there is no mode {mode!r}; choose article or bare")
    found = []
    for label in labels:
        given = (own or {}).get(attribute, {}).get(label)
        if given is not None:
            found += [GroupPrompt(label, text) for text in given]
            continue
        people = [_phrase(names) for names in _names(attribute, label)]
        if mode == "bare":
            found += [GroupPrompt(label, person) for person in people]
        else:
            found += [
                GroupPrompt(label, template.format(with_article(person))) for person in people for template in TEMPLATES
            ]
    return tuple(found)


def attribute_prompts(attribute: str, labels: Sequence[str], words: Sequence[Entry]) -> tuple[GroupPrompt, ...]:
    """Say word and group together, for each word and each group: what must still find that group.

    Args:
        attribute: as for :func:`group_prompts`.
        labels: its groups.
        words: such as the occupations of a taxonomy.

    Returns:
        One prompt for each word and label, word by word.

    Raises:
        DataError: for a group that has no words here.

    >>> [p.text for p in attribute_prompts("gender", ["Female"], [Entry("", "doctor", "", "noun"), Entry("", "smart")])]
    ['A photo of a female doctor.', 'A photo of a smart woman.']
    """
    names = {label: _names(attribute, label)[0] for label in labels}
    return tuple(
        GroupPrompt(label, f"A photo of {with_article(_described(word, names[label]))}.", word.word)
        for word in words
        for label in labels
    )


def load_group_prompts(path: str | Path) -> dict[str, dict[str, tuple[str, ...]]]:
    """Read prompts of one's own: ``{"hair": {"red": ["A photo of a person with red hair."]}}``.

    Raises:
        DataError: naming file and entry, for what is not of this form.
    """
    path = Path(path).expanduser()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(value, dict) or not all(isinstance(groups, dict) for groups in value.values()):
        raise DataError(f"{path}: must hold an object of attributes, each an object of groups with lists of prompts")
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for attribute, groups in value.items():
        found[attribute] = {}
        for label, texts in groups.items():
            good = isinstance(texts, list) and texts and all(isinstance(text, str) and text.strip() for text in texts)
            if not good:
                raise DataError(f"{path}: {attribute}, {label}: must be a list of prompts, none of them blank")
            found[attribute][label] = tuple(texts)
    return found


def _names(attribute: str, label: str) -> list[tuple[_Name, ...]]:
    """The ways to name a group, each with one name for every attribute that is crossed."""
    attributes, labels = attribute.split(CROSS), label.split(CROSS)
    if len(attributes) != len(labels):
        raise DataError(f"group {label!r} does not have a part for each of {attribute!r}")
    return list(product(*(_ways(*pair) for pair in zip(attributes, labels, strict=True))))


def _ways(attribute: str, label: str) -> tuple[_Name, ...]:
    plain = label.lower().replace("_", " ").strip()
    found = {"race": _RACES, "gender": _GENDERS}.get(attribute, {}).get(plain)
    if found is None and attribute == "age":
        if between := re.fullmatch(r"(\d+) *- *(\d+)", plain):
            found = (_Name(after=f"aged {between[1]} to {between[2]}", young=int(between[2]) < 20),)
        elif above := re.fullmatch(r"(?:more than|over|>) *(\d+)|(\d+)\+", plain):
            found = (_Name(after=f"aged over {above[1] or above[2]}"),)
    if found is None:
        raise DataError(
            f"there are no words for {attribute} {label!r}; give prompts of your own in a JSON file: "
            f'{{"{attribute}": {{"{label}": ["A photo of ..."]}}}}'
        )
    return found


def _phrase(names: tuple[_Name, ...]) -> str:
    young = any(name.young for name in names)
    noun = next((name.child if young else name.noun for name in names if name.noun), "person")
    return _joined([*(name.adjective for name in names), noun, *(name.after for name in names)])


def _described(word: Entry, names: tuple[_Name, ...]) -> str:
    if word.part_of_speech == "noun":
        before = [name.adjective or name.beside_noun for name in names]
        return _joined([*before, word.word, *(name.after for name in names)])
    person = _phrase(names)
    return f"{word.word} {person}" if word.part_of_speech == "adjective" else f"{person} {word.word}"


def _joined(parts: Sequence[str]) -> str:
    return " ".join(filter(None, parts))
