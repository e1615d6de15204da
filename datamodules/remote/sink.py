"""Takes in a file as it arrives: writes it, counts it and takes its checksum."""

from __future__ import annotations

import errno
import hashlib
import os

from datamodules.remote.failures import Broken, LocalDiskError


class Sink:
    """Writes to an open file from its start, or on from where a transfer broke off.

    Args:
        descriptor: of the file, open for writing.
        size: bytes that are to come; None where nobody knows.
        sha256: hexadecimal checksum that they have; None where nobody knows.
        limit: bytes after which a file of unknown size is given up.
    """

    def __init__(self, descriptor: int, size: int | None, sha256: str | None, limit: int) -> None:
        self.size = size
        self._descriptor = descriptor
        self._sha256 = sha256
        self._limit = limit if size is None else size
        self.restart()

    def restart(self) -> None:
        """Forget what has come."""
        self.position = 0
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Take the next bytes.

        Raises:
            Broken: if more come than the file has.
            LocalDiskError: if they cannot be written.
        """
        if self.position + len(data) > self._limit:
            raise Broken(f"is longer than the {self._limit} bytes expected", what="longer")
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._descriptor, view, self.position)
                self._digest.update(view[:written])
                self.position += written
                view = view[written:]
        except OSError as error:
            remedy = (
                "make room there or lower data.cache.limit_gb" if error.errno == errno.ENOSPC else "check that disk"
            )
            raise LocalDiskError(f"data.cache.folder: cannot be written ({error.strerror}); {remedy}") from None
        return len(data)

    def finish(self) -> str:
        """Compare what has come with what was to come.

        Returns:
            The hexadecimal SHA-256 of it.

        Raises:
            Broken: if it is too short, or something else.
        """
        if self.size is not None and self.position < self.size:
            raise Broken(f"broke off after {self.position} of {self.size} bytes")
        digest = self._digest.hexdigest()
        if self._sha256 is not None and digest != self._sha256:
            raise Broken("arrived with another checksum than the one that was indexed", what=digest)
        if self.size is None:
            os.truncate(self._descriptor, self.position)  # of a longer try before this one
        return digest
