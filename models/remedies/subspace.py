"""The subspace between group prototypes, left out or weighed against what leaving it out costs (CVPR 2026)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.errors import ModelError
from models.remedies.base import Calibration, Fitted, Remedy
from models.remedies.sides import Side, basis, check_side, fitted_on, projection_off, record


class AttributeSubspace(Remedy):
    """Weaken each vector's part in the span of ``p_g - p_1``, p_g being the prototype of group g.

    A vector is e = e_perp + e_par, outside and inside of the subspace, of lengths n_perp and n_par. It becomes the unit
    vector ``sqrt(1 - a^2) e_perp / n_perp + a e_par / n_par`` with, in the paper's closed form,

        E = n_par + (1 - n_perp) / n_par
        a = (E - n_perp sqrt(E^2 - n_par^2)) / (E^2 + n_perp^2).

    That is where two shares are equal (our reading; the tests solve it numerically): of the part in the subspace that
    is kept, ``a / n_par``, and of the similarity that is lost, ``(1 - u . e) / (1 - n_perp)``, each relative to its
    largest. A vector without one of the parts stays as it is. ``full`` sets a = 0, which is a projection.

    Args:
        prototypes: "prompts", the normalised mean of a group's prompts, as the paper has it; or "pictures" (ours), the
            mean of a group's pictures as it is, so that ``full`` makes these means equal, but for renormalising.
        full: remove the part in the subspace altogether.
        side: the paper maps both.
    """

    def __init__(
        self, prototypes: Literal["prompts", "pictures"] = "prompts", full: bool = False, side: Side = "both"
    ) -> None:
        check_side(side, self)
        if prototypes not in ("prompts", "pictures"):
            raise ModelError(f"AttributeSubspace: prototypes is {prototypes!r}; choose prompts or pictures")
        self.prototypes = prototypes
        self.full = full
        self.side: Side = side
        self.needs = frozenset({"group_prompts"}) if prototypes == "prompts" else frozenset()

    def _fit(self, calibration: Calibration) -> Fitted:
        pictures = self.prototypes == "pictures"
        prototypes = calibration.means() if pictures else F.normalize(_prompt_means(calibration), dim=1)
        directions = basis(prototypes[1:] - prototypes[:1])
        if not len(directions):
            raise ModelError("all groups have one prototype: there is nothing between them to remove")
        about = record(
            "attribute subspace", calibration, prototypes=self.prototypes, full=self.full, rank=len(directions)
        )
        if self.full:
            return fitted_on(self.side, projection_off(directions), about)
        return FittedSubspace(directions, self.side, {**about, "side": self.side})


class FittedSubspace(Fitted):
    """See :class:`AttributeSubspace`.

    Args:
        directions: [r, D] float64 orthonormal.
        side: what it maps.
        about: the metadata.
    """

    def __init__(self, directions: Tensor, side: Side, about: dict[str, Any]) -> None:
        self.directions, self.side, self.about = directions, side, about

    def image(self, x: Tensor) -> Tensor:
        """Weaken pictures' part in the subspace."""
        return self._weakened(x) if self.side in ("image", "both") else x

    def text(self, x: Tensor) -> Tensor:
        """Weaken queries' part in the subspace."""
        return self._weakened(x) if self.side in ("text", "both") else x

    def _weakened(self, x: Tensor) -> Tensor:
        directions = self.directions.to(x.device)
        e = F.normalize(x.double(), dim=1)
        inside = (e @ directions.T) @ directions
        outside = e - inside
        n_par, n_perp = inside.norm(dim=1, keepdim=True), outside.norm(dim=1, keepdim=True)
        both = (n_par > 1e-9) & (n_perp > 1e-9)
        share = kept_part(n_par, n_perp)
        mixed = (1 - share**2).sqrt() * F.normalize(outside, dim=1) + share * F.normalize(inside, dim=1)
        return torch.where(both, mixed, e).to(x.dtype)

    @property
    def metadata(self) -> dict[str, Any]:
        """How it was fitted."""
        return self.about

    def state(self) -> Mapping[str, Tensor]:
        """The subspace's basis."""
        return {"directions": self.directions}

    @classmethod
    def of(cls, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> FittedSubspace:
        """Make it again."""
        return cls(state["directions"], metadata["side"], dict(metadata))


def kept_part(n_par: Tensor, n_perp: Tensor) -> Tensor:
    """The paper's a: how long the part inside the subspace becomes; 0 where there is none.

    Args:
        n_par: [...] float64 length of the part inside, of a unit vector.
        n_perp: [...] of the part outside.
    """
    safe = n_par.clamp(min=1e-12)
    e = safe + (1 - n_perp) / safe
    a = (e - n_perp * (e**2 - n_par**2).clamp(min=0).sqrt()) / (e**2 + n_perp**2)
    return torch.where(n_par > 0, a, torch.zeros_like(a))


def _prompt_means(calibration: Calibration) -> Tensor:
    """[G, D] float64 mean of each group's prompts.

    Raises:
        ModelError: naming a group without prompts.
    """
    count = torch.bincount(calibration.prompt_group, minlength=calibration.groups)
    if not bool((count > 0).all()):
        without = calibration.labels[int(torch.nonzero(count == 0)[0, 0])]
        raise ModelError(f"group {without!r} has no prompt that names it; give one for every group")
    total = torch.zeros(calibration.groups, calibration.width, dtype=torch.float64)
    total.index_add_(0, calibration.prompt_group, calibration.group_prompts.double())
    return total / count[:, None]
