"""Training, whole: samples a second of `bias-train fit` beside open_clip's own trainer, in one run.

    python tests/benchmarks/end_to_end.py --open-clip-python ENV/bin/python [--json FILE] [--check]

Contenders, all with one model, batch and precision, from the same shards of captioned photos (real ones where they are
to be had), with the same crops (90 to 100 % of the area to 224 px), AdamW and one loader process:

* open_clip: ``python -m open_clip_train.main`` as its README has it, with default options but for those above, in an
  environment of its own (tests/benchmarks/open_clip_environment.txt says how to make it); "not measured" without;
* plain: ``bias-train fit`` with the contrastive loss alone;
* debias: the same with a hinge between each photo and its twin, of which every step draws half (p = 0.5);
* apart: two trainings at once, of one thread each, that have nothing to do with each other;
* together: one training on two processes, of one thread each. In both a process has ``--pair-batch`` rows (64):
  gradients are summed once a step, whatever its size, and a GPU has hundreds.

Every turn is a fresh process, which has both cores but where said. The clock runs from the end of the first steps to
the end of the last; open_clip's from its own log. Contenders take turns, a round gives one ratio, and medians are over
the rounds. `together` over `apart` is the efficiency: both do the same work on the same cores, but for what two
processes have to tell each other.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import machine
from pairs import in_turn, ratio
from stream import real_pictures
from tables import add_output, markdown, put_out

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TITLES = {
    "open_clip": "open_clip_train",
    "plain": "bias-train fit",
    "debias": "bias-train fit, debias term at p = 0.5",
    "apart": "two trainings apart, a thread each",
    "together": "one training on two processes, a thread each",
}
TARGETS = (("plain", "open_clip", 1.8), ("debias", "open_clip", 1.3), ("together", "apart", 0.9))
LIMIT = 1800  # seconds after which a turn is given up
DEBIAS = {"weight": 0.5, "loss": {"class_path": "losses.RankHinge", "init_args": {"two_sided": True, "p": 0.5}}}


class Trainings:
    """Runs trainings on one set of shards.

    Args:
        options: of the command line.
        folder: with ``plain`` and ``twins``; also takes what runs leave behind, until they are over.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder

    def open_clip(self, number: int) -> float:
        """Samples a second of open_clip's trainer."""
        options, steps = self.options, self.options.warm_up + self.options.steps
        tars = sorted((self.folder / "shards/plain").glob("*.tar"))
        with tempfile.TemporaryDirectory(dir=self.folder) as logs:
            command = [options.open_clip_python, "-m", "open_clip_train.main", "--model", options.model]
            command += ["--train-data", f"{tars[0].parent}/{{{','.join(tar.name for tar in tars)}}}"]
            command += ["--dataset-type", "webdataset", "--dataset-resampled", "--epochs", "1"]
            command += ["--train-num-samples", str(steps * options.batch), "--batch-size", str(options.batch)]
            command += ["--workers", "1", "--precision", "fp32", "--lr", "1e-5", "--warmup", "10"]
            command += ["--seed", str(number), "--log-every-n-steps", "1", "--logs", logs, "--name", "run"]
            _run([command], self._environment(options.threads))
            log = (Path(logs) / "run" / "out.log").read_text()
        seconds = [float(found) for found in re.findall(r"Batch \(t\): ([0-9.]+)", log)]
        if len(seconds) != steps:
            sys.exit(f"open_clip logged {len(seconds)} steps in place of {steps}:\n{log[-2000:]}")
        return options.batch * options.steps / sum(seconds[options.warm_up :])

    def plain(self, number: int) -> float:
        """Samples a second of `bias-train fit`."""
        return self._fit([number], self.options.batch, self.options.threads)

    def debias(self, number: int) -> float:
        """The same with a debias term."""
        return self._fit([number], self.options.batch, self.options.threads, debias=True)

    def apart(self, number: int) -> float:
        """The sum over two trainings at once."""
        return self._fit([2 * number, 2 * number + 1], self.options.pair_batch, 1)

    def together(self, number: int) -> float:
        """One training on two processes."""
        return self._fit([number], 2 * self.options.pair_batch, 1, processes=2)

    def _environment(self, threads: int) -> dict[str, str]:
        return {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": str(HERE),
            "TMPDIR": str(self.folder),
            "CUDA_VISIBLE_DEVICES": "",
        }

    def _fit(
        self, seeds: Sequence[int], batch: int, threads: int, *, debias: bool = False, processes: int = 1
    ) -> float:
        options, steps = self.options, self.options.warm_up + self.options.steps
        losses: dict[str, Any] = {"contrastive": {"weight": 1.0, "loss": {"class_path": "losses.InfoNCE"}}}
        if debias:
            losses["debias"] = DEBIAS
        with tempfile.TemporaryDirectory(dir=self.folder) as runs:
            commands = []
            for seed in seeds:
                run = Path(runs) / str(seed)
                run.mkdir()
                config = {
                    "run_dir": str(run / "run"),
                    "seed_everything": seed,
                    "logging": {"wandb": False, "tensorboard": False},
                    "model": {
                        "retriever": {
                            "class_path": "models.OpenClipRetriever",
                            "init_args": {"name": options.model},
                        },
                        "losses": losses,
                        "optimizer": {"lr": 1e-5, "weight_decay": 0.2},
                        "schedule": {"warmup_steps": 10},
                    },
                    "data": {
                        "class_path": "datamodules.mixed_source.MixedSourceDataModule",
                        "init_args": {
                            "train": [str(self.folder / "shards" / ("twins" if debias else "plain"))],
                            "batch_size": batch,
                            "num_workers": 1,
                            "augment": {"scale": [0.9, 1.0], "flip": 0.0},
                            "twin_share": 1.0 if debias else 0.0,
                        },
                    },
                    "trainer": {
                        "accelerator": "cpu",
                        "devices": processes,
                        "strategy": "ddp" if processes > 1 else "auto",
                        "max_steps": steps,
                        "log_every_n_steps": 1,
                        "num_sanity_val_steps": 0,
                        "enable_model_summary": False,
                        "callbacks": [
                            {"class_path": "contenders.step_clock.StepClock", "init_args": {"path": str(run / "ends")}}
                        ],
                    },
                }
                (run / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
                commands.append(
                    [sys.executable, "-m", "bias_train.cli.main", "fit", "--config", str(run / "config.yaml")]
                )
            _run(commands, self._environment(threads))
            ends = [json.loads((Path(runs) / str(seed) / "ends").read_text()) for seed in seeds]
        # Of several at once, only what each did while all were in their counted steps.
        first, last = max(times[options.warm_up - 1] for times in ends), min(times[-1] for times in ends)
        return sum(batch * _within(times, first, last) for times in ends) / (last - first)


def _within(ends: Sequence[float], first: float, last: float) -> float:
    """Steps done between two moments; a step counts by the part of it that lies there."""
    done = 0.0
    for begin, end in itertools.pairwise(ends):
        done += max(0.0, min(end, last) - max(begin, first)) / (end - begin)
    return done


def _run(commands: Sequence[Sequence[str]], environment: dict[str, str]) -> None:
    """Run commands at once, and stop where one fails."""
    processes = [
        subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for command in commands
    ]
    for process in processes:
        out, _ = process.communicate(timeout=LIMIT)
        if process.returncode:
            sys.exit(f"a contender failed: {process.args}\n{out[-3000:]}")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure everything that was asked for; the result is what --json writes."""
    data = real_pictures()
    command = [sys.executable, str(HERE / "trained_shards.py"), str(folder / "shards")]
    made = subprocess.run(
        command + (["--data", str(data)] if data else []), check=True, stdout=subprocess.PIPE, text=True
    )
    result: dict[str, Any] = {
        "machine": machine.describe(),
        "model": options.model,
        "batch": options.batch,
        "pair_batch": options.pair_batch,
        "threads": options.threads,
        "steps": options.steps,
        "rounds": options.rounds,
        "shards": json.loads(made.stdout),
    }
    machine.warn_if_busy(result["machine"])
    trainings = Trainings(options, folder)
    names = [name for name in options.contenders if name != "open_clip" or options.open_clip_python]
    result["not_measured"] = [name for name in options.contenders if name not in names]
    result["rates"] = in_turn(
        {name: partial(getattr(trainings, name)) for name in names},
        options.rounds,
        lambda name, rate: print(f"  {name}: {rate:.2f} samples/s", file=sys.stderr, flush=True),
    )
    result["targets"] = []
    for ours, theirs, least in TARGETS:
        if ours in names and theirs in names:
            found = ratio(result["rates"][ours], result["rates"][theirs])
            target = {"ours": ours, "theirs": theirs, "least": least, "ratio": vars(found), "shown": str(found)}
            result["targets"].append({**target, "met": found.median >= least})
    return result


def report(result: dict[str, Any]) -> str:
    """Lay out the result for people, as Markdown."""
    rows = [[TITLES[name], f"{statistics.median(rates):.2f}"] for name, rates in result["rates"].items()]
    rows += [[TITLES[name], "not measured"] for name in result["not_measured"]]
    parts = [markdown([f"{result['model']}, batch of {result['batch']}", "samples/s"], rows)]
    rows = [
        [
            f"{TITLES[one['ours']]} over {TITLES[one['theirs']]}",
            f"{one['least']}",
            one["shown"],
            "met" if one["met"] else "MISSED",
        ]
        for one in result["targets"]
    ]
    if rows:
        parts.append(markdown(["ratio, median of the rounds (smallest to largest)", "at least", "measured", ""], rows))
    shards = result["shards"]
    parts.append(f"Where there are two processes, each has a batch of {result['pair_batch']}.")
    parts.append(
        f"{shards['real']} real photos and {shards['rendered']} rendered ones; {machine.line(result['machine'])}"
    )
    return "\n\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--open-clip-python", metavar="PATH", help="interpreter of open_clip's own environment")
    parser.add_argument("--model", default="ViT-S-32", help="an open_clip architecture (default: ViT-S-32)")
    parser.add_argument("--batch", type=int, default=32, help="global batch (default: 32)")
    parser.add_argument("--pair-batch", type=int, default=64, help="of each of two processes (default: 64)")
    parser.add_argument("--threads", type=int, default=2, help="of a training that has all cores (default: 2)")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, default=8, help="steps that count")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--folder", type=Path, help="keep the shards here; by default they are removed at the end")
    add_output(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() if options.folder is None else nullcontext(options.folder) as folder:
        result = measure(options, Path(folder))
    return put_out(options, result, report(result), result["targets"])


if __name__ == "__main__":
    sys.exit(main())
