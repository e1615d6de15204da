"""Features of a retriever that reads in some dimensions and sees in others."""

from __future__ import annotations

import torch
from torch import Tensor

from models.text_remedies.spelling import SpellingFeatures

WIDTH, WORDS = 32, 24


def seeing_and_reading() -> tuple[Tensor, Tensor]:
    """Orthonormal bases [D, D / 2] float32 of what is seen and of what is read, in no coordinate's direction."""
    generator = torch.Generator().manual_seed(11)
    turned = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]
    return turned[:, : WIDTH // 2], turned[:, WIDTH // 2 :]


def planted(rows: int = 240, seed: int = 0, reads: float = 0.7, noise: float = 0.05) -> SpellingFeatures:
    """Pictures and captions lie in what is seen, words in what is read, and pictures with words in both."""
    see, read = seeing_and_reading()
    fixed = torch.Generator().manual_seed(5)
    spelt = torch.randn(WORDS, WIDTH // 2, generator=fixed) @ read.T
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randn(rows, WIDTH // 2, generator=generator) @ see.T
    writing = torch.randint(0, WORDS, (rows,), generator=generator)

    def noisy(x: Tensor) -> Tensor:
        return x + noise * torch.randn(x.shape, generator=generator)

    return SpellingFeatures(
        image=noisy(scene),
        written=noisy((1 - reads) * scene + reads * spelt[writing]),
        caption=noisy(scene),
        rendered=noisy(spelt[writing]),
        word=noisy(spelt[writing]),
        picture=torch.arange(rows),
        writing=writing,
    )
