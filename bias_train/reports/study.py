"""What a report says: which runs are compared, by which figures, with which intervals. No drawing here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bias_train.records import TEXT, Record
from bias_train.reports.collect import Metric, Run, find_key
from bias_train.reports.errors import ReportError
from bias_train.reports.options import ReportOptions
from bias_train.sweeps.cells import label as spell
from bias_train.sweeps.documents import fingerprint

Z = 1.959963984540054  # a normal distribution's 95 % interval in standard deviations
# What may differ between two runs that count as one arm: they vary along the curve, or by chance, or by place.
_NOT_OF_THE_ARM = (
    "seed_everything",
    "run_dir",
    "resume",
    "logging",
    "ckpt_path",
    "include",
    "config",
    "checkpoint_every",
)
_RETRIEVAL_PREFERENCE = (
    Metric("class_accuracy", None),
    Metric("t2i_R", 10),
    Metric("t2i_R", 5),
    Metric("t2i_R", 1),
)


@dataclass(frozen=True)
class Estimate:
    """A figure of one arm at one training share.

    Attributes:
        value: the run's value, or the mean over seeds.
        low: lower end of the 95 % interval, NaN where none is known.
        high: upper end.
        points: each run's own value.
        unfinished: True if no run was done and the last evaluation of unfinished ones stands here.
    """

    value: float
    low: float
    high: float
    points: tuple[float, ...]
    unfinished: bool = False

    @property
    def runs(self) -> int:
        """How many runs (seeds) it rests on."""
        return len(self.points)


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but training share and seed."""

    label: str
    runs: tuple[Run, ...]

    def at(self, share: float) -> list[Run]:
        """Return the runs at a training share: those that are done, or else all."""
        here = [run for run in self.runs if run.share == share]
        return [run for run in here if run.done] or here


@dataclass(frozen=True)
class Row:
    """One line of the headline table.

    Attributes:
        share: training share; None if unknown.
        arm: the arm's label.
        seeds: how many runs stand behind it.
        bias: the bias figure.
        retrieval: the retrieval of photos.
        remaining: |bias| over the reference arm's |bias| at the same share; None for the reference itself.
        taken_back: part of the reference arm's fall from share 0 to this share that this arm takes back, 1 being all;
            None where there is no fall beyond its interval.
        retrieval_change: retrieval of photos minus the reference arm's at the same share.
    """

    share: float | None
    arm: str
    seeds: int
    bias: Estimate | None
    retrieval: Estimate | None
    remaining: float | None = None
    taken_back: float | None = None
    retrieval_change: float | None = None


