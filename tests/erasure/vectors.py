"""Vectors with a source bias that is known, with and without pairs."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.nn.functional import normalize

from bias_train.embeddings import Embeddings


def biased(
    relevance: Literal["pair", "label"] = "label",
    count: int = 400,
    classes: int = 8,
    width: int = 24,
    bias: float = 0.5,
    seed: int = 0,
) -> Embeddings:
    """Generated pictures lie nearer to all queries, by one direction that all queries share.

    ``count`` photos and as many generated pictures, of ``classes`` classes or of as many scenes as photos.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    scenes = classes if relevance == "label" else count
    common = torch.zeros(width, dtype=torch.float64)
    common[0] = 1.0
    content = normalize(noise(scenes, width) * (1 - common), dim=1)
    target = torch.arange(count) % scenes
    photo = content[target] + 0.25 * noise(count, width)
    twin = content[target] + 0.25 * noise(count, width) + bias * common
    x = normalize(torch.cat([photo, twin]), dim=1)
    text = normalize(content + 0.5 * common, dim=1)
    both = torch.cat([target, target]).numpy()
    source = np.repeat([0, 1], count)
    return Embeddings(
        image=x.float(),
        image_key=tuple(f"{'rg'[s]}{t}-{row}" for row, (s, t) in enumerate(zip(source, both, strict=True))),
        image_target=both,
        image_source=source,
        sources=("real", "sd"),
        text=text.float(),
        query=tuple(f"a {t}" for t in range(scenes)),
        query_target=np.arange(scenes),
        query_slot=np.zeros(scenes, dtype=np.int64),
        relevance=relevance,
        target_names=tuple(f"c{t}" for t in range(scenes)) if relevance == "label" else (),
    )
