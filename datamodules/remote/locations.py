"""Where a remote shard set lies: parsed, and refused where the address holds a secret."""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from datamodules.errors import DataError
from datamodules.remote.secrets import holds_secret, redact

_SCHEMES = ("http", "https", "s3", "gs")
_NAME = "{name}"
CREDENTIALS = {
    "http": "the entry of the host in ~/.netrc",
    "https": "the entry of the host in ~/.netrc",
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE (a public bucket: FSSPEC_S3_ANON=true)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or `gcloud auth application-default login` (a public bucket: "
    "FSSPEC_GCS_TOKEN=anon)",
    "pipe": "environment variables that the command names",
}


def is_remote(location: str) -> bool:
    """Whether a shard set's location is a URL or a pipe rather than a folder.

    >>> [is_remote(one) for one in ("s3://bucket/set", "pipe:cat /data/{name}", "/data/set", "C:/set")]
    [True, True, False, False]
    """
    scheme, colon, rest = str(location).partition(":")
    return bool(colon) and (scheme.lower() == "pipe" or (scheme.lower() in _SCHEMES and rest.startswith("//")))


@dataclass(frozen=True)
class Location:
    """The address of a shard set; holds no secret, so it may be shown and stored.

    Attributes:
        scheme: ``http``, ``https``, ``s3``, ``gs`` or ``pipe``.
        base: the URL without a slash at its end; for a pipe, the shell command with ``{name}`` for the file's name.
    """

    scheme: str
    base: str

    @classmethod
    def parse(cls, text: str) -> Location:
        """Check an address.

        Raises:
            DataError: if it is none, or holds credentials. The message does not repeat them.
        """
        scheme, _, rest = text.partition(":")
        scheme = scheme.lower()
        if scheme == "pipe":
            return cls(scheme, _checked_command(rest.strip()))
        # Shown without all that a password may be part of, however it breaks the URL.
        shown = re.split(r"[?#]", re.sub(r"//.*@", "//", text), maxsplit=1)[0]
        bare = re.split(r"[?#]", text, maxsplit=1)[0]
        try:
            parts = urlsplit(bare)
            host, port, server = parts.hostname, parts.port, parts.netloc
        except ValueError:
            host, port, server = None, None, ""
        web = scheme.startswith("http")
        if "@" in (text if web or not host else server) or (port is not None and not web):
            shown = shown if "@" in text else f"{scheme}://"
            raise DataError(f"{shown}: holds a user name or a password, which would end up in logs; {_instead(scheme)}")
        if bare != text:
            raise DataError(
                f"{shown}: a shard set's URL may not go on with '?' or '#' (signed URLs hold a secret, which would end "
                f"up in logs); {_instead(scheme)}"
            )
        if scheme not in _SCHEMES or not host:
            raise DataError(
                f"{redact(shown)}: is no http(s)://host/..., s3://bucket/..., gs://bucket/... or pipe:command"
            )
        # Of an http URL, scheme and host have no case; of a bucket, every letter counts.
        return cls(scheme, f"{scheme}:{bare.partition(':')[2]}".rstrip("/"))

    def __str__(self) -> str:
        return f"pipe:{self.base}" if self.scheme == "pipe" else self.base

    @property
    def digest(self) -> str:
        """A name for this location among others: 16 hexadecimal digits."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:16]

    def of(self, name: str) -> str:
        """The address of one of the set's files: a URL, or a shell command that prints it.

        Raises:
            DataError: for a name that leaves the set's folder or that a shell would not take as one word.
        """
        parts = name.split("/")
        if not name or "\\" in name or any(part in ("", ".", "..") for part in parts) or not name.isprintable():
            raise DataError(f"{self}: lists a file named {name!r}, which is no path within the set")
        if self.scheme == "pipe":
            # The command may quote {name} itself, so that no quoting of ours would be safe.
            if shlex.quote(name) != name or name.startswith("-"):
                raise DataError(
                    f"{self}: a shell would misread the name {name!r}; rename the file, or use another store"
                )
            return self.base.replace(_NAME, name)
        return f"{self.base}/{quote(name) if self.scheme.startswith('http') else name}"


def _instead(scheme: str) -> str:
    return f"leave it out and keep credentials in {CREDENTIALS.get(scheme, CREDENTIALS['https'])}"


def _checked_command(command: str) -> str:
    if holds_secret(command):
        raise DataError(
            "pipe: the command holds what looks like a password, key or token, which would end up in logs; put it into "
            "an environment variable and write $VARIABLE, which the shell expands"
        )
    if _NAME not in command:
        raise DataError(f"pipe:{redact(command)}: has no {_NAME}, the place of the file's name")
    return command
