"""Exact search in a large gallery: our top-k against faiss's ``IndexFlatIP``, on the same threads.

    python tests/benchmarks/search.py [--rows 1000000] [--threads 2] [--json FILE] [--check]

Unit vectors of 512 dimensions, 1,000 queries, the best 100 of each. Two galleries: directions spread evenly, and a cone
around one direction with a few dozen strong ones, which is what encoders make. Every turn is a fresh process that has
the gallery in memory before the clock starts, faiss as its index; the contenders take turns, and a round gives one
ratio. Our search also runs with its first pass in float32, as on processors without bfloat16 units. Memory is what our
search adds to the process, the outcome included. All must find the same scores up to float32's rounding.

faiss is no requirement of the project: pip install faiss-cpu.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine
import numpy as np
from pairs import in_turn, ratio
from tables import add_output, markdown, put_out

ROOT = Path(__file__).resolve().parent.parent.parent
WIDTH, QUERIES, K = 512, 1000, 100
TARGET, CHUNK = 1.0, 1 << 28  # times faiss's speed; bytes that our search may add
OURS = {"ours": None, "ours, float32": "float32"}

TURN = """
import json, resource, sys, time
import numpy as np, psutil

contender, folder, threads, k, chunk, first_pass = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]), sys.argv[6]
gallery, query = (np.load(f"{folder}/{name}.npy") for name in ("gallery", "query"))
if contender == "faiss":
    import faiss
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    index.search(query[:8], k)  # whatever is loaded at first use
    start = time.perf_counter()
    scores, found = index.search(query, k)
else:
    import torch
    from bias_train.metrics.functional.top_k import top_k
    torch.set_num_threads(threads)
    gallery, query = torch.from_numpy(gallery), torch.from_numpy(query)
    how = dict(chunk_bytes=chunk, first_pass=getattr(torch, first_pass) if first_pass else None)
    top_k(query[:8], gallery[:20000], k, **how)
    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    scores, found = top_k(query, gallery, k, **how)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
np.save(f"{folder}/scores-{contender}.npy", np.asarray(scores))
print(json.dumps({"seconds": seconds, "bytes": None if contender == "faiss" else peak - before}))
"""


def make(folder: Path, rows: int, kind: str) -> None:
    """Write unit vectors, the same ones in every run."""
    draw = np.random.default_rng(0)
    mean, strong = draw.normal(size=WIDTH), draw.normal(size=(48, WIDTH))
    for name, count in (("query", QUERIES), ("gallery", rows)):
        out = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (count, WIDTH))
        for start in range(0, count, 50_000):
            part = draw.standard_normal((min(50_000, count - start), WIDTH), dtype=np.float32)
            if kind == "cone":
                part += (mean + draw.standard_normal((len(part), len(strong))) @ strong / 4).astype(np.float32)
            out[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
        out.flush()


def turn(contender: str, folder: Path, threads: int) -> dict[str, Any]:
    """Search in a fresh process."""
    command = [
        sys.executable, "-c", TURN, contender, str(folder), str(threads), str(K), str(CHUNK), OURS.get(contender) or "",
    ]  # fmt: skip
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
    return json.loads(found.stdout)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure everything that was asked for; the result is what --json writes."""
    result: dict[str, Any] = {
        "machine": machine.describe(), "rows": options.rows, "queries": QUERIES, "width": WIDTH, "k": K,
        "threads": options.threads, "rounds": options.rounds, "table": [],
    }  # fmt: skip
    machine.warn_if_busy(result["machine"])
    for kind in options.galleries:
        make(folder, options.rows, kind)
        memory: dict[str, int] = dict.fromkeys(OURS, 0)

        def run(contender: str, memory: dict[str, int] = memory) -> float:
            found = turn(contender, folder, options.threads)
            if contender in memory:
                memory[contender] = max(memory[contender], found["bytes"])
            return found["seconds"]

        contenders = ["faiss", *OURS]
        seconds = in_turn({name: lambda _, name=name: run(name) for name in contenders}, options.rounds)
        theirs = np.load(folder / "scores-faiss.npy")
        for name in OURS:
            if not np.allclose(np.load(folder / f"scores-{name}.npy"), theirs, atol=2e-6):
                sys.exit(f"{name} and faiss found other scores in the gallery {kind!r}")
            speed = ratio(seconds["faiss"], seconds[name])
            result["table"].append(
                {
                    "gallery": kind,
                    "contender": name,
                    "seconds": seconds[name],
                    "faiss_seconds": seconds["faiss"],
                    "speed": vars(speed),
                    "bytes": memory[name],
                    "targeted": name == "ours",
                    "met": (name != "ours" or speed.median >= TARGET) and memory[name] <= CHUNK,
                }
            )
    return result


def report(result: dict[str, Any]) -> str:
    """Lay out the result for people, as Markdown."""
    head = ["gallery", "search", "s", "s, faiss", "times faiss's speed", "MB added", "target"]
    rows = [
        [
            line["gallery"],
            line["contender"],
            f"{statistics.median(line['seconds']):.2f}",
            f"{statistics.median(line['faiss_seconds']):.2f}",
            f"{line['speed']['median']:.2f} ({line['speed']['low']:.2f} to {line['speed']['high']:.2f})",
            f"{line['bytes'] / 1e6:,.0f}",
            ("met" if line["met"] else "MISSED") if line["targeted"] or not line["met"] else "",
        ]
        for line in result["table"]
    ]
    note = (
        f"{result['rows']:,} rows of {WIDTH}, {QUERIES:,} queries, k = {K}, {result['threads']} threads. Targets: at "
        f"least {TARGET:g} times faiss's speed, at most {CHUNK / 1e6:.0f} MB added."
    )
    return f"{markdown(head, rows)}\n\n{note} {machine.line(result['machine'])}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--galleries", nargs="+", default=["even", "cone"], choices=("even", "cone"))
    parser.add_argument("--rounds", type=int, default=3)
    add_output(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Path(folder))
    return put_out(options, result, report(result), result["table"])


if __name__ == "__main__":
    sys.exit(main())
