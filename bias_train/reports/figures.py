"""The report's plots, from a study; each returns None where the runs hold nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bias_train.records import TEXT
from bias_train.reports.collect import Curve, Metric, Run
from bias_train.reports.drawing import DASHES, INK, MUTED, PAPER, Plot, arm_colour, arm_marker, draw
from bias_train.reports.spelling import is_share, metric_name, number, percent, scale
from bias_train.reports.study import Estimate, Study

MOST_CLASSES = 24
MOST_POINTS = 300


def bars(study: Study) -> str:
    """Say what the bars of a study's plots, and its intervals, are."""
    if all(row.seeds == 1 for row in study.rows()):
        return "Bars are 95 % intervals: each run's own bootstrap interval."
    return (
        "Bars are 95 % intervals around the mean over seeds: the root mean square of the single runs' bootstrap "
        "half-widths and 1.96 standard errors over seeds, in quadrature. Small dots are single seeds."
    )


def bias_by_share(study: Study) -> Plot | None:
    """Draw the bias against the generated share of the training set."""
    return _by_share(
        study,
        name="bias",
        metric=study.bias,
        look_up=study.bias_of,
        title="Bias against mixing ratio",
        reading=(
            f"{metric_name(study.bias)} in a gallery with {percent(study.gallery_ratio)} generated pictures. "
            "Below 0, generated pictures are ranked above real ones."
        ),
        zero=True,
    )


def retrieval_by_share(study: Study) -> Plot | None:
    """Draw the retrieval of photos against the generated share of the training set."""
    return _by_share(
        study,
        name="retrieval",
        metric=study.retrieval,
        look_up=study.retrieval_of,
        title="Retrieval of photos",
        reading=f"{metric_name(study.retrieval)} in a gallery of photos alone: what debiasing must not cost.",
        zero=False,
    )


def pareto(study: Study) -> Plot | None:
    """Draw the retrieval of photos against the bias; points that no other beats in both are ringed."""
    points: list[tuple[int, float, Estimate, Estimate]] = []
    for index, arm in enumerate(study.arms):
        for share in study.shares:
            bias, retrieval = study.bias_of(arm.at(share)), study.retrieval_of(arm.at(share))
            if bias is not None and retrieval is not None and _finite(bias, retrieval):
                points.append((index, share, bias, retrieval))
    if not points:
        return None
    factor = scale(study.retrieval)
    best = [
        not any(
            abs(b.value) <= abs(bias.value)
            and r.value >= retrieval.value
            and (abs(b.value), r.value) != (abs(bias.value), retrieval.value)
            for _, _, b, r in points
        )
        for _, _, bias, retrieval in points
    ]

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=MUTED, linewidth=1)
        for index in range(len(study.arms)):
            mine = [point for point in points if point[0] == index]
            axes.plot(
                [bias.value for _, _, bias, _ in mine],
                [factor * retrieval.value for _, _, _, retrieval in mine],
                color=arm_colour(index),
                linestyle=DASHES[index % len(DASHES)],
                linewidth=1.1,
                alpha=0.6,
            )
        for (index, share, bias, retrieval), ringed in zip(points, best, strict=True):
            place = bias.value, factor * retrieval.value
            axes.errorbar(
                *place,
                xerr=_bars([bias], 1.0),
                yerr=_bars([retrieval], factor),
                color=arm_colour(index),
                linewidth=0.9,
                alpha=0.55,
            )
            axes.plot(*place, arm_marker(index), color=arm_colour(index), markersize=6.5)
            if ringed:
                axes.plot(*place, "o", markersize=13, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1)
            beside = (7, 6) if index % 2 == 0 else (7, -13)
            axes.annotate(percent(share), place, xytext=beside, textcoords="offset points", fontsize=9, color=MUTED)
        axes.set_xlabel(metric_name(study.bias))
        axes.set_ylabel(f"{metric_name(study.retrieval)}, photos" + (" (%)" if is_share(study.retrieval) else ""))
        axes.margins(0.1, 0.12)

    told = "; ".join(
        f"{study.arms[index].label} at {percent(share)}: bias {number(bias.value)}, "
        f"retrieval {number(retrieval.value, study.retrieval)}"
        for index, share, bias, retrieval in points
    )
    return Plot(
        draw("pareto", f"Retrieval against bias. {told}", paint),
        "Retrieval against bias",
        "Each point is an arm at one training share (beside it); lines join an arm's shares. Best is high and on the "
        "vertical line. A ring marks points that no other beats in both.",
        tuple(sorted({index for index, *_ in points})),
    )