class Study:
    """A set of runs under comparison.

    Args:
        runs: at least one.
        options: the reader's choices.

    Raises:
        ReportError: without runs, or for a metric or reference arm that no run has.
    """

    def __init__(self, runs: Sequence[Run], options: ReportOptions | None = None) -> None:
        if not runs:
            raise ReportError("there is no run to report on")
        self.options = options or ReportOptions()
        self.notes: list[str] = []
        self.runs = self._newest(runs)
        self.bias = choose_bias_metric(self.runs, self.options)
        self.retrieval = choose_retrieval_metric(self.runs, self.options)
        self.gallery_ratio = self._gallery_ratio()
        self.arms = group_arms(self.runs)
        self.reference = self._reference()
        if self.reference is not None:
            self.arms.sort(key=lambda arm: arm is not self.reference)
        self._note_gaps()

    @cached_property
    def shares(self) -> list[float]:
        """Training shares in ascending order."""
        return sorted({run.share for run in self.runs if run.share is not None})

    @cached_property
    def focus_share(self) -> float | None:
        """The training share at which classes, generators and examples are compared."""
        if self.options.focus_share is not None:
            if self.options.focus_share not in self.shares:
                raise ReportError(
                    f"no run has a training share of {self.options.focus_share}; there are "
                    f"{', '.join(map(str, self.shares)) or 'none'}"
                )
            return self.options.focus_share
        common = [share for share in self.shares if all(arm.at(share) for arm in self.arms)] or self.shares
        if 0.5 in common:
            return 0.5
        return common[-1] if common else None

    def bias_of(self, runs: Sequence[Run], *, generator: str = "all", label: str = "") -> Estimate | None:
        """Pool the bias figure over runs."""
        if self.bias is None:
            return None
        metric = self.bias
        return _estimate(
            runs, lambda run: run.find("source", metric, self.gallery_ratio, generator=generator, label=label)
        )

    def retrieval_of(self, runs: Sequence[Run], *, label: str = "") -> Estimate | None:
        """Pool the retrieval of photos (a gallery without generated pictures) over runs."""
        if self.retrieval is None:
            return None
        metric = self.retrieval
        return _estimate(runs, lambda run: run.find("retrieval", metric, 0.0, label=label))

    def figure_of(self, runs: Sequence[Run], axis: str, metric: Metric, ratio: float) -> Estimate | None:
        """Pool any figure over runs."""
        return _estimate(runs, lambda run: run.find(axis, metric, ratio))

    def labels(self) -> list[str]:
        """Return the classes that have a bias figure of their own."""
        return sorted({entry.label for entry in self._bias_records() if entry.label})

    def generators(self) -> list[str]:
        """Return the generators that have a bias figure of their own."""
        return sorted({entry.generator for entry in self._bias_records() if entry.generator != "all"})

    def rows(self) -> list[Row]:
        """Return the headline table: by share, the reference arm first."""
        shares: list[float | None] = [*self.shares]
        if any(run.share is None for run in self.runs):
            shares.append(None)
        rows = []
        for share in shares:
            for arm in self.arms:
                runs = arm.at(share) if share is not None else [run for run in arm.runs if run.share is None]
                if runs:
                    rows.append(self._row(share, arm, runs))
        return rows

    def best_arm(self) -> Arm | None:
        """Return the arm with the smallest absolute bias at the focus share, other than the reference."""
        if self.focus_share is None:
            return None
        known = []
        for arm in self.arms:
            estimate = self.bias_of(arm.at(self.focus_share))
            if arm is not self.reference and estimate is not None and math.isfinite(estimate.value):
                known.append((abs(estimate.value), arm))
        return min(known, key=lambda item: item[0])[1] if known else None

    def _row(self, share: float | None, arm: Arm, runs: Sequence[Run]) -> Row:
        bias, retrieval = self.bias_of(runs), self.retrieval_of(runs)
        remaining = taken_back = change = None
        if self.reference is not None and arm is not self.reference and share is not None:
            reference = self.bias_of(self.reference.at(share))
            start = self.bias_of(self.reference.at(0.0))
            if bias is not None and reference is not None and _finite(bias, reference) and reference.value != 0:
                remaining = abs(bias.value) / abs(reference.value)
                if share > 0 and start is not None and _falls(start, reference):
                    taken_back = (bias.value - reference.value) / (start.value - reference.value)
            photos = self.retrieval_of(self.reference.at(share))
            if retrieval is not None and photos is not None and _finite(retrieval, photos):
                change = retrieval.value - photos.value
        return Row(share, arm.label, len(runs), bias, retrieval, remaining, taken_back, change)

    def _bias_records(self) -> Iterable[Record]:
        for run in self.runs:
            for entry in run.last.values():
                if entry.axis == "source" and self.bias is not None and (entry.name, entry.k) == self.bias:
                    yield entry

    def _newest(self, runs: Sequence[Run]) -> list[Run]:
        """Leave out cells that a later version of their sweep has replaced: they are no further seeds of it."""
        cells: dict[Any, list[Run]] = {}
        for run in runs:
            key = (run.cell.get("sweep"), fingerprint(run.axes)) if run.axes else id(run)
            cells.setdefault(key, []).append(run)
        kept = []
        for same in cells.values():
            *older, newest = sorted(same, key=lambda run: (run.done, run.modified))
            kept.append(newest)
            self.notes += [
                f"{run.name} is left out: {newest.name} has the same coordinates in the sweep and "
                f"{'is newer' if run.done == newest.done else 'is done'}."
                for run in older
            ]
        return kept

    def _gallery_ratio(self) -> float:
        wanted = self.options.gallery_ratio
        ratios = {entry.ratio for entry in self._bias_records()}
        if not ratios or wanted in ratios:
            return wanted
        nearest = min(ratios, key=lambda ratio: (abs(ratio - wanted), ratio))
        self.notes.append(
            f"No gallery with a share of {wanted:g} generated pictures was evaluated; the bias is read at {nearest:g}."
        )
        return nearest

    def _reference(self) -> Arm | None:
        if self.options.reference is not None:
            for arm in self.arms:
                if arm.label == self.options.reference:
                    return arm
            raise ReportError(
                f"no arm is called {self.options.reference!r}; there are {', '.join(arm.label for arm in self.arms)}"
            )
        if len(self.arms) < 2:
            return None
        by_terms = sorted(self.arms, key=_term_count)
        if _term_count(by_terms[0]) < _term_count(by_terms[1]):
            return by_terms[0]
        named = [arm for arm in self.arms if arm.label.lower() in ("none", "baseline", "infonce", "no debias")]
        return named[0] if len(named) == 1 else None

    def _note_gaps(self) -> None:
        for run in self.runs:
            if not run.done:
                status = run.status
                steps = f" at step {status.step} of {status.max_steps}" if status.step is not None else ""
                error = f": {status.error}" if status.error else ""
                verb = "has" if status.state == "failed" else "is"
                self.notes.append(f"{run.name} {verb} {status.state}{steps}{error}.")
            for problem in run.problems:
                # A run that has not ended well lacks files for that reason, which is said already.
                if run.done or "cannot be read" in problem:
                    self.notes.append(f"{run.name}: {problem}.")
        if self.bias is None and not _metrics(self.runs, TEXT):
            self.notes.append(
                "No source bias was recorded, so there is nothing to compare by; the callback is SourceBias."
            )
        if self.retrieval is None:
            self.notes.append("No retrieval of photos was recorded; the callback is Retrieval, with ratio 0.")
        if len(self.arms) > 1 and self.reference is None:
            self.notes.append(
                "No arm stands out as the one without debiasing, to compare the others with; name it with --reference."
            )
        if len(self.arms) == 1:
            self.notes.append(f"There is one arm ({self.arms[0].label}), so nothing to compare it with.")
        if any(run.share is None for run in self.runs):
            self.notes.append("Runs whose training share is unknown are in the table, but on no curve.")


