"""From a sweep file to its cells: which trainings, under which names, by which commands."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bias_train.sweeps.documents import canonical, fingerprint, load_definition
from bias_train.sweeps.errors import SweepError
from bias_train.sweeps.spec import Axis, Choice, Sweep, same

CELL_VERSION = 1
LONGEST_NAME = 120  # file systems allow 255 bytes a name; W&B and terminals are happier with less


@dataclass(frozen=True)
class Cell:
    """One training of a sweep.

    Attributes:
        id: its folder's name: readable coordinates and a hash of the definition. The same definition at the same
            coordinates has the same id in every version of the sweep file.
        fingerprint: that hash.
        axes: coordinate by axis.
        keys: the dotted key by axis, for axes that set one.
        configs: config files, later ones win.
        overrides: dotted keys set on top of them.
        folder: the run folder.
        sweep: the sweep's name.
    """

    id: str
    fingerprint: str
    axes: dict[str, Any]
    keys: dict[str, str]
    configs: tuple[Path, ...]
    overrides: tuple[tuple[str, Any], ...]
    folder: Path
    sweep: str

    def argv(self) -> list[str]:
        """Return the arguments of ``bias-train fit`` that train this cell."""
        arguments = []
        for config in self.configs:
            arguments += ["--config", str(config)]
        arguments += [f"--{key}={_spell(value)}" for key, value in self.overrides]
        return [*arguments, "--run_dir", str(self.folder)]

    def command(self) -> str:
        """Return the shell command that trains this cell by hand."""
        return shlex.join(["bias-train", "fit", *self.argv()])

    def document(self) -> dict[str, Any]:
        """Return what ``cell.json`` holds: the seam between a sweep and whoever reads its run folders."""
        return {
            "version": CELL_VERSION,
            "sweep": self.sweep,
            "id": self.id,
            "fingerprint": self.fingerprint,
            "axes": canonical(self.axes),
            "keys": self.keys,
            "configs": [os.fspath(path) for path in self.configs],
            "overrides": canonical(dict(self.overrides)),
            "argv": self.argv(),
        }


def expand(sweep: Sweep) -> list[Cell]:
    """List the sweep's cells: the grid in the file's order (the last axis fastest), then what ``include`` adds.

    Deterministic, and independent of which cells there are besides: adding a value leaves every other id as it was.

    Raises:
        SweepError: if no cell is left, or a config file cannot be parsed.
    """
    grid = [
        combination
        for combination in itertools.product(*(axis.choices for axis in sweep.axes))
        if not any(_matches(entry, sweep.axes, combination) for entry in sweep.exclude)
    ]
    for entry in sweep.include:
        grid += itertools.product(*(_included(axis, entry) for axis in sweep.axes))
    definitions: dict[Path, Any] = {}
    cells = {cell.id: cell for cell in (_cell(sweep, combination, definitions) for combination in grid)}
    if not cells:
        raise SweepError(f"{sweep.file}: exclude leaves no cell")
    return list(cells.values())


def select(cells: list[Cell], wanted: list[str]) -> list[Cell]:
    """Keep the cells that a user's ``--only`` names.

    Args:
        cells: all cells.
        wanted: each an id, a fingerprint, or comma-separated coordinates such as ``loss=hinge,share=0.5``.

    Raises:
        SweepError: for a selector that matches nothing.
    """
    kept: dict[str, Cell] = {}
    for selector in wanted:
        matching = [cell for cell in cells if selector in (cell.id, cell.fingerprint) or _selects(selector, cell)]
        if not matching:
            raise SweepError(f"--only {selector}: no such cell; `bias-train sweep plan` lists them")
        kept |= {cell.id: cell for cell in matching}
    return [cell for cell in cells if cell.id in kept]


def current_fingerprint(document: Mapping[str, Any]) -> str:
    """Hash a cell's definition as its files are now.

    Args:
        document: what its ``cell.json`` holds, which has the hash of when the cell was made.

    Raises:
        SweepError: if a file has gone or cannot be parsed.
    """
    return _hash([load_definition(Path(path)) for path in document["configs"]], document["overrides"])


def label(value: Any) -> str:
    """Spell a coordinate for tables and folder names.

    Example:
        >>> label(0.0), label(None), label(True), label("rank_hinge"), label([1, 2])
        ('0', 'none', 'true', 'rank_hinge', '[1, 2]')
    """
    value = canonical(value)
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _cell(sweep: Sweep, combination: tuple[Choice, ...], definitions: dict[Path, Any]) -> Cell:
    axes = {axis.name: choice.value for axis, choice in zip(sweep.axes, combination, strict=True)}
    configs = (*sweep.base, *(config for choice in combination for config in choice.configs))
    overrides = (*sweep.overrides, *(pair for choice in combination for pair in choice.overrides))
    for config in configs:
        if config not in definitions:
            definitions[config] = load_definition(config)
    hashed = _hash([definitions[config] for config in configs], dict(overrides))
    readable = "_".join(f"{_safe(name)}={_safe(label(value))}" for name, value in axes.items())
    identity = f"{readable[:LONGEST_NAME].rstrip('_=-.')}_{hashed}"
    return Cell(
        id=identity,
        fingerprint=hashed,
        axes=axes,
        keys={axis.name: axis.key for axis in sweep.axes if axis.key is not None},
        configs=configs,
        overrides=overrides,
        folder=sweep.root / identity,
        sweep=sweep.name,
    )


def _hash(configs: list[Any], overrides: Mapping[str, Any]) -> str:
    """Hash what the files hold rather than where they lie, in the order in which they win."""
    return fingerprint({"configs": configs, "overrides": dict(overrides)})


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-")[:40] or "x"


def _matches(entry: Mapping[str, tuple[Any, ...]], axes: tuple[Axis, ...], combination: tuple[Choice, ...]) -> bool:
    values = {axis.name: choice.value for axis, choice in zip(axes, combination, strict=True)}
    return all(any(same(values[name], wanted) for wanted in allowed) for name, allowed in entry.items())


def _included(axis: Axis, entry: Mapping[str, Any]) -> tuple[Choice, ...]:
    if axis.name not in entry:
        return axis.choices
    value = entry[axis.name]
    known = axis.find(value)
    if known is not None:
        return (known,)
    assert axis.key is not None  # the reader of the file refused unknown names
    return (Choice(value, (), ((axis.key, value),)),)


def _selects(selector: str, cell: Cell) -> bool:
    pairs = [part.partition("=") for part in selector.split(",")]
    return all(
        separator and name in cell.axes and _reads_as(value, cell.axes[name]) for name, separator, value in pairs
    )


def _reads_as(text: str, value: Any) -> bool:
    if text == label(value):
        return True
    try:
        return not isinstance(value, bool) and float(text) == float(value)
    except (TypeError, ValueError):
        return False


def _spell(value: Any) -> str:
    """Spell a value for the command line's parser: text as it is, everything else as JSON, which YAML contains."""
    return value if isinstance(value, str) else json.dumps(value)
