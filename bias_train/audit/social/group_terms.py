"""Words by which captions name groups of people.

The list is our own and short: terms that rarely mean anything else. Words of colour and origin are looked for before a
word for a person only ("a black man", not "a black dog"); ``PERSON`` in a term stands for each of those words. A
caption that names no group says nothing about the people in it, and most captions name none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from bias_train.audit.social.terms import plural, tokens
from bias_train.errors import RunError
from datamodules.groups import CROSS

PERSON = "PERSON"
GroupTerms = dict[str, dict[str, tuple[str, ...]]]


def load_group_terms(path: Path | None = None) -> GroupTerms:
    """Read terms by attribute and group, with ``PERSON`` written out and plurals added.

    Args:
        path: a JSON file ``{"gender": {"Female": ["woman", ...], ...}, "PERSON": ["man", ...]}``, of which ``PERSON``
            may be left out where no term uses it; None for our own.

    Raises:
        RunError: naming the file, for one that cannot be read or has another form.
    """
    name = "group terms" if path is None else str(path)
    try:
        if path is None:
            text = resources.files("bias_train.audit.social").joinpath("group_terms.json").read_text(encoding="utf-8")
        else:
            text = path.read_text(encoding="utf-8")
        found = json.loads(text)
        persons = _strings(found.pop(PERSON, []), PERSON)
        return {
            attribute: {label: _spelt(_strings(terms, label), persons) for label, terms in groups.items()}
            for attribute, groups in found.items()
        }
    except FileNotFoundError as error:
        raise RunError(f"{name}: there is no such file") from error
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RunError(
            f'{name}: must be JSON such as {{"gender": {{"Female": ["woman", "girl"], "Male": ["man"]}}}} ({error})'
        ) from error


def terms_of(terms: GroupTerms, attribute: str, labels: Sequence[str]) -> list[list[tuple[str, ...]]] | None:
    """The terms that a caption must hold to name each group: of every part of a crossed group, one.

    Args:
        terms: from :func:`load_group_terms`.
        attribute: such as ``"gender"`` or ``"race x gender"``.
        labels: [G] groups, such as ``"Black x Female"``.

    Returns:
        For each group its parts' terms; empty for a group that has none. None where a part of the attribute has no
        terms at all.
    """
    names = attribute.split(CROSS)
    if any(name not in terms for name in names):
        return None
    found = []
    for label in labels:
        parts = [terms[name].get(part) for name, part in zip(names, label.split(CROSS), strict=True)]
        found.append([part for part in parts if part is not None] if all(parts) else [])
    return found


def _strings(value: object, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise TypeError(f"{where!r} must hold a list of words")
    return value


def _spelt(terms: Sequence[str], persons: Sequence[str]) -> tuple[str, ...]:
    """Write ``PERSON`` out and add plurals; ``he`` gets one too, which no caption holds."""
    written: list[str] = []
    for term in terms:
        if PERSON in term.split(" "):
            if not persons:
                raise TypeError(f"term {term!r} needs a list under {PERSON!r}")
            written += [term.replace(PERSON, person) for person in persons]
        else:
            written.append(term)
    singular = [" ".join(tokens(term)) for term in written]
    return tuple(dict.fromkeys([*singular, *map(plural, singular)]))
