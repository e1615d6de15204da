"""Fetches files by a shell command that prints them."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress

from datamodules.remote.failures import PipeFailed
from datamodules.remote.locations import Location
from datamodules.remote.secrets import redact
from datamodules.remote.sink import Sink

_PIECE = 1024 * 1024
_NOT_FOUND = (126, 127)  # a shell's word for a command that cannot be run


class PipeTransport:
    """Runs ``/bin/sh -c COMMAND``, with the file's name in the place of ``{name}``.

    The command inherits the environment: secrets belong there, and ``$VARIABLE`` in the command.

    Args:
        location: of the set.
        timeout_s: seconds without output after which the command is ended.
    """

    def __init__(self, location: Location, timeout_s: float) -> None:
        self._location = location
        self._timeout_s = timeout_s

    def fetch(self, name: str, sink: Sink) -> None:
        """Read what the command prints into a sink, always from the start.

        Raises:
            PipeFailed: if it ends with an error.
            TimeoutError: if it prints nothing for too long.
        """
        sink.restart()
        with subprocess.Popen(
            self._location.of(name),
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that all that it starts can be ended together
        ) as process:
            try:
                said = self._drain(process, sink)
                status = process.wait(self._timeout_s)
            except BaseException as error:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise TimeoutError from None
                raise
        if status:
            last = redact(said.decode(errors="replace").strip().rpartition("\n")[2].strip())[:300]
            raise PipeFailed(
                f"the command ended with status {status}" + (f": {last}" if last else ""), status in _NOT_FOUND
            )

    def _drain(self, process: subprocess.Popen[bytes], sink: Sink) -> bytes:
        """Read both outputs to their ends; return the end of what it had to say."""
        assert process.stdout is not None
        assert process.stderr is not None
        said = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stderr, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(self._timeout_s)
                if not ready:
                    raise TimeoutError
                for key, _ in ready:
                    data = os.read(key.fd, _PIECE)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is process.stdout:
                        sink.write(data)
                    else:
                        said = (said + data)[-4096:]
        return said

    def validator(self, name: str) -> dict[str, str] | None:
        """Nothing tells whether what a command prints has changed."""
        return None

    def sizes(self, names: Iterable[str]) -> dict[str, int | None]:
        """Nothing tells how long what a command prints is."""
        return {}
