"""What every remedy against a social bias of finished embeddings is given, and what it must be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models.erasure import LinearEraser
from models.errors import ModelError


@dataclass(frozen=True)
class Calibration:
    """What a remedy may be fitted to. Nothing of it is measured afterwards.

    All vectors are float32, of unit length and of width D.

    Attributes:
        image: [n, D] pictures of people.
        group: [n] int64 their group, 0 to G - 1.
        labels: [G] names of the groups.
        words: [W, D] neutral queries, such as "A photo of a smart person."; may have no row.
        group_prompts: [V, D] queries that name a group, such as "A photo of a woman."; may have no row.
        prompt_group: [V] int64 the group that each names.
        target: [G] float64 wanted shares of the groups, which sum to 1.
        pair_image: [m, D] ordinary pictures whose captions are known; may have no row.
        pair_text: [m, D] their captions, row by row.
        seed: of whatever is drawn.
        composed: [C, G, D] queries that name a word and a group, such as "A photo of a female doctor.", a word a row
            and the groups in their order; None where there are none.
    """

    image: Tensor
    group: Tensor
    labels: tuple[str, ...]
    words: Tensor
    group_prompts: Tensor
    prompt_group: Tensor
    target: Tensor
    pair_image: Tensor
    pair_text: Tensor
    seed: int = 0
    composed: Tensor | None = None

    @property
    def width(self) -> int:
        """D."""
        return int(self.image.shape[1])

    @property
    def groups(self) -> int:
        """G."""
        return len(self.labels)

    def means(self) -> Tensor:
        """[G, D] float64, each group's mean picture.

        Raises:
            ModelError: naming a group without pictures.
        """
        count = torch.bincount(self.group, minlength=self.groups)
        if not bool((count > 0).all()):
            empty = self.labels[int(torch.nonzero(count == 0)[0, 0])]
            raise ModelError(f"group {empty!r} has no picture to fit on; leave it out, or give pictures of it")
        total = torch.zeros(self.groups, self.width, dtype=torch.float64)
        return total.index_add_(0, self.group, self.image.double()) / count[:, None]


class Fitted(ABC):
    """A remedy after fitting: maps of either side's embeddings, or an order of its own.

    Whatever it does not override stays as it is. Pictures and queries come in and go out as rows of unit length.
    """

    def image(self, x: Tensor) -> Tensor:
        """Map pictures: [M, D] to [M, D], in the dtype and on the device of ``x``."""
        return x

    def text(self, x: Tensor) -> Tensor:
        """Map queries: [W, D] to [W, D], likewise."""
        return x

    def rank(self, scores: Tensor, group: Tensor) -> Tensor | None:
        """Order the gallery by more than its scores.

        Args:
            scores: [W, M] of the mapped queries and pictures.
            group: [M] int64 group of each picture, -1 where it is not known: of labels, or of a classifier.

        Returns:
            [W, M] int64, pictures from the first to the last for each query; None where the scores alone decide.
        """
        return None

    def linear(self) -> LinearEraser | None:
        """The same as one linear map of pictures alone, where it is one: it can be folded into a checkpoint."""
        return None

    @property
    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """How it was fitted: method, options, counts; whatever JSON holds."""

    @abstractmethod
    def state(self) -> Mapping[str, Tensor]:
        """The tensors that make it what it is, by name."""

    @classmethod
    @abstractmethod
    def of(cls, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Fitted:
        """Make it again from :meth:`state` and :attr:`metadata`."""


class Remedy(ABC):
    """A remedy with its options, before fitting; a configuration names it by ``class_path`` and ``init_args``.

    Attributes:
        needs: parts of the calibration that it cannot do without: "words", "group_prompts", "pairs", "composed".
            Pictures with their groups are always there.
    """

    needs: frozenset[str] = frozenset()

    def fit(self, calibration: Calibration) -> Fitted:
        """Fit.

        Raises:
            ModelError: where the calibration lacks what the remedy needs, or leaves nothing to remove.
        """
        have = {
            "words": len(calibration.words),
            "group_prompts": len(calibration.group_prompts),
            "pairs": len(calibration.pair_image),
            "composed": 0 if calibration.composed is None else len(calibration.composed),
        }
        missing = sorted(name for name in self.needs if not have[name])
        if missing:
            raise ModelError(f"{type(self).__name__} is fitted to {' and '.join(missing)}, but none were given")
        return self._fit(calibration)

    @abstractmethod
    def _fit(self, calibration: Calibration) -> Fitted:
        """Fit to a calibration that has what is needed."""


@dataclass(frozen=True)
class FittedLinear(Fitted):
    """A remedy that is a linear map of pictures, of queries, or of both.

    Attributes:
        image_map: of pictures, or None.
        text_map: of queries, or None.
        about: the metadata.
    """

    image_map: LinearEraser | None
    text_map: LinearEraser | None
    about: dict[str, Any] = field(default_factory=dict)

    def image(self, x: Tensor) -> Tensor:
        """Map pictures, and bring them back to unit length."""
        return x if self.image_map is None else self.image_map.apply(x)

    def text(self, x: Tensor) -> Tensor:
        """Map queries, and bring them back to unit length."""
        return x if self.text_map is None else self.text_map.apply(x)

    def linear(self) -> LinearEraser | None:
        """The map of pictures, where queries stay as they are."""
        return self.image_map if self.text_map is None else None

    @property
    def metadata(self) -> dict[str, Any]:
        """How it was fitted."""
        return self.about

    def state(self) -> Mapping[str, Tensor]:
        """Matrices and biases by side."""
        found = {}
        for side, one in (("image", self.image_map), ("text", self.text_map)):
            if one is not None:
                found[f"{side}_matrix"] = one.matrix
                if one.bias is not None:
                    found[f"{side}_bias"] = one.bias
        return found

    @classmethod
    def of(cls, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> FittedLinear:
        """Make it again."""

        def side(name: str) -> LinearEraser | None:
            matrix = state.get(f"{name}_matrix")
            return None if matrix is None else LinearEraser(matrix, state.get(f"{name}_bias"))

        return cls(side("image"), side("text"), dict(metadata))
