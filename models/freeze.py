"""Freezing a tower, or all but its last groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.errors import ModelError

Member = nn.Module | nn.Parameter


def image_groups(visual: nn.Module) -> list[list[Member]]:
    """The image tower's parts from input to output; the last one is the projection.

    open_clip's own ``lock`` leaves a timm tower's projection trainable, counts it as a group in its transformers and
    has no groups for its residual networks; here all towers are counted alike.

    Args:
        visual: an open_clip image tower.

    Returns:
        Groups of modules and parameters, together the whole tower.

    Raises:
        ModelError: if the tower's kind has no known groups.
    """
    if isinstance(visual, VisionTransformer):
        blocks = [*visual.transformer.resblocks]
        stem: list[Member] = [visual.conv1, visual.class_embedding, visual.positional_embedding, visual.ln_pre]
        head: list[list[Member]] = [[visual.proj]] if visual.proj is not None else []
        last: list[Member] = [blocks[-1], visual.ln_post]
        if visual.attn_pool is not None:
            last.append(visual.attn_pool)
        return [stem, *[[block] for block in blocks[:-1]], last, *head]
    if isinstance(visual, ModifiedResNet):
        stem = [visual.conv1, visual.bn1, visual.conv2, visual.bn2, visual.conv3, visual.bn3]
        stages: list[list[Member]] = [[stage] for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4)]
        return [stem, *stages, [visual.attnpool]]
    if isinstance(visual, TimmModel):
        return [*_timm_groups(visual.trunk), [visual.head]]
    raise ModelError(
        f"unlocked_groups: the groups of a {type(visual).__name__} are not known; lock all of it (unlocked_groups: 0)"
    )


def _timm_groups(trunk: Any) -> list[list[Member]]:
    from timm.models import group_parameters  # timm is slow to import

    groups = group_parameters(trunk, trunk.group_matcher())
    return [[trunk.get_parameter(name) for name in groups[index]] for index in sorted(groups)]


def freeze_image(visual: nn.Module, unlocked_groups: int) -> None:
    """Take the gradient from the image tower, but for its last groups.

    Raises:
        ModelError: if the tower has fewer groups.
    """
    visual.requires_grad_(False)
    if unlocked_groups:
        groups = image_groups(visual)
        if unlocked_groups > len(groups):
            raise ModelError(f"unlocked_groups is {unlocked_groups}, but the image tower has {len(groups)} groups")
        for member in (member for group in groups[-unlocked_groups:] for member in group):
            member.requires_grad_(True)


def batch_norms(visual: nn.Module, frozen_only: bool = False) -> list[str]:
    """Names of the batch norms; those that are not trained, whose running statistics would drift nonetheless, alone."""
    return [
        name
        for name, module in visual.named_modules()
        if isinstance(module, _BatchNorm) and not (frozen_only and not is_frozen(module.parameters()))
    ]


def folded_batch_norms(visual: nn.Module, kept: Sequence[str]) -> bool:
    """Whether batch norms other than ``kept`` have the statistics that they are made with: mean 0 and variance 1.

    Trained weights have them where the statistics were folded into the convolutions before they were saved.
    """
    if "" in kept:
        return False
    left = [visual.get_submodule(name) for name in batch_norms(visual) if name not in kept]
    return any(
        isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and module.running_var is not None
        and not module.running_mean.any()
        and bool((module.running_var == 1).all())
        for module in left
    )


def is_frozen(parameters: Iterable[nn.Parameter] | Sequence[nn.Parameter]) -> bool:
    """Whether no parameter takes a gradient."""
    return not any(parameter.requires_grad for parameter in parameters)
