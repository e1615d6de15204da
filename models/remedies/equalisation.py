"""Queries moved until all groups' pictures answer them equally (BendVLM, Gerych et al. 2024), solved exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.errors import ModelError
from models.remedies.base import Calibration, Fitted, Remedy
from models.remedies.sides import SMALLEST, record

_CHUNK = 256  # queries at once


class Equalisation(Remedy):
    """For each query the nearest unit vector to which all groups' reference pictures are equally close.

    With e the query and mu_g the mean of the ``nearest`` pictures of group g to it, BendVLM's second step asks for the
    unit vector of the largest product with e whose products with all mu_g are equal. Its authors search for it; it is
    e less its part in the span of ``mu_g - mu_1``, brought to unit length (ours; exact, in one step, for all queries
    at once). Another query has other nearest pictures, so this is no linear map.

    BendVLM's first step (``local``) takes out of each query the span of the prompts that name a group, and of the
    differences between the queries that name a group beside the word. It needs these for every query. Here a query
    takes those of the calibration word that it is nearest to, which is the same for these words and a guess for others
    (ours).

    Args:
        nearest: reference pictures of each group that a query looks at: 100 (BendVLM, gender; it takes 10 for race).
            None takes all, so that mu_g is the group's mean for every query.
        local: the first step.
    """

    def __init__(self, nearest: int | None = 100, local: bool = False) -> None:
        if nearest is not None and nearest < 1:
            raise ModelError(f"Equalisation: nearest is {nearest}; give 1 or more pictures of each group, or null")
        self.nearest = nearest
        self.local = local
        self.needs = frozenset({"words", "group_prompts", "composed"}) if local else frozenset()

    def _fit(self, calibration: Calibration) -> FittedEqualisation:
        calibration.means()  # refuses a group without pictures
        local = None
        if self.local:
            assert calibration.composed is not None  # it is among the needs
            if len(calibration.composed) != len(calibration.words):
                raise ModelError(
                    f"Equalisation: {len(calibration.words)} words but {len(calibration.composed)} of them composed "
                    "with groups; the first step needs one for each"
                )
            local = (calibration.words, calibration.composed, calibration.group_prompts)
        about = record("equalisation", calibration, nearest=self.nearest, local=self.local)
        return FittedEqualisation(calibration.image, calibration.group, self.nearest, local, about)


class FittedEqualisation(Fitted):
    """See :class:`Equalisation`. It holds the reference pictures' vectors: mind who may have its file.

    Args:
        reference: [n, D] pictures.
        group: [n] int64 their group.
        nearest: of each group, or None.
        local: words [W, D], their composed queries [W, G, D] and the prompts that name groups [V, D]; None without the
            first step.
        about: the metadata.
    """

    def __init__(
        self,
        reference: Tensor,
        group: Tensor,
        nearest: int | None,
        local: tuple[Tensor, Tensor, Tensor] | None,
        about: dict[str, Any],
    ) -> None:
        self.reference, self.group, self.nearest, self.local, self.about = reference, group, nearest, local, about

    def text(self, x: Tensor) -> Tensor:
        """Move queries; see :class:`Equalisation`."""
        moved = [self._moved(part.cpu().double()) for part in x.split(_CHUNK)]
        return torch.cat(moved).to(x.device, x.dtype) if moved else x

    def _moved(self, query: Tensor) -> Tensor:
        if self.local is not None:
            words, composed, prompts = (part.double() for part in self.local)
            own = composed[(query @ words.T).argmax(dim=1)]
            differences = own[:, 1:] - own[:, :1]
            rows = torch.cat([prompts.expand(len(query), -1, -1), differences], dim=1)
            query = _off(query, rows)
        means = torch.stack([self._mean(query, code) for code in range(int(self.group.max()) + 1)], dim=1)
        return _off(query, means[:, 1:] - means[:, :1])

    def _mean(self, query: Tensor, code: int) -> Tensor:
        """[q, D] each query's mean of its nearest pictures of one group."""
        pictures = self.reference[self.group == code].double()
        if self.nearest is None or self.nearest >= len(pictures):
            return pictures.mean(dim=0).expand(len(query), -1)
        places = (query @ pictures.T).topk(self.nearest, dim=1).indices
        weight = torch.zeros(len(query), len(pictures), dtype=torch.float64).scatter_(1, places, 1.0 / self.nearest)
        return weight @ pictures

    @property
    def metadata(self) -> dict[str, Any]:
        """How it was fitted."""
        return self.about

    def state(self) -> Mapping[str, Tensor]:
        """Reference pictures with their groups, and what the first step needs."""
        found = {"reference": self.reference, "group": self.group}
        if self.local is not None:
            found |= dict(zip(("words", "composed", "prompts"), self.local, strict=True))
        return found

    @classmethod
    def of(cls, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> FittedEqualisation:
        """Make it again."""
        local = (state["words"], state["composed"], state["prompts"]) if "words" in state else None
        return cls(state["reference"], state["group"], metadata["nearest"], local, dict(metadata))


def _off(query: Tensor, rows: Tensor) -> Tensor:
    """Take out of each query [q, D] the span of its own rows [q, r, D], and bring it to unit length.

    Raises:
        ModelError: where nothing is left.
    """
    _, size, directions = torch.linalg.svd(rows, full_matrices=False)
    real = size > SMALLEST * size[:, :1].clamp(min=torch.finfo(torch.float64).tiny)
    part = torch.einsum("qd,qrd->qr", query, directions) * real
    left = query - torch.einsum("qr,qrd->qd", part, directions)
    length = left.norm(dim=1, keepdim=True)
    if not bool((length > SMALLEST).all()):
        row = int(torch.nonzero(~(length[:, 0] > SMALLEST))[0, 0])
        raise ModelError(f"nothing is left of query {row} (or it was no number before): it lies in what is removed")
    return F.normalize(left, dim=1)
