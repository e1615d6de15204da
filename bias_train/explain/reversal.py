"""Whether what debiasing changed in generated pictures is what had favoured them.

After the reversal test of arXiv 2502.07327 (its authors' code, on video): ``p_i`` is what debiasing a retriever changed
in a generated picture's embedding, their mean ``p`` is taken from the photos' original embeddings, and the mixed
gallery is ranked again. If ``p`` carries the bias, photos take the place of generated pictures.

Ours differs in three things. Both sides are scored with the original captions (the released script scores photos with
the debiased model's). Each photo is shifted by the mean over the *other* half of the units, so that no photo's own
twin is in its shift. And two controls stand beside it: random vectors of the same norm, and the mean change of photos.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bias_train.embeddings import Embeddings
from bias_train.errors import RunError
from bias_train.explain.outcome import Outcome, change, measure_gallery
from bias_train.stats import Bootstrap, Floats

CONTROLS = 10


@dataclass(frozen=True)
class Arm:
    """One version of the gallery.

    Attributes:
        name: "original", "reversed", "random" or "photos".
        outcomes: its figures, with intervals; for "random" the mean over draws, and their smallest and largest.
        change: the figures' differences from "original", paired; empty where they have no intervals, and for "random".
    """

    name: str
    outcomes: list[Outcome]
    change: list[Outcome]


@dataclass(frozen=True)
class Reversal:
    """The experiment.

    Attributes:
        norm: of the mean change of generated pictures.
        photo_norm: of the mean change of photos.
        cosine: between the two; near 1, debiasing moved everything alike.
        agreement: mean cosine between a picture's two embeddings. Where it is low, the retrievers were not trained from
            one another, and the change is more than debiasing.
        arms: the galleries.
    """

    norm: float
    photo_norm: float
    cosine: float
    agreement: float
    arms: list[Arm]


def reverse(embeddings: Embeddings, debiased: Embeddings, bootstrap: Bootstrap, *, seed: int = 0) -> Reversal | None:
    """Run the experiment.

    Args:
        embeddings: of the original retriever, with queries.
        debiased: of the debiased one, of the same pictures (matched by their names) in a space of the same width; its
            queries are not used.
        bootstrap: of the intervals.
        seed: of the halves and of the random controls.

    Returns:
        None without queries that both sources answer.

    Raises:
        RunError: if the two sets are not of the same pictures and width.
    """
    after = matched(embeddings, debiased)
    moved = after - embeddings.image.double()
    shift = cross_fitted_mean(moved.numpy(), embeddings.image_target, embeddings.generated, seed)
    photo_shift = cross_fitted_mean(moved.numpy(), embeddings.image_target, ~embeddings.generated, seed)
    original = measure_gallery(embeddings, embeddings.image, bootstrap)
    if not original.outcomes:
        return None
    mean = moved[torch.from_numpy(embeddings.generated)].mean(dim=0).numpy()
    photo_mean = moved[torch.from_numpy(~embeddings.generated)].mean(dim=0).numpy()
    arms = [Arm("original", original.outcomes, [])]
    for name, taken in (("reversed", shift), ("photos", photo_shift)):
        gallery = measure_gallery(embeddings, shifted(embeddings, taken), bootstrap)
        arms.append(Arm(name, gallery.outcomes, change(original, gallery, bootstrap)))
    arms.insert(2, _random_arm(embeddings, float(np.linalg.norm(mean)), bootstrap, seed))
    size = float(np.linalg.norm(mean) * np.linalg.norm(photo_mean))
    cosine = float(mean @ photo_mean) / size if size > 0 else float("nan")
    agreement = float(torch.nn.functional.cosine_similarity(after, embeddings.image.double()).mean())
    return Reversal(float(np.linalg.norm(mean)), float(np.linalg.norm(photo_mean)), cosine, agreement, arms)


def matched(embeddings: Embeddings, debiased: Embeddings) -> Tensor:
    """[M, D] float64 the debiased vectors in the order of the original ones.

    Raises:
        RunError: naming what does not fit.
    """
    if embeddings.image.shape[1] != debiased.image.shape[1]:
        raise RunError(
            f"--debiased: its vectors have {debiased.image.shape[1]} dimensions, the original ones "
            f"{embeddings.image.shape[1]}: a change is defined within one space only"
        )
    place = {key: row for row, key in enumerate(debiased.image_key)}
    if len(place) < len(debiased.image_key) or len(set(embeddings.image_key)) < len(embeddings.image_key):
        raise RunError("--debiased: several pictures have one name, so that the two sets cannot be matched")
    missing = [key for key in embeddings.image_key if key not in place]
    if missing:
        raise RunError(f"--debiased: lacks {len(missing)} pictures of the original set, such as {missing[0]!r}")
    return debiased.image[torch.tensor([place[key] for key in embeddings.image_key])].double()


def cross_fitted_mean(moved: Floats, target: np.ndarray, chosen: np.ndarray, seed: int) -> Floats:
    """Mean change of chosen pictures, for each picture over the half of the targets that it is not in.

    Args:
        moved: [M, D] change of each picture.
        target: [M] targets; pictures of an unknown one (-1) are dealt singly.
        chosen: [M] bool, pictures whose change counts.
        seed: of the halves.

    Returns:
        [M, D] float64; the mean over all where a half has none of the chosen.
    """
    own = np.where(target >= 0, target, -1 - np.arange(len(target)))
    ids, dense = np.unique(own, return_inverse=True)
    side = np.random.default_rng(seed).permutation(np.arange(len(ids)) % 2)[dense]
    shift = np.empty_like(moved)
    for half in (0, 1):
        others = chosen & (side != half)
        shift[side == half] = moved[others if others.any() else chosen].mean(axis=0)
    return shift


def shifted(embeddings: Embeddings, taken: Floats) -> Tensor:
    """[M, D] float32 the pictures, with ``taken`` subtracted from the photos.

    Not normalised again: that would shrink all photos' scores whatever the vector's direction.
    """
    image = embeddings.image.double().clone()
    photos = torch.from_numpy(~embeddings.generated)
    image[photos] -= torch.from_numpy(taken)[photos]
    return image.float()


def _random_arm(embeddings: Embeddings, norm: float, bootstrap: Bootstrap, seed: int) -> Arm:
    rng = np.random.default_rng(seed)
    few = Bootstrap(resamples=2, level=bootstrap.level, seed=bootstrap.seed)  # only the values count
    values: dict[str, list[float]] = {}
    for _ in range(CONTROLS):
        vector = rng.standard_normal(embeddings.image.shape[1])
        taken = np.broadcast_to(vector * (norm / np.linalg.norm(vector)), tuple(embeddings.image.shape))
        for outcome in measure_gallery(embeddings, shifted(embeddings, np.ascontiguousarray(taken)), few).outcomes:
            values.setdefault(outcome.name, []).append(outcome.value)
    return Arm("random", [Outcome(n, float(np.mean(v)), min(v), max(v)) for n, v in values.items()], [])
