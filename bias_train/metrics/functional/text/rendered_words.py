"""Do words score high with pictures of themselves? Sync score, its calibrated form, and retrieval of rendered words.

Sync score: mean and standard deviation, over a list of words, of the cosine of a word's rendering on a blank canvas and
the word as text (Lin et al. 2023, "Parrot Captions Teach CLIP to Spot Text", arXiv 2312.14232). The paper states
neither a prompt nor which of its four styles enter the mean: here each style stands by itself, and the mean is over
styles.

NS, the calibrated score, and the retrieval of rendered words beside it are our own construction. A retriever that just
pushes every blank canvas away has a low Sync score and reads as before. NS and the share of words that find their
rendering do not move then: a vector v added to all renderings adds v.t(w) to every score of a word w.

Legend of the shapes: S styles, W words, D dimensions, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bias_train.metrics.functional.inputs import check_embeddings, is_normalised
from bias_train.metrics.functional.object.clean_retrieval import clean_retrieval
from bias_train.metrics.functional.text.drawn import Drawn, apart, means
from bias_train.metrics.functional.text.match_gap import Matches
from bias_train.stats import Bootstrap, Floats

# An NS over a gap of ordinary pairs that is no more than this many standard errors above zero is a ratio to noise.
CLEAR = 3.0


def rendered_words(
    rendered: Tensor,
    word: Tensor,
    pairs: Matches,
    *,
    styles: Sequence[str],
    bootstrap: Bootstrap | None = None,
    chunk_size: int | None = None,
) -> list[Drawn]:
    """Sync score, calibrated score and retrieval of rendered words.

    With r(w) the vector of a word's rendering, t(w) of the word as text, and s their dot product::

        sync = mean_w s(r(w), t(w))
        NS   = (mean_w s(r(w), t(w)) - mean_{w' != w} s(r(w), t(w'))) / (mean matched - mean mismatched score of pairs)

    NS is about 0 for a retriever that does not read, and above 1 where words match their renderings better than photos
    match their captions. Neither a constant added to all scores nor a factor on them changes it. It is NaN where the
    denominator is not above `CLEAR` jackknife standard errors: such a retriever does not retrieve.

    Args:
        rendered: [S, W, D] float embeddings of the words' pictures.
        word: [W, D] float embeddings of the words as text, each another word. Unit vectors make scores cosines.
        pairs: ordinary pictures and captions.
        styles: [S] names.
        bootstrap: how intervals are made; None for none. Words are resampled for all figures of words, pictures for the
            denominator, each with draws of their own, and both for NS.
        chunk_size: queries scored at once; None chooses by memory.

    Returns:
        ``sync``, ``sync_std`` (population form, over words within a style), ``NS_numerator``, ``NS``,
        ``rendered_i2t_R@1`` (a rendering finds its word) and ``rendered_t2i_R@1`` (a word finds its rendering), as
        means over styles and, with the style as label, of each; ``NS_denominator``; and ``rendered_R_floor@1``.

    Raises:
        ValueError: for embeddings that do not fit, are not finite or zero.

    >>> ordinary = Matches.pairs(torch.eye(4), torch.eye(4))
    >>> found = rendered_words(torch.eye(3, 4)[None], torch.eye(3, 4), ordinary, styles=("white/black",))
    >>> {one.name: one.value for one in found if one.label is None and one.name in ("sync", "NS")}
    {'sync': 1.0, 'NS': 1.0}
    """
    if rendered.ndim != 3 or rendered.shape[0] != len(styles) or rendered.shape[1:2] != word.shape[:1]:
        raise ValueError(
            f"rendered must be [{len(styles)} styles, {len(word)} words, width], not {tuple(rendered.shape)}"
        )
    check_embeddings(rendered=rendered.reshape(-1, rendered.shape[-1]), word=word)
    words = apart(bootstrap, "words")
    found = _similarities(rendered, word, styles, words)
    found += _calibrated(rendered, word, styles, pairs, words, apart(bootstrap, "pairs"))
    return found + _retrieval(rendered, word, styles, words, chunk_size)


def _similarities(rendered: Tensor, word: Tensor, styles: Sequence[str], bootstrap: Bootstrap | None) -> list[Drawn]:
    cosine = (rendered.double() * word.double()).sum(dim=2).cpu().numpy()
    count = len(word)
    moments, draws, _ = means(np.concatenate([cosine, cosine**2]).T, np.arange(count), bootstrap)
    note = "scores are cosines" if is_normalised(word) else "scores are dot products, vectors not of unit length"

    def spread(of: Floats) -> Floats:
        """Standard deviation over words in each style, from means of scores and of their squares [..., 2 S]."""
        mean, square = of[..., : len(styles)], of[..., len(styles) :]
        return np.asarray(np.sqrt(np.maximum(square - mean**2, 0.0)))

    parts = [
        ("sync", moments[: len(styles)], None if draws is None else draws[:, : len(styles)], note),
        ("sync_std", spread(moments), None if draws is None else spread(draws), "over words, population form"),
    ]
    return [one for name, value, drawn, told in parts for one in _by_style(name, value, drawn, count, told, styles)]


def _calibrated(
    rendered: Tensor,
    word: Tensor,
    styles: Sequence[str],
    pairs: Matches,
    words: Bootstrap | None,
    pictures: Bootstrap | None,
) -> list[Drawn]:
    matches = [Matches.pairs(one, word) for one in rendered]
    top = np.array([float(one.gap()) for one in matches])
    drawn = [one.draws(words) for one in matches]
    tops = None if drawn[0] is None else np.stack([one for one in drawn if one is not None], axis=1)
    below, belows = float(pairs.gap()), pairs.draws(pictures)
    error = pairs.standard_error()
    numerators = _by_style("NS_numerator", top, tops, len(word), "matched less mismatched words", styles)
    told = f"{len(pairs)} pictures with their captions; standard error {error:.2g}"
    denominator = Drawn("NS_denominator", below, len(pairs), told, draws=belows)
    fault = undefined_because(below, error)
    if fault:
        note, ratio, ratios = f"undefined: {fault}", np.full(len(styles), np.nan), None
    else:
        note, ratio = "words and pictures resampled, each by themselves", top / below
        ratios = None
        if tops is not None and belows is not None:
            # Resamples in which pairs do not match at all have no ratio.
            ratios = tops / np.where(belows > 0, belows, np.nan)[:, None]
    return [*numerators, denominator, *_by_style("NS", ratio, ratios, len(word), note, styles)]


def undefined_because(gap: float, error: float) -> str:
    """Why a gap of ordinary pairs cannot be divided by; '' where it can.

    Args:
        gap: mean matched less mean mismatched score.
        error: its standard error; NaN for too few pictures to have one.

    >>> undefined_because(0.2, 0.01), undefined_because(-0.1, 0.01)[:45]
    ('', 'ordinary pairs score no higher than others (g')
    """
    if np.isnan(error):
        return "fewer than three ordinary pictures have captions"
    if gap > 0 and gap > CLEAR * error:
        return ""
    return (
        f"ordinary pairs score no higher than others (gap {gap:.3g}, standard error {error:.2g}; {CLEAR:g} of them are "
        "asked for): the retriever does not retrieve"
    )


def _retrieval(
    rendered: Tensor, word: Tensor, styles: Sequence[str], bootstrap: Bootstrap | None, chunk_size: int | None
) -> list[Drawn]:
    count = len(word)
    ids = torch.arange(count)
    note = f"among {count:,} words; ties in expectation"
    found = []
    for name in ("rendered_i2t_R", "rendered_t2i_R"):
        hits = np.empty((count, len(styles)))
        for place, pictures in enumerate(rendered):
            asking, searched = (pictures, word) if name == "rendered_i2t_R" else (word, pictures)
            found_by = clean_retrieval(asking, searched, ids, ids, ks=(1,), chunk_size=chunk_size)
            hits[:, place] = found_by.values[:, 0]
        value, draws, _ = means(hits, np.arange(count), bootstrap)
        found += [replace(one, k=1) for one in _by_style(name, value, draws, count, note, styles)]
    return [*found, Drawn("rendered_R_floor", 1.0 / count, count, "a random order", k=1)]


def _by_style(
    name: str, value: Floats, draws: Floats | None, count: int, note: str, styles: Sequence[str]
) -> list[Drawn]:
    """The mean over styles, then each: value [S], draws [B, S] or None."""
    mean = "; ".join(filter(None, (note, f"mean over {len(styles)} styles" if len(styles) > 1 else styles[0])))
    whole = None if draws is None else draws.mean(axis=1)
    return [
        Drawn(name, float(value.mean()), count, mean, draws=whole),
        *(
            Drawn(name, float(value[s]), count, note, label=style, draws=None if draws is None else draws[:, s])
            for s, style in enumerate(styles)
        ),
    ]
