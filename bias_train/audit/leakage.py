"""Whether what is tested was also calibrated on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bias_train.audit.outcome import Guardrail
from bias_train.embeddings import Embeddings, load_embeddings
from bias_train.errors import RunError


@dataclass(frozen=True)
class Calibration:
    """What is known of the pictures that something was fitted on.

    Attributes:
        keys: their names; empty where they have none of their own.
        targets: their targets, where they come from a file with pairs; numbers of shards mean nothing elsewhere.
        vectors: their embeddings as bytes, where there are some.
    """

    keys: frozenset[str]
    targets: frozenset[int]
    vectors: frozenset[bytes]


def read_calibration(location: str) -> Calibration:
    """Read the calibration set from a file of embeddings, or from shards.

    Raises:
        RunError: for a file that cannot be read.
        DataError: for a folder that is no shard set either.
    """
    path = Path(location)
    if path.is_file() or (path.is_dir() and any(path.glob("*.npy"))):
        return _of(load_embeddings(path))
    from datamodules.catalogue import Catalogue
    from datamodules.index import ShardIndex

    catalogue = Catalogue.of([ShardIndex.load(location)])
    names = frozenset(catalogue.name(picture) for picture in range(len(catalogue.picture_sample)))
    return Calibration(names, frozenset(), frozenset())


def check_leakage(embeddings: Embeddings, calibration: Calibration, *, from_shards: bool = False) -> list[Guardrail]:
    """Refuse a test set that shares pictures or targets with the calibration set.

    Args:
        embeddings: what is audited.
        calibration: what was fitted on.
        from_shards: the audited targets are numbers of a shard set, not names that another file could share.

    Returns:
        A warning where disjointness rests on keys alone while targets have equal numbers.

    Raises:
        RunError: naming how many are shared, and one.
    """
    mine = _of(embeddings)
    shared = mine.keys & calibration.keys
    if shared:
        raise RunError(
            f"--calibration: {len(shared):,} audited pictures were calibrated on, such as {min(shared)!r}; audit "
            "pictures that calibration has not seen"
        )
    same = len(mine.vectors & calibration.vectors)
    if same:
        raise RunError(
            f"--calibration: {same:,} audited embeddings are equal to embeddings that were calibrated on; audit "
            "pictures that calibration has not seen"
        )
    targets = frozenset() if from_shards else mine.targets & calibration.targets
    if not targets:
        return []
    if not (mine.keys and calibration.keys):
        raise RunError(
            f"--calibration: {len(targets):,} audited targets were calibrated on, such as {min(targets)}; audit other "
            "targets, or give both files image_key if their targets are numbered independently"
        )
    return [
        Guardrail(
            "calibration_targets",
            f"{len(targets):,} targets have the number of a calibration target, though no picture is shared: if both "
            "files number the same scenes, the audited captions were calibrated on.",
        )
    ]


def _of(embeddings: Embeddings) -> Calibration:
    keys = embeddings.image_key
    # Files without keys get row numbers, which every other file has, too.
    own = frozenset() if keys == tuple(map(str, range(len(keys)))) else frozenset(keys)
    targets: frozenset[int] = frozenset()
    if embeddings.relevance == "pair":
        targets = frozenset(np.unique(embeddings.image_target[embeddings.image_target >= 0]).tolist())
    vectors = frozenset(row.tobytes() for row in embeddings.image.numpy())
    return Calibration(own, targets, vectors)