def choose_bias_metric(runs: Sequence[Run], options: ReportOptions) -> Metric | None:
    """Choose the figure that stands for the bias.

    The reader's choice; else relative_delta_P at the largest k (relevance by label: a class query has many relevant
    pictures); else relative_delta_R at the smallest (one photo and its twin, which both enter a longer list).

    Raises:
        ReportError: if the reader's choice was not recorded.
    """
    known = _metrics(runs, "source")
    if options.metric is not None:
        return _wanted(options.metric, known, "source")
    for name, best in (("relative_delta_P", max), ("relative_delta_R", min)):
        ks = [metric.k for metric in known if metric.name == name and metric.k is not None]
        if ks:
            return Metric(name, best(ks))
    return None


def choose_retrieval_metric(runs: Sequence[Run], options: ReportOptions) -> Metric | None:
    """Choose the figure that stands for the retrieval of photos, from galleries without generated pictures.

    The reader's choice; else class accuracy (relevance by label), else text-to-image R@10, R@5 or R@1.

    Raises:
        ReportError: if the reader's choice was not recorded.
    """
    known = _metrics(runs, "retrieval", ratio=0.0)
    if options.retrieval is not None:
        return _wanted(options.retrieval, known, "retrieval")
    preferred = [metric for metric in _RETRIEVAL_PREFERENCE if metric in known]
    others = sorted((metric for metric in known if metric.name.startswith("t2i_")), key=str)
    return next(iter([*preferred, *others]), None)


def group_arms(runs: Sequence[Run]) -> list[Arm]:
    """Group runs into arms.

    Cells of one sweep belong together when all coordinates but share and seed agree. Other runs do when their
    configurations agree in all but share, seed, and places; runs that differ in anything else are never averaged.
    """
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(_identity(run), []).append(run)
    several_sweeps = len({run.cell.get("sweep") for run in runs}) > 1
    labels: dict[str, int] = {}
    arms = []
    for members in groups.values():
        label = _arm_label(members[0], several_sweeps)
        labels[label] = labels.get(label, 0) + 1
        arms.append(Arm(label if labels[label] == 1 else f"{label} ({labels[label]})", tuple(members)))
    return arms


