"""The findings as PNG pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bias_train.embeddings import Embeddings
from bias_train.explain.findings import Explanation, PictureSpectra
from bias_train.explain.maps import EmbeddingMap
from bias_train.explain.reversal import Reversal

_PHOTO = "#0f766e"
_GENERATED = ("#c23b22", "#1f6fb4", "#8546a6", "#94690a", "#b83573", "#5c636d", "#1d8254", "#0d7784")
_MARKERS = ("^", "s", "D", "v", "P", "X", "p", "*")
_LOOK: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d9dde2",
    "grid.linewidth": 0.7,
    "text.parse_math": False,  # a dollar sign in a generator's name is a dollar sign
}


def drawings_of(found: Explanation, embeddings: Embeddings) -> dict[str, tuple[str, bytes]]:
    """Draw what there is.

    Returns:
        By file name: what is shown, and the PNG.
    """
    made: dict[str, tuple[str, bytes]] = {}
    for layout in found.maps:
        made[f"map_{layout.method}.png"] = (_map_caption(layout, len(embeddings)), _map(layout, embeddings))
    if found.decompositions:
        made["decomposition.png"] = ("Score gap and its two parts, with 95 % intervals.", _parts(found))
    if found.cosines:
        made["cosines.png"] = ("Cosine between the generators' mean displacements.", _cosines(found))
    if found.reversal is not None:
        caption = "Relative Delta of each gallery, with 95 % intervals (range of draws for random vectors)."
        made["reversal.png"] = (caption, _reversal(found.reversal))
    if found.spectra is not None:
        caption = (
            f"Radially averaged power spectra of {found.spectra.spectra.side}-pixel squares: mean and 10 to 90 % of "
            "the pictures of each source, and generated minus real with 95 % intervals at each frequency."
        )
        made["spectrum.png"] = (caption, _spectrum(found.spectra))
        caption = "Mean log power of generated minus real pictures over both frequencies; zero is in the middle."
        made["spectrum_plane.png"] = (caption, _plane(found.spectra))
    return made


@contextmanager
def _canvas(rows: int = 1, columns: int = 1, *, width: float = 6.0, height: float = 4.2) -> Iterator[tuple[Any, Any]]:
    with mpl.rc_context(_LOOK):
        figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
        yield figure, figure.subplots(rows, columns, squeeze=False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the date and the library's version, so that equal findings give equal bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _colour(code: int) -> str:
    return _PHOTO if code == 0 else _GENERATED[(code - 1) % len(_GENERATED)]


def _map_caption(layout: EmbeddingMap, total: int) -> str:
    drawn = f"{len(layout.rows):,} of {total:,} pictures"
    if layout.method == "pca":
        return f"{drawn} on the two directions of largest variance."
    return f"{drawn} by {'t-SNE' if layout.method == 'tsne' else 'UMAP'}: neighbours are kept, distances are not."


def _map(layout: EmbeddingMap, embeddings: Embeddings) -> bytes:
    with _canvas(height=5.0) as (figure, axes):
        axis: Axes = axes[0, 0]
        source = embeddings.image_source[layout.rows]
        # In a random order of sources nothing hides another; here the rarest comes last.
        for code in sorted(np.unique(source).tolist(), key=lambda code: -(source == code).sum()):
            there = layout.place[source == code]
            marker = "o" if code == 0 else _MARKERS[(code - 1) % len(_MARKERS)]
            axis.scatter(
                there[:, 0], there[:, 1], s=9, alpha=0.55, linewidths=0, color=_colour(code), marker=marker,
                label=f"{embeddings.sources[code]} ({len(there):,})",
            )  # fmt: skip
        if layout.method == "pca":
            for set_label, number in ((axis.set_xlabel, 0), (axis.set_ylabel, 1)):
                set_label(f"component {number + 1} ({100 * layout.explained[number]:.1f} % of the variance)")
        else:
            axis.set_xticks([])
            axis.set_yticks([])
        axis.legend(frameon=False, fontsize=9, markerscale=2)
        return _png(figure)


def _parts(found: Explanation) -> bytes:
    with _canvas(height=1.4 + 0.8 * len(found.decompositions)) as (figure, axes):
        axis: Axes = axes[0, 0]
        names = list(found.decompositions)
        kinds = (
            ("whole", "gap", "#1b1f24"),
            ("common direction", "common", "#c23b22"),
            ("rest", "specific", "#1f6fb4"),
        )
        for shift, (label, part, colour) in enumerate(kinds):
            values = np.array([getattr(found.decompositions[name], part) for name in names])
            place = np.arange(len(names)) + 0.25 * (shift - 1)
            bars = np.nan_to_num(np.abs(values[:, 1:].T - values[:, 0]))
            axis.errorbar(values[:, 0], place, xerr=bars, fmt="o", color=colour, label=label, capsize=2)
        axis.axvline(0, color="#5a626c", linewidth=0.8)
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_xlabel("mean score, generated minus real")
        figure.legend(frameon=False, fontsize=9, ncols=3, loc="outside upper center")
        return _png(figure)


def _cosines(found: Explanation) -> bytes:
    names = list(dict.fromkeys([name for pair in found.cosines for name in (pair.first, pair.second)]))
    grid = np.eye(len(names))
    for pair in found.cosines:
        a, b = names.index(pair.first), names.index(pair.second)
        grid[a, b] = grid[b, a] = pair.cosine
    with _canvas(width=2.5 + 0.6 * len(names), height=2.0 + 0.55 * len(names)) as (figure, axes):
        axis: Axes = axes[0, 0]
        axis.grid(visible=False)
        shade = axis.imshow(grid, vmin=-1, vmax=1, cmap="RdBu_r")
        for a in range(len(names)):
            for b in range(len(names)):
                dark = abs(grid[a, b]) > 0.6
                axis.text(b, a, f"{grid[a, b]:.2f}", ha="center", va="center", color="white" if dark else "black")
        axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axis.set_yticks(range(len(names)), names)
        figure.colorbar(shade, ax=axis, shrink=0.8)
        return _png(figure)


def _reversal(reversal: Reversal) -> bytes:
    with _canvas(height=2.6) as (figure, axes):
        axis: Axes = axes[0, 0]
        arms = [arm for arm in reversal.arms if arm.outcomes]
        values = np.array([(arm.outcomes[0].value, arm.outcomes[0].low, arm.outcomes[0].high) for arm in arms])
        bars = np.nan_to_num(np.abs(values[:, 1:].T - values[:, 0]))
        axis.errorbar(values[:, 0], range(len(arms)), xerr=bars, fmt="o", color="#1f6fb4", capsize=2)
        axis.axvline(0, color="#5a626c", linewidth=0.8)
        axis.set_yticks(range(len(arms)), [arm.name for arm in arms])
        axis.set_ylim(len(arms) - 0.5, -0.5)
        axis.set_xlabel(arms[0].outcomes[0].name + " (negative: generated pictures favoured)")
        return _png(figure)


def _spectrum(found: PictureSpectra) -> bytes:
    spectra = found.spectra
    with _canvas(2, 1, height=6.4) as (figure, axes):
        upper: Axes = axes[0, 0]
        lower: Axes = axes[1, 0]
        for code in np.unique(spectra.source).tolist():
            rows = spectra.radial[spectra.source == code]
            upper.plot(spectra.frequency, rows.mean(axis=0), color=_colour(code), label=found.sources[code])
            low, high = np.quantile(rows, (0.1, 0.9), axis=0)
            upper.fill_between(spectra.frequency, low, high, color=_colour(code), alpha=0.12, linewidth=0)
        for entry in found.differences:
            colour = _colour(entry.generator)
            lower.plot(spectra.frequency, entry.interval.value, color=colour, label=found.sources[entry.generator])
            lower.fill_between(
                spectra.frequency, entry.interval.low, entry.interval.high, color=colour, alpha=0.25, linewidth=0
            )
        lower.axhline(0, color="#5a626c", linewidth=0.8)
        upper.set_ylabel("log10 power")
        lower.set_ylabel("generated minus real")
        lower.set_xlabel("frequency (cycles per pixel)")
        upper.legend(frameon=False, fontsize=9)
        return _png(figure)


def _plane(found: PictureSpectra) -> bytes:
    planes = found.spectra.plane
    codes = [code for code in sorted(planes) if code > 0]
    with _canvas(1, len(codes), width=1.2 + 3.2 * len(codes), height=3.6) as (figure, axes):
        differences = [planes[code] - planes[0] for code in codes]
        half = 0.5 / found.spectra.side  # of a pixel: the lowest frequency is -0.5, the highest one step below 0.5
        edges = (-0.5 - half, 0.5 - half, 0.5 - half, -0.5 - half)
        most = max(float(np.quantile(np.abs(difference), 0.999)) for difference in differences) or 1.0
        for axis, code, difference in zip(axes[0], codes, differences, strict=True):
            axis.grid(visible=False)
            shade = axis.imshow(difference, vmin=-most, vmax=most, cmap="RdBu_r", extent=edges, interpolation="nearest")
            axis.set_title(found.sources[code], fontsize=10)
            axis.set_xlabel("cycles per pixel")
        figure.colorbar(shade, ax=list(axes[0]), shrink=0.8)
        return _png(figure)
