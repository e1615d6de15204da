"""Turns of contenders: fresh processes, started one after another, that are timed or whose memory is taken."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from peak_memory import PeakMemory

HERE = Path(__file__).resolve().parent
LIMIT = 900  # seconds after which a turn is given up
# Loader processes are the only parallelism that is compared.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1"
)


class Turns:
    """Runs a contender's module on one set of shards.

    Args:
        shards: folder made by ``picture_shards.py``.
        size: side of the pictures that come out.
        batch_size: pictures in a batch.
        pictures: how many a turn counts, rounded up to whole batches of every worker.
        warm_up: batches before the clock starts.
        scratch: for what the processes leave behind.
    """

    def __init__(self, shards: Path, *, size: int, batch_size: int, pictures: int, warm_up: int, scratch: Path) -> None:
        self.shards, self.size, self.batch_size, self.pictures = shards, size, batch_size, pictures
        self.warm_up, self.scratch = warm_up, scratch

    def _start(self, python: str, module: str, workers: int, tokens: bool, seed: int) -> subprocess.Popen[str]:
        # Workers deliver in turn, so that an odd batch at the end would come too early or too late.
        whole = self.batch_size * max(workers, 1)
        turn = {
            "contender": module,
            "pictures": -(-self.pictures // whole) * whole,
            "warm_up": self.warm_up,
            "options": {
                "shards": str(self.shards),
                "size": self.size,
                "batch_size": self.batch_size,
                "workers": workers,
                "tokens": tokens,
                "seed": seed,
            },
        }
        # A session of its own, so that its workers can be ended with it.
        return subprocess.Popen(
            [python, str(HERE / "turn.py"), json.dumps(turn)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **ONE_THREAD, "TMPDIR": str(self.scratch), "CUDA_VISIBLE_DEVICES": ""},
            start_new_session=True,
        )

    def _finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        try:
            out, error = process.communicate(timeout=LIMIT)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            sys.exit(f"a contender failed: {process.args}\n{error[-3000:]}")
        return json.loads(out.splitlines()[-1])

    def memory(self, python: str, module: str, workers: int, tokens: bool) -> tuple[int, str]:
        """Take a contender's peak memory over a turn, in bytes, and say what its batches are."""
        process = self._start(python, module, workers, tokens, seed=0)
        with PeakMemory(process.pid) as peak:
            result = self._finish(process)
        return peak.bytes, result["delivers"]

    def rate(self, python: str, module: str, workers: int, tokens: bool, seed: int) -> float:
        """Take a contender's rate over a turn, in pictures a second."""
        result = self._finish(self._start(python, module, workers, tokens, seed))
        return result["pictures"] / result["seconds"]
