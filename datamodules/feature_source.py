"""The source axis on features that were computed once: for heads, and for text towers beside a frozen image tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.catalogue import Ints, Place
from datamodules.decode import Crop
from datamodules.errors import DataError, SampleError
from datamodules.evaluation import EvaluationStream
from datamodules.features import FeatureFolder, Features
from datamodules.mixed_source import MixedSourceDataModule
from datamodules.picture_ring import InRing, Slot
from datamodules.stream import MixedStream


@dataclass
class FeatureStream(MixedStream):
    """Device batches whose ``image`` and ``twin`` are features [B, D] float32 in place of pictures."""

    features: Features | None = None

    def batch(self, step: int, slot: Slot | None = None) -> dict[str, Any]:
        """Make this rank's part of one global batch.

        Returns:
            What :meth:`MixedStream.batch` does, without the lists ``caption`` and ``key``, which no training reads:
            Lightning goes through every string of a batch, which here would take a good part of a step.
        """
        batch = super().batch(step, slot)
        del batch["caption"], batch["key"]
        return batch

    def _put(self, picture: int, place: Place, name: str, crop: Crop | None, out: Any) -> None:
        assert self.features is not None
        out[...] = self.features.row(picture)
        if np.isnan(out[0]):
            raise SampleError("undecodable", f"{name}: could not be read when the features were made")

    def _room(self, count: int, slot: Slot | None) -> tuple[npt.NDArray[Any], InRing | None]:
        assert self.features is not None
        return np.empty((count, self.features.width), dtype=np.float32), None

    def _read_ahead(self, step: int, asked: set[int], reader: int, readers: int) -> set[int]:
        return set()  # pictures are not read


@dataclass
class FeatureEvaluationStream(EvaluationStream):
    """One rank's part of an evaluation, with features [b, D] float32 in place of pictures."""

    features: Features | None = None

    def _pictures(self, rows: Ints) -> Tensor:
        assert self.features is not None
        found = self.features.rows(self.evaluation.picture[rows])
        missing = np.flatnonzero(np.isnan(found[:, 0]))
        if len(missing):
            raise DataError(
                f"evaluation: {self.evaluation.keys[rows[missing[0]]]} could not be read when the features were made; "
                "a figure without it would be about another gallery, so mend or leave out the sample"
            )
        return torch.from_numpy(found)


class FeatureSourceDataModule(MixedSourceDataModule):
    """Streams what a frozen image tower makes of pictures, from a folder that `bias-train embed` has written.

    Slots, order, ratios and twins are those of :class:`datamodules.mixed_source.MixedSourceDataModule` with the same
    options: the pictures behind the features are the same in every step. Only their augmentation is gone, since a
    feature is a function of the whole picture; ``augment`` is refused.

    Features of another tower, or of shards that have changed, are refused by name before training.

    Args:
        features: the folder.
        options: those of :class:`datamodules.mixed_source.MixedSourceDataModule`.

    Raises:
        DataError: from :meth:`setup`, for anything that the shards or the features cannot give.
    """

    def __init__(self, features: str = "", **options: Any) -> None:
        super().__init__(**options)
        if not features:
            raise DataError("data.features is empty: name a folder that `bias-train embed` has written")
        if not self.augment.is_identity:
            raise DataError(
                "data.augment cannot be had with features, which are of whole pictures: set scale to [1, 1] and flip "
                "to 0, or train on pictures with datamodules.MixedSourceDataModule"
            )
        if self.num_workers:
            raise DataError(
                f"data.num_workers is {self.num_workers}: features are only copied, which needs no loader processes; "
                "set 0"
            )
        self.features = features
        self._folder: FeatureFolder | None = None
        self._of_training: Features | None = None
        self._of_evaluation: Features | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the indexes; make the plan and the evaluation; find all features."""
        super().setup(stage)
        if self._folder is None:
            folder = FeatureFolder(self.features)
            retriever = getattr(getattr(self.trainer, "lightning_module", None), "retriever", None)
            if retriever is not None:
                folder.check(retriever.tower_key("image"))
            self._folder = folder
        if self.plan is not None and self._of_training is None:
            self._of_training = Features(self._folder, self.plan.catalogue)
        if self.evaluation is not None and self._of_evaluation is None:
            self._of_evaluation = Features(self._folder, self.evaluation.corpus)

    def val_dataloader(self) -> DataLoader[dict[str, Any]] | list[Any]:
        """Return this rank's part of the evaluation's features; nothing where ``data.val`` is empty."""
        if self.evaluation is None:
            return []
        assert self.image_size is not None
        return self._loader(
            FeatureEvaluationStream(
                self.evaluation, self.image_size, self.eval_batch_size, *self._place(), features=self._of_evaluation
            )
        )

    def _stream(self, rank: int, world_size: int) -> FeatureStream:
        stream = super()._stream(rank, world_size)
        return FeatureStream(**{**vars(stream), "features": self._of_training})
