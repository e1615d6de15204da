"""Remedies against reading that need no training of the whole retriever."""

from models.text_remedies.class_prefix import (
    MARKER,
    ClassPrefix,
    PrefixRetriever,
    PrefixTraining,
    encode_text_with_prefix,
)
from models.text_remedies.heads import (
    ablate,
    ablated,
    ablated_heads,
    bottom_rows,
    choose_heads,
    load_heads,
    save_heads,
    text_attention,
)
from models.text_remedies.paint import ALPHAS, Chosen, Point, choose, walk
from models.text_remedies.spelling import (
    FORGET,
    LEARN,
    PAIRS,
    PRESETS,
    FittedSpelling,
    SpellingFeatures,
    SpellingProjection,
)

__all__ = [
    "ALPHAS",
    "FORGET",
    "LEARN",
    "MARKER",
    "PAIRS",
    "PRESETS",
    "Chosen",
    "ClassPrefix",
    "FittedSpelling",
    "Point",
    "PrefixRetriever",
    "PrefixTraining",
    "SpellingFeatures",
    "SpellingProjection",
    "ablate",
    "ablated",
    "ablated_heads",
    "bottom_rows",
    "choose",
    "choose_heads",
    "encode_text_with_prefix",
    "load_heads",
    "save_heads",
    "text_attention",
    "walk",
]
