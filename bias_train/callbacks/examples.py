"""Example rankings: the top pictures of a few queries, for the report and for W&B."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from torch import Tensor

from datamodules.catalogue import Ints
from datamodules.decode import decode
from datamodules.evaluation import EvaluationSet

LONGEST_QUERY = 300  # characters of a caption in a W&B table


def write_examples(
    evaluation: EvaluationSet,
    queries: Sequence[int],
    rows: Ints,
    best: tuple[Tensor, Tensor],
    size: int,
    ratio: float,
    step: int,
    folder: Path | None,
    loggers: Sequence[WandbLogger],
) -> None:
    """Write ``examples/examples.json`` with thumbnails, and a W&B table of the same.

    The files of an earlier evaluation are replaced: the run folder shows the retriever as it is now.

    Args:
        evaluation: what was searched.
        queries: [n] which queries.
        rows: [G] the gallery's rows in the evaluation.
        best: [n, top] scores and places in ``rows`` of each query's top pictures.
        size: longer side of a thumbnail, in pixels.
        ratio: share of generated pictures in the gallery.
        step: optimiser step.
        folder: run folder; None writes no files.
        loggers: W&B loggers that get the table.
    """
    examples = []
    pictures: list[list[Image.Image]] = []
    for query, scores, places in zip(queries, *(part.tolist() for part in best), strict=True):
        results: list[dict[str, Any]] = []
        shown: list[Image.Image] = []
        for score, place in zip(scores, places, strict=True):
            item = int(rows[place])
            thumbnail = _thumbnail(evaluation, item, size)
            name = f"{query:05d}_{len(results):02d}.jpg"
            shown.append(thumbnail)
            results.append(
                {
                    "file": name,
                    "source": evaluation.sources[int(evaluation.source[item])],
                    "score": round(score, 4),
                    "relevant": bool(evaluation.target[item] == evaluation.query_target[query]),
                    "key": evaluation.keys[item],
                }
            )
        pictures.append(shown)
        examples.append({"query": evaluation.queries[query], "step": step, "ratio": ratio, "results": results})
    if folder is not None:
        _save(folder / "examples", examples, pictures)
    for logger in loggers:
        _log_table(logger, examples, pictures, step)


def _thumbnail(evaluation: EvaluationSet, item: int, size: int) -> Image.Image:
    data = evaluation.corpus.read(int(evaluation.picture[item]))
    image = Image.fromarray(decode(data, evaluation.keys[item], min_side=size))
    image.thumbnail((size, size))
    return image


def _save(folder: Path, examples: list[dict[str, Any]], pictures: list[list[Image.Image]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.jpg"):
        stale.unlink()
    for example, shown in zip(examples, pictures, strict=True):
        for result, image in zip(example["results"], shown, strict=True):
            image.save(folder / result["file"], quality=90)
    partial = folder / "examples.partial"
    partial.write_text(json.dumps(examples, indent=1), encoding="utf-8")
    partial.replace(folder / "examples.json")


def _log_table(
    logger: WandbLogger, examples: list[dict[str, Any]], pictures: list[list[Image.Image]], step: int
) -> None:
    import wandb

    longest = max(len(example["results"]) for example in examples)
    table = wandb.Table(columns=["query", *(f"top {rank + 1}" for rank in range(longest))])
    for example, shown in zip(examples, pictures, strict=True):
        cells: list[Any] = []
        for result, image in zip(example["results"], shown, strict=True):
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=90)
            caption = f"{result['source']} {result['score']:.3f}{' *' if result['relevant'] else ''}"
            cells.append(wandb.Image(Image.open(buffer), caption=caption))
        query = example["query"]
        shortened = query if len(query) <= LONGEST_QUERY else query[: LONGEST_QUERY - 1] + "…"
        table.add_data(shortened, *cells, *([None] * (longest - len(cells))))
    logger.log_metrics({"bias/source/examples": table}, step)  # type: ignore[dict-item]
