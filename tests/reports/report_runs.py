"""Run folders as a training writes them, with figures that the tests know."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from bias_train.records import COLUMNS

CLASSES = ("airplane", "bird", "cat", "deer", "frog", "truck")
QUERIES = tuple(f"a photo of a {name}" for name in CLASSES)


def write_records(folder: Path, rows: list[dict[str, Any]]) -> None:
    with (folder / "records.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def row(axis: str, name: str, value: float, **more: Any) -> dict[str, Any]:
    half = more.pop("half", 4.0)
    return {
        "axis": axis,
        "name": name,
        "k": "",
        "ratio": 0.5,
        "generator": "all",
        "label": "",
        "step": 400,
        "value": value,
        "low": value - half,
        "high": value + half,
        "count": 2000,
        "mode": "clean",
        "note": "ties in expectation; percentile interval, pictures resampled within class and source",
        **more,
    }


def make_run(
    folder: Path,
    *,
    share: float = 0.5,
    loss: str = "none",
    seed: int = 0,
    state: str = "done",
    relevance: str = "label",
    examples: bool = True,
    sweep: str | None = "cifake_mixing",
) -> Path:
    """Write a run whose bias falls with the share, less so with the debias loss."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(int(1000 * share) + 7 * seed + (3 if loss == "hinge" else 0))
    final = (8 - 160 * share if loss == "none" else 6 - 22 * share) + random.normal(0, 2)
    photos = 0.72 - 0.04 * share + random.normal(0, 0.004)
    metric, k = ("relative_delta_P", 100) if relevance == "label" else ("relative_delta_R", 1)
    rows = []
    for step in (0, 200, 400):
        part = step / 400
        for ratio in (0.2, 0.5, 0.8):
            bias = part * final + 10 * (0.5 - ratio)
            rows.append(row("source", metric, bias, k=k, ratio=ratio, step=step))
            shown = min(0.99, max(0.01, ratio - part * final / 400))
            rows.append(row("source", "source_share", shown, k=10, ratio=ratio, step=step, half=0.02))
        if relevance == "label":
            for place, name in enumerate(CLASSES):
                rows.append(
                    row("source", metric, part * final + 9 * (place - 2.5), k=k, label=name, step=step, half=12)
                )
        for place, generator in enumerate(("sd-1.4", "sdxl")):
            rows.append(row("source", metric, part * final + 14 * (place - 0.5), k=k, generator=generator, step=step))
        found = 0.1 + part * (photos - 0.1)
        if relevance == "label":
            rows.append(row("retrieval", "class_accuracy", found, ratio=0.0, step=step, half=0.012))
        else:
            rows += [
                row("retrieval", "t2i_R", found * (0.5 + k / 20), k=k, ratio=0.0, step=step, half=0.02)
                for k in (1, 5, 10)
            ]
    write_records(folder, rows)

    terms: dict[str, Any] = {"contrastive": {"weight": 1.0, "loss": {"class_path": "losses.contrastive.InfoNCE"}}}
    if loss != "none":
        terms["debias"] = {
            "weight": 2.0,
            "loss": {"class_path": "losses.source.RankHinge", "init_args": {"margin": 0.0}},
        }
    config = {
        "seed_everything": seed,
        "run_dir": str(folder),
        "trainer": {"max_steps": 400},
        "model": {"losses": terms},
        "data": {"class_path": "datamodules.MixedSourceDataModule", "init_args": {"share": share, "train": ["shards"]}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text(
        json.dumps({"python": "3.11", "packages": {"torch": "2.15"}, "threads": 2})
    )
    status = {"state": state, "step": 400 if state == "done" else 200, "max_steps": 400, "error": "", "started": 1.0}
    if state == "failed":
        status["error"] = "loss is NaN at step 200"
    (folder / "status.json").write_text(json.dumps(status))
    if sweep is not None:
        axes = {"share": share, "loss": loss, "seed": seed}
        keys = {"share": "data.share", "seed": "seed_everything"}
        (folder / "cell.json").write_text(json.dumps({"version": 1, "sweep": sweep, "axes": axes, "keys": keys}))
    with (folder / "metrics.csv").open("w", newline="") as stream:
        names = ["step", "train/loss", "train/contrastive/gradient_share"]
        names += ["train/debias/gradient_share"] if loss != "none" else []
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        for step in range(0, 401, 5):
            line: dict[str, Any] = {"step": step, "train/loss": 5 * math.exp(-step / 150) + random.normal(0, 0.1)}
            if step % 50 == 0:
                line["train/contrastive/gradient_share"] = 0.8 if loss != "none" else 1.0
                if loss != "none":
                    line["train/debias/gradient_share"] = 0.2 + step / 4000
            writer.writerow(line)
    if examples:
        write_examples(folder / "examples", 0.5 + (share * 0.45 if loss == "none" else 0.0), random)
    return folder


def write_examples(folder: Path, generated: float, random: np.random.Generator) -> None:
    folder.mkdir()
    document = []
    for number, query in enumerate(QUERIES):
        results = []
        for rank in range(8):
            made = bool(random.random() < generated)
            pixels = random.integers(0, 80, 3)[None, None] + np.linspace(0, 170, 32)[:, None, None] * np.ones(
                (32, 32, 3)
            )
            name = f"{number:05d}_{rank:02d}.jpg"
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
            source = ("sd-1.4", "sdxl")[rank % 2] if made else "real"
            score = 0.4 - 0.01 * rank
            results.append(
                {"file": name, "source": source, "score": score, "relevant": rank % 3 != 2, "key": f"k{rank}"}
            )
        document.append({"query": query, "step": 400, "ratio": 0.5, "results": results})
    (folder / "examples.json").write_text(json.dumps(document))
