"""The retriever and its training: towers, loss terms, optimiser, the LightningModule.

Names are imported when they are first used: reading ``models.errors`` must not cost the seconds that torch, Lightning
and open_clip take to load.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.embedded import EmbeddedSet
    from models.errors import ModelError
    from models.heads import HeadRetriever
    from models.hf_retriever import HuggingFaceRetriever
    from models.module import RetrieverModule
    from models.open_clip_retriever import OpenClipRetriever
    from models.optim import OptimizerConfig, ScheduleConfig
    from models.prompts import PromptConfig
    from models.retriever import Preprocess, Retriever
    from models.terms import LossTerm, WeightSchedule

__all__ = [
    "EmbeddedSet",
    "HeadRetriever",
    "HuggingFaceRetriever",
    "LossTerm",
    "ModelError",
    "OpenClipRetriever",
    "OptimizerConfig",
    "Preprocess",
    "PromptConfig",
    "Retriever",
    "RetrieverModule",
    "ScheduleConfig",
    "WeightSchedule",
]

_HOME = {
    "EmbeddedSet": "embedded",
    "HeadRetriever": "heads",
    "HuggingFaceRetriever": "hf_retriever",
    "LossTerm": "terms",
    "ModelError": "errors",
    "OpenClipRetriever": "open_clip_retriever",
    "OptimizerConfig": "optim",
    "Preprocess": "retriever",
    "PromptConfig": "prompts",
    "Retriever": "retriever",
    "RetrieverModule": "module",
    "ScheduleConfig": "optim",
    "WeightSchedule": "terms",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    return getattr(import_module(f"models.{_HOME[name]}"), name)
