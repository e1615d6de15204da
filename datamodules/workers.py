"""How loader workers start, and that they end with the trainer."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.context import BaseContext
from typing import Any


def worker_context(tokenize: Any) -> BaseContext:
    """Start workers from a server that has imported what they need: seconds and hundreds of megabytes less for each.

    Args:
        tokenize: what the stream calls on captions; the module of its class is imported too.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["datamodules.stream", "datamodules.evaluation", type(tokenize).__module__])
    return context


def end_with_trainer(worker: int) -> None:
    """End this worker when the trainer is gone, however it went.

    A worker's parent is the server that started it, so that the loader's own watch on the parent never notices that
    the trainer was killed, and a cluster's node would fill with workers that wait for ever.
    """
    trainer = multiprocessing.parent_process()
    if trainer is None:
        return

    def watch() -> None:
        trainer.join()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-trainer", daemon=True).start()
