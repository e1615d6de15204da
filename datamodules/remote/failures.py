"""What went wrong when a file was fetched, and whether it is worth another try."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from datamodules.errors import DataError
from datamodules.remote.secrets import redact

_TRANSIENT_STATUS = {408, 425, 429}
# By name, so that no library is imported that the location does not need.
_TRANSIENT = {
    "aiohttp.ClientError",
    "botocore.HTTPClientError",
    "botocore.ConnectionError",
    "botocore.IncompleteReadError",
    "botocore.ResponseParserError",
    "google.TransportError",
    "requests.RequestException",
    "builtins.ConnectionError",
    "builtins.TimeoutError",
    "socket.gaierror",
}
_FINAL = {
    "aiohttp.InvalidURL",
    "aiohttp.ClientSSLError",
    "aiohttp.ClientConnectorCertificateError",
    "botocore.SSLError",
}
_NO_CREDENTIALS = {
    "botocore.NoCredentialsError",
    "botocore.PartialCredentialsError",
    "botocore.ProfileNotFound",
    "google.DefaultCredentialsError",
}


class Broken(Exception):  # noqa: N818 - caught and told in other words
    """A transfer that ended early or gave something else than the file; another try may go better.

    Attributes:
        what: the same for two transfers that gave the same, "" for one that merely ended early.
    """

    def __init__(self, message: str, what: str = "") -> None:
        super().__init__(message)
        self.what = what


class PipeFailed(Exception):  # noqa: N818 - caught and told in other words
    """A shell command that ended with an error.

    Attributes:
        final: whether trying again is useless.
    """

    def __init__(self, message: str, final: bool) -> None:
        super().__init__(message)
        self.final = final


@dataclass(frozen=True)
class Failure:
    """An exception told in one clause, without secrets.

    Attributes:
        message: what happened.
        again: whether another try may go better.
        status: the HTTP status, 0 if there is none.
    """

    message: str
    again: bool
    status: int = 0


def explain(error: Exception, timeout_s: float) -> Failure:
    """Tell what an exception of a transport means.

    Args:
        error: from fsspec, s3fs, gcsfs, the libraries beneath them, or this package.
        timeout_s: seconds that were waited for a byte.
    """
    if isinstance(error, Broken):
        return Failure(str(error), again=True)
    if isinstance(error, PipeFailed):
        return Failure(str(error), again=not error.final)
    if type(error) is FileNotFoundError and isinstance(error.__cause__, Exception):
        return explain(error.__cause__, timeout_s)  # what fsspec says over HTTP, whatever kept it from the file
    names = {name for one in _chain(error) for name in _names(one)}
    if names & _NO_CREDENTIALS:
        return Failure("no credentials were found", again=False, status=401)
    status = _status(error)
    if status == 404:
        return Failure(f"is not there (HTTP 404{_code(error)})", again=False, status=status)
    if status in (401, 403):
        return Failure(f"access is denied (HTTP {status}{_code(error)})", again=False, status=status)
    if status == 416:
        return Failure("is shorter there than its index says (HTTP 416)", again=False, status=status)
    if status:
        try:
            phrase = f" {HTTPStatus(status).phrase}"
        except ValueError:
            phrase = ""
        return Failure(
            f"HTTP {status}{phrase}{_code(error)}", again=status >= 500 or status in _TRANSIENT_STATUS, status=status
        )
    if "builtins.TimeoutError" in names:
        return Failure(f"nothing came for {timeout_s:g} s", again=True)
    said = redact(" ".join(str(error).split()))[:300]
    message = f"{type(error).__name__}: {said}" if said else type(error).__name__
    plain_os_error = isinstance(error, OSError)  # of the network: those of the local disk are caught where they happen
    return Failure(message, again=not names & _FINAL and (bool(names & _TRANSIENT) or plain_os_error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Walk from an exception to those that it was made of."""
    at: BaseException | None = error
    for _ in range(8):
        if at is None:
            return
        yield at
        at = at.__cause__ or at.__context__


def _names(error: BaseException) -> Iterator[str]:
    for kind in type(error).__mro__:
        yield f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def _status(error: BaseException) -> int:
    """Find the HTTP status behind an exception; each library keeps it in a place of its own."""
    for one in _chain(error):
        value = _answer(one).get("ResponseMetadata", {}).get("HTTPStatusCode")
        for kind, attribute in (("aiohttp.ClientResponseError", "status"), ("gcsfs.HttpError", "code")):
            if kind in _names(one):
                value = getattr(one, attribute, None)
        if str(value).isdecimal() and 300 <= int(str(value)) < 600:
            return int(str(value))
    for one in _chain(error):
        if isinstance(one, PermissionError) or (isinstance(one, OSError) and str(one).startswith("Forbidden")):
            return 403
    return 404 if isinstance(error, FileNotFoundError) else 0


def _code(error: BaseException) -> str:
    """What s3 calls the error, such as NoSuchBucket."""
    for one in _chain(error):
        code = str(_answer(one).get("Error", {}).get("Code", ""))
        if code.isalnum() and not code.isdecimal():
            return f", {code}"
    return ""


def _answer(error: BaseException) -> dict[str, Any]:
    """Take what botocore keeps of an answer."""
    response = getattr(error, "response", None)
    return response if isinstance(response, dict) else {}


class LocalDiskError(DataError):
    """The cache's own disk cannot be written, which no other try will change."""
