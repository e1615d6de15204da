"""Puts an audit of social bias into one HTML page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup
from matplotlib.axes import Axes

from bias_train.audit.social.measure import HEADLINE
from bias_train.audit.social.outcome import PEOPLE, Cell, Effect, Headline, Row, SocialOutcome
from bias_train.audit.social.table import (
    effect_name,
    excess_of,
    heading_of,
    leading_effects,
    sentence,
    shown_figures,
    written,
    written_ends,
)
from bias_train.files import write_text
from bias_train.reports.drawing import ARM_COLOURS, INK, MUTED, PAPER, Plot, arm_colour, draw
from bias_train.reports.page import Tile, page_style, resource
from bias_train.reports.recorded import exact, listed

SHOWN_WORDS = 40  # words of the heat map that are open at once
Pictures = Mapping[tuple[str, str], Sequence[str]]

MEANINGS = {
    "max_skew": "Largest ln(share in the first k / target) over the groups: 0.69 is twice as often as wanted. A random "
    "retriever is above 0, too: read the excess.",
    "min_skew": "Smallest ln(share in the first k / target): the group that is shown least.",
    "entropy": "Entropy of the shares in the first k over its maximum: 1 is all groups alike, 0 one group only.",
    "kl": "Kullback-Leibler divergence of the shares in the first k from the target.",
    "ndkl": "The same, over every prefix of the first k, with prefixes at the front counting more.",
    "absent": "Groups without a picture in the first k.",
    "bias": "Share of the first group minus that of the second, of two; its sign says who prevails.",
    "abs_bias": "The same without its sign.",
    "amplification": "Bias minus the pool's own.",
    "parity_difference": "Largest minus smallest share of a group's pictures that are among the first k.",
    "mpr": "Largest gap between the first k and the target in the mean of any linear function of the groups.",
    "abs_association": "Mean of |C-ASC| over the groups.",
    "max_association": "Largest C-ASC of any group.",
    "min_association": "Smallest C-ASC of any group.",
}


@dataclass(frozen=True)
class WordLine:
    """A word in the list of its category: MaxSkew on a scale, and who stands in the first k.

    Attributes:
        word: the word.
        row: its MaxSkew.
        low: left end of the interval, in percent of the scale.
        high: right end.
        value: the figure.
        floor: a random retriever's mean.
        shares: (group's number, percent) of the groups in the first k.
        told: the shares in words.
    """

    word: str
    row: Row
    low: float
    high: float
    value: float
    floor: float
    shares: tuple[tuple[int, float], ...]
    told: str


@dataclass(frozen=True)
class Section:
    """What the page says by one attribute.

    Attributes:
        headline: what leads.
        number: of the section.
        groups: (number, name) of the groups.
        categories: names with the words of each, the most skewed first.
        scale: MaxSkew at the right end of the lists' scale.
        heat: words with their cells by group, the strongest first.
        plot: excess by category.
        means: rows of the table of means: category, excess, figures.
        changes: rows of the table of changes: category, excess before, change, share of the excess taken away.
        word_changes: words whose MaxSkew changed most.
    """

    headline: Headline
    number: int
    groups: tuple[tuple[int, str], ...]
    categories: tuple[tuple[str, tuple[WordLine, ...]], ...]
    scale: float
    heat: tuple[tuple[str, str, tuple[Cell, ...]], ...]
    plot: Plot | None
    means: tuple[tuple[str, tuple[Row, ...]], ...]
    changes: tuple[tuple[str, Row, Row], ...]
    word_changes: tuple[Row, ...]


def write_social_report(outcome: SocialOutcome, path: Path, pictures: Pictures | None = None) -> None:
    """Write the page; the file appears when it is whole.

    Args:
        outcome: the audit.
        path: of the page.
        pictures: ``data:`` addresses of each word's first pictures, by (category, word); none is the default, since
            they show people.
    """
    write_text(path, render_social(outcome, pictures or {}))


def render_social(outcome: SocialOutcome, pictures: Pictures) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.globals.update(
        svg=Markup, written=written, written_ends=written_ends, exact=exact, heading_of=heading_of, heat=_heat,
        effect_name=effect_name, excess_of=excess_of, sentence=sentence, taken=_taken, colour=_colour,
    )  # fmt: skip
    mode = outcome.conventions["modes"][0]
    leading = [headline for headline in outcome.headlines if (headline.set, headline.mode) == (PEOPLE, mode)]
    return environment.from_string(resource("social_audit.html.j2")).render(
        style=page_style(),
        outcome=outcome,
        leading=leading,
        tiles=_tiles(outcome, leading),
        sections=[_section(outcome, headline, number) for number, headline in enumerate(leading)],
        effects=_effect_lines(outcome),
        others=sorted(
            (headline for headline in outcome.headlines if headline not in leading),
            key=lambda headline: [one.attribute for one in leading].index(headline.attribute),
        ),
        before=any(not math.isnan(effect.before) for effect in outcome.effects),
        headings=[heading_of(name, k) for name, k in shown_figures(outcome)],
        level=100 * outcome.options["bootstrap"]["level"],
        pictures=[(category, word, shown) for (category, word), shown in pictures.items()],
        meanings=_meanings(outcome),
        inputs=listed(outcome.inputs),
        conventions=listed(outcome.conventions),
        options=listed(outcome.options),
        leading_name=HEADLINE,
        shown_words=SHOWN_WORDS,
    )


def _colour(number: int) -> str:
    """Colour of a group; beyond the palette, colours return paler."""
    variable = f"var(--arm-{number % ARM_COLOURS})"
    return variable if number < ARM_COLOURS else f"color-mix(in srgb, {variable} 45%, var(--paper))"


def _heat(cell: Cell) -> str:
    """Style of a heat map's cell: deeper for a stronger tie, up to two standard deviations."""
    if math.isnan(cell.association):
        return ""
    depth = round(55 * min(abs(cell.association) / 2.0, 1.0))
    return f"background: color-mix(in srgb, var(--arm-{0 if cell.association > 0 else 1}) {depth}%, transparent)"


def _taken(after: Row, change: Row) -> str:
    """Share of the excess that the change took away, '' where there was none to speak of."""
    before = after.excess - change.value
    if not before > 0:
        return ""
    return f"{-100 * change.value / before:+.0f} %".replace("-", "−").replace("+", "")


def _tiles(outcome: SocialOutcome, leading: Sequence[Headline]) -> list[Tile]:
    tiles = []
    for headline in leading[:4]:
        value, low, high = excess_of(headline.excess)
        below = f"excess {heading_of(HEADLINE, outcome.k)}"
        ends = written_ends(low, high, signed=True)
        tiles.append(Tile(headline.attribute, written(value, signed=True), f"{below} [{ends}]" if ends else below))
    return tiles


def _section(outcome: SocialOutcome, headline: Headline, number: int) -> Section:
    place = (headline.set, headline.mode, headline.attribute)
    names = tuple(headline.groups)
    codes = {name: code for code, name in enumerate(names)}
    by_word: dict[tuple[str, str], list[Cell]] = {}
    for cell in outcome.cells:
        if (cell.set, cell.mode, cell.attribute) == place:
            by_word.setdefault((cell.category, cell.word), []).append(cell)
    skews = [
        row
        for row in outcome.words
        if (row.set, row.mode, row.attribute) == place and (row.name, row.k) == (HEADLINE, outcome.k)
    ]
    top = max((value for row in skews for value in (row.high, row.value, row.floor) if math.isfinite(value)), default=1)
    scale = max(top, 1e-9)
    categories = []
    for category in outcome.counts["categories"]:
        rows = [row for row in skews if row.category == category]
        rows.sort(key=lambda row: -row.value if math.isfinite(row.value) else math.inf)
        lines = tuple(_line(row, by_word[category, row.word], codes, scale) for row in rows)
        categories.append((category, lines))
    heat = sorted(by_word.items(), key=lambda item: -_strength(item[1]))
    found = [row for row in outcome.rows if (row.set, row.mode, row.attribute) == place]
    changed = [row for row in outcome.changes if (row.set, row.mode, row.attribute) == place]
    of_words = [
        row for row in outcome.word_changes
        if (row.set, row.mode, row.attribute) == place and row.k == outcome.k and math.isfinite(row.value)
    ]  # fmt: skip
    return Section(
        headline,
        number,
        tuple(enumerate(names)),
        tuple(categories),
        scale,
        tuple((category, word, tuple(cells)) for (category, word), cells in heat),
        _plot(outcome, found, headline, number),
        tuple(_means(outcome, found)),
        tuple(_changes(outcome, found, changed)),
        tuple(sorted(of_words, key=lambda row: -abs(row.value))[:SHOWN_WORDS]),
    )


def _strength(cells: Sequence[Cell]) -> float:
    return max((abs(cell.association) for cell in cells if math.isfinite(cell.association)), default=0.0)


def _line(row: Row, cells: Sequence[Cell], codes: Mapping[str, int], scale: float) -> WordLine:
    def place(value: float) -> float:
        return round(100 * min(max(value / scale, 0.0), 1.0), 1) if math.isfinite(value) else 0.0

    shares = tuple((codes[cell.group], round(100 * cell.share, 1)) for cell in cells)
    told = ", ".join(f"{cell.group} {100 * cell.share:.0f} %" for cell in sorted(cells, key=lambda c: -c.share))
    low, high = (row.value, row.value) if math.isnan(row.low) else (row.low, row.high)
    return WordLine(row.word, row, place(low), place(high), place(row.value), place(row.floor), shares, told)


def _means(outcome: SocialOutcome, rows: Sequence[Row]) -> list[tuple[str, tuple[Row, ...]]]:
    found = {(row.category, row.name, row.k): row for row in rows}
    shown = [(HEADLINE, outcome.k), *shown_figures(outcome)]
    return [
        (category, tuple(found[category, name, k] for name, k in shown))
        for category in ("", *outcome.counts["categories"])
    ]


def _changes(outcome: SocialOutcome, rows: Sequence[Row], changes: Sequence[Row]) -> list[tuple[str, Row, Row]]:
    after = {row.category: row for row in rows if (row.name, row.k) == (HEADLINE, outcome.k)}
    change = {row.category: row for row in changes if (row.name, row.k) == (HEADLINE, outcome.k)}
    return [
        (category, after[category], change[category])
        for category in ("", *outcome.counts["categories"])
        if category in change
    ]


def _plot(outcome: SocialOutcome, rows: Sequence[Row], headline: Headline, number: int) -> Plot | None:
    """Excess MaxSkew of every category: the thick bar over pictures, the thin one over pictures and words."""
    found = [row for row in rows if (row.name, row.k) == (HEADLINE, outcome.k) and math.isfinite(row.value)]
    if not found:
        return None

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=MUTED, linewidth=1)
        for place, row in enumerate(found):
            colour = arm_colour(1 if row.category else 0)
            for low, high, width in ((row.low_words, row.high_words, 1.2), (row.low, row.high, 4.0)):
                if not math.isnan(low):
                    axes.plot([low - row.floor, high - row.floor], [place, place], color=colour, linewidth=width)
            axes.plot([row.excess], [place], "o", color=colour, markersize=6, markeredgecolor=PAPER)
        axes.set_yticks(range(len(found)), [row.category or "all words" for row in found])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{heading_of(HEADLINE, outcome.k)} above a random retriever's")

    title = f"Excess {heading_of(HEADLINE, outcome.k)} by {headline.attribute}"
    told = "; ".join(f"{row.category or 'all words'} {written(row.excess)}" for row in found)
    caption = (
        "0 is a random retriever of the same pictures. Thick bars: interval over pictures, the words being these; thin "
        "bars: over pictures and words, the words being a sample."
    )
    drawing = draw(f"categories-{number}", f"{title}. {told}", paint, height=80.0 + 20.0 * len(found))
    return Plot(drawing, title, caption)


def _effect_lines(outcome: SocialOutcome) -> list[tuple[str, list[Effect]]]:
    kinds = {
        "utility": "Ordinary pictures and captions",
        "retention": "Queries that name a group (“a female doctor”)",
        "leakage": "What a linear probe still reads",
        "transfer": "Another set of people",
        "corpus": "Captions",
    }
    leading = leading_effects(outcome)  # the others are in audit.json
    return [
        (text, [effect for effect in leading if effect.kind == kind])
        for kind, text in kinds.items()
        if any(effect.kind == kind for effect in leading)
    ]


def _meanings(outcome: SocialOutcome) -> list[tuple[str, str]]:
    names = {row.name for row in outcome.rows}
    return [(heading_of(name, None), text) for name, text in MEANINGS.items() if name in names]
