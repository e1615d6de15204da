"""Pictures whose file names say their class, and what is written on them: ``label=DVD_text=ball.jpg``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from datamodules.errors import DataError
from datamodules.importers.classes import TEMPLATES
from datamodules.importers.files import FileTree, Picture, without_suffix
from datamodules.importers.records import Collection, Keys, Record
from datamodules.sample import REAL, Sample

PATTERN = r"label=(?P<label>.+?)_text=(?P<word>.*?)"
"""Of RTA-100 (Azuma and Matsui, "Defense-Prefix for Preventing Typographic Attacks on CLIP", ICCVW 2023)."""

KINDS = ("misleading", "parroting", "neutral")
_GROUPS = frozenset({"label", "word"})


def read_labelled_names(
    tree: FileTree,
    pattern: str = PATTERN,
    *,
    kind: str = "misleading",
    source: str = REAL,
    templates: Sequence[str] = TEMPLATES,
    key_prefix: str | None = None,
) -> Collection:
    """Read pictures by their file names.

    Args:
        tree: the files, in any folders.
        pattern: regular expression for a whole file name without its suffix; its group ``label`` is the class, and its
            group ``word``, where there is one and it holds something, the word written on the picture, which becomes
            ``meta["written"]``.
        kind: of the words: "misleading", "parroting" or "neutral".
        source: of all pictures.
        templates: captions, with ``{label}`` where the class goes (its underscores as spaces); each gives one caption.
        key_prefix: see :class:`datamodules.importers.records.Keys`.

    Raises:
        DataError: if the pattern is none or has no group ``label``, a template has no place for the class, or no file
            name matches.
    """
    try:
        matcher = re.compile(pattern)
    except re.error as error:
        raise DataError(f"--pattern {pattern}: is no regular expression ({error})") from error
    if "label" not in matcher.groupindex or not set(matcher.groupindex) <= _GROUPS:
        raise DataError(f"--pattern {pattern}: name a group (?P<label>...), and (?P<word>...) where there is one")
    if kind not in KINDS:
        raise DataError(f"--kind {kind}: choose {', '.join(KINDS)}")
    for template in templates:
        if "{label}" not in template:
            raise DataError(f"--template {template!r}: write {{label}} where the class goes")
    keys, found = Keys(source, key_prefix), Collection(problems=tree.problems)
    for name in tree.pictures:
        match = matcher.fullmatch(without_suffix(name.rpartition("/")[2]))
        label = _spaced(match["label"]) if match else ""
        if match is None or not label:
            found.problems.add("file name that the pattern does not match", name)
            continue
        word = _spaced(match.groupdict().get("word") or "")
        identity = without_suffix(name)
        found.records.append(
            Record(
                Sample(
                    key=keys.make(identity),
                    captions=tuple(template.replace("{label}", label) for template in templates),
                    source=source,
                    label=label,
                    meta={"written": {"kind": kind, "word": word}} if word else {},
                ),
                Picture(tree, name),
                identity,
            )
        )
    if not found.records:
        raise DataError(f"{tree.path}: no file name matches --pattern {pattern}")
    return found


def _spaced(text: str) -> str:
    return " ".join(text.replace("_", " ").split())
