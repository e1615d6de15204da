"""Compares the configurations of runs: what differs first, everything else behind it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bias_train.reports.collect import Run

_FRAME = ("init_args", "losses", "loss", "model")  # parts of keys that say nothing about what is set


def flatten(document: Any, prefix: str = "") -> dict[str, str]:
    """Spell nested mappings as dotted keys; lists and empty mappings are values.

    Example:
        >>> flatten({"data": {"share": 0.5, "train": ["a"]}, "x": {}})
        {'data.share': '0.5', 'data.train': '["a"]', 'x': '{}'}
    """
    if isinstance(document, dict) and document:
        flat: dict[str, str] = {}
        for key, value in document.items():
            flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: document if isinstance(document, str) else json.dumps(document, default=str, ensure_ascii=False)}


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the keys whose values differ, each with its value in every run ('' where a run lacks it).

    A value that names the run's own folder does not count: it differs without a meaning.
    """
    flat = []
    for run in runs:
        places = [place for place in (str(run.config.get("run_dir") or ""), str(run.folder)) if place]
        values = flatten(run.config) if run.config else {}
        for place in places:
            values = {key: value.replace(place, "RUN") for key, value in values.items()}
        flat.append(values)
    keys = dict.fromkeys(key for values in flat for key in values)
    table = {key: [values.get(key, "") for values in flat] for key in keys}
    # A run that never got as far as writing its configuration says nothing about what differs.
    known = [place for place, values in enumerate(flat) if values]
    return {key: values for key, values in table.items() if len({values[place] for place in known}) > 1}


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Shorten dotted keys to their last two telling parts, or as many as keep them apart.

    Example:
        >>> short_keys(["data.init_args.share", "model.losses.debias.loss.init_args.margin"])
        {'data.init_args.share': 'data.share', 'model.losses.debias.loss.init_args.margin': 'debias.margin'}
    """
    telling = {key: [part for part in key.split(".") if part not in _FRAME] or [key] for key in keys}
    short = {}
    for key, parts in telling.items():
        tails = (parts[-count:] for count in range(2, len(parts) + 1))
        alone = (t for t in tails if sum(other[-len(t) :] == t for other in telling.values()) == 1)
        short[key] = ".".join(next(alone, parts[-2:] if len(parts) < 3 else key.split(".")))
    return short
