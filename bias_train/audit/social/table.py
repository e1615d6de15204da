"""The social audit's tables for a terminal: what leads, the categories, the strongest ties, and the side effects."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bias_train.audit.social.measure import HEADLINE
from bias_train.audit.social.outcome import PEOPLE, Cell, Effect, Headline, Row, SocialOutcome

STRONGEST = 10  # cells that the terminal lists


def written(value: float, *, signed: bool = False) -> str:
    """Write a figure with three decimals, and a plus where it may have either sign and ``signed`` asks for it.

    >>> written(0.12345), written(-0.5), written(0.5, signed=True), written(float("nan"))
    ('0.123', '−0.500', '+0.500', '–')
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{round(value, 3) + 0.0:+.3f}" if signed else f"{round(value, 3) + 0.0:.3f}"
    return text.replace("-", "−")


def written_ends(low: float, high: float, *, signed: bool = False) -> str:
    """Write an interval, '' where there is none."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"{written(low, signed=signed)}, {written(high, signed=signed)}"


def heading_of(name: str, k: int | None) -> str:
    """A figure's name for readers.

    >>> heading_of("max_skew", 100), heading_of("abs_association", None)
    ('MaxSkew@100', 'mean |C-ASC|')
    """
    spelt = {
        "max_skew": "MaxSkew", "min_skew": "MinSkew", "entropy": "entropy", "kl": "KL", "ndkl": "NDKL",
        "abs_association": "mean |C-ASC|", "max_association": "largest C-ASC", "min_association": "smallest C-ASC",
        "absent": "absent groups", "bias": "Bias", "abs_bias": "|Bias|", "amplification": "amplification",
        "parity_difference": "parity difference", "mpr": "MPR",
    }.get(name, name.replace("_", " "))  # fmt: skip
    return spelt if k is None else f"{spelt}@{k}"


def shown_figures(outcome: SocialOutcome) -> list[tuple[str, int | None]]:
    """Name and cut-off of the figures that the tables show beside the excess."""
    wanted = [("entropy", outcome.k), ("max_skew", outcome.k), ("min_skew", outcome.k), ("ndkl", outcome.k)]
    names = {(row.name, row.k) for row in outcome.rows}
    return [figure for figure in (*wanted, ("abs_association", None)) if figure in names]


def excess_of(row: Row) -> tuple[float, float, float]:
    """A figure less the mean of a random retriever, with its interval over pictures."""
    return row.excess, row.low - row.floor, row.high - row.floor


def sentence(headline: Headline) -> str:
    """Say what leads for one attribute; no more than the figures carry."""
    value, low, high = excess_of(headline.excess)
    if math.isnan(value):
        return f"By {headline.attribute}, no {heading_of(HEADLINE, headline.excess.k)} is defined."
    ends = f" [{written_ends(low, high, signed=True)}]" if written_ends(low, high) else ""
    figure, floor = heading_of(HEADLINE, headline.excess.k), written(headline.excess.floor)
    told = (
        f"By {headline.attribute}, {figure} is {written(value, signed=True)}{ends} above a random retriever's {floor}"
    )
    if headline.cells:
        told += f"; {headline.significant:,} of {headline.cells:,} ties of a word and a group are significant"
    return told + "."


def terminal(outcome: SocialOutcome) -> RenderableType:
    """Lay out the audit for ``rich.console.Console().print``."""
    parts: list[RenderableType] = [Text(outcome.title, style="bold")]
    for place, headline in enumerate(outcome.headlines):
        where = [] if headline.set == PEOPLE else ["transfer set"]
        where += [headline.mode] if len(outcome.conventions["modes"]) > 1 else []
        text = Text(f"{', '.join(where)}: " if where else "", style="dim")
        text.append(sentence(headline), style="bold" if place == 0 else "not dim")
        parts.append(text)
    leading = [headline for headline in outcome.headlines if headline.set == PEOPLE]
    for headline in leading:
        if headline.mode == leading[0].mode:
            parts.append(_categories(outcome, headline, change=False))
    if outcome.changes:
        for headline in leading:
            if headline.mode == leading[0].mode:
                parts.append(_categories(outcome, headline, change=True))
    parts.append(_strongest(outcome))
    if leading_effects(outcome):
        parts.append(_effects(outcome))
    parts += [Text(f"warning: {warning.text}", style="yellow") for warning in outcome.warnings]
    return Group(*parts)


def _categories(outcome: SocialOutcome, headline: Headline, *, change: bool) -> Table:
    level = 100 * outcome.options["bootstrap"]["level"]
    caption = f"in brackets {level:g} % intervals over pictures; every figure is a mean over the words"
    title = f"by {headline.attribute}, {headline.mode} prompts"
    if change:
        title = f"change by {headline.attribute}"
        caption = "this retriever minus the other one, on the same resamples"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("words", overflow="fold")
    shown = shown_figures(outcome)
    if not change:
        table.add_column(f"excess {heading_of(HEADLINE, outcome.k)}", justify="right")
    for name, k in shown:
        table.add_column(heading_of(name, k), justify="right")
    table.add_column("number", justify="right")
    for category in ("", *outcome.counts["categories"]):
        found = {
            (row.name, row.k): row
            for row in (outcome.changes if change else outcome.rows)
            if (row.set, row.mode, row.attribute, row.category)
            == (headline.set, headline.mode, headline.attribute, category)
        }
        lead = found[HEADLINE, outcome.k]
        columns = [] if change else [_number(*excess_of(lead), signed=True)]
        columns += [_number(row.value, row.low, row.high, signed=change) for row in (found[key] for key in shown)]
        table.add_row(category or Text("all", style="bold"), *columns, f"{lead.words:,}")
        if not category:
            table.add_section()
    return table


def _number(value: float, low: float, high: float, *, signed: bool = False) -> Text:
    text = Text(written(value, signed=signed))
    if written_ends(low, high):
        text.append(f"\n[{written_ends(low, high, signed=signed)}]", style="dim")
    return text


def strongest(outcome: SocialOutcome, most: int) -> list[Cell]:
    """The cells of the first wording with the largest C-ASC by size; of two groups, the one above 0."""
    mode = outcome.conventions["modes"][0]
    found = [
        cell
        for cell in outcome.cells
        if cell.set == PEOPLE and cell.mode == mode and math.isfinite(cell.association)
        and (cell.association > 0 or len(outcome.conventions["pool"][cell.attribute]) > 2)
    ]  # fmt: skip
    return sorted(found, key=lambda cell: -abs(cell.association))[:most]


def _strongest(outcome: SocialOutcome) -> Table:
    adjust = outcome.options["adjust"]
    table = Table(title="the strongest ties of a word and a group", title_justify="left")
    for heading in ("word", "group", "attribute"):
        table.add_column(heading, overflow="fold")
    p = "p" if adjust == "none" else f"p ({adjust})"
    for heading in ("C-ASC", p, f"share of the first {outcome.k}", "of all"):
        table.add_column(heading, justify="right")
    for cell in strongest(outcome, STRONGEST):
        table.add_row(
            cell.word, cell.group, cell.attribute, _number(cell.association, cell.low, cell.high, signed=True),
            written_p(cell.p_adjusted), f"{100 * cell.share:.0f} %", f"{100 * cell.pool:.0f} %",
        )  # fmt: skip
    return table


def written_p(p: float) -> str:
    """Write a p-value; small ones matter here, since thousands are corrected for.

    >>> written_p(0.0314), written_p(3e-7), written_p(float("nan"))
    ('0.031', '3e-07', '')
    """
    if math.isnan(p):
        return ""
    return f"{p:.0e}" if p < 0.001 else f"{p:.3f}"


def effect_name(effect: Effect) -> str:
    """A side effect's figure for readers."""
    spelt = {
        "retention": "named group's share of the first", "retention_lift": "the same above its share of all, first",
        "retention_pool": "its share of all, first", "leakage_accuracy": "linear probe, accuracy",
        "leakage_majority": "largest group's share", "leakage_auc": "linear probe, AUC",
        "t2i_R": "caption finds picture, first", "i2t_R": "picture finds caption, first",
        "transfer_correlation": "rank correlation of C-ASC with the other set",
        "corpus_correlation": "rank correlation of C-ASC with captions' log-odds",
    }.get(effect.name, effect.name.replace("_", " "))  # fmt: skip
    spelt += "" if effect.k is None else f" {effect.k}"
    return f"{spelt}, {effect.label}" if effect.label else spelt


def _effects(outcome: SocialOutcome) -> Table:
    table = Table(title="beside the bias", title_justify="left")
    table.add_column("what")
    table.add_column("attribute", overflow="fold")
    table.add_column("figure", overflow="fold")
    table.add_column("value", justify="right")
    before = any(not math.isnan(effect.before) for effect in outcome.effects)
    if before:
        table.add_column("other", justify="right")
    for effect in leading_effects(outcome):
        earlier = [written(effect.before)] if before else []
        number = _number(effect.value, effect.low, effect.high)
        table.add_row(effect.kind, effect.attribute, effect_name(effect), number, *earlier)
    return table


def leading_effects(outcome: SocialOutcome) -> list[Effect]:
    """Side effects that could be measured, without those of single groups where there is one of all groups."""
    defined = [effect for effect in outcome.effects if not math.isnan(effect.value)]
    whole = {(effect.kind, effect.attribute, effect.name) for effect in defined if not effect.label}
    return [
        effect for effect in defined if not effect.label or (effect.kind, effect.attribute, effect.name) not in whole
    ]
