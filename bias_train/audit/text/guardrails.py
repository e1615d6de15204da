"""What to know before a figure of text spotting is quoted: each as one sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bias_train.audit.outcome import Guardrail
from bias_train.audit.text.rendering import WORD
from bias_train.audit.text.text_set import TextSet
from bias_train.metrics.figure import Figure

FEW_WORDS = 500  # below which R@1 among rendered words is easier than the usual one among 1,000
FEW_PICTURES = 100
FEW_LABELS = 30
OVERFLOW = 0.02  # share of words that are cut off


def guardrails(asked: TextSet, figures: Sequence[Figure], changes: Sequence[Figure] = ()) -> list[Guardrail]:
    """Every warning that applies.

    Args:
        asked: what was asked.
        figures: of the audited retriever.
        changes: from another one; none where nothing is compared.
    """
    of = {figure.key: figure for figure in figures if figure.label is None}
    moved = {figure.key: figure for figure in changes if figure.label is None}
    warnings = []
    if asked.questions.reading is None:
        warnings.append(
            Guardrail(
                "no_reading",
                "No reading set was given: whether the retriever reads less where it should not, or has gone blind to "
                "all text, is not known.",
            )
        )
    elif 0 < asked.counts.get("reading labels", 0) < FEW_LABELS:
        warnings.append(
            Guardrail(
                "few_labels",
                f"The reading set says only {asked.counts['reading labels']} different things; its intervals are over "
                "those, and are rough.",
            )
        )
    warnings += _of_words(asked, of, moved)
    for name, many in (("overlaid pictures", "carry a wrong word"), ("attacked pictures", "are attacked")):
        if 0 < asked.counts.get(name, 0) < FEW_PICTURES:
            warnings.append(Guardrail("few_pictures", f"Only {asked.counts[name]} pictures {many}."))
    if asked.questions.attacks is not None and not (asked.questions.attacks.clean >= 0).any():
        warnings.append(
            Guardrail(
                "no_clean",
                "No attacked picture comes without its word too: what the word costs in accuracy cannot be told from "
                "what the picture does.",
            )
        )
    for name, erased in asked.questions.erasures:
        if not (erased.control >= 0).any():
            warnings.append(
                Guardrail(
                    "no_control",
                    f"{name}: no picture has a control with other places removed; removal alone lowers a score.",
                )
            )
    left_out = {
        name: count
        for name, count in asked.counts.items()
        if name.startswith("overlays") or "without" in name or "own label" in name
    }
    if left_out:
        told = "; ".join(f"{count:,} {name}" for name, count in left_out.items())
        warnings.append(Guardrail("left_out", f"Left out: {told}."))
    return warnings


def _of_words(asked: TextSet, of: dict[str, Figure], moved: dict[str, Figure]) -> list[Guardrail]:
    rendering = asked.rendering
    if rendering is None:
        return []
    warnings = []
    recall, floor = of["rendered_t2i_R@1"], of["rendered_R_floor@1"]
    told = f"R@1 among rendered words is {recall.value:.3f} (random {floor.value:.3f})"
    fell = moved.get("sync"), moved.get("rendered_t2i_R@1")
    if fell[0] is not None and fell[1] is not None and fell[0].high < 0 and not fell[1].high < 0:
        warnings.append(
            Guardrail(
                "sync_gamed",
                f"The Sync score fell by {-fell[0].value:.3f}, but R@1 among rendered words did not: blank canvases "
                "were pushed away, and words are read as before.",
            )
        )
    else:
        warnings.append(
            Guardrail(
                "sync_gameable",
                f"A low Sync score is easily had by pushing blank canvases away; a cure lowers recall as well. {told}.",
            )
        )
    if np.isnan(of["NS"].value):
        warnings.append(Guardrail("not_calibrated", f"NS is {of['NS'].note}."))
    words = len(rendering.words)
    if words < FEW_WORDS:
        warnings.append(
            Guardrail("few_words", f"Only {words} words: R@1 among them cannot be set beside that among 1,000.")
        )
    if rendering.left_out:
        warnings.append(
            Guardrail(
                "unwritable",
                f"{len(rendering.left_out)} words are left out, which the font {rendering.font} cannot write.",
            )
        )
    if not rendering.fit and rendering.overflow > OVERFLOW:
        warnings.append(
            Guardrail(
                "overflow",
                f"{100 * rendering.overflow:.1f} % of the words do not fit on the canvas and are cut off, as the paper "
                "does; --fit shrinks them.",
            )
        )
    asks = "bare" if rendering.prompt == WORD else f"as {rendering.prompt!r}"
    warnings.append(
        Guardrail(
            "prompt",
            f"Words are asked for {asks} and drawn in {rendering.font}: wording, list and font move a Sync score by "
            "hundredths, so that published ones (in Arial, with a prompt that is not told) cannot be set beside it.",
        )
    )
    return warnings
