"""``bias-train synthesize`` that stands still once it has kept some pictures, for a test that ends it there.

``python gated_synthesis.py FOLDER COUNT ARGUMENTS``: after COUNT samples it leaves a file ``waits`` in FOLDER. It never
goes on by itself; without a COUNT (``-``), or in a job's second life, it does not stop at all.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from bias_train.cli.synthesize import main
from datamodules.synthesis.work import ShardWork


def hold_after(count: int, folder: Path) -> None:
    """Let the process stand still in the ``count``-th call of ``ShardWork.save``, when the file is written."""
    save, kept = ShardWork.save, 0

    def held(self: ShardWork, *arguments: Any) -> None:
        nonlocal kept
        save(self, *arguments)
        kept += 1
        if kept == count:
            (folder / "waits").write_text(str(os.getpid()))
            while True:
                time.sleep(1)

    ShardWork.save = held  # type: ignore[method-assign]


if __name__ == "__main__":
    if sys.argv[2] != "-" and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        hold_after(int(sys.argv[2]), Path(sys.argv[1]))
    sys.exit(main(sys.argv[3:]))