def exposure(study: Study) -> Plot | None:
    """Draw the generated share of the top k against that of the gallery, at the focus share."""
    share = study.focus_share
    if share is None:
        return None
    recorded = [entry for run in study.runs for entry in run.last.values() if entry.name == "source_share"]
    ks = sorted({entry.k for entry in recorded if entry.k is not None and not entry.label})
    ratios = sorted({entry.ratio for entry in recorded if not entry.label})
    if not ks or len(ratios) < 2:
        return None
    metric = Metric("source_share", 10 if 10 in ks else ks[-1])
    lines: dict[int, list[tuple[float, Estimate]]] = {}
    for index, arm in enumerate(study.arms):
        for ratio in ratios:
            estimate = study.figure_of(arm.at(share), "source", metric, ratio)
            if estimate is not None and _finite(estimate):
                lines.setdefault(index, []).append((ratio, estimate))
    if not lines:
        return None

    def paint(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1)
        axes.annotate("neutral", (66, 56), fontsize=9, color=MUTED)
        for index, line in lines.items():
            _line(axes, index, [100 * ratio for ratio, _ in line], [estimate for _, estimate in line], 100.0)
        axes.set_xlabel("generated share of the gallery (%)")
        axes.set_ylabel(f"generated share of the top {metric.k} (%)")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 102)

    told = "; ".join(
        f"{study.arms[index].label}: "
        + ", ".join(f"{percent(estimate.value)} of the top at {percent(ratio)}" for ratio, estimate in line)
        for index, line in lines.items()
    )
    return Plot(
        draw("exposure", f"Generated share of the top against that of the gallery. {told}", paint),
        "What users would see",
        f"Share of generated pictures among the first {metric.k} results, for galleries with more and more of them, "
        f"after training at a share of {percent(share)}. On the diagonal a retriever shows both sources as they come.",
        tuple(lines),
    )


def groups(study: Study, kind: str) -> Plot | None:
    """Draw bars of the bias by class or by generator at the focus share.

    Args:
        study: the study.
        kind: ``class`` or ``generator``.
    """
    share = study.focus_share
    names = study.labels() if kind == "class" else study.generators()
    if share is None or not names:
        return None
    estimates: dict[str, list[Estimate | None]] = {}
    for name in names:
        chosen = {"label": name} if kind == "class" else {"generator": name}
        estimates[name] = [study.bias_of(arm.at(share), **chosen) for arm in study.arms]

    def first(name: str) -> float:
        values = [one.value for one in estimates[name] if one is not None and _finite(one)]
        return values[0] if values else math.inf

    names = sorted(names, key=first)
    left_out = len(names) - MOST_CLASSES
    if left_out > 0:
        half = MOST_CLASSES // 2
        names = [*names[:half], *names[-half:]]
    arms = [index for index in range(len(study.arms)) if any(estimates[name][index] is not None for name in names)]
    if not arms:
        return None

    def paint(axes: Axes) -> None:
        thickness = 0.8 / len(arms)
        for place, index in enumerate(arms):
            rows = [(row, one) for row, name in enumerate(names) if (one := estimates[name][index]) is not None]
            rows = [(row, one) for row, one in rows if _finite(one)]
            if not rows:
                continue
            axes.barh(
                [row - 0.4 + (place + 0.5) * thickness for row, _ in rows],
                [one.value for _, one in rows],
                height=thickness * 0.9,
                color=arm_colour(index),
                xerr=_bars([one for _, one in rows], 1.0),
                error_kw={"ecolor": INK, "elinewidth": 0.8, "alpha": 0.7},
            )
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.tick_params(axis="y", labelcolor=INK, length=0)
        axes.grid(axis="y", visible=False)
        axes.invert_yaxis()
        axes.set_xlabel(metric_name(study.bias))

    told = "; ".join(
        f"{name}: "
        + ", ".join(
            f"{arm.label} {number(one.value)}"
            for arm, one in zip(study.arms, estimates[name], strict=True)
            if one is not None
        )
        for name in names
    )
    plural = "classes" if kind == "class" else "generators"
    caption = f"{metric_name(study.bias)} of single {plural}, after training at a share of {percent(share)}."
    if left_out > 0:
        caption += f" The {left_out} {plural} in the middle are left out."
    return Plot(
        draw(
            f"by-{kind}",
            f"Bias by {kind}. {told}",
            paint,
            height=max(120.0, 60 + len(names) * max(20.0, 9.0 * len(arms) + 8)),
        ),
        f"Bias by {kind}",
        caption,
        tuple(arms),
    )


