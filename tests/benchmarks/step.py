"""One training step: time beside open_clip's, against the share of twins that a debias term draws, and memory.

    python tests/benchmarks/step.py [--json FILE] [--check]
    python tests/benchmarks/step.py --device cuda --precision bf16 --models ViT-B-32 ViT-L-14 --batch 256

Made-up pictures and captions (of COCO's lengths) that lie on the device, so that nothing but the step is measured: no
loader, no trainer (end_to_end.py has both). Every turn is a fresh process; ways take turns, a round gives one ratio.

* Beside open_clip: its model, its loss, AdamW as its trainer makes it, the full context of 77 tokens. `of peak` is the
  step's arithmetic, as PyTorch counts it for open_clip's step, over what a large matrix product reaches in the same
  precision on the same device in this run.
* Twins: the same step with a hinge between each picture and its twin, of which a step draws a share p.
* Memory: what steps add to the process, with all of the batch in the towers at once and with ``encode_batch_size``.
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

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LEAST = 1.5  # times open_clip's rate, on a CPU
SHARES = (None, 0.0, 0.25, 0.5, 1.0)  # None: no debias term

PEAK = """
import sys, time, torch
device, dtype = sys.argv[1], {"bf16": torch.bfloat16, "fp32": torch.float32}[sys.argv[2]]
n = 8192 if device == "cuda" else 3072
a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
best = 0.0
for _ in range(8):
    if device == "cuda": torch.cuda.synchronize()
    start = time.perf_counter(); a @ b
    if device == "cuda": torch.cuda.synchronize()
    best = max(best, 2 * n**3 / (time.perf_counter() - start))
print(best)
"""
WORK = """
import sys, open_clip, torch
from torch.utils.flop_counter import FlopCounterMode
model = open_clip.create_model(sys.argv[1])
size = open_clip.get_model_config(sys.argv[1])["vision_cfg"]["image_size"]
counter = FlopCounterMode(display=False)
with counter:
    image, text, scale = model(torch.randn(2, 3, size, size), open_clip.tokenize(["a dog", "a cat"]))[:3]
    open_clip.ClipLoss()(image, text, scale).backward()
print(counter.get_total_flops() / 2)
"""


def run(code: str, *arguments: str) -> float:
    """Run a piece of code in a fresh process; return the number that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        check=True, cwd=ROOT,
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


class Steps:
    """Takes steps in fresh processes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def take(self, way: str, model: str, batch: int, p: float | None = None, part: int = 0) -> dict[str, float]:
        """Seconds a step, and bytes."""
        turn = {
            "way": way, "model": model, "batch": batch, "p": p, "part": part, "device": self.options.device,
            "precision": self.options.precision, "compile": self.options.compile,
            "warm_up": 2, "steps": self.options.steps,
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, str(HERE / "one_step.py"), json.dumps(turn)], capture_output=True, text=True, cwd=ROOT
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"a step failed: {turn}\n{done.stderr[-3000:]}")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        print(f"  {model}, {batch}, {way}, p={p}, part={part}: {found['seconds']:.3f} s", file=sys.stderr, flush=True)
        return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for; the result is what --json writes."""
    result: dict[str, Any] = {"machine": machine.describe(), "beside": [], "twins": [], "memory": []}
    result |= {name: getattr(options, name) for name in ("device", "precision", "batch", "rounds", "compile")}
    machine.warn_if_busy(result["machine"])
    steps = Steps(options)
    peak = run(PEAK, options.device, options.precision)
    for model in options.models:
        work = run(WORK, model) * options.batch
        seconds = in_turn(
            {
                way: lambda _, way=way, model=model: steps.take(way, model, options.batch)["seconds"]
                for way in ("open_clip", "ours")
            },
            options.rounds,
        )
        faster = ratio(seconds["open_clip"], seconds["ours"])
        result["beside"].append(
            {
                "model": model,
                "seconds": seconds,
                "faster": vars(faster),
                "of_peak": {way: work / statistics.median(found) / peak for way, found in seconds.items()},
                "met": options.device != "cpu" or faster.median >= LEAST,
            }
        )
    model = options.models[0]
    if not options.beside_only:
        seconds = in_turn(
            {p: lambda _, p=p: steps.take("ours", model, options.batch, p)["seconds"] for p in SHARES}, options.rounds
        )
        for p in SHARES:
            times = ratio(seconds[p], seconds[None])
            result["twins"].append({"p": p, "seconds": seconds[p], "times": vars(times), "shown": str(times)})
        for times in (1, 2, 4):
            batch = times * options.batch
            found = {part: steps.take("ours", model, batch, part=part) for part in (0, options.batch)}
            result["memory"].append({"batch": batch, "part": options.batch, "found": found})
    return result


def report(result: dict[str, Any]) -> str:
    """Lay out the result for people, as Markdown."""
    batch = result["batch"]
    head = [
        f"batch of {batch}, {result['precision']}",
        "open_clip, samples/s",
        "ours",
        "times",
        "of peak",
        "ours of peak",
    ]
    rows = [
        [
            one["model"],
            *(f"{batch / statistics.median(one['seconds'][way]):.1f}" for way in ("open_clip", "ours")),
            f"{one['faster']['median']:.2f} ({one['faster']['low']:.2f} to {one['faster']['high']:.2f})",
            *(f"{100 * one['of_peak'][way]:.0f} %" for way in ("open_clip", "ours")),
        ]
        for one in result["beside"]
    ]
    parts = [markdown(head, rows)]
    if result["twins"]:
        rows = [
            ["none" if one["p"] is None else f"{one['p']:g}", f"{statistics.median(one['seconds']):.2f}", one["shown"]]
            for one in result["twins"]
        ]
        parts.append(markdown(["share p of twins drawn", "s a step", "times no debias term"], rows))
        rows = []
        for one in result["memory"]:
            whole, part = (one["found"][key] for key in one["found"])
            rows.append(
                [
                    str(one["batch"]),
                    f"{whole['bytes'] / 1e9:.2f}",
                    f"{part['bytes'] / 1e9:.2f}",
                    f"{part['seconds'] / whole['seconds']:.2f}",
                ]
            )
        parts.append(markdown(["batch", "GB at once", f"GB in parts of {batch}", "time"], rows))
    parts.append(
        "`of peak` counts open_clip's arithmetic for both, over a large matrix product on this device: ours does less "
        f"of it. {machine.line(result['machine'])}"
    )
    return "\n\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["ViT-S-32"], help="open_clip architectures")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true", help="compile our towers")
    parser.add_argument("--steps", type=int, default=4, help="steps in a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside-only", action="store_true", help="leave out twins and memory")
    add_output(parser)
    options = parser.parse_args()
    result = measure(options)
    return put_out(options, result, report(result), result["beside"])


if __name__ == "__main__":
    sys.exit(main())
