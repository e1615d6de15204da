"""Embeddings drawn from models whose source bias is known exactly, without the code under test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats


@dataclass(frozen=True)
class KnownPairs:
    """Pairs of a photo and its twin; score of caption c of scene i, for photo and twin, against all else:

        photo  X = mean_real      + scene_i + own_i  - caption_ic
        twin   Y = mean_generated + scene_i + own'_i + caption_ic
        pictures of other scenes 0, and one distractor at ``bar``.

    All noise is normal. The captions of a scene share scene_i, own_i and own'_i, so they are not independent.
    """

    pairs: int = 150
    captions: int = 5
    mean_real: float = 5.0
    mean_generated: float = 5.25
    scene: float = 0.4
    own: float = 0.4
    caption: float = 0.3
    bar: float = 4.9

    def draw(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """One evaluation: each scene has two axes of its own, and the last axis is the distractor's."""
        n, c = self.pairs, self.captions
        scene = self.scene * rng.normal(size=n)
        real = self.mean_real + scene + self.own * rng.normal(size=n)
        generated = self.mean_generated + scene + self.own * rng.normal(size=n)
        text = np.zeros((n, c, 2 * n + 1))
        image = np.zeros((2 * n + 1, 2 * n + 1))
        i = np.arange(n)
        text[i, :, i] = 1.0
        text[i, :, n + i] = self.caption * rng.normal(size=(n, c))
        text[:, :, -1] = 1.0
        image[i, i], image[i, n + i] = real, -1.0
        image[n + i, i], image[n + i, n + i] = generated, 1.0
        image[-1, -1] = self.bar
        target = torch.arange(n)
        return {
            "text": torch.from_numpy(text.reshape(n * c, -1)).float(),
            "image": torch.from_numpy(image).float(),
            "query_target": target.repeat_interleave(c),
            "query_slot": torch.arange(c).repeat(n),
            "image_target": torch.cat([target, target, torch.tensor([n])]),
            "image_source": torch.cat([target * 0, target * 0 + 1, torch.tensor([0])]),
        }

    def truth(self) -> dict[str, float]:
        """Pair win rate, R@1 of each source and Relative Delta, in closed form from the bivariate normal (X, Y)."""
        variance = self.scene**2 + self.own**2 + self.caption**2
        covariance = self.scene**2 - self.caption**2
        gap = self.mean_generated - self.mean_real
        spread = 2 * (variance - covariance)

        def first(mean: float, lead: float) -> float:
            # P(mine > the other's, mine > bar): the lead and the height over the bar are jointly normal.
            joint = [[spread, variance - covariance], [variance - covariance, variance]]
            return float(stats.multivariate_normal([-lead, self.bar - mean], joint).cdf([0.0, 0.0]))

        real, generated = first(self.mean_real, -gap), first(self.mean_generated, gap)
        return {
            "pair_win_rate": float(stats.norm.cdf(gap / math.sqrt(spread))),
            "R_real@1": real,
            "R_generated@1": generated,
            "relative_delta_R@1": 200 * (real - generated) / (real + generated),
        }


@dataclass(frozen=True)
class KnownClasses:
    """Classes without pairs: a picture's score with its own class is normal around its source's mean, with others 0."""

    classes: int = 5
    real: int = 60
    generated: int = 40
    mean_real: float = 1.2
    mean_generated: float = 1.6
    k: int = 20

    def draw(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """One evaluation: class prompts are the axes, a picture's embedding is its scores."""
        per = self.real + self.generated
        target = np.repeat(np.arange(self.classes), per)
        source = np.tile(np.repeat([0, 1], [self.real, self.generated]), self.classes)
        image = rng.normal(size=(len(target), self.classes))
        image[np.arange(len(target)), target] += np.where(source == 1, self.mean_generated, self.mean_real)
        return {
            "text": torch.eye(self.classes),
            "image": torch.from_numpy(image).float(),
            "query_target": torch.arange(self.classes),
            "image_target": torch.from_numpy(target),
            "image_source": torch.from_numpy(source),
        }

    def truth(self) -> dict[str, float]:
        """Expected P@k of each source, by quadrature over a picture's score, and the win rate in closed form."""
        others = (self.classes - 1) * (self.real + self.generated)
        grid = np.linspace(-8.0, 10.0, 3601)

        def chance(mean: float, real: int, generated: int) -> float:
            """That a picture of this mean stands in the top k against so many of each kind."""
            inside = np.empty_like(grid)
            for j, score in enumerate(grid):
                above = np.ones(1)
                for number, centre in ((real, self.mean_real), (generated, self.mean_generated), (others, 0.0)):
                    above = np.convolve(
                        above[: self.k], stats.binom.pmf(np.arange(self.k), number, stats.norm.sf(score - centre))
                    )
                inside[j] = above[: self.k].sum()
            return float(np.trapezoid(stats.norm.pdf(grid - mean) * inside, grid))

        real = self.real * chance(self.mean_real, self.real - 1, self.generated) / self.k
        generated = self.generated * chance(self.mean_generated, self.real, self.generated - 1) / self.k
        return {
            f"P_real@{self.k}": real,
            f"P_generated@{self.k}": generated,
            f"relative_delta_P@{self.k}": 200 * (real - generated) / (real + generated),
            "win_rate": float(stats.norm.cdf((self.mean_generated - self.mean_real) / math.sqrt(2))),
        }
