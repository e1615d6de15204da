"""How much captions parrot the text in their pictures, and selections of what to train on.

Names are imported when they are first used, so that worker processes start at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.curation.caption_edit import edit_caption as edit_caption
    from datamodules.curation.choice import Choice as Choice
    from datamodules.curation.choice import choose as choose
    from datamodules.curation.corpus import corpus_statistics as corpus_statistics
    from datamodules.curation.job import CurationJob as CurationJob
    from datamodules.curation.job import CurationSettings as CurationSettings
    from datamodules.curation.overlap import cotr as cotr
    from datamodules.curation.overlap import fuzzy_cotr as fuzzy_cotr
    from datamodules.curation.relative import rsa as rsa
    from datamodules.curation.relative import rsc as rsc
    from datamodules.curation.table import CurationTable as CurationTable

_HOME = {
    "Choice": "datamodules.curation.choice",
    "CurationJob": "datamodules.curation.job",
    "CurationSettings": "datamodules.curation.job",
    "CurationTable": "datamodules.curation.table",
    "choose": "datamodules.curation.choice",
    "corpus_statistics": "datamodules.curation.corpus",
    "cotr": "datamodules.curation.overlap",
    "edit_caption": "datamodules.curation.caption_edit",
    "fuzzy_cotr": "datamodules.curation.overlap",
    "rsa": "datamodules.curation.relative",
    "rsc": "datamodules.curation.relative",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
