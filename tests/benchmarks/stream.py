"""Pictures a second and peak memory of the mixed stream, beside the pipelines one would use instead, in one run.

    python tests/benchmarks/stream.py [--open-clip-python ENV/bin/python] [--json FILE] [--check]

Contenders, all on the same pictures (256 px and 1,024 px JPEGs, real ones among them, two sources at 80:20):

* this stream, through the datamodule's own loader;
* webdataset's own pipeline, with RandomMix of two sources, a shuffle buffer and Pillow;
* open_clip's training pipeline, which needs an older webdataset and so an environment of its own, made with
      python3.11 -m venv ENV && ENV/bin/pip install -r tests/benchmarks/open_clip_environment.txt
  and is reported as not measured where --open-clip-python does not name that environment's interpreter;
* a plain folder of files, with torchvision's transforms;
* this stream without tokens, against
* decode and resize alone: a bare loop over bytes in memory, in as many processes as there are workers.

Equal for all: random crops of 90 to 100 % of the area to 224 px, batches of 64, one thread in each process, tokens by
open_clip's SimpleTokenizer (but for the last two), a warm page cache. As it comes: open_clip delivers normalised
float32, which it makes in the loader; the others deliver uint8, to be normalised on the device; this stream's lies
channels last. Shuffle buffers are webdataset's 1,000 samples and open_clip's 5,000, both bounded by what a turn reads.

Every turn is a fresh process. Rates are of the steady state: starting processes and the first batches are left out.
Contenders take turns (A B C D A B C D ...), a round gives one ratio, and the table holds medians over the rounds, with
the smallest and largest ratio. Peak memory (proportional set size of the whole process tree, from its start) is taken
in a round of its own, whose rates do not count because taking it costs time. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import machine
from pairs import in_turn, ratio
from tables import add_output, markdown, put_out
from turns import Turns

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OUT_SIZE, BATCH, WARM_UP = 224, 64, 8


@dataclass(frozen=True)
class Amount:
    """How many pictures: in each of the 20 shards, and in one turn."""

    per_shard: int
    a_turn: int


AMOUNTS = {256: Amount(100, 3200), 1024: Amount(20, 640)}
QUICK = {256: Amount(20, 512), 1024: Amount(8, 128)}


@dataclass(frozen=True)
class Contender:
    """What takes part.

    Attributes:
        title: for the table.
        module: in ``contenders``.
        tokens: whether captions are tokenized.
    """

    title: str
    module: str
    tokens: bool = True


CONTENDERS = {
    "stream": Contender("this stream", "mixed_stream"),
    "webdataset": Contender("webdataset, RandomMix", "webdataset_mix"),
    "open_clip": Contender("open_clip", "open_clip_mix"),
    "folder": Contender("folder of files", "picture_folder"),
    "pictures": Contender("this stream, no tokens", "mixed_stream", tokens=False),
    "bare": Contender("decode and resize alone", "bare_decode", tokens=False),
}


@dataclass(frozen=True)
class Target:
    """What ours divided by theirs must reach, with every number of workers.

    Attributes:
        ours: contender.
        theirs: contender.
        least: smallest ratio by size of the pictures in the shards.
    """

    ours: str
    theirs: str
    least: dict[int, float]


TARGETS = (
    Target("stream", "webdataset", {256: 1.5, 1024: 2.5}),
    Target("stream", "open_clip", {256: 1.5, 1024: 2.5}),
    Target("pictures", "bare", {256: 0.9, 1024: 0.9}),
)


def real_pictures() -> Path | None:
    """The folder of real pictures, where the tests find it too."""
    folder = Path(os.environ.get("BIAS_TRAIN_DATA", ROOT.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


def make_shards(folder: Path, size: int, per_shard: int) -> dict[str, Any]:
    """Make the shards in another process, whose libraries must not count as shared with a contender's."""
    command = [sys.executable, str(HERE / "picture_shards.py"), str(folder)]
    command += ["--size", str(size), "--per-shard", str(per_shard)]
    data = real_pictures()
    command += ["--data", str(data)] if data else []
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout)


