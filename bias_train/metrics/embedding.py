"""What the modular metrics share: embeddings with ids as state, gathered over ranks, duplicates dropped."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from bias_train.metrics.figure import Figure
from bias_train.metrics.functional.inputs import first_fault


@dataclass(frozen=True)
class Rows:
    """One side of an evaluation, in ascending order of its ids.

    Attributes:
        embedding: [n, D] float32.
        ids: [n] int64, distinct.
        columns: by name, [n] int64.
    """

    embedding: Tensor
    ids: Tensor
    columns: dict[str, Tensor]


def numbered_rows(rows: Rows, name: str) -> Tensor:
    """The embeddings [n, D] in the order of their ids, which must be all numbers from 0.

    Args:
        rows: of one side.
        name: of its ids, for the error.

    Raises:
        ValueError: where a number is missing.
    """
    if not torch.equal(rows.ids.cpu(), torch.arange(len(rows.ids))):
        raise ValueError(f"{name} must hold every row number from 0 on; there are {len(rows.ids)}, not all consecutive")
    return rows.embedding


class EmbeddingMetric(Metric):
    """Collects pictures and texts in any number of pieces, on any number of ranks.

    Every row carries an id. Rows are put in order by it, and a row that comes twice counts once: samplers that pad
    the last batch so that all ranks have equally many would otherwise count some pictures double, and the result
    would depend on the number of processes. State: flat lists of embeddings and ids (4 bytes a value, 8 an id),
    concatenated over ranks; a rank may have received nothing.
    """

    is_differentiable = False
    full_state_update = False

    #: Columns that a picture carries beside its id.
    image_columns: tuple[str, ...] = ("target",)
    #: Columns that a query carries beside its id.
    text_columns: tuple[str, ...] = ("target",)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for side, columns in (("image", self.image_columns), ("text", self.text_columns)):
            for name in ("embedding", "id", *columns):
                self.add_state(f"{side}_{name}", default=[], dist_reduce_fx="cat")
        self._figures: list[Figure] = []

    def _append(self, side: str, embedding: Tensor, ids: Tensor | None, **columns: Tensor | None) -> None:
        """Add rows to one side.

        Raises:
            ValueError: for a column that is missing or of another length.
        """
        if embedding.ndim != 2:
            raise ValueError(f"{side} must be [rows, width], not {tuple(embedding.shape)}")
        for name, values in {"id": ids, **columns}.items():
            label = f"{side if side == 'image' else 'query'}_{name}"
            if values is None:
                raise ValueError(f"{label} is missing: every {side} row needs one")
            if values.shape != embedding.shape[:1]:
                raise ValueError(f"{label} has shape {tuple(values.shape)}, but {side} has {len(embedding)} rows")
            getattr(self, f"{side}_{name}").append(values.detach().to(self.device, torch.int64))
        # Flat, because a rank without rows does not know the width when states are gathered.
        flat = embedding.detach().to(self.device, torch.float32).reshape(-1)
        getattr(self, f"{side}_embedding").append(flat)

    def _rows(self, side: str) -> Rows:
        """All rows of one side, sorted by id, each once.

        Raises:
            ValueError: without rows, where two rows of one id disagree, or for a zero or non-finite embedding.
        """
        names = self.image_columns if side == "image" else self.text_columns
        pieces = getattr(self, f"{side}_id")
        ids = dim_zero_cat(pieces) if len(pieces) else torch.empty(0, dtype=torch.int64)
        if len(ids) == 0:
            raise ValueError(f"no {side} rows were given: call update({side}=...) before compute()")
        embedding = dim_zero_cat(getattr(self, f"{side}_embedding")).reshape(len(ids), -1)
        columns = {name: dim_zero_cat(getattr(self, f"{side}_{name}")) for name in names}
        ids, order = torch.sort(ids, stable=True)
        again = torch.zeros_like(ids, dtype=torch.bool)
        again[1:] = ids[1:] == ids[:-1]
        for name, values in columns.items():
            values = values[order]
            clash = again[1:] & (values[1:] != values[:-1])
            if bool(clash.any()):
                raise ValueError(
                    f"{side} id {int(ids[1:][clash][0])} came twice with another {name}: ids must be unique"
                )
            columns[name] = values[~again]
        embedding, ids = embedding[order][~again], ids[~again]
        fault = first_fault(embedding)
        if fault is not None:
            raise ValueError(f"{side} of id {int(ids[fault[0]])} {fault[1]}")
        return Rows(embedding, ids, columns)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states over ranks, as `torchmetrics.Metric.sync`.

        A rank without rows takes part with empty tensors of the right kind; torchmetrics would send a float one in
        place of integers, which hangs or fails in the collective.
        """
        for name in self._defaults:
            state = getattr(self, name)
            if isinstance(state, list) and not state:
                kind = torch.float32 if name.endswith("_embedding") else torch.int64
                state.append(torch.empty(0, dtype=kind, device=self.device))
        super().sync(*args, **kwargs)

    @abstractmethod
    def _measure(self, image: Rows, text: Rows) -> list[Figure]:
        """The metric's figures."""

    def compute(self) -> dict[str, Tensor]:
        """Values by key, for loggers: ``"relative_delta_R@1"``, and ``".../label=cat"`` for a class's own figure.

        Collective: every rank must call it. `figures` holds intervals, counts and notes.

        Raises:
            ValueError: if a side has no rows or holds embeddings that are not finite or zero.
        """
        self._figures = self._measure(self._rows("image"), self._rows("text"))
        return {
            figure.key if figure.label is None else f"{figure.key}/label={figure.label}": torch.tensor(
                figure.value, dtype=torch.float64
            )
            for figure in self._figures
        }

    def figures(self) -> list[Figure]:
        """All figures with intervals, counts and notes; collective, as `compute`, whose cache it shares."""
        self.compute()
        return list(self._figures)


class NumberedMetric(EmbeddingMetric):
    """A metric whose questions, which every rank knows, say what each picture and each text is: ids are row numbers."""

    image_columns = ()
    text_columns = ()

    def update(
        self,
        *,
        image: Tensor | None = None,
        image_id: Tensor | None = None,
        text: Tensor | None = None,
        query_id: Tensor | None = None,
    ) -> None:
        """Add a piece of either side or of both.

        Args:
            image: [b, D] float embeddings.
            image_id: [b] integers, rows of the questions' pictures; a row that comes again is dropped.
            text: [c, D] float embeddings.
            query_id: [c] integers, rows of the questions' texts.

        Raises:
            ValueError: for ids that are missing or of another length.
        """
        if image is not None:
            self._append("image", image, image_id)
        if text is not None:
            self._append("text", text, query_id)
