"""A node of a small cluster: starts the processes of an elastic training, and has them die where they are told to.

:func:`serve` imports all that a training needs, once; then each line on its standard input is a start (see
:class:`Start`), which it answers with a line of process ids and, when all have ended, a line of exit codes. Ranks are
forked, so that one starts in a moment, and get the environment that torchrun would give them. As a cluster would, it
kills all ranks when one has died.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import psutil
import torch

PLACES = (
    "before a step",
    "after an optimiser step",
    "half a checkpoint",
    "before the rename",
    "before the removal",
    "a loader worker",
)
IMPORTS = ("bias_train.cli.fit", "bias_train.callbacks.source_bias", "datamodules.mixed_source", "losses")
WORKER_IMPORTS = ("datamodules.stream", "datamodules.evaluation", "models.open_clip_retriever", "lightning.fabric")


@dataclass(frozen=True)
class Start:
    """One start of a training.

    Attributes:
        attempt: number of this start.
        world_size: processes.
        port: free on this machine.
        log: folder for what ranks log.
        argv: arguments of ``bias-train fit``.
        place: where ranks die, of ``PLACES``; anything else leaves them to live.
        victims: the ranks that die.
        count: the how-manieth time from this start, from 1: of a step, or of a checkpoint's write, rename or removal.
    """

    attempt: int
    world_size: int
    port: int
    log: str
    argv: list[str]
    place: str
    victims: list[int]
    count: int


# Of the process that this is, where it is a rank.
_start: Start
_rank: int


def kill_self() -> None:
    """Die at once: nothing is flushed, closed or told to anybody."""
    os.kill(os.getpid(), signal.SIGKILL)


class Consumed(pl.Callback):
    """Appends to the rank's log where it starts and what it trains on, a line a step and a write a line."""

    def __init__(self) -> None:
        self.start, self.rank, self.steps = _start, _rank, 0
        self.file = os.open(f"{_start.log}/rank-{_rank}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        checkpoint = Path(trainer.ckpt_path).name if trainer.ckpt_path is not None else None
        self._append(event="start", step=trainer.global_step, checkpoint=checkpoint)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: dict[str, Any], batch_idx: int
    ) -> None:
        self.steps += 1
        if self._dies("before a step"):
            kill_self()
        self._append(
            event="batch",
            step=trainer.global_step,
            keys=batch["key"],
            captions=batch["caption_id"].tolist(),
            sources=batch["source"].tolist(),
            twins=batch["twin_index"].tolist(),
            twin_sources=batch["twin_source"].tolist(),
        )
        if self._dies("a loader worker"):
            workers = trainer.train_dataloader._iterator._workers  # type: ignore[union-attr]
            psutil.Process(workers[0].pid).kill()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._dies("after an optimiser step"):
            kill_self()

    def _append(self, **entry: Any) -> None:
        head = {"attempt": self.start.attempt, "rank": self.rank, "world_size": self.start.world_size}
        os.write(self.file, (json.dumps({**head, **entry}) + "\n").encode())

    def _dies(self, place: str) -> bool:
        return self.start.place == place and self.rank in self.start.victims and self.start.count == self.steps


def arm(start: Start) -> None:
    """Set the deaths inside the writing of a checkpoint, where the writer meets the file system."""
    times = 0

    def before(owner: Any, name: str, dies: Callable[..., bool]) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            nonlocal times
            if dies(*args):
                times += 1
                if times == start.count:
                    kill_self()
            return original(*args, **kwargs)

        setattr(owner, name, watched)

    def halved(handle: int) -> bool:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if not path.name.endswith(".ckpt.partial"):
            return False
        if times + 1 == start.count:
            os.truncate(path, path.stat().st_size // 2)
        return True

    if start.place == "half a checkpoint":
        before(os, "fsync", halved)
    elif start.place == "before the rename":
        before(Path, "replace", lambda path, target: path.name.endswith(".ckpt.partial"))
    elif start.place == "before the removal":
        before(Path, "unlink", lambda path, *_: path.suffix == ".ckpt")


def run_rank(start: Start, rank: int) -> None:
    """Train as one rank."""
    global _start, _rank
    _start, _rank = start, rank
    output = os.open(f"{start.log}/output-{start.attempt}-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(start.port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GROUP_RANK="0",
        WORLD_SIZE=str(start.world_size),
        LOCAL_WORLD_SIZE=str(start.world_size),
        TORCHELASTIC_RUN_ID="elastic",
        GLOO_SOCKET_IFNAME="lo",
    )
    # Loader workers come from the server that the node has started; on its own each rank would start another one.
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined, method-assign]
    if rank in start.victims:
        arm(start)
    from bias_train.cli.fit import fit

    fit(start.argv)


def launch(start: Start) -> list[int]:
    """Fork the ranks; returns their process ids."""
    pids = []
    for rank in range(start.world_size):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                run_rank(start, rank)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        pids.append(pid)
    return pids


def wait(pids: list[int]) -> list[int]:
    """Return exit codes, negative for a signal; kills all ranks when one fails, and sees their loader workers end."""
    codes: dict[int, int] = {}
    while len(codes) < len(pids):
        pid, status = os.waitpid(-1, 0)
        if pid not in pids:
            continue
        codes[pid] = os.waitstatus_to_exitcode(status)
        if codes[pid] != 0:
            for other in pids:
                if other not in codes:
                    os.kill(other, signal.SIGKILL)
    workers = psutil.Process(forkserver._forkserver._forkserver_pid).children()  # type: ignore[attr-defined]
    _, left = psutil.wait_procs(workers, timeout=60)
    assert not left, f"loader workers outlived their trainer: {left}"
    return [codes[pid] for pid in pids]


def serve() -> None:
    """Be the node."""
    for module in (*IMPORTS, *WORKER_IMPORTS):
        importlib.import_module(module)
    torch.set_num_threads(1)
    forkserver.set_forkserver_preload(list(WORKER_IMPORTS))
    forkserver.ensure_running()
    print("ready", flush=True)
    for line in sys.stdin:
        pids = launch(Start(**json.loads(line)))
        print(json.dumps(pids), flush=True)
        codes = wait(pids)
        print(json.dumps(codes), flush=True)