def training(study: Study) -> list[Plot]:
    """Draw what changed over training: loss, the debias terms' part of the gradient, bias, retrieval."""
    plots = [_over_steps(study, "loss", "Training loss", "loss", _smoothed("train/loss"), 1.0)]
    logged = [terms for run in study.runs if (terms := _gradient_shares(run))]
    everywhere = set.intersection(*logged) if logged else set[str]()
    for name in sorted({name for terms in logged for name in terms} - everywhere):
        term = name.split("/")[1]
        plots.append(
            _over_steps(
                study,
                f"gradient-{term}",
                f"Part of the gradient: {term}",
                "part of the gradient norm",
                _smoothed(name),
                1.0,
            )
        )
    if study.bias is not None:
        bias = study.bias
        plots.append(
            _over_steps(
                study,
                "bias-steps",
                "Bias over training",
                metric_name(bias),
                lambda run: run.history("source", bias, study.gallery_ratio),
                1.0,
                zero=True,
            )
        )
    if study.retrieval is not None:
        retrieval = study.retrieval
        plots.append(
            _over_steps(
                study,
                "retrieval-steps",
                "Retrieval of photos over training",
                metric_name(retrieval) + (" (%)" if is_share(retrieval) else ""),
                lambda run: run.history("retrieval", retrieval, 0.0),
                scale(retrieval),
            )
        )
    for name, title in (
        ("NS", "Reading bias (NS) over training"),
        ("win_share", "Wins of the written word over training"),
    ):
        plots.append(
            _over_steps(
                study,
                f"{name.lower().replace('_', '-')}-steps",
                title,
                title.partition(" over")[0],
                lambda run, name=name: run.history(TEXT, Metric(name, None), 0.0),  # type: ignore[misc]
                1.0,
                zero=name == "NS",
            )
        )
    return [plot for plot in plots if plot is not None]


def _by_share(
    study: Study,
    *,
    name: str,
    metric: Metric | None,
    look_up: Callable[[Sequence[Run]], Estimate | None],
    title: str,
    reading: str,
    zero: bool,
) -> Plot | None:
    lines: dict[int, list[tuple[float, Estimate]]] = {}
    for index, arm in enumerate(study.arms):
        for share in study.shares:
            estimate = look_up(arm.at(share))
            if estimate is not None and _finite(estimate):
                lines.setdefault(index, []).append((share, estimate))
    if not lines:
        return None
    factor = scale(metric)

    def paint(axes: Axes) -> None:
        if zero:
            axes.axhline(0, color=MUTED, linewidth=1)
        # Arms side by side rather than on top of each other, by less than one part in a hundred of the axis.
        spread = 0.9 * max((max(study.shares) - min(study.shares)) * 100, 10) / 100
        for place, (index, line) in enumerate(lines.items()):
            shift = (place - (len(lines) - 1) / 2) * spread
            _line(axes, index, [100 * share + shift for share, _ in line], [one for _, one in line], factor)
        axes.set_xticks([100 * share for share in study.shares])
        axes.set_xlabel("generated share of the training set (%)")
        axes.set_ylabel(metric_name(metric) + (" (%)" if is_share(metric) else ""))
        axes.margins(0.06, 0.1)

    told = "; ".join(
        f"{study.arms[index].label}: "
        + ", ".join(f"{number(one.value, metric)} at {percent(share)}" for share, one in line)
        for index, line in lines.items()
    )
    return Plot(draw(name, f"{title}. {told}", paint), title, reading, tuple(lines))


