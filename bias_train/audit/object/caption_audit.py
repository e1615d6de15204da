"""Measures whether true captions are told from altered ones, as they are and normalised, beside a blind choice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bias_train.audit.object.caption_sets import CaptionSet
from bias_train.audit.object.figure_file import write_figures
from bias_train.audit.outcome import Guardrail
from bias_train.errors import RunError
from bias_train.files import json_value, write_text
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.object.candidates import blind_choice, first_among, in_gallery, normalised_caption
from bias_train.metrics.functional.object.query_means import Name, QueryMeans
from bias_train.stats import Bootstrap, Floats, Ints
from datamodules.decode import decode_and_fit
from models.retriever import Retriever

RAW, NORMALISED = "raw", "normalised"
KS = (1, 5, 10)


@dataclass(frozen=True)
class CaptionOutcome:
    """How well true captions are told from altered ones.

    Attributes:
        title: heading of the outputs.
        inputs: what was audited, by name.
        conventions: what a reader needs to compare a figure.
        counts: pictures, captions and what was left out.
        figures: their label is how captions were written, and the kind of altered ones where there are several.
        warnings: guardrails that spoke up.
    """

    title: str
    inputs: dict[str, Any]
    conventions: dict[str, Any]
    counts: dict[str, int]
    figures: tuple[Figure, ...]
    warnings: tuple[Guardrail, ...]

    def find(self, name: str, k: int | None = None, label: str = RAW) -> Figure | None:
        """Look a figure up."""
        return next((f for f in self.figures if (f.name, f.k, f.label) == (name, k, label)), None)

    def document(self) -> dict[str, Any]:
        """The audit as plain values."""
        return {
            "audit": "captions",
            "title": self.title,
            "inputs": self.inputs,
            "conventions": json_value(self.conventions),
            "counts": self.counts,
            "warnings": [asdict(warning) for warning in self.warnings],
            "figures": [json_value(figure) for figure in self.figures],
        }


def write_captions(outcome: CaptionOutcome, folder: Path) -> None:
    """Write ``audit.json`` and ``figures.parquet`` into a folder, each whole or not at all.

    Raises:
        RunError: where a file cannot be written.
    """
    write_text(folder / "audit.json", json.dumps(outcome.document(), indent=1, allow_nan=False) + "\n")
    write_figures(folder / "figures.parquet", outcome.figures)


def embed_files(retriever: Retriever, folder: Path, names: Sequence[str], *, batch_size: int, device: str) -> Tensor:
    """Embed picture files.

    Args:
        retriever: the dual encoder; moved to ``device`` and put into evaluation mode.
        folder: where they lie, under their names or under the last part of these.
        names: as a list has them.
        batch_size: pictures at once.
        device: where to compute.

    Returns:
        [P, D] float32 on the CPU, L2-normalised.

    Raises:
        RunError: for pictures that are not there.
        DataError: for one that cannot be decoded.
    """
    places = [next((p for p in (folder / name, folder / Path(name).name) if p.is_file()), None) for name in names]
    missing = [name for name, place in zip(names, places, strict=True) if place is None]
    if missing:
        raise RunError(
            f"--images {folder}: {len(missing)} of {len(names)} pictures are not there, such as {missing[0]}"
        )
    retriever = retriever.to(device).eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(places), batch_size):
            part = [place for place in places[start : start + batch_size] if place is not None]
            pixels = np.stack([decode_and_fit(place.read_bytes(), retriever.image_size, str(place)) for place in part])
            batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
            found.append(retriever.encode_image(batch.to(device)).float().cpu())
    return torch.cat(found)


def audit_captions(
    sets: Sequence[CaptionSet],
    image: Tensor,
    embed: Callable[[Sequence[str]], Tensor],
    bootstrap: Bootstrap | None,
    *,
    title: str = "audit",
    inputs: dict[str, Any] | None = None,
) -> CaptionOutcome:
    """Measure a retriever on pictures with true and altered captions.

    - ``first``: share of true captions that score above all altered ones of their picture, with ``first_chance``
      (1 / (n + 1)) and ``first_blind`` (the choice by the candidates alone, ties against the true one) beside it. Each
      true caption is a set of candidates of its own.
    - ``clean_R@k``: pictures among all true captions; ``mixed_R@k``: among true and altered ones; ``false_rate``: share
      of pictures whose first caption is then an altered one, with ``false_chance``, that of a random order.

    Args:
        sets: pictures with captions.
        image: [P, D] float embeddings of their pictures.
        embed: texts to [T, D] embeddings.
        bootstrap: how intervals over pictures are made; None for none.
        title: heading of the outputs.
        inputs: what was audited, for the record.

    Raises:
        RunError: where no altered caption is left.
    """
    figures: list[Figure] = []
    same = 0
    for mode, write in ((RAW, str), (NORMALISED, normalised_caption)):
        task = _Task.of(sets, write)
        same = max(same, task.same)
        if not task.true.size:
            raise RunError(f"every altered caption equals a true one ({mode})")
        text = embed(task.texts)
        figures += _own_candidates(task, image, text, mode, bootstrap)
        figures += _whole_gallery(task, image, text, mode, bootstrap)
    counts = {
        "pictures": len(sets),
        "true captions": sum(len(own.captions) for own in sets),
        "altered captions": sum(len(part) for own in sets for part in own.altered.values()),
        "altered captions that equal a true one": same,
    }
    outcome = CaptionOutcome(
        title,
        inputs or {},
        {
            "normalised": "lower-case, single blanks, no punctuation at the end",
            "ties": "in expectation over random order; against the true caption in the blind choice",
            "blind": "largest mean word-Jaccard to the other candidates, picture unseen",
            "ranking": "one score a caption; no set-aware re-ranking",
            "intervals": "none" if bootstrap is None
            else f"percentile bootstrap over pictures, {bootstrap.resamples} resamples, seed {bootstrap.seed}",
        },
        counts,
        tuple(figures),
        (),
    )  # fmt: skip
    return CaptionOutcome(**(vars(outcome) | {"warnings": tuple(_warnings(outcome))}))


@dataclass(frozen=True)
class _Task:
    """Captions in one way of writing, as rows of the texts.

    Attributes:
        texts: each once.
        picture: [S] of each true caption.
        true: [S] rows of the texts.
        altered: by kind, [S, n] rows, -1 where a set has fewer; "" holds all kinds.
        candidates: texts of each set, the true one first.
        wrong: by picture, rows of the altered captions.
        same: altered captions that equal a true one of their picture, and are left out.
    """

    texts: tuple[str, ...]
    picture: Ints
    true: Ints
    altered: dict[str, Ints]
    candidates: list[list[str]]
    wrong: list[list[int]]
    same: int

    @classmethod
    def of(cls, sets: Sequence[CaptionSet], write: Callable[[str], str]) -> _Task:
        row: dict[str, int] = {}
        kinds = list(dict.fromkeys(kind for own in sets for kind in own.altered))
        picture, true, candidates, wrong, same = [], [], [], [], 0
        rows: dict[str, list[list[int]]] = {kind: [] for kind in dict.fromkeys((*kinds, ""))}
        for number, own in enumerate(sets):
            mine = [write(caption) for caption in own.captions]
            kept = {kind: [write(text) for text in texts] for kind, texts in own.altered.items()}
            same += sum(text in mine for texts in kept.values() for text in texts)
            kept = {kind: [text for text in texts if text not in mine] for kind, texts in kept.items()}
            everything = [text for texts in kept.values() for text in texts]
            wrong.append([row.setdefault(text, len(row)) for text in everything])
            for caption in mine:
                picture.append(number)
                true.append(row.setdefault(caption, len(row)))
                candidates.append([caption, *everything])
                for kind, found in rows.items():
                    texts = everything if kind == "" else kept.get(kind, [])
                    found.append([row[text] for text in texts])
        return cls(
            tuple(row), np.array(picture, dtype=np.int64), np.array(true, dtype=np.int64),
            {kind: _padded(found) for kind, found in rows.items()}, candidates, wrong, same,
        )  # fmt: skip


def _padded(rows: Sequence[Sequence[int]]) -> Ints:
    table = np.full((len(rows), max(1, max(map(len, rows), default=0))), -1, dtype=np.int64)
    for at, row in enumerate(rows):
        table[at, : len(row)] = row
    return table


def _own_candidates(task: _Task, image: Tensor, text: Tensor, mode: str, bootstrap: Bootstrap | None) -> list[Figure]:
    blind = np.array([float(blind_choice(own) == 0) if len(own) > 1 else np.nan for own in task.candidates])
    figures = []
    for kind, altered in task.altered.items():
        columns: dict[Name, Floats] = {("first", None): first_among(image, text, task.picture, task.true, altered)}
        number = (altered >= 0).sum(axis=1)
        columns["first_chance", None] = np.where(number > 0, 1.0 / (number + 1.0), np.nan)
        if kind == "":
            columns["first_blind", None] = blind
        figures += _means(columns, task.picture, bootstrap, f"{mode}, {kind}" if kind else mode)
    return figures


def _whole_gallery(task: _Task, image: Tensor, text: Tensor, mode: str, bootstrap: Bootstrap | None) -> list[Figure]:
    owner = np.concatenate([task.picture, np.repeat(np.arange(len(image)), [len(own) for own in task.wrong])])
    rows = np.concatenate([task.true, np.array([row for own in task.wrong for row in own], dtype=np.int64)])
    altered = np.arange(len(owner)) >= len(task.picture)
    clean, _ = in_gallery(image, text[torch.from_numpy(task.true)], task.picture, altered[: len(task.true)], KS)
    mixed, false = in_gallery(image, text[torch.from_numpy(rows)], owner, altered, KS)
    columns: dict[Name, Floats] = {}
    for name, table in (("clean_R", clean), ("mixed_R", mixed)):
        columns |= {(name, k): table[:, place] for place, k in enumerate(KS)}
    columns["false_rate", None] = false
    columns["false_chance", None] = np.full(len(image), altered.mean())
    return _means(columns, np.arange(len(image)), bootstrap, mode)


def _means(columns: dict[Name, Floats], picture: Ints, bootstrap: Bootstrap | None, label: str) -> list[Figure]:
    values = np.stack(list(columns.values()), axis=1)
    made = QueryMeans(values, np.zeros(len(values), dtype=np.int64), picture, bootstrap)
    figures = made.overall(list(columns), {name: "" for name, _ in columns})
    return [Figure(f.name, f.k, f.value, f.low, f.high, f.count, f.note, label) for f in figures]


def _warnings(outcome: CaptionOutcome) -> list[Guardrail]:
    found = []
    score, blind = outcome.find("first"), outcome.find("first_blind")
    if score is not None and blind is not None and blind.value >= score.value:
        found.append(
            Guardrail(
                "blind_is_better",
                f"A choice that never sees the picture puts the true caption first in {100 * blind.value:.1f} % of the "
                f"cases, this retriever in {100 * score.value:.1f} %: the set gives its answers away.",
            )
        )
    for name, k in (("first", None), ("false_rate", None)):
        raw, plain = outcome.find(name, k), outcome.find(name, k, NORMALISED)
        if raw is not None and plain is not None and abs(raw.value - plain.value) > 0.02:
            found.append(
                Guardrail(
                    "spelling_tells",
                    f"Capitals and final punctuation alone move {name} from {100 * plain.value:.1f} % to "
                    f"{100 * raw.value:.1f} %; quote the normalised figure.",
                )
            )
    same = outcome.counts["altered captions that equal a true one"]
    if same:
        found.append(Guardrail("same_caption", f"{same} altered captions equal a true one and are left out."))
    return found
