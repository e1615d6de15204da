"""Which scalars of our runs belong on which panel, whatever draws the panels."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SHARE_KEY = "data.init_args.share"  # in the configuration
STEP = "trainer/global_step"

_NAME = re.compile(
    r"(?:bias/(?P<axis>[^/]+)|(?P<retrieval>retrieval))/(?P<metric>[^/@]+)(?:@(?P<k>\d+))?/ratio=(?P<ratio>[^/]+)"
    r"(?:/generator=(?P<generator>[^/]+))?"
)
# What the headlines are computed from, and what says only how the gallery was mixed.
_INTERMEDIATE = re.compile(r".*_(real|generated)$|pool_share$")
# Lists of pictures with their captions: what a callback logs beside scalars.
TABLES = {"source": "bias/source/examples"}

_KS, _MIXED = (1, 5, 10), (0.2, 0.5, 0.8)
DEFAULT_NAMES = (
    *(
        f"bias/source/{metric}@{k}/ratio={ratio:g}"
        for metric in ("relative_delta_R", "relative_delta_NDCG", "source_share", "delta_ndsr", "amplification")
        for k in _KS
        for ratio in _MIXED
    ),
    *(f"bias/source/{metric}/ratio={ratio:g}" for metric in ("pair_win_rate", "rank_difference") for ratio in _MIXED),
    *(f"retrieval/{way}_R@{k}/ratio={ratio}" for way in ("t2i", "i2t") for k in _KS for ratio in (0, 1)),
    "train/loss",
    "train/lr",
    "data/images_per_second",
    "data/wait_share",
    "data/wait_seconds",
    "data/skipped",
)


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        kind: "line" (over steps), "scatter" (one point a run) or "table".
        title: heading.
        y: names of scalars, or of the table.
        x: for a scatter, the name of a scalar; None for the share of generated pictures in training.
    """

    kind: Literal["line", "scatter", "table"]
    title: str
    y: tuple[str, ...]
    x: str | None = None


@dataclass(frozen=True)
class Section:
    """Some panels under a heading."""

    name: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class _Figure:
    name: str
    axis: str
    metric: str
    k: int | None
    ratio: float
    generator: str | None

    @property
    def title(self) -> str:
        return self.metric if self.k is None else f"{self.metric}@{self.k}"


def names_of(runs: Iterable[Path]) -> list[str]:
    """The scalars that some run folders hold, timings included."""
    names: dict[str, None] = {}
    for run in runs:
        for file, prefix in (("metrics.csv", ""), ("throughput.csv", "data/")):
            if (run / file).exists():
                with (run / file).open(newline="", encoding="utf-8") as opened:
                    names |= {prefix + name: None for name in next(csv.reader(opened), []) if name != "step"}
    return list(names)


def sections(names: Sequence[str], gallery_ratio: float = 0.5) -> list[Section]:
    """Arrange scalars: bias axis by axis, bias against retrieval, retrieval, throughput, losses.

    Args:
        names: all scalars that the runs log.
        gallery_ratio: generated share of the gallery at which bias is set against training share and retrieval.

    Returns:
        Sections without empty ones.
    """
    figures = [figure for figure in map(_figure, names) if figure is not None]
    shown = [figure for figure in figures if not _INTERMEDIATE.match(figure.metric)]
    axes = list(dict.fromkeys(figure.axis for figure in shown if figure.axis != "retrieval"))
    retrieval = _headlines([f for f in shown if f.axis == "retrieval" and f.ratio == 0 and f.generator is None])
    found = [_axis(axis, [f for f in shown if f.axis == axis], gallery_ratio) for axis in axes]
    found.append(_social(names))
    found += [_among_photos(axis, names) for axis in ("object", "text")]
    pareto = tuple(
        Panel("scatter", f"{bias.title} against {quality.title}", (bias.name,), quality.name)
        for axis in axes
        for bias in _at(shown, axis, gallery_ratio)[:2]
        for quality in retrieval[:2]
    )
    found.append(Section("Bias against retrieval", pareto))
    ways = dict.fromkeys(figure.metric for figure in shown if figure.axis == "retrieval")
    found.append(
        Section(
            "Retrieval",
            tuple(
                Panel("line", way, tuple(f.name for f in shown if f.axis == "retrieval" and f.metric == way))
                for way in ways
            ),
        )
    )
    data = [name for name in names if name.startswith("data/")]
    shares = tuple(name for name in data if name.startswith("data/share/"))
    speed = [Panel("line", name.removeprefix("data/"), (name,)) for name in data if name not in shares]
    mixture = [Panel("line", "share of sources", shares)] if shares else []
    found.append(Section("Throughput and data", (*speed, *mixture)))
    losses = [name for name in names if name.startswith("train/")]
    found.append(Section("Training", tuple(Panel("line", n.removeprefix("train/"), (n,)) for n in losses)))
    return [section for section in found if section.panels]