def _line(axes: Axes, index: int, places: Sequence[float], estimates: Sequence[Estimate], factor: float) -> None:
    """Draw one arm: a line through its estimates, bars, and the single seeds behind."""
    colour = arm_colour(index)
    for place, one in zip(places, estimates, strict=True):
        if one.runs > 1:
            seeds = [factor * value for value in one.points if math.isfinite(value)]
            axes.plot([place] * len(seeds), seeds, ".", color=colour, markersize=4, alpha=0.55)
    axes.errorbar(
        places,
        [factor * one.value for one in estimates],
        yerr=_bars(estimates, factor),
        color=colour,
        linestyle=DASHES[index % len(DASHES)],
        marker=arm_marker(index),
        markersize=6,
        elinewidth=1.4,
        capsize=3,
        markeredgecolor=PAPER,
        markeredgewidth=0.6,
    )


def _over_steps(
    study: Study,
    name: str,
    title: str,
    ylabel: str,
    read: Callable[[Run], Curve],
    factor: float,
    *,
    zero: bool = False,
) -> Plot | None:
    curves = [(index, run, read(run)) for index, arm in enumerate(study.arms) for run in arm.runs]
    curves = [(index, run, curve) for index, run, curve in curves if len(curve.steps) > 1]
    if not curves:
        return None
    shares = study.shares

    def paint(axes: Axes) -> None:
        if zero:
            axes.axhline(0, color=MUTED, linewidth=1)
        for index, run, curve in curves:
            rank = shares.index(run.share) / (len(shares) - 1) if run.share in shares and len(shares) > 1 else 1.0
            axes.plot(
                curve.steps,
                [factor * value for value in curve.values],
                color=arm_colour(index),
                linestyle=DASHES[index % len(DASHES)],
                linewidth=1.3,
                alpha=0.45 + 0.5 * rank,
            )
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(ylabel)
        axes.margins(x=0.02)

    ends = "; ".join(
        f"{study.arms[index].label} at {percent(run.share)}: {factor * curve.values[0]:.3g} to "
        f"{factor * curve.values[-1]:.3g}"
        for index, run, curve in curves
    )
    return Plot(
        draw(f"steps-{name}", f"{title}. {ends}", paint, height=210.0),
        title,
        "One line a run" + ("; the stronger, the larger its training share." if len(shares) > 1 else "."),
        tuple(sorted({index for index, _, _ in curves})),
    )


def _smoothed(name: str) -> Callable[[Run], Curve]:
    """Return a reader of a logged scalar, averaged over stretches so that a long run draws few points."""

    def read(run: Run) -> Curve:
        curve = run.curves.get(name, Curve([], []))
        stretch = max(1, math.ceil(len(curve.steps) / MOST_POINTS), len(curve.steps) // 60)
        steps, values = [], []
        for start in range(0, len(curve.steps), stretch):
            part = slice(start, start + stretch)
            steps.append(curve.steps[part][-1])
            values.append(sum(curve.values[part]) / len(curve.values[part]))
        return Curve(steps, values)

    return read


def _gradient_shares(run: Run) -> set[str]:
    return {name for name in run.curves if name.startswith("train/") and name.endswith("/gradient_share")}


def _bars(estimates: Sequence[Estimate], factor: float) -> list[list[float]]:
    """Return matplotlib's lower and upper bars; where no interval is known, none is drawn."""
    below = [max(0.0, factor * (one.value - one.low)) if math.isfinite(one.low) else math.nan for one in estimates]
    above = [max(0.0, factor * (one.high - one.value)) if math.isfinite(one.high) else math.nan for one in estimates]
    return [below, above]


def _finite(*estimates: Estimate) -> bool:
    return all(math.isfinite(one.value) for one in estimates)


def _short(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"
