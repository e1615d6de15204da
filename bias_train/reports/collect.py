"""Reads run folders into plain data; knows nothing of drawing.

Whatever a run folder lacks is empty here and named in ``problems``: a report on an unfinished run is worth having.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bias_train.records import Record
from bias_train.reports.errors import ReportError
from bias_train.sweeps.status import CellStatus, read_status

RUN_FILES = ("status.json", "config.yaml", "records.csv", "cell.json")
DEPTH = 4  # folders below a given one in which runs are looked for


class Metric(NamedTuple):
    """A figure's name and cut-off.

    Example:
        >>> Metric.parse("relative_delta_P@100"), str(Metric("class_accuracy", None))
        (Metric(name='relative_delta_P', k=100), 'class_accuracy')
    """

    name: str
    k: int | None

    @classmethod
    def parse(cls, text: str) -> Metric:
        """Read ``name`` or ``name@k``.

        Raises:
            ReportError: if the part after ``@`` is no whole number.
        """
        name, separator, k = text.partition("@")
        if not separator:
            return cls(name, None)
        if not k.isdigit():
            raise ReportError(f"metric {text!r} is not of the form name or name@k")
        return cls(name, int(k))

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest value that it can take."""
        if self.name.startswith("relative_delta"):
            return -200.0, 200.0
        if self.name == "delta_ndsr":
            return -1.0, 1.0
        if self.name in ("rank_difference", "amplification") or self.name.endswith("median_rank"):
            return -math.inf, math.inf
        if self.name.startswith("NS"):  # and its parts, differences of mean scores
            return -math.inf, math.inf
        if self.name.startswith(("RSA", "RSC")) and "_above_" not in self.name:
            return -2.0, 2.0
        if self.name.startswith("sync") or self.name.endswith(("_drop", "_net")):
            return -1.0, 1.0
        return 0.0, 1.0

    @property
    def is_share(self) -> bool:
        """Whether it is a share of something, written in percent."""
        return self.bounds == (0.0, 1.0)

    def __str__(self) -> str:
        return self.name if self.k is None else f"{self.name}@{self.k}"


class Curve(NamedTuple):
    """A scalar over training: steps and values of equal length, NaN left out."""

    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class Result:
    """One picture of an example ranking.

    Attributes:
        file: the thumbnail, or None if it is missing.
        source: ``real`` or the generator's name.
        score: similarity with the query.
        relevant: whether it answers the query.
        key: the picture's key in its shards.
    """

    file: Path | None
    source: str
    score: float
    relevant: bool
    key: str


