"""The work folder beside a shard set in the making: what is finished stands there, in files that are whole or absent.

::

    OUT/shard-000000.tar            a finished shard
    OUT/.synthesis/settings.json    what all processes must agree on
    OUT/.synthesis/shard-000000/    lock, prompts.jsonl, done.json once the shard stands in OUT
                    <generator>/<hash of the key>.zip   a sample's chosen pictures and their record
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import socket
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from PIL import Image

from datamodules.errors import DataError
from datamodules.synthesis.part import claimed
from datamodules.synthesis.settings import first_difference

FOLDER = ".synthesis"


def png(image: Image.Image) -> bytes:
    """Encode a picture without loss."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place, to disk, and rename it: a kill leaves the old one, or none, but no part of one."""
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{threading.get_native_id()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path.parent}: cannot be written ({error.strerror})") from error


@dataclass(frozen=True)
class Plan:
    """What is to be drawn for one sample.

    Attributes:
        key: of the sample.
        prompts: one or more; empty where nothing is drawn.
        skip: why nothing is drawn, "" where something is.
        size: (width, height) of the photo.
        slot: number of the held-out caption, None where none is.
        held_out: that caption.
        used: the captions that the prompts were made of, where one was held out.
    """

    key: str
    prompts: tuple[str, ...] = ()
    skip: str = ""
    size: tuple[int, int] | None = None
    slot: int | None = None
    held_out: str | None = None
    used: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """A picture that becomes a view.

    Attributes:
        suffix: what follows the generator's name in the view's.
        meta: what is known of it.
        png: it, without loss.
        captions: what is true of it, None where the photo's captions are.
    """

    suffix: str
    meta: dict[str, Any]
    png: bytes
    captions: tuple[str, ...] | None = None

    def image(self) -> Image.Image:
        """Decode it."""
        image = Image.open(io.BytesIO(self.png))
        image.load()
        return image


@dataclass(frozen=True)
class Result:
    """What one generator made for one sample.

    Attributes:
        chosen: its views; none where everything failed.
        made: pictures drawn.
        blanked: pictures that a checker or an overflow blanked.
        failed: what was wrong with each picture that could not be drawn.
    """

    chosen: tuple[Chosen, ...] = ()
    made: int = 0
    blanked: int = 0
    failed: tuple[str, ...] = ()


@dataclass
class Counts:
    """What became of a shard's samples and pictures."""

    samples: int = 0
    made: int = 0
    blanked: int = 0
    failed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)

    def add(self, other: Counts) -> None:
        """Count the other's too."""
        self.samples += other.samples
        self.made += other.made
        self.blanked += other.blanked
        self.failed += other.failed
        for why, number in other.skipped.items():
            self.skip(why, number)

    def skip(self, why: str, number: int = 1) -> None:
        """Count samples that got no twin."""
        self.skipped[why] = self.skipped.get(why, 0) + number


