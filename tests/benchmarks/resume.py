"""A start or a resume in a fresh process, as far as the first batch; run by index.py.

    python tests/benchmarks/resume.py FOLDER WARM_UP_FOLDER SAMPLE

Prints times in seconds and memory in bytes as one line of JSON. Imports and what libraries do once in a process are
left out: they are spent on a tiny set (WARM_UP_FOLDER) first.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from datamodules.catalogue import Catalogue
from datamodules.index import ShardIndex
from datamodules.plan import MixingPlan, MixSpec
from datamodules.stream import MixedStream

BATCH, SIZE, STEPS = 256, 32, 1000


def memory() -> tuple[int, int]:
    """Bytes that are this process's own (USS), and those of them that are not pages of a mapped file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    anonymous = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    return psutil.Process().memory_full_info().uss, anonymous


def begin(folder: Path, sample: int) -> tuple[MixingPlan, dict[str, float]]:
    """Do what a run does before its first step, and time it."""
    step, times = sample // BATCH, [time.perf_counter()]
    index = ShardIndex.load(folder)
    times.append(time.perf_counter())
    plan = MixingPlan(Catalogue.of([index]), MixSpec(share=0.2, mode="unpaired", batch_size=BATCH))
    times.append(time.perf_counter())
    plan.slots(step)
    times.append(time.perf_counter())
    stream = MixedStream(plan, (SIZE, SIZE), start=step)
    batch = next(iter(stream))
    assert batch["image"].shape == (BATCH, 3, SIZE, SIZE)
    assert not batch["skipped"]
    times.append(time.perf_counter())
    names = ("load", "make_plan", "first_slots", "first_batch")
    return plan, {**dict(zip(names, np.diff(times).tolist(), strict=True)), "resume": times[-1] - times[0]}


def main() -> None:
    folder, warm_up, sample = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    begin(warm_up, 0)
    gc.collect()
    own, anonymous = memory()
    plan, figures = begin(folder, sample)
    gc.collect()
    own_now, anonymous_now = memory()
    figures |= {"memory": own_now - own, "memory_not_mapped": anonymous_now - anonymous}
    times = []
    for step in range(sample // BATCH + 1, sample // BATCH + 1 + STEPS):
        start = time.perf_counter()
        plan.slots(step)
        times.append(time.perf_counter() - start)
    figures["slots_median"], figures["slots_most"] = float(np.median(times)), max(times)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
