"""Writes an explanation: tables as CSV, pictures as PNG, everything as JSON, and one page that shows it all."""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from bias_train.embeddings import Embeddings
from bias_train.errors import RunError
from bias_train.explain.drawing import drawings_of
from bias_train.explain.findings import Explanation
from bias_train.explain.tables import Table, summary, tables_of
from bias_train.files import json_value, write_json, write_text
from bias_train.reports.page import page_style

PAGE = "explanation.html"


def write_explanation(folder: Path, found: Explanation, embeddings: Embeddings, *, title: str) -> Path:
    """Write everything into a folder; files of the same names are replaced.

    Args:
        folder: made where it is missing.
        found: the findings.
        embeddings: what was explained.
        title: of the page.

    Returns:
        The page.

    Raises:
        RunError: if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tables = tables_of(found)
        for table in [*tables, *_long_tables(found, embeddings)]:
            write_text(folder / f"{table.name}.csv", table.csv())
        drawings = drawings_of(found, embeddings)
        for name, (_, data) in drawings.items():
            (folder / name).write_bytes(data)
        write_json(folder / "explanation.json", as_json(found))
        write_text(folder / PAGE, _page(found, tables, drawings, title))
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}") from error
    return folder / PAGE


def as_json(found: Explanation) -> dict[str, Any]:
    """The findings without pictures' places and spectra, which are in CSV files; undefined numbers as null."""
    fields = (
        "kind",
        "counts",
        "bias",
        "left",
        "change",
        "direction",
        "probes",
        "decompositions",
        "cosines",
        "reversal",
        "notes",
    )
    value: dict[str, Any] = {name: json_value(getattr(found, name)) for name in fields}
    value["maps"] = [{"method": entry.method, "explained": json_value(list(entry.explained))} for entry in found.maps]
    if found.spectra is not None:
        value["spectra"] = [
            {"generator": found.spectra.sources[entry.generator], "paired": entry.paired, "peak": entry.peak}
            for entry in found.spectra.differences
        ]
    return value


def _long_tables(found: Explanation, embeddings: Embeddings) -> list[Table]:
    """Tables with a row a picture or frequency, for files only."""
    long = []
    for layout in found.maps:
        rows = [
            (embeddings.image_key[row], embeddings.sources[embeddings.image_source[row]],
             int(embeddings.image_target[row]), float(x), float(y))
            for row, (x, y) in zip(layout.rows.tolist(), layout.place, strict=True)
        ]  # fmt: skip
        long.append(Table(f"map_{layout.method}", "", "", ("key", "source", "target", "x", "y"), list(rows)))
    if found.spectra is not None:
        spectra, names = found.spectra.spectra, found.spectra.sources
        headers, columns = ["frequency"], [spectra.frequency]
        for code in np.unique(spectra.source).tolist():
            own = spectra.radial[spectra.source == code]
            headers += [f"{names[code]} mean", f"{names[code]} 10 %", f"{names[code]} 90 %"]
            columns += [own.mean(axis=0), *np.quantile(own, (0.1, 0.9), axis=0)]
        for entry in found.spectra.differences:
            name = names[entry.generator]
            headers += [f"{name} minus real", f"{name} minus real low", f"{name} minus real high"]
            columns += [entry.interval.value, entry.interval.low, entry.interval.high]
        lines = [tuple(float(value) for value in line) for line in zip(*columns, strict=True)]
        long.append(Table("spectrum", "", "", tuple(headers), list(lines)))
    return long


def _page(found: Explanation, tables: list[Table], drawings: dict[str, tuple[str, bytes]], title: str) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    text = resources.files("bias_train.explain").joinpath("page.html.j2").read_text(encoding="utf-8")
    pictures = [
        (name, caption, "data:image/png;base64," + base64.b64encode(data).decode())
        for name, (caption, data) in drawings.items()
    ]
    return environment.from_string(text).render(
        style=page_style(), title=title, counts=found.counts, notes=found.notes, tables=tables, pictures=pictures,
        summary=summary(found),
    )  # fmt: skip
