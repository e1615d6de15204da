"""One contender's turn, in a process of its own; run by stream.py, with whichever interpreter the contender needs.

    python tests/benchmarks/turn.py '{"contender": "mixed_stream", "pictures": 2000, "warm_up": 4, "options": {...}}'

Prints one line of JSON. Imports nothing but the standard library and the contender, whose environment may hold no
more. What is counted is the steady state: the clock starts after the warm-up batches, by when every worker runs and
nothing lies prefetched, because batches are taken as soon as they are made.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    turn: dict[str, Any] = json.loads(sys.argv[1])
    options = turn["options"] | {"shards": Path(turn["options"]["shards"])}
    batches = importlib.import_module(f"contenders.{turn['contender']}").batches(**options)
    delivers = ""
    for _ in range(turn["warm_up"]):
        _, delivers = next(batches)
    pictures = 0
    start = time.perf_counter()
    while pictures < turn["pictures"]:
        count, _ = next(batches)
        pictures += count
    seconds = time.perf_counter() - start
    print(json.dumps({"pictures": pictures, "seconds": seconds, "delivers": delivers}), flush=True)
    batches.close()


if __name__ == "__main__":
    main()
