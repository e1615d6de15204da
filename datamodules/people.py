"""Which samples of a catalogue are labelled pictures of people, and what their labels say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from datamodules.catalogue import Catalogue, Ints
from datamodules.errors import DataError
from datamodules.groups import META


def labelled_people(catalogue: Catalogue) -> tuple[Ints, list[dict[str, str]]]:
    """Find the samples that say a group. Every sample's description is read once.

    Returns:
        [M] sample ids in ascending order, and each one's groups by attribute.

    Raises:
        DataError: naming the sample, for groups that are no names.
    """
    samples, groups = [], []
    for number in range(len(catalogue.anchor)):
        sample = catalogue.sample(number)
        found = sample.meta.get(META)
        if found is None:
            continue
        if not isinstance(found, Mapping) or not all(isinstance(value, str) for value in found.values()):
            raise DataError(
                f"sample {sample.key!r}: meta.{META} is {found!r}; it must hold names of groups by attribute"
            )
        samples.append(number)
        groups.append(dict(found))
    return np.array(samples, dtype=np.int64), groups
