"""A start or a resume in a fresh process, as far as the first batch; run by index.py.

    python tests/benchmarks/resume.py FOLDER WARM_UP_FOLDER SAMPLE

Prints times in seconds and memory in bytes as one line of JSON. Imports and what libraries do once in a process are
left out: they are spent on a tiny set (WARM_UP_FOLDER) first.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil

from datamodules.catalogue import Catalogue
from datamodules.index import ShardIndex
from datamodules.plan import MixingPlan, MixSpec
from datamodules.stream import MixedStream

T = TypeVar("T")

BATCH, SIZE, STEPS, BATCHES = 256, 32, 1000, 50


def memory() -> dict[str, int]:
    """Bytes that are this process's own (USS), and those of them that are not pages of a mapped file."""
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    anonymous = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    return {"all": psutil.Process().memory_full_info().uss, "not_mapped": anonymous}


def timed(times: dict[str, float], name: str, work: Callable[[], T]) -> T:
    """Do something and note how long it took in seconds."""
    start = time.perf_counter()
    result = work()
    times[name] = time.perf_counter() - start
    return result


def begin(folder: Path, sample: int) -> dict[str, Any]:
    """Do what a run does up to its first batch, then plan many steps and make some batches."""
    before, step, times = memory(), sample // BATCH, {}
    index = timed(times, "load", lambda: ShardIndex.load(folder))
    spec = MixSpec(share=0.2, mode="unpaired", batch_size=BATCH)
    plan = timed(times, "make_plan", lambda: MixingPlan(Catalogue.of([index]), spec))
    timed(times, "first_slots", lambda: plan.slots(step))
    planned = memory()
    batches = iter(MixedStream(plan, (SIZE, SIZE), start=step))
    batch = timed(times, "first_batch", lambda: next(batches))
    assert batch["image"].shape == (BATCH, 3, SIZE, SIZE)
    assert not batch["skipped"]
    figures: dict[str, Any] = {**times, "resume": sum(times.values())}
    for _ in range(BATCHES):
        next(batches)
    used = memory()
    figures["planned"] = {name: planned[name] - before[name] for name in before}
    figures["used"] = {name: used[name] - before[name] for name in before}
    each: dict[str, float] = {}
    for number in range(step + 1, step + 1 + STEPS):
        timed(each, str(number), lambda number=number: plan.slots(number))  # type: ignore[misc]
    figures["slots_median"], figures["slots_most"] = statistics.median(each.values()), max(each.values())
    return figures


def main() -> None:
    folder, warm_up, sample = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    begin(warm_up, 0)
    print(json.dumps(begin(folder, sample)))


if __name__ == "__main__":
    main()
