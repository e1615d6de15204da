"""What a million samples cost: to index, to hold in memory, to plan a step of, to resume.

    python tests/benchmarks/index.py [--json FILE] [--check]

Makes 1,000 shards of 1,000 tiny samples (about 2 GB, removed at the end), each with a caption, one in five generated,
and runs ``bias-train shards index`` on them. Then fresh processes take turns: one starts at sample 0, one resumes at
sample ten million. Each loads the index, plans, and makes the first batch. Figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import machine
from pairs import in_turn, ratio
from tables import add_output, markdown, put_out
from tiny_shards import write_tiny_shards

HERE = Path(__file__).resolve().parent
PER_SHARD = 1000
LATE = 10_000_000  # samples into the run


def index_shards(folder: Path) -> float:
    """Run the command and return how long it took in seconds, its start included."""
    start = time.perf_counter()
    subprocess.run(
        [str(Path(sys.executable).with_name("bias-train")), "shards", "index", str(folder)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def begin(folder: Path, warm_up: Path, figures: list[dict[str, Any]], sample: int, number: int) -> float:
    """Start or resume in a fresh process; keep its figures and return the time to its first batch."""
    command = [sys.executable, str(HERE / "resume.py"), str(folder), str(warm_up), str(sample)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    figures.append({"sample": sample, "round": number, **json.loads(out.splitlines()[-1])})
    return figures[-1]["resume"]


def measure(folder: Path, shards: int, rounds: int) -> dict[str, Any]:
    """Measure everything; the result is what --json writes."""
    result: dict[str, Any] = {"machine": machine.describe(), "samples": shards * PER_SHARD, "rounds": rounds}
    machine.warn_if_busy(result["machine"])
    tiny, warm_up = folder / "tiny", folder / "warm-up"
    result["bytes"] = write_tiny_shards(tiny, shards, PER_SHARD)
    write_tiny_shards(warm_up, 5, 10)
    index_shards(warm_up)
    result["index_seconds"] = index_shards(tiny)
    result["index_bytes"] = sum(path.stat().st_size for path in tiny.iterdir() if path.suffix != ".tar")
    figures: list[dict[str, Any]] = []
    one = partial(begin, tiny, warm_up, figures)
    begun = in_turn({sample: partial(one, sample) for sample in (0, LATE)}, rounds)
    result["figures"] = figures
    late = ratio(begun[LATE], begun[0])

    def time_of(name: str, sample: int) -> float:
        return statistics.median(one[name] for one in figures if one["sample"] == sample)

    def memory(moment: str, part: str) -> float:
        return statistics.median(one[moment][part] for one in figures) / 1e6

    result["table"] = [
        row("indexing", "s", result["index_seconds"], 120),
        row("index on disk", "MB", result["index_bytes"] / 1e6),
        row("memory for index and plan", "MB", memory("planned", "all"), 100),
        row("memory in use after 50 batches, without the mapped file", "MB", memory("used", "not_mapped"), 100),
        row(
            "pages of the mapped file then, which processes share",
            "MB",
            memory("used", "all") - memory("used", "not_mapped"),
        ),
        row("loading the index", "ms", time_of("load", 0) * 1e3),
        row("making the plan", "ms", time_of("make_plan", 0) * 1e3),
        row("planning the first step", "ms", time_of("first_slots", 0) * 1e3),
        row("planning the first step at sample 10 million", "ms", time_of("first_slots", LATE) * 1e3),
        row("planning a step", "ms", max(time_of("slots_median", n) for n in (0, LATE)) * 1e3, 1),
        row("planning a step, the longest of 1,000", "ms", max(time_of("slots_most", n) for n in (0, LATE)) * 1e3),
        row("start at sample 0, to the first batch", "s", time_of("resume", 0), 0.5),
        row("resume at sample 10 million, to the first batch", "s", time_of("resume", LATE), 0.5),
        row("resume over start, paired", "", late.median, 1.1),
    ]
    return result


def row(what: str, unit: str, measured: float, target: float | None = None) -> dict[str, Any]:
    """One line of the table; a target is the most that is allowed."""
    return {"what": what, "unit": unit, "measured": measured, "target": target, "met": not target or measured <= target}


def report(result: dict[str, Any]) -> str:
    """Lay out the result for people, as Markdown."""
    rows = [
        [
            line["what"],
            f"{line['measured']:.3g} {line['unit']}".strip(),
            f"{line['target']:g} {line['unit']}".strip() if line["target"] else "",
            ("met" if line["met"] else "MISSED") if line["target"] else "",
        ]
        for line in result["table"]
    ]
    head = [f"{result['samples']:,} samples, {result['bytes'] / 1e9:.1f} GB", "measured", "at most", ""]
    return f"{markdown(head, rows)}\n\n{machine.line(result['machine'])}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1000, help=f"tars of {PER_SHARD} samples (default: 1000)")
    parser.add_argument("--rounds", type=int, default=5, help="starts and resumes (default: 5)")
    add_output(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.shards, options.rounds)
    return put_out(options, result, report(result), result["table"])


if __name__ == "__main__":
    sys.exit(main())
