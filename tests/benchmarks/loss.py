"""Time and memory of the contrastive losses: the whole matrix of scores, against a few rows at a time.

    python tests/benchmarks/loss.py [--batches 4096 16384] [--chunk 256] [--json FILE] [--check]

Value and gradients of one step on made-up unit vectors of 512 dimensions in float32, duplicates left out, as trainings
have it by default. Every turn is a fresh process; the two ways take turns, and a round gives one ratio. Memory is what
the step adds to the process: the most that was ever resident, as the system has counted it, less what was resident when
the embeddings were there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import machine
from pairs import in_turn, ratio
from tables import add_output, markdown, put_out

ROOT = Path(__file__).resolve().parent.parent.parent
WIDTH = 512
TARGET_BATCH, MEMORY, TIME = 16384, 0.1, 1.3

TURN = """
import json, sys, time, resource
import psutil, torch
import torch.nn.functional as F
import losses

kind, batch, width, chunk, steps = sys.argv[1], *map(int, sys.argv[2:])
generator = torch.Generator().manual_seed(0)
image, text = (F.normalize(torch.randn(batch, width, generator=generator), dim=1).requires_grad_() for _ in range(2))
scale, bias = (torch.tensor(value, requires_grad=True) for value in (50.0, -10.0))
ids = torch.randint(0, batch, (2, batch), generator=generator)
features = losses.Features(image=image, text=text, logit_scale=scale, logit_bias=bias,
                           source=torch.zeros(batch, dtype=torch.int64), group=ids[0], caption_id=ids[1])
loss = getattr(losses, kind)(chunk=chunk)
small = losses.Features(image=image[:8], text=text[:8], logit_scale=scale, logit_bias=bias, source=ids[0][:8],
                        group=ids[0][:8], caption_id=ids[1][:8])
sum(loss(small).values()).backward()  # whatever is loaded at first use
for one in (image, text):
    one.grad = torch.zeros_like(one)
before = psutil.Process().memory_info().rss
start = time.perf_counter()
for _ in range(steps):
    sum(loss(features).values()).backward()
seconds = (time.perf_counter() - start) / steps
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "bytes": peak - before}))
"""


def turn(kind: str, batch: int, chunk: int, steps: int) -> dict[str, float]:
    """Measure one way in a fresh process."""
    command = [sys.executable, "-c", TURN, kind, *map(str, (batch, WIDTH, chunk, steps))]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
    return json.loads(found.stdout)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for; the result is what --json writes."""
    result: dict[str, Any] = {"machine": machine.describe(), "rounds": options.rounds, "table": []}
    machine.warn_if_busy(result["machine"])
    for kind in options.losses:
        for batch in options.batches:
            memory: dict[str, list[float]] = {"whole": [], "chunked": []}

            def run(way: str, kind: str = kind, batch: int = batch, memory: dict[str, list[float]] = memory) -> float:
                found = turn(kind, batch, options.chunk if way == "chunked" else 0, max(1, 2 * 4096 // batch))
                memory[way].append(found["bytes"])
                return found["seconds"]

            seconds = in_turn({way: lambda _, way=way: run(way) for way in memory}, options.rounds)
            of_time, of_memory = (ratio(found["chunked"], found["whole"]) for found in (seconds, memory))
            targeted = batch == TARGET_BATCH
            result["table"].append(
                {
                    "loss": kind,
                    "batch": batch,
                    "chunk": options.chunk,
                    "width": WIDTH,
                    "seconds": seconds,
                    "bytes": memory,
                    "time": vars(of_time),
                    "memory": vars(of_memory),
                    "targeted": targeted,
                    "met": not targeted or (of_time.median <= TIME and of_memory.median <= MEMORY),
                }
            )
    return result


def report(result: dict[str, Any]) -> str:
    """Lay out the result for people, as Markdown."""
    head = ["loss", "batch", "s, whole", "s, chunked", "time", "MB, whole", "MB, chunked", "memory", "target"]
    rows = []
    for line in result["table"]:
        seconds, memory = ({way: statistics.median(v) for way, v in line[key].items()} for key in ("seconds", "bytes"))
        rows.append(
            [
                line["loss"],
                f"{line['batch']:,}",
                f"{seconds['whole']:.2f}",
                f"{seconds['chunked']:.2f}",
                f"{line['time']['median']:.2f}",
                f"{memory['whole'] / 1e6:,.0f}",
                f"{memory['chunked'] / 1e6:,.0f}",
                f"{line['memory']['median']:.3f}",
                ("met" if line["met"] else "MISSED") if line["targeted"] else "",
            ]
        )
    note = f"Targets at {TARGET_BATCH:,}: at most {MEMORY:g} of the memory and {TIME:g} times the time."
    return f"{markdown(head, rows)}\n\n{note} {machine.line(result['machine'])}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", default=["InfoNCE", "SigLIP"], choices=("InfoNCE", "SigLIP"))
    parser.add_argument("--batches", type=int, nargs="+", default=[1024, 4096, 16384], metavar="N")
    parser.add_argument("--chunk", type=int, default=256, metavar="ROWS")
    parser.add_argument("--rounds", type=int, default=3)
    add_output(parser)
    options = parser.parse_args()
    result = measure(options)
    return put_out(options, result, report(result), result["table"])


if __name__ == "__main__":
    sys.exit(main())
