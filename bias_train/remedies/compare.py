"""Fits remedies to one part of some material and measures them on the other, bias and side effects alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bias_train.audit.social.options import SocialOptions, Target
from bias_train.audit.social.side_effects import leakage, off_target, retention, utility
from bias_train.embeddings import Embeddings
from bias_train.errors import RunError
from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.ranking import first_relevant, score_chunks
from bias_train.metrics.functional.social.representation import target_shares
from bias_train.metrics.functional.social.word_bias import WordBias, difference, percentiles, word_bias
from bias_train.people.vectors import GroupPrompts, People
from bias_train.remedies.material import Material, Split, calibration_of, split
from bias_train.remedies.outcome import ALL, CALIBRATED, HELD_OUT, LABELLED, NONE, UTILITY, Comparison, Row
from bias_train.significance import benjamini_hochberg
from bias_train.stats import Bootstrap, Floats, Ints, cluster_totals, paired_difference
from losses.base import LossError
from models.errors import ModelError
from models.remedies import Fitted, FittedLinear, Remedy
from models.remedies.classifier import fit_softmax

EXPLICIT_WORDS = 40  # words that are asked for with every group's name
ALPHA = 0.05
_LEAD = "max_skew"


@dataclass(frozen=True)
class ComparisonOptions:
    """The choices of a comparison.

    Attributes:
        ks: cut-offs of who is retrieved; the first leads.
        target: wanted shares, "pool", "uniform" or shares by attribute and group.
        held_out: share of the pictures of each group, and of the ordinary scenes, that are measured only.
        held_out_words: share of the words that are measured only; 0 fits to all words and measures all.
        recall_ks: cut-offs of the recall of ordinary pairs.
        bootstrap: how intervals are made.
        floor_draws: random rankings behind the random retriever's floor.
        seed: of the split, and of whatever remedies draw.
    """

    ks: tuple[int, ...] = (100,)
    target: Target = "pool"
    held_out: float = 0.5
    held_out_words: float = 0.5
    recall_ks: tuple[int, ...] = (1, 5, 10)
    bootstrap: Bootstrap = field(default_factory=lambda: Bootstrap(resamples=1000))
    floor_draws: int = 4000
    seed: int = 0


def compare(
    material: Material,
    remedies: Mapping[str, Remedy],
    options: ComparisonOptions | None = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Compare remedies.

    Every remedy is fitted to the calibration part alone, and everything is measured on the rest: pictures of people
    that were not fitted to, words that were (a remedy fitted to words flatters itself there) and words that were not,
    the other half of the ordinary scenes. All differences to the retriever as it is are taken on the same resamples.

    A ranking needs to know the pictures' groups. Where a search runs nobody labels them, so they are those that a
    linear classifier, fitted to the calibration pictures, tells; a second entry, called ", true groups", has the
    labels.

    Args:
        material: pictures, words, prompts and pairs of one retriever.
        remedies: by name.
        options: the choices; defaults where None.
        inputs: what it was made of, for the record.
        progress: told each remedy's name before it is fitted.

    Raises:
        RunError: for material that cannot be split or measured. A remedy that cannot be fitted is left out, and the
            outcome says why.
    """
    options = options or ComparisonOptions()
    if NONE in remedies:
        raise RunError(f"a remedy is called {NONE!r}, which is the retriever as it is: call it something else")
    part = split(material, options.held_out, options.held_out_words, options.seed)
    grouping = material.grouping
    wanted = SocialOptions(target=options.target).target_of(grouping.name, grouping.labels)
    calibration = calibration_of(material, target_shares(wanted, grouping.counts), part, options.seed)
    test = _Test(material, part, options, wanted)
    before = test.measure(FittedLinear(None, None), None)
    rows = test.rows(NONE, before, before)
    guess = fit_softmax(calibration.image, calibration.group, calibration.groups).probabilities(test.people.image)
    told = guess.argmax(dim=1)
    right = float((told == test.group).double().mean())
    fitted: dict[str, Mapping[str, Any]] = {}
    skipped: dict[str, str] = {}
    for name, remedy in remedies.items():
        if progress is not None:
            progress(name)
        try:
            found = remedy.fit(calibration)
        except (ModelError, LossError) as error:  # heads are trained with losses
            skipped[name] = str(error)
            continue
        fitted[name] = found.metadata
        if test.ranked(found, told) is None:
            rows += test.rows(name, test.measure(found, None), before)
        else:
            note = f"groups told by a linear classifier, right for {100 * right:.1f} % of the pictures"
            rows += test.rows(name, test.measure(found, told), before, note)
            rows += test.rows(name + LABELLED, test.measure(found, test.group), before, "groups as labelled")
    return Comparison(
        attribute=grouping.name,
        k=options.ks[0],
        inputs=dict(inputs or {}),
        options=asdict(options),
        counts=_counts(material, part) | {"classifier_accuracy": right},
        fitted=fitted,
        skipped=skipped,
        rows=tuple(rows),
    )