class ShardWork:
    """The work on one shard.

    Args:
        work: the set's work folder.
        stem: the shard's name without its suffix.
    """

    def __init__(self, work: Path, stem: str) -> None:
        self.stem, self.folder = stem, work / stem
        self.lock = self.folder / "lock"
        self._plans, self._done = self.folder / "prompts.jsonl", self.folder / "done.json"

    # Prompts ---------------------------------------------------------------------------------------------------------

    def plans(self) -> dict[str, Plan]:
        """The plans that stand there, by key; a line that a kill cut off is as if it had not been written."""
        found: dict[str, Plan] = {}
        try:
            lines = self._plans.read_bytes().split(b"\n")
        except FileNotFoundError:
            return found
        for line in lines:
            try:
                entry = json.loads(line)
                entry |= {name: tuple(entry[name]) for name in ("prompts", "used")}
                entry["size"] = tuple(entry["size"]) if entry["size"] is not None else None
                plan = Plan(**entry)
            except (ValueError, TypeError, KeyError):
                continue
            found[plan.key] = plan
        return found

    def add_plans(self, plans: Sequence[Plan]) -> None:
        """Note plans; by the process that holds the lock."""
        text = "".join(json.dumps(asdict(plan), ensure_ascii=False) + "\n" for plan in plans)
        try:
            with self._plans.open("ab") as file:
                file.write(("\n" + text).encode())  # the newline before ends a line that was cut off
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written ({error.strerror})") from error

    # Pictures --------------------------------------------------------------------------------------------------------

    def _file(self, key: str, generator: str) -> Path:
        return self.folder / generator / f"{blake2b(key.encode(), digest_size=10).hexdigest()}.zip"

    def has(self, key: str, generator: str) -> bool:
        """Whether a sample's pictures by a generator are there."""
        return self._file(key, generator).is_file()

    def save(self, key: str, generator: str, result: Result) -> None:
        """Keep a sample's pictures by a generator."""
        record = asdict(result) | {
            "chosen": [
                {"suffix": one.suffix, "meta": one.meta, "captions": one.captions} for one in result.chosen
            ]
        }  # fmt: skip
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("record.json", json.dumps(record, ensure_ascii=False))
            for number, one in enumerate(result.chosen):
                archive.writestr(f"{number}.png", one.png)
        write_whole(self._file(key, generator), buffer.getvalue())

    def load(self, key: str, generator: str) -> Result:
        """Read what :meth:`save` kept."""
        with zipfile.ZipFile(self._file(key, generator)) as archive:
            record = json.loads(archive.read("record.json"))
            chosen = tuple(
                Chosen(
                    entry["suffix"],
                    entry["meta"],
                    archive.read(f"{number}.png"),
                    None if entry["captions"] is None else tuple(entry["captions"]),
                )
                for number, entry in enumerate(record["chosen"])
            )
        return Result(chosen, record["made"], record["blanked"], tuple(record["failed"]))

    def forget(self, key: str, generator: str) -> None:
        """Remove a sample's pictures by a generator."""
        self._file(key, generator).unlink(missing_ok=True)

    # The end ---------------------------------------------------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        """Whether the shard stands in the set."""
        return self._done.is_file()

    def finish(self, counts: Counts, sha256: str | None) -> None:
        """Note that the shard stands in the set (None: that nothing of it does), and remove its pictures."""
        write_whole(self._done, (json.dumps({"sha256": sha256, **asdict(counts)}, indent=1) + "\n").encode())
        self.clear()

    def clear(self) -> None:
        """Remove the pictures of a finished shard."""
        for part in self.folder.iterdir():
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)

    def outcome(self) -> tuple[Counts, str | None]:
        """What :meth:`finish` noted."""
        entry = json.loads(self._done.read_text(encoding="utf-8"))
        checksum = entry.pop("sha256")
        return Counts(**entry), checksum


def agree(work: Path, name: str, record: dict[str, Any], out: Path) -> None:
    """Write what all processes of a set must agree on, or compare it with what was written before.

    Raises:
        DataError: naming the first difference.
    """
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    with claimed(work / f"{name}.lock", wait=True):  # of two at once, the second shall read what the first wrote
        difference = _difference(work / f"{name}.json", text)
        if difference is None:
            write_whole(work / f"{name}.json", text.encode())
    if difference:
        raise DataError(_refusal(out, difference))


_PROMPTS = ("photos", "limit", "seed", "prompts")
"""Settings that prompts depend on."""


@contextmanager
def present(work: Path, record: dict[str, Any], out: Path) -> Iterator[None]:
    """Work on a set: agree on its settings, and be seen to be there until the end of the block or of the process.

    Settings may be changed as long as nothing was drawn and nobody else is there, so that a mistyped option can be
    mended; prompts stay if what they depend on does.

    Raises:
        DataError: naming the first difference with the settings that the set was begun with.
    """
    path, text = work / "settings.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    descriptor = os.open(work / "present.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with claimed(work / "settings.lock", wait=True):
            difference = _difference(path, text)
            if difference:
                try:
                    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    raise DataError(_refusal(out, difference)) from None
                if any(work.glob("*/*/*.zip")) or any(work.glob("*/done.json")):
                    raise DataError(_refusal(out, difference))
                old, new = json.loads(path.read_text(encoding="utf-8")), json.loads(text)
                for stale in work.glob("generator-*.json"):
                    stale.unlink()
                for stale in work.glob("*/prompts.jsonl") if any(old.get(k) != new.get(k) for k in _PROMPTS) else ():
                    stale.unlink()
            if difference != "":
                write_whole(path, text.encode())
            fcntl.lockf(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _difference(path: Path, text: str) -> str | None:
    """The first difference with what a file holds; "" where there is none, None where there is no file."""
    if not path.is_file():
        return None
    return first_difference(json.loads(path.read_text(encoding="utf-8")), json.loads(text)) or ""


def _refusal(out: Path, difference: str) -> str:
    if difference.startswith("photos:"):
        difference = "other photos"
    return f"{out}: was begun with {difference}; give what it was begun with, or another folder for another set"
