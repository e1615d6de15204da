"""The Slurm job that this process runs in, and asking for it to be run again."""

from __future__ import annotations

import logging
import os
import subprocess

log = logging.getLogger(__name__)


def job_id() -> str | None:
    """The id under which Slurm knows this job, ``ARRAY_TASK`` for an array's task; None outside of a batch job.

    A shell of ``salloc`` or ``srun --pty`` is no batch job: it cannot be run again.
    """
    if os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive") or "SLURM_JOB_ID" not in os.environ:
        return None
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def requeue() -> bool:
    """Ask Slurm to run this job again; returns whether it will."""
    job = job_id()
    if job is None:
        return False
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("job %s could not be put back into the queue (%s); submit it again", job, error)
        return False
    if done.returncode:
        log.warning(
            "job %s could not be put back into the queue (%s); submit it again, with --requeue",
            job,
            done.stderr.strip(),
        )
        return False
    log.info("job %s was put back into the queue", job)
    return True