@dataclass(frozen=True)
class _Measured:
    """What one remedy does to the test part.

    Attributes:
        bias: of all words.
        effects: kind and figure of each side effect.
        hits: [Q + N, K] for both directions in turn, whether each query's answer is among the first k; None without
            pairs.
    """

    bias: WordBias
    effects: tuple[tuple[str, Figure], ...]
    hits: tuple[Floats, ...] | None


class _Test:
    """The part of the material that is measured, and how."""

    def __init__(self, material: Material, part: Split, options: ComparisonOptions, target: Any) -> None:
        held = np.flatnonzero(part.pictures)
        self.people: People = material.people.rows(held)
        self.grouping = material.grouping.rows(held)
        self.group = torch.from_numpy(self.grouping.code)
        self.words = material.words.text
        self.options = options
        self.target = target
        measured = np.flatnonzero(part.words)
        asked = measured if len(measured) else np.arange(len(part.words))
        spread = np.linspace(0, len(asked) - 1, min(EXPLICIT_WORDS, len(asked))).round().astype(np.int64)
        self.explicit: GroupPrompts | None = material.explicit(asked[np.unique(spread)])
        self.parts = [(ALL, asked)]
        if len(measured):
            self.parts = [(HELD_OUT, measured), (CALIBRATED, np.flatnonzero(~part.words))]
        self.pairs: Embeddings | None = None if material.pairs is None else material.pairs.targets(part.targets)

    def ranked(self, fitted: Fitted, group: Tensor | None, text: Tensor | None = None) -> Ints | None:
        """[W, M] the order in which a remedy shows the pictures; None where scores alone decide."""
        if group is None:
            return None
        asked = fitted.text(self.words[:1] if text is None else text)
        scores = torch.cat([part for _, part in score_chunks(asked, fitted.image(self.people.image))])
        found = fitted.rank(scores, group)
        return None if found is None else found.numpy()

    def measure(self, fitted: Fitted, group: Tensor | None) -> _Measured:
        """Measure one remedy.

        Args:
            fitted: the remedy.
            group: [M] what a ranking is told of the pictures; None where it is none.
        """
        options = self.options
        text, image = fitted.text(self.words), fitted.image(self.people.image)
        people = replace(self.people, image=image)
        ranking = self.ranked(fitted, group, self.words)
        bias = word_bias(
            text, image, self.group, len(self.grouping), ks=options.ks, target=self.target,
            bootstrap=options.bootstrap, floor_draws=options.floor_draws, ranking=ranking, seed=options.seed,
        )  # fmt: skip
        effects: list[tuple[str, Figure]] = []
        if self.explicit is not None:
            asked = replace(self.explicit, text=fitted.text(self.explicit.text))
            order = self.ranked(fitted, group, self.explicit.text)
            kept = retention(people, asked, ks=options.ks[:1], bootstrap=options.bootstrap, ranking=order)
            effects += [("retention", figure) for figure in kept]
        found = leakage(image, self.grouping, seed=options.seed, bootstrap=options.bootstrap)
        effects += [("leakage", figure) for figure in found]
        others = off_target(
            text, people, self.grouping.name, ks=options.ks[:1],
            target="uniform" if self.target == "uniform" else "pool",
            bootstrap=options.bootstrap, ranking=ranking, seed=options.seed,
        )  # fmt: skip
        effects += [("off_target", figure) for figure in others]
        if self.pairs is None:
            return _Measured(bias, tuple(effects), None)
        assert self.pairs.text is not None  # Material has seen to it
        sides = (fitted.text(self.pairs.text), fitted.image(self.pairs.image))
        targets = (torch.from_numpy(self.pairs.query_target), torch.from_numpy(self.pairs.image_target))
        recall = utility(*sides, *targets, ks=options.recall_ks, bootstrap=options.bootstrap)
        effects += [("utility", figure) for figure in recall if figure.name in UTILITY]
        there = _hits(*sides, *targets, options.recall_ks), _hits(*sides[::-1], *targets[::-1], options.recall_ks)
        return _Measured(bias, tuple(effects), there)

    def rows(self, name: str, now: _Measured, before: _Measured, note: str = "") -> list[Row]:
        """Lay the figures of one remedy out, beside those of the retriever as it is."""
        own = name == NONE
        found = []
        for words, chosen in self.parts:
            found += _bias_rows(name, words, chosen, now.bias, before.bias)
        then = {(kind, figure.key, figure.label): figure.value for kind, figure in before.effects}
        for kind, figure in now.effects:
            change = figure.value - then[kind, figure.key, figure.label]
            found.append(
                Row(
                    name, kind, "", figure.name, figure.k, figure.label or "", figure.value, figure.low, figure.high,
                    figure.count, math.nan if own else change, note=figure.note,
                )
            )  # fmt: skip
        if not own and now.hits is not None and before.hits is not None and self.pairs is not None:
            found = self._with_changes(found, now.hits, before.hits, self.pairs)
        return [replace(row, note="; ".join(part for part in (row.note, note) if part)) for row in found]

    def _with_changes(
        self, rows: list[Row], now: tuple[Floats, ...], before: tuple[Floats, ...], pairs: Embeddings
    ) -> list[Row]:
        """Intervals of the changes of recall, resampling scenes."""
        ends: dict[tuple[str, int | None], tuple[float, float]] = {}
        clusters = (pairs.query_target, pairs.image_target)
        for name, own, other, cluster in zip(UTILITY, now, before, clusters, strict=True):
            answered = ~np.isnan(own[:, 0])
            after, first = (
                cluster_totals(np.column_stack([hits[answered], np.ones(answered.sum())]), cluster[answered])
                for hits in (own, other)
            )
            made = paired_difference(after, first, lambda sums: sums[..., :-1] / sums[..., -1:], self.options.bootstrap)
            for place, k in enumerate(self.options.recall_ks):
                ends[name, k] = float(made.low[place]), float(made.high[place])
        return [
            row
            if row.kind != "utility"
            else replace(row, change_low=ends[row.name, row.k][0], change_high=ends[row.name, row.k][1])
            for row in rows
        ]


