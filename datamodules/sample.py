"""The sample: a picture, what is true of it, and its counterfactual views. The schema of ``KEY.json`` in a shard."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datamodules.errors import DataError

SCHEMA_VERSION = 1
REAL = "real"
GENERATED = "generated"  # the source of a generated picture whose generator nobody recorded
IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp"})  # pictures in a shard
ANCHOR = ""  # the name under which the anchor stands among a sample's views

# webdataset folds member suffixes to lower case and ends a key at the first dot of the file name: names that could not
# survive that are refused when they are written instead of being lost when they are read.
_NAME = re.compile(r"[a-z0-9][a-z0-9._+-]*")
_KEY = re.compile(r"[^\\\x00-\x1f]*[^/.\\\x00-\x1f]")
_FIELDS = frozenset({"version", "captions", "source", "label", "group", "views", "meta"})


def check_name(name: object, what: str) -> str:
    """Return the name of a source or a view if it can be one.

    Args:
        name: the candidate.
        what: what it names, for the error.

    Raises:
        DataError: if it is no string of lower-case letters, digits, dots, plus signs, underscores and dashes.

    >>> check_name("sd-1.4", "generator")
    'sd-1.4'
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    wanted = re.sub(r"[^a-z0-9._+-]+", "-", str(name).lower()).strip("-._+")
    hint = f", for instance {wanted!r}" if wanted else ""
    raise DataError(f"{what} {name!r}: use lower-case letters, digits and . _ + -{hint}")


def check_key(key: object) -> str:
    """Return the key if it can name a member group of a tar file.

    Raises:
        DataError: if it is empty, climbs out of the folder, or holds a dot in a place where webdataset would cut it.
    """
    if isinstance(key, str) and _KEY.fullmatch(key):
        *folders, base = key.split("/")
        if "." not in base and not any(part in ("", ".", "..") for part in folders):
            return key
    raise DataError(f"key {key!r}: a key is a relative path without backslashes, whose last part has no dots")


def _captions(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item.strip() for item in value):
        raise DataError(f"{where}: must be a list of captions, none of them blank, not {value!r}"[:400])
    return tuple(value)


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise DataError(f"{where}: must be an object, not {value!r}"[:400])
    return dict(value)


@dataclass(frozen=True)
class View:
    """A counterfactual of a sample's anchor.

    Attributes:
        source: ``"real"`` or the generator's name.
        captions: what is true of the view; None where the anchor's captions stay true.
        meta: anything else that is known of it.
    """

    source: str
    captions: tuple[str, ...] | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.source, "source")
        if self.captions is not None:
            object.__setattr__(self, "captions", _captions(self.captions, "view's captions"))

    @property
    def is_real(self) -> bool:
        """Whether a camera made it."""
        return self.source == REAL


@dataclass(frozen=True)
class Sample:
    """Everything about a sample but its pixels.

    Attributes:
        key: its name, unique in a shard set.
        captions: sentences that are true of the anchor; may be empty (a picture that only ever stands in a gallery).
        source: ``"real"`` or the generator's name.
        label: its class, if it has one.
        group: pictures of one group show the same thing and are no negatives of each other. Empty means the key itself.
        views: counterfactuals by name. A twin's name is that of its generator.
        meta: free: boxes, masks, text spans, groups of people, ids, seeds.

    Raises:
        DataError: naming key and field, if one is not what it should be.

    >>> sample = Sample("cat-1", ("a cat",), views={"sd-1.4": View("sd-1.4")})
    >>> sample.group
    'cat-1'
    >>> Sample.from_json("cat-1", sample.to_json()) == sample
    True
    """

    key: str
    captions: tuple[str, ...]
    source: str = REAL
    label: str | None = None
    group: str = ""
    views: dict[str, View] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_key(self.key)
        where = f"sample {self.key!r}"
        object.__setattr__(self, "captions", _captions(self.captions, f"{where}, field 'captions'"))
        check_name(self.source, f"{where}, field 'source'")
        if self.label is not None and not (isinstance(self.label, str) and self.label.strip()):
            raise DataError(f"{where}, field 'label': must be a class name or null, not {self.label!r}")
        if not isinstance(self.group, str):
            raise DataError(f"{where}, field 'group': must be a string or null, not {self.group!r}")
        if not self.group:
            object.__setattr__(self, "group", self.key)
        for name in self.views:
            check_name(name, f"{where}, view")

    @property
    def is_real(self) -> bool:
        """Whether a camera made the anchor."""
        return self.source == REAL

    def captions_of(self, view: str = ANCHOR) -> tuple[str, ...]:
        """What is true of the anchor (``""``) or of a view."""
        own = self.views[view].captions if view else self.captions
        return self.captions if own is None else own

    def to_json(self) -> dict[str, Any]:
        """The object that stands in ``KEY.json``."""
        return {
            "version": SCHEMA_VERSION,
            "captions": list(self.captions),
            "source": self.source,
            "label": self.label,
            "group": None if self.group == self.key else self.group,
            "views": {
                name: {
                    "source": view.source,
                    "captions": None if view.captions is None else list(view.captions),
                    **view.meta,
                }
                for name, view in sorted(self.views.items())
            },
            "meta": self.meta,
        }

    @classmethod
    def from_json(cls, key: str, obj: object) -> Sample:
        """Read what ``to_json`` wrote.

        Args:
            key: the sample's key.
            obj: the parsed ``KEY.json``.

        Raises:
            DataError: naming key and field, if the object does not follow the schema.
            SchemaVersionError: if it follows another version of it.
        """
        where = f"sample {key!r}"
        fields = _mapping(obj, where)
        version = fields.get("version")
        if version != SCHEMA_VERSION:
            raise SchemaVersionError(
                f"{where}, field 'version': this release reads version {SCHEMA_VERSION}, not {version!r}; "
                "import the pictures again, or install the release that wrote them"
            )
        if unknown := sorted(fields.keys() - _FIELDS):
            raise DataError(f"{where}: unknown field {unknown[0]!r}; what is free to choose belongs under 'meta'")
        if missing := [name for name in ("captions", "source") if name not in fields]:
            raise DataError(f"{where}: field {missing[0]!r} is missing")
        views = {}
        for name, view in _mapping(fields.get("views") or {}, f"{where}, field 'views'").items():
            about = f"{where}, view {name!r}"
            rest = _mapping(view, about)
            if "source" not in rest:
                raise DataError(f"{about}: field 'source' is missing")
            source = check_name(rest.pop("source"), f"{about}, field 'source'")
            captions = rest.pop("captions", None)
            views[name] = View(source, None if captions is None else _captions(captions, f"{about}, captions"), rest)
        group = fields.get("group")
        return cls(
            key=key,
            captions=_captions(fields["captions"], f"{where}, field 'captions'"),
            source=fields["source"],
            label=fields.get("label"),
            group="" if group is None else group,
            views=views,
            meta=_mapping(fields.get("meta") or {}, f"{where}, field 'meta'"),
        )


class SchemaVersionError(DataError):
    """A sample was written by another release: the whole set is unreadable, not one sample broken."""
