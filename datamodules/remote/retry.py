"""Tries again what may go better, with pauses."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from datamodules.remote.failures import Broken, Failure, LocalDiskError, explain
from datamodules.remote.options import CacheOptions

log = logging.getLogger(__name__)
T = TypeVar("T")
_LONGEST_PAUSE_S = 30.0
_jitter = random.Random()  # of its own: the global one belongs to the user's seed


class GivenUp(Exception):  # noqa: N818 - becomes a DataError that names the file
    """Every try failed, or the first in a way that no other would change.

    Attributes:
        failure: the last one.
        tries: how many there were.
        changed: whether the origin gave the same wrong file twice.
    """

    def __init__(self, failure: Failure, tries: int, changed: bool) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.tries = tries
        self.changed = changed


def persist(action: Callable[[], T], about: str, options: CacheOptions, on_retry: Callable[[], None]) -> T:
    """Do something over the network until it succeeds.

    Args:
        action: what to do; its exceptions are those of a transport and its sink.
        about: of what to speak in the log; holds no secret.
        options: how often and how patiently.
        on_retry: called before each try after the first.

    Raises:
        GivenUp: if it does not succeed.
        LocalDiskError: at once, from the action.
    """
    seen: set[str] = set()
    for attempt in range(options.retries + 1):
        try:
            return action()
        except LocalDiskError:
            raise
        except Exception as error:
            failure = explain(error, options.timeout_s)
            what = error.what if isinstance(error, Broken) else ""
        # The same wrong bytes twice are no damage on the way but what lies there.
        if what in seen or not failure.again or attempt == options.retries:
            raise GivenUp(failure, attempt + 1, changed=bool(what) and what in seen)
        if what:
            seen.add(what)
        pause = min(_LONGEST_PAUSE_S, options.backoff_s * 2**attempt) * _jitter.uniform(0.5, 1.5)
        log.warning("%s: %s; retry %d of %d in %.1f s", about, failure.message, attempt + 1, options.retries, pause)
        on_retry()
        time.sleep(pause)
    raise AssertionError("unreachable")