@dataclass(frozen=True)
class Example:
    """The top of one query's ranking, best first, in a gallery with a share ``ratio`` of generated pictures."""

    query: str
    step: int
    ratio: float
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Run:
    """A run folder's content.

    Attributes:
        folder: where it lies.
        name: its folder's name.
        status: state, steps, error.
        config: the resolved configuration.
        config_text: the same as it was written.
        environment: versions and machine.
        cell: the sweep's note about it, {} for a run outside a sweep.
        records: every evaluated figure; where a resumed run wrote one twice, the later row.
        curves: logged scalars by name.
        examples: of the last evaluation that wrote some.
        problems: what is missing or unreadable, as sentences for the reader.
    """

    folder: Path
    name: str
    status: CellStatus
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    cell: dict[str, Any] = field(default_factory=dict)
    records: tuple[Record, ...] = ()
    curves: dict[str, Curve] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    problems: tuple[str, ...] = ()

    @cached_property
    def modified(self) -> float:
        """When its status was written last, in seconds since the epoch; 0 if never."""
        try:
            return (self.folder / "status.json").stat().st_mtime
        except OSError:
            return 0.0

    @property
    def axes(self) -> dict[str, Any]:
        """Coordinates in the sweep, {} outside one."""
        axes = self.cell.get("axes")
        return axes if isinstance(axes, dict) else {}

    @property
    def share(self) -> float | None:
        """Share of generated pictures among the training anchors, or None if neither config nor cell tells."""
        data = self.config.get("data")
        candidates = [find_key(data, "init_args.share"), find_key(data, "share"), self.axes.get("share")]
        for candidate in candidates:
            if isinstance(candidate, int | float) and not isinstance(candidate, bool):
                return float(candidate)
        return None

    @property
    def seed(self) -> Any:
        """The run's seed, or None."""
        return self.config.get("seed_everything", self.axes.get("seed"))

    @property
    def loss_terms(self) -> dict[str, str]:
        """Class name of each loss term, by the term's name."""
        terms = find_key(self.config, "model.losses") or find_key(self.config, "model.init_args.losses") or {}
        named = {}
        for name, term in terms.items() if isinstance(terms, dict) else ():
            path = find_key(term, "loss.class_path")
            named[str(name)] = str(path).rpartition(".")[2] if path else str(name)
        return named

    @property
    def done(self) -> bool:
        """Whether training ended well."""
        return self.status.state == "done"

    @cached_property
    def last(self) -> dict[tuple[str, str, int | None, float, str, str], Record]:
        """The latest record of each figure, by axis, name, k, gallery ratio, generator and label.

        Where a figure was computed in both modes, the clean one.
        """
        latest: dict[tuple[str, str, int | None, float, str, str], Record] = {}
        for entry in self.records:
            key = (entry.axis, entry.name, entry.k, entry.ratio, entry.generator, entry.label)
            other = latest.get(key)
            if other is None or (entry.mode == "clean", entry.step) >= (other.mode == "clean", other.step):
                latest[key] = entry
        return latest

    def find(
        self, axis: str, metric: Metric, ratio: float, *, generator: str = "all", label: str = ""
    ) -> Record | None:
        """Return a figure's latest record, or None."""
        return self.last.get((axis, metric.name, metric.k, ratio, generator, label))

    def history(self, axis: str, metric: Metric, ratio: float) -> Curve:
        """Return a figure over training, for all generators and labels together."""
        wanted = self.find(axis, metric, ratio)
        if wanted is None:
            return Curve([], [])
        condition = (axis, metric.name, metric.k, ratio, wanted.generator, "", wanted.mode)
        points = sorted(
            (entry.step, entry.value)
            for entry in self.records
            if (entry.axis, entry.name, entry.k, entry.ratio, entry.generator, entry.label, entry.mode) == condition
            and math.isfinite(entry.value)
        )
        return Curve([step for step, _ in points], [value for _, value in points])


def find_runs(paths: Iterable[str | Path]) -> list[Path]:
    """Find run folders: each path is one, or holds some (a sweep's folder).

    Returns:
        The folders in natural order within each path, without repetition.

    Raises:
        ReportError: for a path that is no folder or holds no run.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        folder = Path(path)
        if not folder.is_dir():
            raise ReportError(f"{folder} is no folder; give run folders or a sweep's folder")
        here = list(_runs_below(folder, DEPTH))
        if not here:
            raise ReportError(f"{folder} holds no run: none of {', '.join(RUN_FILES)} is in it or below")
        found |= {item.resolve(): item for item in here}
    return list(found.values())


def load_runs(paths: Iterable[str | Path]) -> list[Run]:
    """Read every run in or below the paths; see :func:`find_runs`."""
    return [load_run(folder) for folder in find_runs(paths)]


def load_run(folder: str | Path) -> Run:
    """Read one run folder; what cannot be read is named in the run's ``problems``."""
    folder = Path(folder)
    problems: list[str] = []
    config, text = _config(folder / "config.yaml", problems)
    return Run(
        folder=folder,
        name=folder.resolve().name,
        status=read_status(folder),
        config=config,
        config_text=text,
        environment=_json(folder / "environment.json", problems) or {},
        cell=_json(folder / "cell.json", []) or {},  # runs outside a sweep have none
        records=_records(folder / "records.csv", problems),
        curves=_curves(folder / "metrics.csv", problems),
        examples=_examples(folder / "examples" / "examples.json", problems),
        problems=tuple(problems),
    )


