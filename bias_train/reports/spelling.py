"""How figures are written: names, units, signs, intervals; and what each one means."""

from __future__ import annotations

import math

from bias_train.reports.collect import Metric
from bias_train.reports.study import Estimate

SPACE = "\u00a0"  # keeps a number and its unit on one line

_NAMES = {
    "relative_delta": "Relative Δ",
    "class_accuracy": "Class accuracy",
    "t2i": "Text-to-image",
    "i2t": "Image-to-text",
    "source_share": "Generated share of the top",
    "pair_win_rate": "Pair win rate",
}

_MEANINGS = {
    "relative_delta": (
        "200 × (M_real − M_generated) / (M_real + M_generated), where M counts only one source's relevant pictures "
        "in a mixed gallery. Between −200 and 200; 0 is neutral, negative means that generated pictures are ranked "
        "above real ones that answer the query as well."
    ),
    "class_accuracy": "Share of photos whose own class prompt scores highest among all classes' prompts.",
    "t2i_R": "Share of captions that find a relevant photo among the k nearest pictures.",
    "i2t_R": "Share of photos that find one of their captions among the k nearest captions.",
    "source_share": "Share of generated pictures among the k nearest, relevant or not; neutral where it equals their "
    "share of the gallery.",
}


def metric_name(metric: Metric | None) -> str:
    """Write a metric's name for readers.

    Example:
        >>> metric_name(Metric("relative_delta_P", 100)), metric_name(Metric("t2i_R", 10))
        ('Relative Δ of P@100', 'Text-to-image R@10')
    """
    if metric is None:
        return "not recorded"
    cutoff = "" if metric.k is None else f"@{metric.k}"
    for prefix, name in _NAMES.items():
        if metric.name == prefix:
            return f"{name}{cutoff}"
        if metric.name.startswith(f"{prefix}_"):
            joint = " of " if prefix == "relative_delta" else " "
            return f"{name}{joint}{metric.name.removeprefix(prefix + '_')}{cutoff}"
    return f"{metric.name}{cutoff}"


def metric_meaning(metric: Metric) -> str:
    """Explain a metric, '' if nothing is known beyond its name."""
    return next((text for prefix, text in _MEANINGS.items() if metric.name.startswith(prefix)), "")


def is_share(metric: Metric | None) -> bool:
    """Tell whether a metric is a share in [0, 1], written in percent."""
    return metric is not None and metric.is_share


def scale(metric: Metric | None) -> float:
    """Return the factor from a recorded value to the number that is written."""
    return 100.0 if is_share(metric) else 1.0


def unit(metric: Metric | None) -> str:
    """Return what stands after a written number."""
    return f"{SPACE}%" if is_share(metric) else ""


def number(value: float, metric: Metric | None = None, *, signed: bool = False) -> str:
    r"""Write a value with one decimal, a true minus and its unit; a dash where it is undefined.

    Example:
        >>> number(-85.26), number(0.5, Metric("t2i_R", 1)), number(float("nan"))
        ('−85.3', '50.0\xa0%', '–')
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    scaled = round(value * scale(metric), 1) + 0.0  # + 0.0 turns -0.0 into 0.0
    return f"{scaled:{'+' if signed and scaled else ''}.1f}".replace("-", "−") + unit(metric)


def interval(estimate: Estimate, metric: Metric | None = None) -> str:
    """Write an interval without its unit, '' where there is none.

    Example:
        >>> interval(Estimate(-85.0, -90.04, -80.0, (-85.0,)))
        '−90.0 to −80.0'
        >>> interval(Estimate(0.5, 0.4, 0.6, (0.5,)), Metric("t2i_R", 1))
        '40.0 to 60.0'
    """
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    low, high = (number(end, metric).removesuffix(unit(metric)) for end in (estimate.low, estimate.high))
    return f"{low} to {high}"


def percent(share: float | None) -> str:
    r"""Write a share in percent.

    Example:
        >>> percent(0.125), percent(None)
        ('12.5\xa0%', 'unknown')
    """
    return "unknown" if share is None else f"{100 * share:.4g}{SPACE}%"
