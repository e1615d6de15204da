"""Folders or tars with one folder per class: ``<class>/<file>``, or ``<split>/<class>/<file>``."""

from __future__ import annotations

from collections.abc import Sequence

from datamodules.errors import DataError
from datamodules.importers.files import FileTree, Picture, without_suffix
from datamodules.importers.records import SPLITS, Collection, Keys, Record
from datamodules.sample import REAL, Sample

TEMPLATES = ("a photo of a {label}",)


def read_classes(
    tree: FileTree, *, source: str = REAL, templates: Sequence[str] = TEMPLATES, key_prefix: str | None = None
) -> Collection:
    """Read pictures whose folder is their class.

    Folders above the classes that everything lies in are passed over. Those called train, val, test and the like are
    splits.

    Args:
        tree: the files.
        source: of all pictures.
        templates: captions, with ``{label}`` where the class goes (its underscores as spaces); each gives one caption.
        key_prefix: see :class:`datamodules.importers.records.Keys`.

    Raises:
        DataError: if a template has no place for the class, or no picture lies in a class folder.
    """
    for template in templates:
        if "{label}" not in template:
            raise DataError(f"--template {template!r}: write {{label}} where the class goes")
    keys, found = Keys(source, key_prefix), Collection(problems=tree.problems)
    paths = [name.split("/") for name in tree.pictures]
    deep = [parts for parts in paths if len(parts) > 1]
    depth = _common_folders(deep)
    for name, parts in zip(tree.pictures, paths, strict=True):
        split = parts[depth] if len(parts) > depth + 2 and parts[depth] in SPLITS else ""
        inner = parts[depth + bool(split) :]
        if len(parts) < depth + 2 or len(inner) < 2:
            found.problems.add("picture outside of a class folder", name)
            continue
        label = inner[0]
        text = label.replace("_", " ").strip()
        identity = without_suffix("/".join(parts[depth:]))
        found.records.append(
            Record(
                Sample(
                    key=keys.make(identity),
                    captions=tuple(template.replace("{label}", text) for template in templates),
                    source=source,
                    label=text,
                ),
                Picture(tree, name),
                identity,
                split,
            )
        )
    if not found.records:
        raise DataError(
            f"{tree.path}: no pictures in class folders; the layout is <class>/<file> or <split>/<class>/<file>"
        )
    return found


def _common_folders(paths: Sequence[Sequence[str]]) -> int:
    """How many folders stand above the classes: those that all pictures share, but for a split and the class itself."""
    depth = 0
    while paths and all(len(parts) > depth + 2 for parts in paths):
        first = {parts[depth] for parts in paths}
        if len(first) > 1 or first <= set(SPLITS):
            break
        # One class with folders inside looks like a folder of classes; the deeper reading is the likelier one.
        depth += 1
    return depth