def find_key(document: Any, dotted: str) -> Any:
    """Look up a dotted key in nested mappings; None where there is no such key.

    Example:
        >>> find_key({"a": {"b": 1}}, "a.b"), find_key({"a": 1}, "a.b")
        (1, None)
    """
    for part in dotted.split("."):
        if not isinstance(document, dict) or part not in document:
            return None
        document = document[part]
    return document


def natural(text: str) -> list[tuple[bool, float, str]]:
    """A sort key that puts ``share=10`` after ``share=2``."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(index % 2 == 0, float(part) if index % 2 else 0.0, part) for index, part in enumerate(parts)]


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    if any((folder / name).is_file() for name in RUN_FILES):
        yield folder
    elif depth:
        for child in sorted(folder.iterdir(), key=lambda item: natural(item.name)):
            if child.is_dir() and not child.name.startswith("."):
                yield from _runs_below(child, depth - 1)


def _json(path: Path, problems: list[str]) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"no {path.name}")
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} cannot be read ({error})")
    return None


def _config(path: Path, problems: list[str]) -> tuple[dict[str, Any], str]:
    try:
        text = path.read_text(encoding="utf-8")
        document = yaml.safe_load(text)
    except FileNotFoundError:
        problems.append(f"no {path.name}")
        return {}, ""
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problems.append(f"{path.name} cannot be read ({error})")
        return {}, ""
    return (document if isinstance(document, dict) else {}), text


def _rows(path: Path, problems: list[str]) -> Sequence[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    except FileNotFoundError:
        problems.append(f"no {path.name}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.append(f"{path.name} cannot be read ({error})")
    return []


def _number(text: str | None) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan


def _records(path: Path, problems: list[str]) -> tuple[Record, ...]:
    records: dict[tuple[Any, ...], Record] = {}
    broken = 0
    for row in _rows(path, problems):
        try:
            entry = Record(
                axis=row["axis"],
                name=row["name"],
                k=int(float(row["k"])) if row["k"] else None,
                ratio=float(row["ratio"]),
                generator=row["generator"] or "all",
                label=row["label"] or "",
                step=int(row["step"]),
                value=_number(row["value"]),
                low=_number(row["low"]),
                high=_number(row["high"]),
                count=int(float(row["count"] or 0)),
                mode=row["mode"] or "clean",
                note=row["note"] or "",
            )
        except (KeyError, TypeError, ValueError):
            broken += 1  # a killed run may leave its last line half written
            continue
        condition = (entry.axis, entry.name, entry.k, entry.ratio, entry.generator, entry.label, entry.mode, entry.step)
        records[condition] = entry
    if broken:
        problems.append(f"{broken} unreadable lines of {path.name} are left out")
    return tuple(records.values())


def _curves(path: Path, problems: list[str]) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for row in _rows(path, problems):
        step = _number(row.get("step"))
        if not math.isfinite(step):
            continue
        for name, text in row.items():
            value = _number(text) if isinstance(text, str) else math.nan
            if name and name not in ("step", "epoch") and math.isfinite(value):
                curve = curves.setdefault(name, Curve([], []))
                curve.steps.append(int(step))
                curve.values.append(value)
    return curves


def _examples(path: Path, problems: list[str]) -> tuple[Example, ...]:
    if not path.exists():
        return ()
    document = _json(path, problems)
    examples = []
    broken = 0
    for item in document if isinstance(document, list) else []:
        try:
            results = tuple(
                Result(
                    file=path.parent / result["file"] if (path.parent / result["file"]).is_file() else None,
                    source=str(result["source"]),
                    score=float(result["score"]),
                    relevant=bool(result["relevant"]),
                    key=str(result.get("key", "")),
                )
                for result in item["results"]
            )
            examples.append(Example(str(item["query"]), int(item["step"]), float(item["ratio"]), results))
        except (KeyError, TypeError, ValueError):
            broken += 1
    if broken:
        problems.append(f"{broken} unreadable entries of {path.name} are left out")
    return tuple(examples)
