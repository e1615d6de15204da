"""The pictures of shard sets, a few of each source, for their spectra."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bias_train.errors import RunError
from bias_train.explain.maps import sample_rows
from bias_train.explain.spectrum import MOST_SIDE, Spectra, spectra_of


def shard_spectra(
    shards: Sequence[str], *, most: int = 500, side: int | None = None, seed: int = 0
) -> tuple[Spectra, tuple[str, ...], bool]:
    """Compute the spectra of shard sets' pictures.

    Args:
        shards: folders or URLs.
        most: pictures of each source, drawn at random; of photos with twins, their twins with them.
        side: pixels of the square cut from each; None takes the shortest side of all, 256 at most.
        seed: of the choice.

    Returns:
        The spectra; source names by code; whether pictures are paired with photos.

    Raises:
        RunError: if the shards hold one source only.
        DataError: if shards cannot be read.
    """
    from datamodules.catalogue import Catalogue
    from datamodules.decode import decode
    from datamodules.index import ShardIndex
    from datamodules.reencode import image_size

    catalogue = Catalogue.of([ShardIndex.load(location) for location in shards])
    source = catalogue.picture_source.astype(np.int64)
    if len(np.unique(source)) < 2 or not (source == 0).any():
        raise RunError(
            f"{' '.join(shards)}: spectra compare photos with generated pictures, and one of them is missing"
        )
    paired = catalogue.has_views
    if paired:
        photos = np.flatnonzero((source == 0) & np.isin(catalogue.picture_sample, catalogue.picture_sample[source > 0]))
        photos = np.random.default_rng(seed).permutation(photos)[:most]
        chosen = np.flatnonzero(np.isin(catalogue.picture_sample, catalogue.picture_sample[photos]))
    else:
        chosen = sample_rows(source, most * len(np.unique(source)), seed)
    if side is None:
        shortest = min(min(image_size(catalogue.read(int(p)), catalogue.name(int(p)))) for p in chosen)
        side = min(shortest, MOST_SIDE)

    def read(number: int) -> NDArray[np.uint8]:
        picture = int(chosen[number])
        return decode(catalogue.read(picture), catalogue.name(picture))

    if side < 8:
        raise RunError(f"--spectrum-size {side}: pictures of fewer than 8 pixels have no spectrum to speak of")
    target = catalogue.picture_sample[chosen].astype(np.int64)
    return spectra_of(len(chosen), read, source[chosen], target, side), catalogue.sources, paired
