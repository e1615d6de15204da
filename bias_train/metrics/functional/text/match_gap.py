"""How much higher what belongs together scores than what does not: mean matched less mean mismatched score.

A raw similarity is not comparable between retrievers, since it depends on where a retriever's pictures and texts lie as
a whole. The gap is: a constant added to all scores leaves it as it is. Means over all mismatched pairs, not over drawn
ones, cost no more than sums of vectors: the sum of all scores is the product of the two sums.

Legend of the shapes: G groups (a picture with its captions, or a word with its rendering), D dimensions, B resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bias_train.stats import Bootstrap, Floats, resample_counts


@dataclass(frozen=True)
class Matches:
    """What belongs together, as sums over groups.

    Attributes:
        image: [G, D] float64 sums of each group's picture vectors.
        text: [G, D] likewise of its texts.
        own: [G] float64 sums of the scores of all its pictures with all its texts.
        images: [G] float64 number of its pictures.
        texts: [G] of its texts.
    """

    image: Floats
    text: Floats
    own: Floats
    images: Floats
    texts: Floats

    @classmethod
    def of(cls, image: Tensor, text: Tensor, image_group: Tensor, text_group: Tensor) -> Matches:
        """Sum vectors by group; a group that only one side has is left out.

        Args:
            image: [N, D] float embeddings. Scores are dot products.
            text: [M, D].
            image_group: [N] integers.
            text_group: [M].
        """
        groups = np.intersect1d(image_group.cpu().numpy(), text_group.cpu().numpy())
        sums = []
        for rows, group in ((image, image_group), (text, text_group)):
            ids = group.cpu().numpy()
            kept = np.isin(ids, groups)
            place = np.searchsorted(groups, ids[kept])
            vectors = rows.detach().double().cpu().numpy()[kept]
            total = np.zeros((len(groups), rows.shape[1]))
            np.add.at(total, place, vectors)
            sums.append((total, np.bincount(place, minlength=len(groups)).astype(np.float64)))
        (pictures, images), (captions, texts) = sums
        return cls(pictures, captions, np.einsum("gd,gd->g", pictures, captions), images, texts)

    @classmethod
    def pairs(cls, image: Tensor, text: Tensor) -> Matches:
        """One picture and one text a group: [G, D] each."""
        ids = torch.arange(len(image))
        return cls.of(image, text, ids, ids)

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self.own)

    def gap(self, weight: Floats | None = None) -> Floats:
        """Mean score of matched pairs less that of mismatched ones.

        Pairs of one group are never mismatched, also where a resample holds the group several times.

        Args:
            weight: [..., G] how often each group counts; None counts each once.

        Returns:
            [...] float64; NaN for fewer than two groups.

        >>> two = Matches.pairs(torch.eye(2), torch.tensor([[0.9, 0.2], [0.1, 0.4]]))
        >>> float(two.gap()).__round__(6)  # (0.9 + 0.4) / 2 - (0.1 + 0.2) / 2
        0.5
        """
        w = np.ones(len(self)) if weight is None else np.asarray(weight, dtype=np.float64)
        both = self.images * self.texts
        together = w @ both
        apart = (w @ self.images) * (w @ self.texts) - w**2 @ both
        score = np.einsum("...d,...d->...", w @ self.image, w @ self.text) - w**2 @ self.own
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((w @ self.own) / together - score / np.where(apart > 0, apart, np.nan))

    def draws(self, bootstrap: Bootstrap | None) -> Floats | None:
        """The gap on resamples of groups: [B] float64; None without a bootstrap or for fewer than two groups."""
        if bootstrap is None or len(self) < 2:
            return None
        return np.concatenate([self.gap(counts) for counts in _blocks(len(self), bootstrap)])

    def standard_error(self) -> float:
        """Jackknife standard error of the gap: one group left out at a time; NaN for fewer than three groups."""
        count = len(self)
        if count < 3:
            return float("nan")
        both = self.images * self.texts
        images, texts, image, text = (part.sum(axis=0) for part in (self.images, self.texts, self.image, self.text))
        own, pairs = self.own.sum() - self.own, both.sum() - both
        # The sum of all scores without a group is (X - x)(T - t) = XT - xT - Xt + xt, and its own ones are xt.
        everything = image @ text - self.image @ text - self.text @ image + self.own
        apart = (images - self.images) * (texts - self.texts) - pairs
        left = own / pairs - (everything - own) / apart
        return float(np.sqrt((count - 1) / count * np.sum((left - left.mean()) ** 2)))


def _blocks(units: int, bootstrap: Bootstrap) -> Iterator[Floats]:
    for counts in resample_counts(units, bootstrap):
        yield counts.astype(np.float64)
