"""Batches for the tests of losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import Features


def unit_rows(rows: int, width: int, generator: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1)


def random_features(rows: int = 12, width: int = 5, seed: int = 0, **changes: object) -> Features:
    """A float64 batch on one process: both sources, duplicate captions and groups, twins on two thirds of the rows.

    Beside it 13 people of three groups, one of them unknown; four neutral prompts, and two prompts of each group.
    """
    generator = torch.Generator().manual_seed(seed)
    has_twin = torch.arange(rows) % 3 != 1
    source = torch.randint(0, 3, (rows,), generator=generator)
    source[:2] = torch.tensor([0, 1])
    values: dict[str, object] = {
        "image": unit_rows(rows, width, generator),
        "text": unit_rows(rows, width, generator),
        "logit_scale": torch.tensor(7.0, dtype=torch.float64),
        "logit_bias": torch.tensor(-3.0, dtype=torch.float64),
        "source": source,
        "group": torch.randint(0, rows, (rows,), generator=generator),
        "caption_id": torch.randint(0, rows, (rows,), generator=generator),
        "twin": unit_rows(rows, width, generator) * has_twin.unsqueeze(1),
        "has_twin": has_twin,
        "teacher_image": unit_rows(rows, width, generator),
        "teacher_twin": unit_rows(rows, width, generator) * has_twin.unsqueeze(1),
        "step": 3,
        "seed": 11,
    }
    queries, teacher_queries = unit_rows(10, width, generator), unit_rows(10, width, generator)
    group = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, -1])
    values |= {
        "teacher_text": unit_rows(rows, width, generator),
        "person": unit_rows(13, width, generator),
        "person_group": group,
        "person_attributes": torch.stack([group, group.clamp(max=1)], dim=1),
        "teacher_person": unit_rows(13, width, generator),
        "prompt": queries[:4],
        "group_prompt": queries[4:],
        "group_prompt_of": torch.tensor([0, 1, 2, 2, 1, 0]),
        "teacher_prompt": teacher_queries[:4],
        "teacher_group_prompt": teacher_queries[4:],
    }
    return Features(**(values | changes))  # type: ignore[arg-type]
