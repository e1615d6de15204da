"""Files of pictures with true and altered captions, in the forms that OHD-Caps and RoCOCO are handed out in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bias_train.errors import RunError

_OHD = ("adversarial_samples", "popular_samples", "random_samples", "delete_samples")


@dataclass(frozen=True)
class CaptionSet:
    """A picture with its captions.

    Attributes:
        image: the picture's file, as the list names it.
        captions: true ones.
        altered: false ones by kind; one kind is called "".
    """

    image: str
    captions: tuple[str, ...]
    altered: Mapping[str, tuple[str, ...]]


def read_caption_sets(path: Path, true_captions: int = 5) -> list[CaptionSet]:
    """Read a list of pictures with captions: a JSON list, or a JSON object a line.

    An entry is one of

    - ``{"image": ..., "captions": [...], "negatives": [...]}``, also with one string as ``captions``, and
      ``{"kind": [...], ...}`` as ``negatives``;
    - OHD-Caps' ``{"file_path": ..., "positive_sample": ..., "adversarial_samples": {...}, ...}``;
    - RoCOCO's ``{"image": ..., "caption": [...]}``, whose first captions are true and the others altered.

    Args:
        path: the file.
        true_captions: of RoCOCO's captions, how many are true.

    Raises:
        RunError: naming file and entry, for one of another form or without altered captions.
    """
    found = []
    for number, entry in enumerate(_entries(path), start=1):
        try:
            made = _caption_set(entry, true_captions)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RunError(
                f"{path}: entry {number} is no picture with captions; it needs image, captions and negatives "
                f"({type(error).__name__}: {error})"
            ) from error
        if not made.captions or not any(made.altered.values()):
            raise RunError(
                f"{path}: entry {number} ({made.image}) has no {'altered' if made.captions else 'true'} caption"
            )
        found.append(made)
    if not found:
        raise RunError(f"{path}: holds no picture")
    return found


def _entries(path: Path) -> Iterable[Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from error
    try:
        if text.lstrip().startswith("["):
            return list(json.loads(text))
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise RunError(f"{path}: is neither a JSON list nor JSON lines ({error})") from error


def _caption_set(entry: Mapping[str, Any], true_captions: int) -> CaptionSet:
    if "positive_sample" in entry:
        altered = {name.removesuffix("_samples"): _texts(list(entry[name].values())) for name in _OHD if name in entry}
        return CaptionSet(str(entry["file_path"]), _texts([entry["positive_sample"]]), altered)
    if "caption" in entry and "negatives" not in entry:
        captions = _texts(entry["caption"])
        return CaptionSet(str(entry["image"]), captions[:true_captions], {"": captions[true_captions:]})
    given = entry["captions"] if "captions" in entry else entry["caption"]
    captions = _texts([given] if isinstance(given, str) else given)
    negatives = entry["negatives"]
    if isinstance(negatives, Mapping):
        return CaptionSet(str(entry["image"]), captions, {str(kind): _texts(own) for kind, own in negatives.items()})
    return CaptionSet(str(entry["image"]), captions, {"": _texts(negatives)})


def _texts(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(text, str) and text.strip() for text in given):
        raise ValueError(f"{str(given)[:80]!r} is no list of captions")
    return tuple(given)
