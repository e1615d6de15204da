"""The sweep file: a grid of trainings, read and checked.

.. code-block:: yaml

    name: cifake_mixing
    root: runs/cifake_mixing            # default: runs/<name>; one folder a cell is made in it
    base: [configs/experiment/cifake_source.yaml]
    axes:
      share: {key: data.share, values: [0, 0.2, 0.5, 0.8]}
      loss:
        files:
          none: configs/loss/infonce.yaml
          hinge: configs/loss/rank_hinge.yaml
          strong: configs/loss/rank_hinge.yaml
        overrides: {strong: {model.losses.debias.weight: 4.0}}
      seed: {key: seed_everything, values: [0, 1]}
    exclude:
      - {share: 0, loss: [hinge, strong]}
    include:
      - {share: 0.9, loss: none, seed: 0}
    overrides: {trainer.max_steps: 400}
    setup:
      - command: [shards, import, classes, pictures.tar, shards/train]
        creates: shards/train/index.arrow
    report: {reference: none}

An axis is a dotted key with values, or named choices; a choice is a config file (or a list of them, or nothing), a
mapping of overrides, or both under one name. ``exclude`` drops the cells that match every coordinate of an entry;
``include`` adds cells outside the grid, where an axis that an entry leaves out takes all its choices.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bias_train.paths import find_config
from bias_train.reports.errors import ReportError
from bias_train.reports.options import ReportOptions
from bias_train.sweeps.documents import canonical, load_yaml
from bias_train.sweeps.errors import SweepError

KEYS = ("name", "root", "base", "axes", "exclude", "include", "overrides", "setup", "report")


@dataclass(frozen=True)
class Choice:
    """One value of an axis.

    Attributes:
        value: what the tables show and ``exclude`` matches: the value itself, or the choice's name.
        configs: config files to add, in order.
        overrides: dotted keys to set.
    """

    value: Any
    configs: tuple[Path, ...] = ()
    overrides: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Axis:
    """One dimension of the grid.

    Attributes:
        name: the axis's name.
        key: the dotted key that it sets; None for named choices.
        choices: in the file's order.
    """

    name: str
    key: str | None
    choices: tuple[Choice, ...]

    def find(self, value: Any) -> Choice | None:
        """Return the choice of this value, or None; 0 and 0.0 are one value."""
        return next((choice for choice in self.choices if same(choice.value, value)), None)


@dataclass(frozen=True)
class SetupStep:
    """A ``bias-train`` command that must have run before the first cell.

    Attributes:
        command: its arguments, without the program's name.
        creates: a file that shows that it has run; None keeps a stamp in the sweep's folder instead.
    """

    command: tuple[str, ...]
    creates: Path | None = None

    def spell(self) -> str:
        """Return the shell command."""
        return shlex.join(["bias-train", *self.command])


@dataclass(frozen=True)
class Sweep:
    """A sweep file's content, checked. The fields follow the module's description."""

    file: Path
    name: str
    root: Path
    base: tuple[Path, ...]
    axes: tuple[Axis, ...]
    exclude: tuple[dict[str, tuple[Any, ...]], ...] = ()
    include: tuple[dict[str, Any], ...] = ()
    overrides: tuple[tuple[str, Any], ...] = ()
    setup: tuple[SetupStep, ...] = ()
    report: ReportOptions = field(default_factory=ReportOptions)

    def axis(self, name: str) -> Axis | None:
        """Return the axis of this name, or None."""
        return next((axis for axis in self.axes if axis.name == name), None)


def same(first: Any, second: Any) -> bool:
    """Compare two values as documents do: 0 equals 0.0, but not False, and not "0".

    Example:
        >>> same(0, 0.0), same(0, False), same([1], (1.0,))
        (True, False, True)
    """
    return json.dumps(canonical(first), sort_keys=True) == json.dumps(canonical(second), sort_keys=True)


def load_sweep(path: str | Path) -> Sweep:
    """Read and check a sweep file; config files are looked for as :func:`bias_train.paths.find_config` does.

    Raises:
        SweepError: naming the file, the key and the remedy.
    """
    try:
        file = find_config(path)
    except FileNotFoundError as error:
        raise SweepError(str(error)) from error
    document = load_yaml(file)
    reader = _Reader(file)
    document = reader.mapping(document, "the file")
    unknown = [key for key in document if key not in KEYS]
    if unknown:
        raise reader.error(str(unknown[0]), f"unknown key; known are {', '.join(KEYS)}")

    name = document.get("name", file.stem)
    if not isinstance(name, str) or not name:
        raise reader.error("name", "must be text")
    axes = reader.axes(document.get("axes"))
    overrides = reader.overrides(document.get("overrides") or {}, "overrides")
    reader.check_keys(axes, overrides)
    try:
        report = ReportOptions.from_mapping(reader.mapping(document.get("report") or {}, "report"))
    except ReportError as error:
        raise reader.error("report", str(error)) from error
    return Sweep(
        file=file,
        name=name,
        root=Path(reader.text(document.get("root", f"runs/{name}"), "root")),
        base=reader.configs(document.get("base") or [], "base"),
        axes=axes,
        exclude=reader.exclude(document.get("exclude") or [], axes),
        include=reader.include(document.get("include") or [], axes),
        overrides=overrides,
        setup=reader.setup(document.get("setup") or []),
        report=report,
    )


class _Reader:
    """Turns a parsed document into checked parts; every error names the file and the key."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def error(self, key: str, message: str) -> SweepError:
        return SweepError(f"{self.file}: {key}: {message}")

    def mapping(self, value: Any, key: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self.error(key, f"must be a mapping, got {_short(value)}")
        return value

    def text(self, value: Any, key: str) -> str:
        if not isinstance(value, str) or not value:
            raise self.error(key, f"must be text, got {_short(value)}")
        return value

    def sequence(self, value: Any, key: str) -> list[Any]:
        if not isinstance(value, list):
            raise self.error(key, f"must be a list, got {_short(value)}")
        return value

    def configs(self, value: Any, key: str) -> tuple[Path, ...]:
        """Read nothing, one path or a list of paths; each must exist."""
        if value is None:
            return ()
        found = []
        for item in value if isinstance(value, list) else [value]:
            try:
                found.append(find_config(self.text(item, key)))
            except FileNotFoundError as error:
                raise self.error(key, str(error)) from error
        return tuple(found)

    def overrides(self, value: Any, key: str) -> tuple[tuple[str, Any], ...]:
        mapping = self.mapping(value, key)
        for dotted in mapping:
            if not isinstance(dotted, str) or dotted.startswith("-") or "=" in dotted:
                raise self.error(key, f"{dotted!r} is not a dotted key such as data.share")
            if dotted in ("run_dir", "config", "resume"):
                raise self.error(key, f"{dotted!r} is set by the sweep itself; remove it")
        return tuple(mapping.items())

    def axes(self, value: Any) -> tuple[Axis, ...]:
        mapping = self.mapping(value if value is not None else {}, "axes")
        if not mapping:
            raise self.error(
                "axes", "must hold at least one axis, such as {share: {key: data.share, values: [0, 0.5]}}"
            )
        return tuple(self.axis(str(name), content) for name, content in mapping.items())

    def axis(self, name: str, content: Any) -> Axis:
        key = f"axes.{name}"
        content = self.mapping(content, key)
        kinds = set(content)
        if kinds == {"key", "values"}:
            axis = self._value_axis(name, key, content)
        elif kinds and kinds <= {"files", "overrides"}:
            axis = self._named_axis(name, key, content)
        else:
            raise self.error(key, "needs either 'key' and 'values', or 'files' and/or 'overrides' by name")
        if not axis.choices:
            raise self.error(key, "has no values")
        for position, choice in enumerate(axis.choices):
            if any(same(choice.value, other.value) for other in axis.choices[:position]):
                raise self.error(key, f"holds {choice.value!r} twice")
        return axis

    def _value_axis(self, name: str, key: str, content: Mapping[str, Any]) -> Axis:
        ((dotted, _),) = self.overrides({content["key"]: None}, f"{key}.key")
        values = self.sequence(content["values"], f"{key}.values")
        return Axis(name, dotted, tuple(Choice(value, (), ((dotted, value),)) for value in values))

    def _named_axis(self, name: str, key: str, content: Mapping[str, Any]) -> Axis:
        files = self.mapping(content.get("files") or {}, f"{key}.files")
        overrides = self.mapping(content.get("overrides") or {}, f"{key}.overrides")
        choices = []
        for label in [*files, *(label for label in overrides if label not in files)]:
            if isinstance(label, bool) or label is None:  # YAML 1.1 reads a bare no, off or null so
                raise self.error(key, f"the name {label!r} is not text; put it in quotes")
            configs = self.configs(files.get(label), f"{key}.files.{label}")
            changes = self.overrides(overrides.get(label) or {}, f"{key}.overrides.{label}")
            choices.append(Choice(str(label), configs, changes))
        return Axis(name, None, tuple(choices))

    def check_keys(self, axes: tuple[Axis, ...], fixed: tuple[tuple[str, Any], ...]) -> None:
        """A key set in two places would depend on an order that nobody reads; refuse it."""
        owners = {key: "overrides" for key, _ in fixed}
        for axis in axes:
            keys = {key for choice in axis.choices for key, _ in choice.overrides}
            for key in sorted(keys):
                if key in owners:
                    raise self.error(f"axes.{axis.name}", f"sets {key}, which {owners[key]} sets too; keep one of them")
                owners[key] = f"axes.{axis.name}"

    def exclude(self, value: Any, axes: tuple[Axis, ...]) -> tuple[dict[str, tuple[Any, ...]], ...]:
        entries = []
        for number, item in enumerate(self.sequence(value, "exclude")):
            key = f"exclude[{number}]"
            entry = {}
            for name, wanted in self.mapping(item, key).items():
                axis = self.known_axis(name, axes, key)
                values = tuple(wanted) if isinstance(wanted, list) and axis.find(wanted) is None else (wanted,)
                for one in values:
                    if axis.find(one) is None:
                        raise self.error(key, f"axis {name} has no value {one!r}; it has {_values(axis)}")
                entry[axis.name] = values
            if not entry:
                raise self.error(key, "is empty and would exclude every cell")
            entries.append(entry)
        return tuple(entries)

    def include(self, value: Any, axes: tuple[Axis, ...]) -> tuple[dict[str, Any], ...]:
        entries = []
        for number, item in enumerate(self.sequence(value, "include")):
            key = f"include[{number}]"
            entry = dict(self.mapping(item, key))
            for name, wanted in entry.items():
                axis = self.known_axis(name, axes, key)
                if axis.key is None and axis.find(wanted) is None:
                    raise self.error(key, f"axis {name} has no choice {wanted!r}; it has {_values(axis)}")
            entries.append(entry)
        return tuple(entries)

    def known_axis(self, name: Any, axes: tuple[Axis, ...], key: str) -> Axis:
        axis = next((axis for axis in axes if axis.name == name), None)
        if axis is None:
            raise self.error(key, f"unknown axis {name!r}; known are {', '.join(axis.name for axis in axes)}")
        return axis

    def setup(self, value: Any) -> tuple[SetupStep, ...]:
        steps = []
        for number, item in enumerate(self.sequence(value, "setup")):
            key = f"setup[{number}]"
            creates = None
            if isinstance(item, dict):
                unknown = sorted(set(item) - {"command", "creates"})
                if unknown or "command" not in item:
                    raise self.error(key, "needs 'command' (a list of arguments) and takes 'creates' (a path)")
                if item.get("creates") is not None:
                    creates = Path(self.text(item["creates"], f"{key}.creates"))
                item = item["command"]
            words = [str(word) for word in self.sequence(item, key)]
            if not words:
                raise self.error(key, "is an empty command")
            steps.append(SetupStep(tuple(words[1:] if words[0] == "bias-train" else words), creates))
        return tuple(steps)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _values(axis: Axis) -> str:
    return ", ".join(str(choice.value) for choice in axis.choices)
