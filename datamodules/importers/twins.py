"""Photos beside generated twins: a tree per generator with the photos' names, or one folder per scene."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from datamodules.errors import DataError
from datamodules.importers.captions import read_captions
from datamodules.importers.files import FileTree, Picture, suffix, without_suffix
from datamodules.importers.records import Collection, Keys, Record, attach_twins
from datamodules.sample import REAL, Sample, View, check_name


def read_twins(
    tree: FileTree,
    twins: Mapping[str, FileTree],
    captions: str | Path | None = None,
    *,
    key_prefix: str | None = None,
) -> Collection:
    """Read photos and, for each, the pictures of the same name in the generators' trees.

    Args:
        tree: the photos. Their captions stand in a table, or beside each photo in a ``.txt`` of its name.
        twins: trees by generator.
        captions: the table, see :func:`datamodules.importers.captions.read_captions`.
        key_prefix: see :class:`datamodules.importers.records.Keys`.

    Raises:
        DataError: if no photo has a caption, or a generator's tree has no picture of a photo's name.
    """
    beside = {without_suffix(name) for name in tree.names if suffix(name) == ".txt"}
    if captions is None and any(without_suffix(name) in beside for name in tree.pictures):
        return attach_twins(_captions_beside(tree, key_prefix), twins)
    return attach_twins(read_captions(tree, captions, key_prefix=key_prefix), twins)


def _captions_beside(tree: FileTree, key_prefix: str | None) -> Collection:
    keys, found, names = Keys(REAL, key_prefix), Collection(problems=tree.problems), set(tree.names)
    for name in tree.pictures:
        identity = without_suffix(name)
        captions = _lines(tree, f"{identity}.txt") if f"{identity}.txt" in names else ()
        if captions:
            sample = Sample(keys.make(identity), captions, REAL)
            found.records.append(Record(sample, Picture(tree, name), identity))
        else:
            found.problems.add("picture without caption", name)
    return found


def read_scenes(tree: FileTree, *, anchor: str | None = None, key_prefix: str | None = None) -> Collection:
    """Read one folder per scene: ``<scene>/<source>.<suffix>`` for every source, with its captions in a ``.txt``.

    Args:
        tree: the folders.
        anchor: the source whose picture is the anchor; None takes "real" where there is one, else the first by name.
            A scene without it is left out and counted.
        key_prefix: see :class:`datamodules.importers.records.Keys`.

    Raises:
        DataError: if no folder holds pictures and a caption.
    """
    scenes: dict[str, dict[str, str]] = defaultdict(dict)
    for name in tree.pictures:
        folder, _, base = name.rpartition("/")
        if folder:
            scenes[folder][check_name(without_suffix(base).lower(), f"{tree.path}/{name}: source")] = name
    texts: dict[str, list[str]] = defaultdict(list)
    for name in tree.names:
        if suffix(name) == ".txt":
            texts[name.rpartition("/")[0]].append(name)
    sources = {source for pictures in scenes.values() for source in pictures}
    if anchor is None:
        anchor = REAL if REAL in sources else min(sources, default=REAL)
    elif anchor not in sources:
        raise DataError(
            f"--anchor {anchor}: no scene has a picture of that source; there are: {', '.join(sorted(sources))}"
        )
    keys, found = Keys(anchor, key_prefix), Collection(problems=tree.problems)
    for folder, pictures in scenes.items():
        captions = tuple(dict.fromkeys(line for name in texts[folder] for line in _lines(tree, name)))
        if anchor not in pictures:
            found.problems.add(f"no picture by {anchor}", folder)
        elif not captions:
            found.problems.add("no .txt with captions", folder)
        else:
            views = {source: Picture(tree, name) for source, name in sorted(pictures.items()) if source != anchor}
            sample = Sample(keys.make(folder), captions, anchor, views={source: View(source) for source in views})
            found.records.append(Record(sample, Picture(tree, pictures[anchor]), folder, views=views))
    if not found.records:
        raise DataError(
            f"{tree.path}: no scenes of the layout <scene>/<source>.jpg with a .txt of captions; "
            "for photos beside folders of twins give --twins NAME=FOLDER"
        )
    return found


def _lines(tree: FileTree, name: str) -> tuple[str, ...]:
    text = tree.read(name).decode("utf-8", "replace")
    return tuple(dict.fromkeys(clean for line in text.splitlines() if (clean := " ".join(line.split()))))
