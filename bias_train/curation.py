"""A retriever as the measure of curation: how well pictures fit captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from bias_train.embed import embed_texts
from models.retriever import Retriever


class RetrieverScorer:
    """Scores pairs by a retriever; see :class:`datamodules.curation.scoring.PairScorer`.

    Take one that was not trained on the data that is scored, nor is trained on it afterwards: else the selection
    follows the very bias that it is to remove.

    Args:
        retriever: moved to ``device`` and put into evaluation mode.
        batch_size: pictures at once; captions go four times as many at once.
        device: where to compute.
    """

    def __init__(self, retriever: Retriever, batch_size: int = 64, device: str | torch.device = "cpu") -> None:
        self.retriever, self.batch_size, self.device = retriever.to(device).eval(), batch_size, device
        self.key = f"{retriever.tower_key('image')}{retriever.tower_key('text')}"

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that the retriever takes."""
        return self.retriever.image_size

    @torch.inference_mode()
    def images(self, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """[n, H, W, 3] uint8 to [n, D] float32, L2-normalised."""
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        parts = [
            self.retriever.encode_image(part.to(self.device)).float().cpu() for part in pixels.split(self.batch_size)
        ]
        return torch.cat(parts).numpy()

    def texts(self, captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """[n] captions to [n, D] float32, L2-normalised."""
        found = embed_texts(self.retriever, captions, batch_size=4 * self.batch_size, device=self.device)
        return found.numpy()