def _axis(axis: str, figures: Sequence[_Figure], gallery_ratio: float) -> Section:
    chosen = _at(figures, axis, gallery_ratio)
    panels = [Panel("scatter", f"{figure.title} against share", (figure.name,)) for figure in chosen]
    for figure in chosen:
        alike = [f for f in figures if (f.metric, f.k) == (figure.metric, figure.k)]
        galleries = tuple(f.name for f in alike if f.generator is None)
        panels.append(Panel("line", f"{figure.title} by gallery", galleries))
        generators = tuple(f.name for f in alike if f.generator is not None and f.ratio == figure.ratio)
        if generators:
            panels.append(Panel("line", f"{figure.title} by generator", generators))
    if axis in TABLES:
        panels.append(Panel("table", "example rankings", (TABLES[axis],)))
    return Section(f"Bias: {axis}", tuple(panels))


def _social(names: Sequence[str]) -> Section:
    """A line for each attribute of people: their gallery has no share of generated pictures to be set against."""
    figures = [(name.split("/")[2], name) for name in names if name.startswith("bias/social/")]
    return Section(
        "Bias: social",
        tuple(
            Panel("line", f"{metric} by attribute", tuple(name for other, name in figures if other == metric))
            for metric in dict.fromkeys(metric for metric, _ in figures)
        ),
    )


def _among_photos(axis: str, names: Sequence[str]) -> Section:
    """A panel for each figure with a line for each cut-off, of an axis whose galleries hold no generated picture."""
    root = f"bias/{axis}/"
    found: dict[str, list[str]] = {}
    for name in names:
        if name.startswith(root):
            found.setdefault(name.removeprefix(root).partition("@")[0], []).append(name)
    return Section(f"Bias: {axis}", tuple(Panel("line", metric, tuple(lines)) for metric, lines in found.items()))


def _at(figures: Sequence[_Figure], axis: str, ratio: float) -> list[_Figure]:
    return _headlines([f for f in figures if f.axis == axis and f.ratio == ratio and f.generator is None])


def _headlines(figures: Sequence[_Figure]) -> list[_Figure]:
    """One cut-off a metric, as in the HTML report: precision at the largest (a class has many), others at the least.

    Of class relevance, precision comes first; else the order in which they stand, relative differences first.
    """
    best: dict[str, _Figure] = {}
    for figure in figures:
        now = best.setdefault(figure.metric, figure)
        if figure.k is not None and now.k is not None:
            larger = figure.k > now.k
            if larger == (figure.metric == "relative_delta_P"):
                best[figure.metric] = figure
    first = ("relative_delta_P", "relative_delta_R", "class_accuracy", "t2i_R", "i2t_R")
    return sorted(best.values(), key=lambda f: first.index(f.metric) if f.metric in first else len(first))


def _figure(name: str) -> _Figure | None:
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    k = match["k"]
    return _Figure(
        name,
        match["axis"] or "retrieval",
        match["metric"],
        None if k is None else int(k),
        float(match["ratio"]),
        match["generator"],
    )
