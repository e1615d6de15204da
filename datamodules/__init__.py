"""What comes in: the sample schema, shards and their index, the mixing plan, and a datamodule per axis.

Names are imported when they are first used: reading an index must not cost the import of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.decorrelated import DecorrelatedDataModule as DecorrelatedDataModule
    from datamodules.errors import DataError as DataError
    from datamodules.faces import FacesDataModule as FacesDataModule
    from datamodules.feature_source import FeatureSourceDataModule as FeatureSourceDataModule
    from datamodules.index import ShardIndex as ShardIndex
    from datamodules.index import build_index as build_index
    from datamodules.mixed_source import MixedSourceDataModule as MixedSourceDataModule
    from datamodules.plan import MixingPlan as MixingPlan
    from datamodules.plan import MixSpec as MixSpec
    from datamodules.reencode import ImageFormat as ImageFormat
    from datamodules.sample import Sample as Sample
    from datamodules.sample import View as View
    from datamodules.text_spotting import TextSpottingDataModule as TextSpottingDataModule
    from datamodules.writer import ShardWriter as ShardWriter

_HOME = {
    "DataError": "errors",
    "DecorrelatedDataModule": "decorrelated",
    "FacesDataModule": "faces",
    "FeatureSourceDataModule": "feature_source",
    "ImageFormat": "reencode",
    "MixSpec": "plan",
    "MixedSourceDataModule": "mixed_source",
    "MixingPlan": "plan",
    "Sample": "sample",
    "ShardIndex": "index",
    "ShardWriter": "writer",
    "TextSpottingDataModule": "text_spotting",
    "View": "sample",
    "build_index": "index",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"datamodules.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
