"""Match mean and covariance of the two sources' embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from losses.base import Features, Loss
from losses.options import at_least, one_of
from losses.populations import PICTURES, WITHIN, Pictures, Within, populations
from losses.scores import at_least_float32


class SourceCORAL(Loss):
    """Give photos and generated pictures one mean and one covariance in the shared embedding.

    **Optimises**: the distance of the first two moments of the sources' embeddings. It is symmetric: both move.

    **Formula**: with n photos and m generated pictures of the global batch, their means ``a`` and ``b`` and covariances
    ``A`` and ``B`` (divided by n - 1 and m - 1), ``|a - b|^2 + covariance * |A - B|_F^2``. With ``unbiased``, the part
    of the means is reduced by ``tr(A) / n + tr(B) / m``, what sampling alone is expected to make of it. Within strata,
    their mean with the weight ``n m / (n + m)`` of each.

    **Reference**: the covariance part is Deep CORAL's (Sun and Saenko 2016, equations 1 to 3) without its factor
    ``1 / (4 D^2)``, which makes nothing of the covariances of unit vectors. The mean's part (the discrepancy of
    `SourceMMD` with a linear kernel) and the strata are ours.

    **Requirements**: both sources among a batch's pictures, at least ``min_count`` (from 2) of each; what has fewer
    does not count. Contents must be alike, as for `SourceMMD`. For ``pictures="pairs"`` the data must draw twins.

    **Inputs**: ``image``, ``source``; for pairs ``twin`` and ``has_twin``; ``caption_id`` or ``group`` for strata. Unit
    vectors are compared: captions and logit scale play no part. Terms: ``coral_mean`` and ``coral_covariance``.

    **Relation to other losses**: cheaper and weaker than `SourceMMD`. The mean's part moves what a projection along the
    sources' mean displacement would remove.

    Args:
        covariance: the weight of the covariances' part, not below 0.
        pictures: ``"anchors"``, or ``"pairs"`` where there are twins; see `losses.populations`.
        within: ``"batch"``, ``"caption"`` or ``"group"``; see `SourceMMD`.
        unbiased: take off what sampling adds to the mean's part, which otherwise narrows each source.
        min_count: the least number of pictures of each source that makes a comparison.

    Example:
        >>> import torch
        >>> from losses import Features, SourceCORAL
        >>> ids = torch.arange(4)
        >>> features = Features(
        ...     image=torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), text=torch.eye(4)[:, :2],
        ...     logit_scale=torch.tensor(10.0), source=torch.tensor([0, 0, 1, 1]), group=ids, caption_id=ids,
        ... )
        >>> SourceCORAL(min_count=2)(features)["coral_mean"]
        tensor(2.)
    """

    def __init__(
        self,
        covariance: float = 1.0,
        pictures: Pictures = "anchors",
        within: Within = "batch",
        unbiased: bool = True,
        min_count: int = 4,
    ) -> None:
        super().__init__()
        at_least(self, "covariance", covariance, 0.0)
        one_of(self, "pictures", pictures, PICTURES)
        one_of(self, "within", within, WITHIN)
        at_least(self, "min_count", min_count, 2)
        self.covariance = covariance
        self.pictures: Pictures = pictures
        self.within: Within = within
        self.unbiased = unbiased
        self.min_count = min_count
        self.needs_twin = pictures == "pairs"

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Return ``{"coral_mean": [], "coral_covariance": []}``; zeros with a graph where nothing can be compared.

        In full on every rank: moments of the whole batch do not split by rows.

        Raises:
            LossError: if pairs are asked for and the batch carries no twins.
        """
        found = populations(features, self.pictures, self.within)
        nothing = features.image.sum() * 0.0 + (0.0 if features.twin is None else features.twin.sum() * 0.0)
        means, covariances, weights = [], [], []
        for stratum in found.stratum[found.compared(self.min_count)].unique().tolist():
            member = found.stratum == stratum
            real = at_least_float32(found.picture[member & ~found.generated])
            fake = at_least_float32(found.picture[member & found.generated])
            n, m = real.shape[0], fake.shape[0]
            mean, covariance = self._distances(real, fake)
            means.append(mean)
            covariances.append(covariance)
            weights.append(n * m / (n + m))
        if not weights:
            return {"coral_mean": nothing, "coral_covariance": nothing}
        weight = torch.tensor(weights, dtype=means[0].dtype, device=means[0].device) / sum(weights)
        return {
            "coral_mean": (torch.stack(means) * weight).sum() + nothing,
            "coral_covariance": self.covariance * (torch.stack(covariances) * weight).sum() + nothing,
        }

    def _distances(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Of the means and of the covariances of [n, D] photos and [m, D] generated pictures."""
        with torch.autocast(device_type=real.device.type, enabled=False):
            (mean_real, cov_real), (mean_fake, cov_fake) = _moments(real), _moments(fake)
            mean = (mean_real - mean_fake).square().sum()
            if self.unbiased:
                mean = mean - cov_real.trace() / real.shape[0] - cov_fake.trace() / fake.shape[0]
            return mean, (cov_real - cov_fake).square().sum()


def _moments(sample: Tensor) -> tuple[Tensor, Tensor]:
    """[n, D] to the mean [D] and the covariance [D, D]."""
    mean = sample.mean(dim=0)
    centred = sample - mean
    return mean, centred.T @ centred / (sample.shape[0] - 1)
