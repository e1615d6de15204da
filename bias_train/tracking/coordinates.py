"""How a run is named, grouped and tagged in W&B: by its place in a sweep, where it has one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bias_train.sweeps.cells import label
from bias_train.sweeps.files import read_json

LONGEST_TAG, LONGEST_NAME = 64, 128  # characters; W&B refuses more


@dataclass(frozen=True)
class Coordinates:
    """What a run folder says of its run.

    Attributes:
        name: readable name.
        group: name of the sweep, None outside of any.
        tags: ``axis=value`` for each axis of the sweep.
        config: what the run's configuration gains: the sweep, the cell and its coordinates, {} outside of any sweep.
    """

    name: str
    group: str | None = None
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)


def coordinates(folder: Path) -> Coordinates:
    """Read ``cell.json`` of a run folder, which a sweep has written; without it a run is named after its folder."""
    cell = read_json(folder / "cell.json")
    axes = cell.get("axes")
    if not isinstance(axes, dict) or "sweep" not in cell:
        return Coordinates(folder.name[:LONGEST_NAME])
    places = [f"{axis}={label(value)}" for axis, value in axes.items()]
    return Coordinates(
        name=" ".join(places)[:LONGEST_NAME] or folder.name[:LONGEST_NAME],
        group=str(cell["sweep"])[:LONGEST_NAME],
        tags=tuple(place[:LONGEST_TAG] for place in places),
        config={"cell": {"sweep": cell["sweep"], "id": cell.get("id"), "axes": axes}},
    )