def pool(entries: Sequence[Record], *, unfinished: bool = False) -> Estimate:
    """Join one figure's records from runs with different seeds.

    One run: its own interval. Several: the mean, and an interval whose half-widths are, in quadrature, the root mean
    square of the runs' half-widths and 1.96 standard errors of the mean over seeds. The seeds are evaluated on one and
    the same gallery, so its sampling error is common to them and does not shrink with their number; that of training
    does. An interval ends where the figure's range does. (Our construction.)

    Example:
        >>> from bias_train.metrics.figure import Figure
        >>> from bias_train.records import record
        >>> seeds = [record(Figure("P_real", 1, 0.5, 0.4, 0.7), axis="source", ratio=0.5)] * 2
        >>> pool(seeds)
        Estimate(value=0.5, low=0.4, high=0.7, points=(0.5, 0.5), unfinished=False)
    """
    points = tuple(entry.value for entry in entries)
    finite = [entry for entry in entries if math.isfinite(entry.value)]
    if not finite:
        return Estimate(math.nan, math.nan, math.nan, points, unfinished)
    if len(finite) == 1:
        (only,) = finite
        return Estimate(only.value, only.low, only.high, points, unfinished)
    count = len(finite)
    mean = sum(entry.value for entry in finite) / count
    between = Z**2 * sum((entry.value - mean) ** 2 for entry in finite) / (count - 1) / count
    below = sum((entry.value - entry.low) ** 2 for entry in finite) / count
    above = sum((entry.high - entry.value) ** 2 for entry in finite) / count
    low, high = mean - math.sqrt(below + between), mean + math.sqrt(above + between)
    least, greatest = Metric(finite[0].name, finite[0].k).bounds
    # NaN first: max and min return their first argument where the comparison fails.
    return Estimate(mean, max(low, least), min(high, greatest), points, unfinished)


def _estimate(runs: Sequence[Run], look_up: Callable[[Run], Record | None]) -> Estimate | None:
    found = [(run, entry) for run in runs if (entry := look_up(run)) is not None]
    if not found:
        return None
    return pool([entry for _, entry in found], unfinished=not any(run.done for run, _ in found))


def _finite(*estimates: Estimate) -> bool:
    return all(math.isfinite(estimate.value) for estimate in estimates)


def _falls(start: Estimate, end: Estimate) -> bool:
    """Whether the figure falls by more than the two intervals leave open."""
    if not _finite(start, end):
        return False
    open_to_doubt = math.hypot(_or_zero(start.value - start.low), _or_zero(end.high - end.value))
    return start.value - end.value > open_to_doubt


def _or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _metrics(runs: Sequence[Run], axis: str, ratio: float | None = None) -> set[Metric]:
    return {
        Metric(entry.name, entry.k)
        for run in runs
        for entry in run.last.values()
        if entry.axis == axis and not entry.label and (ratio is None or entry.ratio == ratio)
    }


def _wanted(text: str, known: set[Metric], axis: str) -> Metric:
    metric = Metric.parse(text)
    if metric not in known:
        raise ReportError(
            f"no run recorded the {axis} figure {text}; there are {', '.join(sorted(map(str, known))) or 'none'}"
        )
    return metric


def _term_count(arm: Arm) -> int:
    return min((len(run.loss_terms) for run in arm.runs if run.loss_terms), default=99)


def _is_share(name: str, key: Any) -> bool:
    return str(key).endswith(".share") if key else name == "share"


def _is_seed(name: str, key: Any) -> bool:
    return str(key).rpartition(".")[2] in ("seed_everything", "seed") if key else name == "seed"


def _other_axes(run: Run) -> dict[str, Any]:
    keys = run.cell.get("keys") or {}
    return {
        name: value
        for name, value in run.axes.items()
        if not _is_share(name, keys.get(name)) and not _is_seed(name, keys.get(name))
    }


def _identity(run: Run) -> Any:
    if run.axes:
        return ("cell", run.cell.get("sweep"), fingerprint(_other_axes(run)))
    config = {key: value for key, value in run.config.items() if key not in _NOT_OF_THE_ARM}
    config = _without(_without(config, "data.share"), "data.init_args.share")
    config = _without(_without(config, "data.seed"), "data.init_args.seed")
    return ("run", fingerprint(config))


def _without(document: dict[str, Any], dotted: str) -> dict[str, Any]:
    """Copy nested mappings without one key."""
    if find_key(document, dotted) is None:
        return document
    first, _, rest = dotted.partition(".")
    if not rest:
        return {key: value for key, value in document.items() if key != first}
    return {**document, first: _without(document[first], rest)}


def _arm_label(run: Run, several_sweeps: bool) -> str:
    axes = _other_axes(run)
    parts = [spell(value) if name == "loss" else f"{name} {spell(value)}" for name, value in axes.items()]
    if not parts:
        parts = [" + ".join(run.loss_terms.values()) or "runs"]
    if several_sweeps and run.cell.get("sweep"):
        parts.insert(0, str(run.cell["sweep"]))
    return " · ".join(parts)
