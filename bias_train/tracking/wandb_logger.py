"""W&B as one logger of several: it may be out of reach at any moment, and training goes on."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger(__name__)

_DATA_DIR = "WANDB_DATA_DIR"
_own_data_dir: str | None = None  # what a logger of this process has set, None where it is the user's

Mode = Literal["online", "offline"]
# Where one way of keeping a run fails, the next is tried; the last keeps nothing and cannot fail.
_NEXT = {"online": "offline", "offline": "disabled"}
# Without a server there is only W&B's own process to wait for, which a busy machine may take long to start.
_OWN_PROCESS_S = 120.0
_KEPT = {"offline": "kept in the run folder; send it with `bias-train wandb sync`", "disabled": "not kept for W&B"}


class TolerantWandbLogger(WandbLogger):
    """Lightning's W&B logger, which no fault of W&B stops and no outage slows.

    Online, the server has ``timeout_s`` to answer when training starts; where it does not, the run is kept offline. At
    the end the same time is waited for what has not been sent yet; the folder of the run holds all of it either way.
    Where W&B's own process fails in mid-run, nothing more goes to W&B, and one line says so.

    Args:
        mode: "online" or "offline".
        timeout_s: longest wait for the server, at the start and at the end.
        init: what ``wandb.init`` takes besides.
    """

    def __init__(self, *, mode: Mode, timeout_s: float, **init: Any) -> None:
        # Not Lightning's `offline`, which would set an environment variable for every later run of the process.
        super().__init__(mode=mode, settings=_timeouts(mode, timeout_s), **init)
        del self._wandb_init["anonymous"]  # W&B warns of its presence, whatever it holds
        self._timeout_s = timeout_s
        self._closed = False
        self._exit_code = 0

    @property
    def experiment(self) -> Any:
        """The W&B run, started at the first use; on other ranks than the first a stand-in that does nothing."""
        if self._experiment is None:
            self._keep_pictures_here()
        while True:
            try:
                return super().experiment
            except Exception as fault:  # refusals, time-outs, a missing key, a full disk: W&B has an error for each
                mode = self._wandb_init["mode"]
                if mode not in _NEXT:
                    raise
                after = self._wandb_init["mode"] = _NEXT[mode]
                self._wandb_init["settings"] = _timeouts(after, self._timeout_s)
                _end_service()  # which takes the run that it could not start for one that goes on
                log.warning("W&B could not start %s (%s): the run is %s", mode, _one_line(fault), _KEPT[after])

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log scalars, tables or pictures for a step."""
        if not self._closed:
            with self._tolerance():
                super().log_metrics(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run starts with the whole resolved configuration."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Note how training ended."""
        self._exit_code = 0 if status == "success" else 1

    @rank_zero_only
    def finish(self, *, preempted: bool = False) -> None:
        """End the run, if it was started, so that the process's next one is another.

        Args:
            preempted: have W&B show it as preempted rather than failed.
        """
        if self._experiment is None or self._closed:
            return
        with self._tolerance():
            if preempted:
                self._experiment.mark_preempting()
            try:
                self._experiment.finish(exit_code=self._exit_code)
            except TimeoutError:
                folder = self._experiment.settings.sync_dir
                log.warning("W&B's server did not take all in time; `wandb sync --include-online %s` sends it", folder)
        self._closed = True

    @contextmanager
    def _tolerance(self) -> Iterator[None]:
        try:
            yield
        except Exception as fault:
            self._closed = True
            _end_service()
            log.warning("W&B failed (%s): nothing more is logged there; the other loggers go on", _one_line(fault))

    def _keep_pictures_here(self) -> None:
        """Have the pictures of tables lie in the run folder until they are sent, rather than in the user's home."""
        global _own_data_dir
        if os.environ.get(_DATA_DIR) == _own_data_dir and self._save_dir is not None:
            _own_data_dir = os.environ[_DATA_DIR] = str(Path(self._save_dir) / "wandb" / "data")


def _timeouts(mode: str, timeout_s: float) -> dict[str, Any]:
    longest = timeout_s if mode == "online" else max(timeout_s, _OWN_PROCESS_S)
    return {"init_timeout": longest, "finish_timeout": longest, "finish_timeout_raises": True}


def _end_service() -> None:
    """End W&B's own process, so that the next run has a new one and nothing waits for this one at exit."""
    import wandb

    with suppress(Exception):
        wandb.teardown()


def _one_line(fault: BaseException) -> str:
    text = " ".join(str(fault).split())
    return (text if len(text) <= 200 else text[:199] + "…") or type(fault).__name__
