"""What a wrong word, written on a picture, does to retrieval: how much recall it costs, and how often it wins.

The win share and its net form are our own construction. Legend of the shapes: N pictures, C captions of them, D
dimensions, K cut-offs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bias_train.metrics.functional.inputs import check_embeddings, check_ids
from bias_train.metrics.functional.text.drawn import FLOOR, Drawn, apart, drawn_means
from bias_train.metrics.functional.text.pair_retrieval import I2T, T2I, hit_figures, pair_hits
from bias_train.stats import Bootstrap, Floats


def overlay_robustness(
    clean: Tensor,
    written: Tensor,
    query: Tensor,
    caption: Tensor,
    caption_of: Tensor,
    target: Tensor,
    *,
    ks: Sequence[int] = (1,),
    bootstrap: Bootstrap | None = None,
    chunk_size: int | None = None,
    other: Tensor | None = None,
    has_other: Tensor | None = None,
) -> list[Drawn]:
    """Compare pictures with the same pictures on which a wrong word is written.

    *Drop*: R@k on the clean pictures less R@k when every picture carries its word, query by query. As queries the
    pictures search all captions; as a gallery they are searched by all captions.

    *Win share*: with q the query for the written word and t a caption of the picture, the share of captions for which
    s(written, q) > s(written, t), ties counting one half. A word that fits the scene by chance wins without being
    written, so that the share on the clean pictures stands beside it, and *net* is the difference. A retriever of
    random scores has one half.

    Pictures with anything written on them may be near to the query for any word, without a letter being read. So the
    share is taken for a word as well that is written on another picture (``win_share_other``); *read* is what the
    query for the word that stands there wins more.

    Args:
        clean: [N, D] float embeddings of the pictures before. Scores are dot products.
        written: [N, D] of the pictures with their word.
        query: [N, D] of the queries for the written words.
        caption: [C, D] of the pictures' captions, none of which says the written word.
        caption_of: [C] integers, row of each caption's picture.
        target: [N] integers; pictures of one target show the same and are resampled together.
        ks: cut-offs.
        bootstrap: how intervals over targets are made; None for none.
        chunk_size: queries scored at once; None chooses by memory.
        other: [N, D] of the queries for a word that another picture has and no caption of this one says; None for none.
        has_other: [N] bool, where there is such a word; None for everywhere.

    Returns:
        ``win_share``, ``win_share_clean``, ``win_share_net``, ``win_share_floor``, with ``other`` ``win_share_other``
        and ``win_share_read``; and in each direction
        ``overlay_t2i_R@k``, ``overlay_clean_t2i_R@k``, ``overlay_t2i_R_floor@k``, ``overlay_t2i_drop@k``.

    Raises:
        ValueError: for embeddings or ids that do not fit.
    """
    check_embeddings(clean=clean, written=written, query=query, caption=caption)
    check_ids(len(clean), "clean", target=target)
    check_ids(len(caption), "caption", caption_of=caption_of)
    if len(written) != len(clean) or len(query) != len(clean):
        raise ValueError(f"{len(clean)} pictures have {len(written)} overlays and {len(query)} queries: one of each")
    if not (int(caption_of.min()) >= 0 and int(caption_of.max()) < len(clean)):
        raise ValueError(f"caption_of must lie in 0 to {len(clean) - 1}, the rows of the pictures")
    draws = apart(bootstrap, "overlay")
    of = caption_of.to(clean.device)
    shares = np.stack([_wins(pictures[of], query[of], caption) for pictures in (written, clean)], axis=1)
    values = np.concatenate([shares, shares[:, :1] - shares[:, 1:]], axis=1)
    names = ["win_share", "win_share_clean", "win_share_net"]
    notes = [
        "ties count one half",
        "the same words against the same captions, where they are not written",
        "written less clean, caption by caption",
    ]
    cluster = target.cpu().numpy()[caption_of.cpu().numpy()].astype(np.int64)
    found = drawn_means([(name, None) for name in names], values, cluster, draws, notes)
    found.append(Drawn(f"win_share{FLOOR}", 0.5, len(caption), "random scores"))
    if other is not None:
        kept = torch.ones(len(clean), dtype=torch.bool) if has_other is None else has_other.cpu()
        if len(other) != len(clean) or kept.shape != (len(clean),):
            raise ValueError(f"{len(clean)} pictures have {len(other)} queries for other words, and {len(kept)} marks")
        told = kept[caption_of.cpu()].numpy()
        beaten = _wins(written[of], other.to(clean.device)[of], caption)
        found += drawn_means(
            [("win_share_other", None), ("win_share_read", None)],
            np.stack([beaten, shares[:, 0] - beaten], axis=1)[told],
            cluster[told],
            draws,
            [
                "words that stand on other pictures, against the same captions",
                "the word that stands there less one that does not, caption by caption",
            ],
        )
    answered = target.to(caption_of.device)[caption_of]
    before, after = (pair_hits(one, caption, target, answered, ks, chunk_size) for one in (clean, written))
    for way in (T2I, I2T):
        found += hit_figures(after, way, f"overlay_{way}_R", draws)
        found += [one for one in hit_figures(before, way, f"overlay_clean_{way}_R", draws) if FLOOR not in one.name]
        drops = before.values[way] - after.values[way]
        labels = [(f"overlay_{way}_drop", k) for k in before.ks]
        found += drawn_means(labels, drops, before.cluster[way], draws, ["clean less overlaid"] * len(labels))
    return found


def _wins(picture: Tensor, query: Tensor, caption: Tensor) -> Floats:
    """[C] 1 where the query scores above the caption, one half where they tie."""
    # In float64, rounded: equal texts then have equal scores (see `bias_train.metrics.functional.ranking`).
    asked, told = ((picture.double() * text.double()).sum(dim=1).float() for text in (query, caption))
    return np.asarray(((asked > told).double() + 0.5 * (asked == told).double()).cpu().numpy())
