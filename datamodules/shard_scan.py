"""Reads one tar's samples into flat arrays: the work behind an index, one shard at a time."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.hashing import string_id
from datamodules.problems import Problems
from datamodules.sample import ANCHOR, IMAGE_EXTENSIONS, Sample, SchemaVersionError, check_key
from datamodules.tar_members import Member, TarDamage, walk_tar

# A member is read at once, and a header may claim anything.
_LARGEST_PICTURE = 2**28
_LARGEST_DESCRIPTION = 2**26
_CHUNK = 2**20
_MOST_NAMES = 2**15  # int16 numbers them


class CaptionFormat:
    """Where a sample's captions stand: the values of ``ShardIndex.caption_format``."""

    SAMPLE = 0  # our own KEY.json
    TEXT = 1  # KEY.txt, as img2dataset writes
    JSON = 2  # a foreign KEY.json with a "caption"


def parse_json(data: bytes, key: str) -> dict[str, Any]:
    """Parse a sample's json.

    Raises:
        DataError: naming the sample, if it is no JSON object.
    """
    try:
        obj = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"sample {key!r}: its json cannot be parsed ({error})") from error
    if not isinstance(obj, dict):
        raise DataError(f"sample {key!r}: its json is no object but {type(obj).__name__}")
    return obj


def text_captions(data: bytes) -> tuple[str, ...]:
    """The caption of a ``.txt`` member: all of it, as img2dataset writes one caption a file."""
    text = data.decode("utf-8", "replace").strip()
    return (text,) if text else ()


def foreign_captions(obj: dict[str, Any]) -> tuple[str, ...]:
    """The captions of a json that is not ours: a string or a list of strings under "caption"."""
    caption = obj.get("caption")
    found = caption if isinstance(caption, list) else [caption]
    return tuple(text.strip() for text in found if isinstance(text, str) and text.strip())


def file_sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def split_name(name: str) -> tuple[str, str]:
    """Split a member's path into key and suffix at the first dot of its file name, as webdataset does.

    >>> split_name("./a.b/0001.sd-1.4.JPG")
    ('a.b/0001', 'sd-1.4.jpg')
    """
    name = name.removeprefix("./")
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


class Codes(dict[str, int]):
    """Numbers for names, given out in the order in which they are first met.

    Args:
        what: what they name.
        known: names that have their numbers already.
        most: so many names at most.
    """

    def __init__(self, what: str, known: Mapping[str, int] | None = None, most: int = 2**31) -> None:
        super().__init__(known or {})
        self.what, self.most = what, most

    def __missing__(self, name: str) -> int:
        if len(self) == self.most:
            raise TooManyNamesError(
                f"more than {self.most:,} {self.what}: is that field a free text? Name few, and put the rest under meta"
            )
        number = self[name] = len(self)
        return number


class TooManyNamesError(DataError):
    """The set has more sources or views than an index can number: a mistake in all of it, not in one sample."""


@dataclass
class Scan:
    """Columns of the samples found so far, in plain arrays; names as codes of the order in which they were met."""

    keys: list[str] = field(default_factory=list)
    shard: array[int] = field(default_factory=lambda: array("i"))
    label: array[int] = field(default_factory=lambda: array("i"))
    group: array[int] = field(default_factory=lambda: array("q"))
    caption_format: array[int] = field(default_factory=lambda: array("B"))
    json_offset: array[int] = field(default_factory=lambda: array("q"))
    json_size: array[int] = field(default_factory=lambda: array("i"))
    view_end: array[int] = field(default_factory=lambda: array("q"))
    view_name: array[int] = field(default_factory=lambda: array("h"))
    view_source: array[int] = field(default_factory=lambda: array("h"))
    offset: array[int] = field(default_factory=lambda: array("q"))
    size: array[int] = field(default_factory=lambda: array("i"))
    crc: array[int] = field(default_factory=lambda: array("I"))
    caption_end: array[int] = field(default_factory=lambda: array("q"))
    captions: list[str] = field(default_factory=list)
    labels: Codes = field(default_factory=lambda: Codes("labels"))
    view_names: Codes = field(default_factory=lambda: Codes("views", {ANCHOR: 0}, _MOST_NAMES))
    sources: Codes = field(default_factory=lambda: Codes("sources", most=_MOST_NAMES))
    problems: Problems = field(default_factory=Problems)
    seen: set[str] = field(default_factory=set)

    def read_shard(self, path: Path, number: int, *, source: str | None, key_prefix: str) -> int:
        """Add the samples of one tar.

        Args:
            path: the tar.
            number: its number in the set.
            source: source of samples whose json does not say it.
            key_prefix: put before every key.

        Returns:
            How many samples were added. What could not be used is counted in ``problems``.

        Raises:
            DataError: if the tar cannot be opened or was written by another release.
        """
        before = len(self.keys)
        shard = _Shard(self, path, number, source, key_prefix)
        try:
            for member in walk_tar(path):
                shard.take(member)
            shard.flush()
        except TarDamage as damage:
            # What lies before the cut is whole; a sample that lost its description or a view to it is counted as such.
            shard.flush()
            self.problems.add("damaged shard", f"{path.name} {damage}")
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        finally:
            shard.close()
        return len(self.keys) - before


def _check_text(key: str, sample: Sample) -> None:
    """Refuse text that is no Unicode: half a surrogate pair, which JSON can spell and no file can hold."""
    texts = [key, sample.group, sample.label or "", *sample.captions]
    texts += [caption for view in sample.views.values() for caption in view.captions or ()]
    try:
        "\n".join(texts).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"sample {key!r}: its text is no Unicode ({error.reason})") from error


