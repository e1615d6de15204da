"""What a reader may choose about a report; everything else follows from the run folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from bias_train.reports.errors import ReportError


@dataclass(frozen=True)
class ReportOptions:
    """Choices about a report, from the command line or from a sweep file's ``report`` section.

    Attributes:
        title: heading of the page; None takes the sweep's name, or the folder's.
        metric: figure that stands for the bias, as ``name@k``; None chooses it from the records (see
            :func:`bias_train.reports.study.choose_bias_metric`).
        retrieval: figure that stands for the retrieval of photos, as ``name@k``; None chooses it from the records.
        gallery_ratio: generated share of the *gallery* at which the bias is read, in [0, 1]. (The generated share of
            the *training set* is the curve's horizontal axis.)
        reference: label of the arm that the others are compared with; None takes the arm with the fewest loss terms.
        focus_share: training share at which classes, generators and example rankings are compared; None takes 0.5
            where every arm was trained at it, or else the largest share that every arm has.
    """

    title: str | None = None
    metric: str | None = None
    retrieval: str | None = None
    gallery_ratio: float = 0.5
    reference: str | None = None
    focus_share: float | None = None

    def __post_init__(self) -> None:
        """Check types and ranges, since the values come from YAML."""
        for name in ("title", "metric", "retrieval", "reference"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ReportError(f"report option {name!r} must be text, got {value!r}")
        for name in ("gallery_ratio", "focus_share"):
            value = getattr(self, name)
            if value is None and name == "focus_share":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ReportError(f"report option {name!r} must be a number in [0, 1], got {value!r}")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> ReportOptions:
        """Read the options from a sweep file's ``report`` section.

        Raises:
            ReportError: for a key that no option has, or a value of the wrong type or range.

        Example:
            >>> ReportOptions.from_mapping({"metric": "relative_delta_R@5"}).metric
            'relative_delta_R@5'
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(mapping) - set(known))
        if unknown:
            raise ReportError(f"unknown report option {unknown[0]!r}; known are {', '.join(known)}")
        return cls(**mapping)
