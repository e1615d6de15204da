"""Which columns of a table of pictures mean what: one column per source, or one row per picture."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from datamodules.errors import DataError
from datamodules.sample import REAL, check_name

_CAPTION = ("caption", "captions", "text", "prompt", "sentence", "sentences", "description")
_PHOTO = ("coco_image", "real_image", "image_real", "real", "original_image", "original", "photo", "coco")
_SOURCE = ("generator", "source", "model", "model_name", "label_b")
_IDENTITY = ("id", "image_id", "coco_id", "cocoid", "img_id", "key", "filename", "file_name")
_MEANS_REAL = frozenset({"real", "photo", "original", "coco", "mscoco", "natural"})


@dataclass(frozen=True)
class PairedColumns:
    """The columns of a table of pictures.

    Attributes:
        captions: columns of captions, each a string or a list of strings.
        real: the photos' column; of all pictures, where ``source`` is given.
        twins: column by generator; empty where ``source`` is given.
        source: the column that says what made a row's one picture; None where every source has a column.
        names: source by that column's value as text, such as ``{"0": "real"}``.
        identity: the column that names a scene, None where there is none.
    """

    captions: tuple[str, ...]
    real: str
    twins: Mapping[str, str] = field(default_factory=dict)
    source: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    identity: str | None = None

    @property
    def described(self) -> list[str]:
        """Columns that say what a row is, without its pictures."""
        return list(dict.fromkeys([*self.captions, *filter(None, (self.source, self.identity))]))

    def source_of(self, value: object, where: str) -> str:
        """Return the source that a value of the source column means.

        Raises:
            DataError: where it could mean anything.
        """
        text = str(value).strip()
        if text in self.names:
            return self.names[text]
        if text.lower() in _MEANS_REAL:
            return REAL
        # A number is a code, and a guess at its meaning would mix the sources up.
        if value is None or not re.search(r"[A-Za-z]", text):
            raise DataError(
                f"{where}: column {self.source!r} holds {value!r}, which names no source; "
                f"say what each value means with --name {text}=NAME (real for photos)"
            )
        return source_name(text)


def source_name(text: str) -> str:
    """Make a generator's name of a column or value.

    >>> source_name("sd35_image"), source_name("DALL-E 3")
    ('sd35', 'dall-e-3')
    """
    short = re.sub(r"^(image|img)s?[_-]|[_-](image|img)s?$", "", text.strip().lower())
    return check_name(re.sub(r"[^a-z0-9._+-]+", "-", short).strip("-._+"), "generator")


def choose_columns(
    schema: pa.Schema,
    where: str,
    *,
    captions: Sequence[str] = (),
    real: str | None = None,
    twins: Mapping[str, str] | None = None,
    source: str | None = None,
    names: Mapping[str, str] | None = None,
    identity: str | None = None,
) -> PairedColumns:
    """Take the columns that were named, and find the others by the names and types that public sets use.

    Args:
        schema: of the table.
        where: what to call the table in an error.
        captions: caption columns.
        real: the photos' column, or with ``source`` that of all pictures.
        twins: column by generator.
        source: the column that says what made a row's picture.
        names: source by that column's value.
        identity: the column that names a scene.

    Raises:
        DataError: for a column that the table lacks, or where none can be found; with the columns that there are.
    """
    features = _features(schema)
    pictures = [name for name in schema.names if _is_picture(schema.field(name).type, features.get(name))]
    there = f"; the columns are {', '.join(schema.names)}"
    if pictures:
        there += f" (pictures: {', '.join(pictures)})"

    def given(name: str, option: str) -> str:
        if name not in schema.names:
            raise DataError(f"{where}: has no column {name!r} for {option}{there}")
        return name

    texts = tuple(given(name, "--caption") for name in captions) or _first(schema, _CAPTION)
    if not texts:
        raise DataError(f"{where}: no column of captions was found; name it with --caption{there}")
    key = given(identity, "--id") if identity is not None else next(iter(_first(schema, _IDENTITY)), None)
    if source is None and not twins and len(pictures) == 1 and real in (None, pictures[0]):
        source = next(iter(_first(schema, _SOURCE)), None)
    if source is not None:
        if twins:
            raise DataError("--twins is for one column per generator, --source-column for one row per picture")
        if real is None and len(pictures) != 1:
            raise DataError(f"{where}: which column holds the pictures? name it with --real{there}")
        told = {str(code): _told(name) for code, name in enumerate(features.get(source, {}).get("names") or ())}
        told |= dict(names or {})
        column = given(real, "--real") if real is not None else pictures[0]
        return PairedColumns(texts, column, source=given(source, "--source-column"), names=told, identity=key)
    if names:
        raise DataError("--name says what the values of --source-column mean, and there is no such column")
    # Columns of paths are text like any other; they are looked at where the twins' columns were named.
    photo = given(real, "--real") if real is not None else next(iter(_first(schema, _PHOTO, pictures)), None)
    if photo is None and twins:
        photo = next(iter(_first(schema, _PHOTO)), None)
    if photo is None:
        raise DataError(f"{where}: no column of photos was found; name it with --real{there}")
    if twins:
        chosen = {check_name(name, "--twins"): given(column, f"--twins {name}") for name, column in twins.items()}
    else:
        chosen = {source_name(name): name for name in pictures if name != photo}
    if REAL in chosen:
        raise DataError("--twins: 'real' is no generator; name the photos' column with --real")
    if not chosen:
        raise DataError(
            f"{where}: beside {photo!r} no column of pictures was found; name those of the generators with "
            f"--twins NAME=COLUMN, or for one row per picture the column of its source with --source-column{there}"
        )
    return PairedColumns(texts, photo, chosen, identity=key)


def _told(name: str) -> str:
    return REAL if name.lower() in _MEANS_REAL else source_name(name)


def _first(schema: pa.Schema, candidates: Sequence[str], among: Sequence[str] | None = None) -> tuple[str, ...]:
    """The first candidate that is a column, whatever its case."""
    lower = {name.lower(): name for name in (schema.names if among is None else among)}
    return next(((lower[name],) for name in candidates if name in lower), ())


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What ``datasets`` says of the columns, empty where another program wrote the table."""
    try:
        value = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: about for name, about in value.items() if isinstance(about, dict)} if isinstance(value, dict) else {}


def _is_picture(kind: pa.DataType, feature: dict[str, Any] | None) -> bool:
    if feature is not None and feature.get("_type") == "Image":
        return True
    if pa.types.is_struct(kind):
        return any(kind.field(number).name == "bytes" for number in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
