"""Vectors of people with planted groups, and all else that a remedy is fitted to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from models.remedies import Calibration

WIDTH = 24


def directions(groups: int) -> Tensor:
    """[G, D] float64 where the groups lie; every group's own dimension among the first."""
    return torch.eye(WIDTH, dtype=torch.float64)[:groups]


def pictures(groups: int, each: int = 60, seed: int = 0, apart: float = 0.5) -> tuple[Tensor, Tensor]:
    """Unit pictures [G * each, D] float32 around a common centre and their group's direction; their groups."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.arange(groups).repeat(each)
    noise = 0.25 * torch.randn(len(group), WIDTH, generator=generator, dtype=torch.float64)
    centre = torch.full((WIDTH,), 0.3, dtype=torch.float64)
    return normalize(centre + apart * directions(groups)[group] + noise, dim=1).float(), group


def queries(count: int, groups: int, seed: int, apart: float = 0.4) -> Tensor:
    """Unit queries [count, D] float32, each leaning to some groups."""
    generator = torch.Generator().manual_seed(seed)
    content = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64) / 4
    lean = torch.randn(count, groups, generator=generator, dtype=torch.float64) @ directions(groups)
    return normalize(0.2 + content + apart * lean, dim=1).float()


def calibration(groups: int = 3, each: int = 60, seed: int = 0) -> Calibration:
    image, group = pictures(groups, each, seed)
    generator = torch.Generator().manual_seed(seed + 100)
    words = queries(10, groups, seed + 1)
    composed = normalize(words[:, None].double() + 0.5 * directions(groups), dim=2).float()
    spread = 0.05 * torch.randn(3, groups, WIDTH, generator=generator, dtype=torch.float64)
    prompts = normalize(0.3 + directions(groups) + spread, dim=2).float()
    pair = torch.randn(50, WIDTH, generator=generator, dtype=torch.float64) * torch.linspace(0.2, 2, WIDTH)
    pair_image = normalize(pair, dim=1).float()
    return Calibration(
        image=image,
        group=group,
        labels=tuple("abcdefgh"[:groups]),
        words=words,
        group_prompts=prompts.reshape(-1, WIDTH),
        prompt_group=torch.arange(groups).repeat(3),
        target=torch.full((groups,), 1 / groups, dtype=torch.float64),
        pair_image=pair_image,
        pair_text=normalize(pair_image + 0.1, dim=1),
        seed=seed,
        composed=composed,
    )


def group_means(x: Tensor, group: Tensor) -> Tensor:
    """[G, D] float64."""
    return torch.stack([x[group == code].double().mean(dim=0) for code in range(int(group.max()) + 1)])