def _hits(query: Tensor, item: Tensor, query_target: Tensor, item_target: Tensor, ks: tuple[int, ...]) -> Floats:
    """[Q, K] whether an answer is among the first k, ties in expectation; NaN for a query without any."""
    found = np.full((len(query), len(ks)), np.nan)
    for rows, scores in score_chunks(query, item):
        relevant = query_target[rows].unsqueeze(1) == item_target
        first = first_relevant(scores, relevant)
        hit = torch.stack([first.hit(min(k, len(item))) for k in ks], dim=1)
        found[rows] = torch.where(relevant.any(dim=1, keepdim=True), hit, torch.nan).numpy()
    return found


def _bias_rows(name: str, words: str, chosen: Ints, now: WordBias, before: WordBias) -> list[Row]:
    """Means over some words, their excess over the floor, how much of MaxSkew's is gone, and significant cells."""
    mean, change = now.mean(chosen), difference(now, before).mean(chosen)
    own = name == NONE
    note = "; ".join(now.notes)
    found = []
    for f, (figure, k) in enumerate(now.names):
        floor = float(now.floor.mean[f])
        value, low, high = (float(part[f]) for part in (mean.value, mean.low, mean.high))
        moved = {} if own else {
            "change": float(change.value[f]), "change_low": float(change.low[f]), "change_high": float(change.high[f])
        }  # fmt: skip
        about: dict[str, Any] = {
            "count": len(chosen), **moved, "note": f"a random retriever has {floor:.4g}; {note}"
        }  # fmt: skip
        found.append(Row(name, "bias", words, figure, k, "", value, low, high, **about))
        found.append(
            Row(name, "bias", words, f"excess_{figure}", k, "", value - floor, low - floor, high - floor, **about)
        )
        if figure == _LEAD and not own:
            found.append(_cut(name, words, chosen, now, before, f))
    corrected = benjamini_hochberg(now.p[chosen].ravel())
    significant = int((corrected <= ALPHA).sum())
    earlier = int((benjamini_hochberg(before.p[chosen].ravel()) <= ALPHA).sum())
    found.append(
        Row(
            name, "bias", words, "significant_cells", None, "", significant, count=int((~np.isnan(corrected)).sum()),
            change=math.nan if own else significant - earlier,
            note=f"word-group cells with a C-ASC whose p-value, corrected for all of them (BH), is at most {ALPHA:g}",
        )
    )  # fmt: skip
    return found


def _cut(name: str, words: str, chosen: Ints, now: WordBias, before: WordBias, f: int) -> Row:
    """Share of the excess MaxSkew that is gone, in percent, with its interval on the same resamples."""
    floor = float(now.floor.mean[f])
    after, first = (float(side.value[chosen, f].mean()) - floor for side in (now, before))
    note = "share of the excess over a random retriever that is gone, in percent"
    if not first > 0:
        note = "undefined: there is no excess over a random retriever to take away"
        return Row(name, "bias", words, f"cut_{_LEAD}", now.names[f][1], "", math.nan, count=len(chosen), note=note)
    low = high = math.nan
    if now.draws is not None and before.draws is not None and now.bootstrap is not None:
        a, b = (side.draws[:, chosen, f].mean(axis=1) - floor for side in (now, before) if side.draws is not None)
        ratio = np.where(b > 0, 1.0 - a / np.where(b > 0, b, 1.0), np.nan)
        low, high = (100.0 * float(end) for end in percentiles(ratio, now.bootstrap.level))
    return Row(
        name, "bias", words, f"cut_{_LEAD}", now.names[f][1], "", 100.0 * (1.0 - after / first), low, high,
        len(chosen), note=note,
    )  # fmt: skip


def _counts(material: Material, part: Split) -> dict[str, Any]:
    grouping = material.grouping
    found: dict[str, Any] = {
        side: dict(zip(grouping.labels, grouping.rows(rows).counts.tolist(), strict=True))
        for side, rows in (("calibration_pictures", ~part.pictures), ("test_pictures", part.pictures))
    }
    found["calibration_words"] = int((~part.words).sum())
    found["test_words"] = int(part.words.sum()) or len(part.words)
    if material.pairs is not None:
        found["test_scenes"] = len(part.targets)
        found["calibration_scenes"] = len(np.unique(material.pairs.query_target)) - len(part.targets)
    return found
