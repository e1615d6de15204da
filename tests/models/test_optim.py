from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny_retriever import tiny
from torch import nn

from models import ModelError, OptimizerConfig, ScheduleConfig
from models.optim import parameter_groups


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm"])
def test_only_matrices_and_kernels_decay(tmp_path: Path, kind: str) -> None:
    retriever = tiny(tmp_path, kind)
    groups = parameter_groups(retriever, OptimizerConfig(weight_decay=0.3), retriever.tower_of)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    names = dict(retriever.named_parameters())
    assert len(decay) == len(names)
    assert sum(len(group["params"]) for group in groups) == len(names)
    for name, parameter in names.items():
        exempt = parameter.ndim < 2 or name.endswith((".bias", "logit_scale", "logit_bias")) or ".bn" in name
        assert decay[id(parameter)] == (0.0 if exempt else 0.3), name


def test_a_norm_over_several_axes_does_not_decay() -> None:
    module = nn.ModuleDict({"norm": nn.LayerNorm((4, 5)), "linear": nn.Linear(4, 5)})
    groups = {g["name"]: g for g in parameter_groups(module, OptimizerConfig(), lambda name: "image")}
    assert [p.shape for p in groups["image/decay"]["params"]] == [torch.Size([5, 4])]


def test_towers_have_their_learning_rates(tmp_path: Path) -> None:
    retriever = tiny(tmp_path)
    config = OptimizerConfig(lr=1.0, image_lr_scale=0.1, text_lr_scale=0.5)
    rates = {g["name"]: g["lr"] for g in parameter_groups(retriever, config, retriever.tower_of)}
    assert rates == {
        "head/no_decay": 1.0,
        "image/decay": 0.1,
        "image/no_decay": 0.1,
        "text/decay": 0.5,
        "text/no_decay": 0.5,
    }


def test_frozen_parameters_are_left_out(tmp_path: Path) -> None:
    retriever = tiny(tmp_path, lock_image=True)
    groups = parameter_groups(retriever, OptimizerConfig(), retriever.tower_of)
    assert not [g for g in groups if g["name"].startswith("image")]


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ModelError, match="every parameter is frozen"):
        parameter_groups(nn.Linear(1, 1).requires_grad_(False), OptimizerConfig(), lambda name: "head")


def test_cosine_against_its_formula() -> None:
    factor = ScheduleConfig(warmup_steps=10, min_lr_share=0.1).factor(total_steps=110)
    assert factor(0) == pytest.approx(0.1)
    assert factor(9) == factor(10) == 1.0
    assert factor(60) == pytest.approx(0.55)
    assert factor(85) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(0.75 * math.pi)))
    assert factor(110) == factor(500) == pytest.approx(0.1)


def test_constant_schedule_warms_up_too() -> None:
    factor = ScheduleConfig(warmup_steps=4, decay="constant").factor(total_steps=10)
    assert [factor(step) for step in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: OptimizerConfig(lr=0.0), "optimizer.lr"),
        (lambda: OptimizerConfig(weight_decay=-1.0), "optimizer.weight_decay"),
        (lambda: ScheduleConfig(warmup_steps=-1), "schedule.warmup_steps"),
        (lambda: ScheduleConfig(min_lr_share=2.0), "schedule.min_lr_share"),
    ],
)
def test_wrong_options_are_named(make: object, option: str) -> None:
    with pytest.raises(ModelError, match=option):
        make()  # type: ignore[operator]
