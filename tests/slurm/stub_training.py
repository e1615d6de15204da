"""Stands in for ``bias-train fit`` where a test is about tasks and not about training, and starts at once.

    stub_training.py fit ... --act=ACT --run_dir FOLDER

Every rank leaves its process id in ``rank-<rank>``; rank 0 keeps ``status.json`` as a training does, ``attempts`` has
a line for each start. ACT is what the first start does once it has begun: ``train`` ends well; ``hold`` waits for a
file ``go`` beside the run folders, or for SIGTERM; ``kill`` is killed without a word; of ``break`` the other ranks fail
while rank 0 waits to be ended. Later starts end well.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # pytest imports it in search of doctests
    argv = sys.argv[1:]
    folder = Path(argv[argv.index("--run_dir") + 1])
    act = next(word.split("=", 1)[1] for word in argv if word.startswith("--act="))
    rank = int(os.environ.get("SLURM_PROCID", "0"))
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, frame: asked.append(signum))

    def status(state: str, step: int) -> None:
        if rank == 0:
            (folder / "draft").write_text(
                json.dumps({"state": state, "step": step, "max_steps": 10, "error": "", "started": time.time()})
            )
            (folder / "draft").replace(folder / "status.json")

    if rank == 0:
        with (folder / "attempts").open("a") as stream:
            stream.write(" ".join(argv) + "\n")
    (folder / f"rank-{rank}").write_text(str(os.getpid()))
    if rank:
        sys.exit(1 if act == "break" else 0)
    first = len((folder / "attempts").read_text().splitlines()) == 1
    status("running", 3)
    if first and act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL if act == "break" else signal.getsignal(signal.SIGTERM))
    print("rank 0 trains", flush=True)
    while first and act in ("hold", "break") and not (folder.parent / "go").exists():
        if asked:
            time.sleep(1.0)  # a checkpoint takes its time
            status("preempted", 5)
            sys.exit(128 + signal.SIGTERM)
        time.sleep(0.05)
    status("done", 10)