def say(size: int, workers: int, name: str, rate: float) -> None:
    """Show that it goes on."""
    print(f"  {size} px, {workers} workers, {name}: {rate:.0f}/s", file=sys.stderr, flush=True)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure everything that was asked for; the result is what --json writes."""
    python = dict.fromkeys(CONTENDERS, sys.executable) | {"open_clip": options.open_clip_python}
    names = [name for name in options.contenders if python[name]]
    result: dict[str, Any] = {
        "machine": machine.describe(),
        "open_clip_versions": machine.versions(python["open_clip"]) if python["open_clip"] else None,
        "out_size": OUT_SIZE,
        "batch_size": BATCH,
        "rounds": options.rounds,
        "shards": [],
        "figures": [],
        "not_measured": [name for name in options.contenders if name not in names],
    }
    machine.warn_if_busy(result["machine"])
    scratch = folder / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    for size in options.sizes:
        amount = (QUICK if options.quick else AMOUNTS)[size]
        shards = folder / f"{size}-{amount.per_shard}"
        result["shards"].append(make_shards(shards, size, amount.per_shard))
        turns = Turns(shards, size=OUT_SIZE, batch_size=BATCH, pictures=amount.a_turn, warm_up=WARM_UP, scratch=scratch)
        for workers in options.workers:
            wanted = {name: (python[name], CONTENDERS[name].module, workers, CONTENDERS[name].tokens) for name in names}
            # These turns also bring the shards and every library into the page cache.
            memory = {name: turns.memory(*arguments) for name, arguments in wanted.items()}
            rates = in_turn(
                {name: partial(turns.rate, *arguments) for name, arguments in wanted.items()},
                options.rounds,
                partial(say, size, workers),
            )
            for name in names:
                result["figures"].append(
                    {
                        "size": size,
                        "workers": workers,
                        "contender": name,
                        "delivers": memory[name][1],
                        "rates": rates[name],
                        "median": statistics.median(rates[name]),
                        "peak_bytes": memory[name][0],
                    }
                )
    result["targets"] = list(judge(result["figures"]))
    return result


def judge(figures: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Compare the ratios with the targets."""
    rates = {(one["size"], one["workers"], one["contender"]): one["rates"] for one in figures}
    for target in TARGETS:
        for size, workers, name in rates:
            if name == target.ours and (size, workers, target.theirs) in rates:
                found = ratio(rates[size, workers, name], rates[size, workers, target.theirs])
                yield {
                    "ours": target.ours,
                    "theirs": target.theirs,
                    "size": size,
                    "workers": workers,
                    "least": target.least[size],
                    "ratio": asdict(found),
                    "met": found.median >= target.least[size],
                }


def report(result: dict[str, Any]) -> str:
    """Lay out the result for people, as Markdown."""
    figures = {(one["size"], one["workers"], one["contender"]): one for one in result["figures"]}
    parts = []
    for shards in result["shards"]:
        size = shards["size"]
        counts = sorted({workers for at, workers, _ in figures if at == size})
        head = [f"{size} px to {result['out_size']} px, pictures/s"]
        head += [f"{workers} worker{'s' * (workers != 1)}" for workers in counts] + ["peak MB"]
        rows = []
        for name in dict.fromkeys(name for _, _, name in figures):
            row = [CONTENDERS[name].title]
            base = "pictures" if name == "bare" else "stream"
            for workers in counts:
                cell = f"{figures[size, workers, name]['median']:.0f}"
                if name not in ("stream", "pictures") and (size, workers, base) in figures:
                    found = ratio(figures[size, workers, base]["rates"], figures[size, workers, name]["rates"])
                    cell += f", x {found}"
                row.append(cell)
            row.append(" / ".join(f"{figures[size, workers, name]['peak_bytes'] / 1e6:.0f}" for workers in counts))
            rows.append(row)
        rows += [[CONTENDERS[name].title, *["not measured"] * (len(counts) + 1)] for name in result["not_measured"]]
        parts.append(markdown(head, rows))
        photos, generated = shards["real_photos"], shards["real_generated"]
        hint = "" if photos else "; no real pictures were found: set BIAS_TRAIN_DATA to their folder"
        parts.append(
            f"{shards['pictures']} pictures of {shards['mean_bytes'] / 1000:.0f} kB on average: {photos} photos, "
            f"{generated} by image generators, {shards['rendered']} rendered{hint}."
        )
    parts.append(
        f"x: this stream's rate over the row's (for the last row, without tokens), median of {result['rounds']} rounds "
        "(smallest to largest). Peak MB: with as many workers as the columns before."
    )
    if result["not_measured"]:
        parts.append("Not measured: open_clip, because --open-clip-python names no environment of its own for it.")
    parts.append(machine.line(result["machine"]))
    if result["open_clip_versions"]:
        other = ", ".join(f"{name} {version}" for name, version in result["open_clip_versions"].items())
        parts.append(f"open_clip's environment: {other}")
    rows = [
        [
            f"{CONTENDERS[one['ours']].title} over {CONTENDERS[one['theirs']].title}",
            f"{one['size']} px",
            str(one["workers"]),
            f"{one['least']}",
            f"{one['ratio']['median']:.2f}",
            "met" if one["met"] else "MISSED",
        ]
        for one in result["targets"]
    ]
    if rows:
        parts.append(markdown(["target", "shards", "workers", "at least", "measured", ""], rows))
    return "\n\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--open-clip-python", metavar="PATH", help="interpreter of open_clip's own environment")
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(AMOUNTS), default=list(AMOUNTS))
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="loader processes (default: 0 1 2)")
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, help="timed turns of each contender (default: 5, with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="few pictures: to see that it runs, not for figures")
    parser.add_argument("--folder", type=Path, help="keep the shards here; by default they are removed at the end")
    add_output(parser)
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    with tempfile.TemporaryDirectory() if options.folder is None else nullcontext(options.folder) as folder:
        result = measure(options, Path(folder))
    return put_out(options, result, report(result), result["targets"])


if __name__ == "__main__":
    sys.exit(main())