class _Shard:
    """Collects the members of one key after another."""

    def __init__(self, scan: Scan, path: Path, number: int, source: str | None, key_prefix: str) -> None:
        self.scan, self.path, self.number, self.source, self.key_prefix = scan, path, number, source, key_prefix
        self.file = os.open(path, os.O_RDONLY)
        self.key = ""
        self.members: dict[str, Member] = {}

    def close(self) -> None:
        os.close(self.file)

    def problem(self, kind: str, where: str) -> None:
        self.scan.problems.add(kind, f"{self.path.name}: {where}")

    def take(self, member: Member) -> None:
        key, suffix = split_name(member.name)
        base = key.rpartition("/")[2]
        if not base or (base.startswith("__") and base.endswith("__")) or not suffix:
            return  # hidden files, webdataset's own notes, files without a suffix
        try:
            check_key(key)
        except DataError:
            self.problem("unsafe member name", repr(member.name))
            return
        if key != self.key:
            self.flush()
            self.key = key
        if suffix in self.members:
            self.problem("duplicate member", member.name)
            return
        self.members[suffix] = member

    def flush(self) -> None:
        """Judge the key whose members are all there."""
        members, self.members = self.members, {}
        if not members:
            return
        try:
            self._add(members)
        except SchemaVersionError as error:
            raise SchemaVersionError(f"{self.path}: {error}") from error
        except TooManyNamesError as error:
            raise TooManyNamesError(f"{self.path}: {error}") from error
        except DataError as error:
            self.problem("unusable description", str(error))

    def _pictures(self, members: dict[str, Member]) -> dict[str, Member]:
        pictures: dict[str, Member] = {}
        for suffix, member in members.items():
            view, _, extension = suffix.rpartition(".")
            if extension not in IMAGE_EXTENSIONS:
                continue
            if not 0 < member.size <= _LARGEST_PICTURE:
                self.problem("empty picture" if not member.size else "picture over 256 MiB", member.name)
            elif view in pictures:
                self.problem("second picture of one name", member.name)
            else:
                pictures[view] = member
        return pictures

    def _add(self, members: dict[str, Member]) -> None:
        scan = self.scan
        key = self.key_prefix + self.key
        pictures = self._pictures(members)
        if ANCHOR not in pictures:
            self.problem("no picture", self.key)
            return
        if key in scan.seen:
            self.problem("duplicate key", self.key)
            return
        described = self._describe(key, members)
        if described is None:
            return
        sample, kind, member = described
        _check_text(key, sample)
        names = [ANCHOR, *(name for name in sample.views if name in pictures)]
        for name in sample.views:
            if name not in pictures:
                self.problem("missing view", f"{self.key}.{name}")
        for name in pictures:
            if name and name not in sample.views:
                self.problem("view without description", pictures[name].name)
        # All that may fail comes before the first column is touched, so that they stay in step.
        view_names = [scan.view_names[name] for name in names]
        sources = [scan.sources[sample.views[name].source if name else sample.source] for name in names]
        checksums = [self._crc(pictures[name]) for name in names]
        scan.seen.add(key)
        scan.keys.append(key)
        scan.shard.append(self.number)
        scan.label.append(-1 if sample.label is None else scan.labels[sample.label])
        scan.group.append(string_id(sample.group))
        scan.caption_format.append(kind)
        scan.json_offset.append(member.offset)
        scan.json_size.append(member.size)
        scan.view_name.extend(view_names)
        scan.view_source.extend(sources)
        scan.crc.extend(checksums)
        for name in names:
            scan.offset.append(pictures[name].offset)
            scan.size.append(pictures[name].size)
            scan.captions.extend((sample.views[name].captions or ()) if name else sample.captions)
            scan.caption_end.append(len(scan.captions))
        scan.view_end.append(len(scan.offset))

    def _crc(self, member: Member) -> int:
        crc = 0
        for start in range(0, member.size, _CHUNK):
            data = os.pread(self.file, min(_CHUNK, member.size - start), member.offset + start)
            if not data:
                raise DataError(f"{member.name}: the shard shrinks while it is indexed")
            crc = zlib.crc32(data, crc)
        return crc

    def _describe(self, key: str, members: dict[str, Member]) -> tuple[Sample, int, Member] | None:
        json_member, text_member = members.get("json"), members.get("txt")
        for member in (json_member, text_member):
            if member is not None and member.size > _LARGEST_DESCRIPTION:
                self.problem("description over 64 MiB", member.name)
                return None
        obj: dict[str, Any] = {}
        if json_member is not None:
            obj = parse_json(os.pread(self.file, json_member.size, json_member.offset), key)
            if "version" in obj and "captions" in obj:
                return Sample.from_json(key, obj), CaptionFormat.SAMPLE, json_member
        if text_member is not None:
            captions = text_captions(os.pread(self.file, text_member.size, text_member.offset))
            kind, member = CaptionFormat.TEXT, text_member
        elif json_member is not None:
            captions, kind, member = foreign_captions(obj), CaptionFormat.JSON, json_member
        else:
            self.problem("no json and no txt", self.key)
            return None
        if not captions:
            self.problem("no caption", self.key)
            return None
        if self.source is None:
            self.problem("source unknown", self.key)
            return None
        return Sample(key, captions, self.source), kind, member
