"""The one error that bad data or bad data options end in, and what a skipped sample leaves behind."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["undecodable", "oversized", "checksum", "unreadable", "no caption", "no wrong word"]


class DataError(ValueError):
    """Names the file, key or option that is wrong and what to do about it."""


class SampleError(DataError):
    """One sample cannot be used; streaming goes on with another in its place.

    Attributes:
        kind: ``undecodable``: no decoder makes a picture of it; ``oversized``: it claims more pixels than are allowed;
            ``checksum``: the bytes are not those that were indexed; ``unreadable``: its shard is gone, cut off or
            cannot be fetched; ``no caption``: nothing describes it; ``no wrong word``: its captions say all words that
            could be written on it.
    """

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[SampleError], tuple[Kind, str]]:
        return SampleError, (self.kind, str(self))


class Skip(NamedTuple):
    """A picture that was replaced: why, by :class:`SampleError`'s kinds, and what it was."""

    kind: Kind
    message: str
