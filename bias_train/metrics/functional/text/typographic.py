"""Labelled pictures with a wrong word on them: what is recognised, what they show or what is written.

Attacked accuracy and attack success rate as Materzynska et al. (CVPR 2022, "Disentangling visual and written concepts
in CLIP") and Azuma and Matsui (ICCVW 2023, "Defense-Prefix") measure them: a picture is given the class whose prompt
scores highest. Legend of the shapes: N pictures, C classes, D dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bias_train.metrics.functional.inputs import check_embeddings, check_ids
from bias_train.metrics.functional.ranking import score_chunks
from bias_train.metrics.functional.text.drawn import FLOOR, Drawn, apart, drawn_means
from bias_train.stats import Bootstrap, Floats, Ints

_NOTES = {
    "attack_accuracy": "share recognised as what they show; ties in expectation",
    "attack_success": "share recognised as the written word; ties in expectation",
    "attack_accuracy_clean": "the same pictures without the word",
    "attack_success_clean": "recognised as the word although it is not written: what success owes to chance",
    "attack_accuracy_drop": "clean less attacked, picture by picture",
    "attack_success_net": "written less clean, picture by picture",
}


def typographic_attack(
    attacked: Tensor,
    prompt: Tensor,
    label: Tensor,
    word: Tensor,
    cluster: Tensor,
    *,
    clean: Tensor | None = None,
    has_clean: Tensor | None = None,
    bootstrap: Bootstrap | None = None,
    chunk_size: int | None = None,
) -> list[Drawn]:
    """Accuracy on attacked pictures, and how often the written word is what is recognised.

    Args:
        attacked: [N, D] float embeddings of pictures with a wrong word. Scores are dot products.
        prompt: [C, D] of the classes' prompts.
        label: [N] integers, the class that is shown.
        word: [N] integers, the class that is written; -1 where that is none of the classes, so that success is
            undefined.
        cluster: [N] integers, what is resampled together.
        clean: [N, D] of the same pictures without the word; None where no picture has that.
        has_clean: [N] bool, which have; None for all.
        bootstrap: how intervals are made; None for none.
        chunk_size: pictures scored at once; None chooses by memory.

    Returns:
        ``attack_accuracy`` and ``attack_success``; with clean pictures also ``attack_accuracy_clean``,
        ``attack_success_clean``, ``attack_accuracy_drop`` and ``attack_success_net``, over the pictures that have both;
        and ``attack_floor``, one over the classes.

    Raises:
        ValueError: for embeddings or ids that do not fit, or a picture whose word is its label.
    """
    check_embeddings(attacked=attacked, prompt=prompt, **({} if clean is None else {"clean": clean}))
    check_ids(len(attacked), "attacked", label=label, word=word, cluster=cluster)
    shown, written = (part.cpu().numpy().astype(np.int64) for part in (label, word))
    inside = (shown >= 0) & (shown < len(prompt)) & (written >= -1) & (written < len(prompt))
    if not inside.all():
        raise ValueError(f"label and word must lie in 0 to {len(prompt) - 1}, the rows of prompt (word may be -1)")
    if bool((shown == written).any()):
        row = int(np.flatnonzero(shown == written)[0])
        raise ValueError(f"picture {row} has its own label written on it, which is no attack")
    names = ["attack_accuracy", "attack_success"]
    values = _recognised(attacked, prompt, shown, written, chunk_size)
    if clean is not None:
        before = _recognised(clean, prompt, shown, written, chunk_size)
        if has_clean is not None:
            before[~has_clean.cpu().numpy()] = np.nan
        change = (before - values) * np.array([1.0, -1.0])
        names += ["attack_accuracy_clean", "attack_success_clean", "attack_accuracy_drop", "attack_success_net"]
        values = np.concatenate([values, before, change], axis=1)
    found = drawn_means(
        [(name, None) for name in names],
        values,
        cluster.cpu().numpy().astype(np.int64),
        apart(bootstrap, "attack"),
        [_NOTES[name] for name in names],
    )
    return [*found, Drawn(f"attack{FLOOR}", 1.0 / len(prompt), len(attacked), f"one of {len(prompt)} classes")]


def _recognised(image: Tensor, prompt: Tensor, shown: Ints, written: Ints, chunk_size: int | None) -> Floats:
    """[N, 2] chance to be taken for what is shown and for what is written; NaN where no class is written."""
    found = np.empty((len(image), 2))
    for rows, scores in score_chunks(image, prompt, chunk_size):
        best = scores == scores.amax(dim=1, keepdim=True)
        chance = best.double() / best.sum(dim=1, keepdim=True)
        for column, classes in enumerate((shown, written)):
            ids = torch.from_numpy(np.maximum(classes[rows], 0)).to(scores.device)
            found[rows, column] = chance.gather(1, ids[:, None])[:, 0].cpu().numpy()
    found[written < 0, 1] = np.nan
    return found
