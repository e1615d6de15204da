"""A linear (or affine) map of embeddings that takes something out of them, with the record of how it was fitted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.errors import ModelError
from models.tensor_file import read_tensors, write_tensors

_KIND, _COMMAND = "eraser", "bias-train erase fit"


@dataclass(frozen=True)
class LinearEraser:
    """The map ``x -> matrix @ x + bias``, laid out as ``torch.nn.Linear`` has it.

    It needs no source label: every picture's embedding goes through it, whatever made the picture. Queries do not.

    At strength ``s`` an embedding goes the share ``s`` of its way to the erased one, ``x - s (x - erased(x))``. 0
    leaves it as it is, 1 erases, more than 1 overshoots and so turns a preference around.

    Attributes:
        matrix: [D, D] float64, at this strength.
        bias: [D] float64, or None where the map is linear.
        strength: s.
        metadata: how it was fitted (method, rank, counts, versions, ...); whatever JSON holds.
    """

    matrix: Tensor
    bias: Tensor | None = None
    strength: float = 1.0
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        square = self.matrix.ndim == 2 and self.matrix.shape[0] == self.matrix.shape[1]
        if not square or (self.bias is not None and self.bias.shape != self.matrix.shape[:1]):
            shape = None if self.bias is None else tuple(self.bias.shape)
            raise ModelError(f"an eraser takes a [D, D] matrix and a [D] bias, not {tuple(self.matrix.shape)}, {shape}")
        if self.strength < 0:
            raise ModelError(f"an eraser's strength is a share from 0 up, not {self.strength:g}")

    @property
    def width(self) -> int:
        """D."""
        return int(self.matrix.shape[0])

    def at(self, strength: float) -> LinearEraser:
        """The same erasure at another strength.

        Raises:
            ModelError: from strength 0, which has forgotten what to erase, or to a negative one.
        """
        if self.strength == 0:
            raise ModelError("an eraser of strength 0 is the identity; take the fitted one to another strength")
        factor = strength / self.strength
        eye = torch.eye(self.width, dtype=self.matrix.dtype)
        return LinearEraser(
            eye + factor * (self.matrix - eye),
            None if self.bias is None else factor * self.bias,
            strength,
            self.metadata,
        )

    def apply(self, x: Tensor, renormalise: bool = True) -> Tensor:
        """Erase.

        Args:
            x: [n, D] float, rows as the eraser was fitted on: of unit length. A linear eraser that normalises
                afterwards takes rows of any length.
            renormalise: bring rows back to unit length. Without it the removal is exact but scores are no cosines.

        Returns:
            [n, D] in the dtype and on the device of ``x``.

        Raises:
            ModelError: for another width, or a row of which nothing is left.

        Example:
            >>> eraser = LinearEraser(torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64)))
            >>> eraser.apply(torch.tensor([[0.6, 0.8]])).tolist()
            [[0.0, 1.0]]
        """
        if x.ndim != 2 or x.shape[1] != self.width:
            raise ModelError(f"the eraser is for vectors {self.width} wide, not for {tuple(x.shape)}")
        # Half precision is for storage: its products would lose more than some erasures take out.
        work = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
        y = x.to(work) @ self.matrix.to(x.device, work).T
        if self.bias is not None:
            y = y + self.bias.to(x.device, work)
        if renormalise and len(y):
            length = y.norm(dim=1, keepdim=True)
            if not bool((length > 0).all()):
                row = int(torch.nonzero(~(length[:, 0] > 0))[0, 0])
                raise ModelError(f"nothing is left of row {row} after erasure (or it was no number before)")
            y = y / length
        return y.to(x.dtype)

    def save(self, path: Path) -> None:
        """Write one ``.safetensors``: ``weight`` [D, D] and ``bias`` [D] float32 as ``nn.Linear`` reads them.

        The metadata go along as JSON. The file appears when it is whole.
        """
        tensors = {"weight": self.matrix.float().contiguous()}
        if self.bias is not None:
            tensors["bias"] = self.bias.float().contiguous()
        write_tensors(Path(path), tensors, _KIND, {"strength": self.strength, **self.metadata})

    @classmethod
    def load(cls, path: Path) -> LinearEraser:
        """Read what :meth:`save` wrote.

        Raises:
            ModelError: where the file is missing or is something else.
        """
        tensors, document = read_tensors(path, _KIND, _COMMAND)
        if "weight" not in tensors:
            raise ModelError(f"{path}: holds no eraser; give a file that `{_COMMAND}` wrote")
        strength = float(document.pop("strength"))
        bias = tensors.get("bias")
        return cls(tensors["weight"].double(), None if bias is None else bias.double(), strength, document)
