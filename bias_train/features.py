"""One pass of frozen towers over shards: the features that heads are trained from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from bias_train.embed import embed_texts
from datamodules.catalogue import Catalogue, Ints
from datamodules.decode import decode_and_fit
from datamodules.errors import SampleError
from datamodules.features import FeatureFolder, layout, shards_of
from datamodules.index import ShardIndex
from datamodules.workers import end_with_trainer, worker_context
from models.heads import CAPTIONS, caption_ids, read_captions, write_captions
from models.retriever import Retriever

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """What a pass has done.

    Attributes:
        shards: whose features were made.
        kept: shards whose features were there before.
        pictures: embedded.
        unreadable: names of pictures that could not be read; training replaces them, evaluation refuses them.
        captions: distinct ones.
    """

    shards: int
    kept: int
    pictures: int
    unreadable: tuple[str, ...]
    captions: int


def write_features(
    retriever: Retriever,
    shards: Sequence[str],
    folder: Path,
    *,
    model: str,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device = "cpu",
    on_batch: Callable[[int, int], None] | None = None,
) -> Written:
    """Embed every picture and caption of some shard sets that the folder does not hold yet.

    Pictures are whole: cut in the middle and resized as for an evaluation, without augmentation. A shard's file
    appears when it is whole, so that a pass that was ended goes on where it stood.

    Args:
        retriever: moved to ``device`` and put into evaluation mode.
        shards: folders or URLs of shard sets.
        folder: to write to, or to add to.
        model: the retriever's name, for people.
        batch_size: pictures at once; captions go four times as many at once.
        workers: loader processes.
        device: where to compute.
        on_batch: told of pictures done and of all, for a progress bar.

    Raises:
        DataError: for shards that cannot be read, or a folder with another retriever's features.
    """
    catalogue = Catalogue.of([ShardIndex.load(location) for location in shards])
    features = FeatureFolder.create(folder, retriever.tower_key("image"), retriever.embed_dim, model)
    shard, place, counts = layout(catalogue)
    every = shards_of(catalogue)
    wanted = [number for number, info in enumerate(every) if not features.path(info).exists()]
    mine = np.flatnonzero(np.isin(shard, wanted))
    mine = mine[np.lexsort((place[mine], shard[mine]))]  # shard by shard, so that each is whole early
    unreadable: list[str] = []
    rows = torch.full((0, retriever.embed_dim), torch.nan)
    done = 0
    for batch in _loader(retriever, catalogue, mine, batch_size, workers):
        unreadable += batch["unreadable"]
        embedded = torch.full((batch["size"], retriever.embed_dim), torch.nan)
        if len(batch["index"]):
            with torch.inference_mode():
                found = retriever.to(device).eval().encode_image(batch["image"].to(device))
            embedded[batch["index"]] = found.float().cpu()
        rows = torch.cat([rows, embedded])
        while wanted and len(rows) >= counts[wanted[0]]:
            number = wanted.pop(0)
            features.write(every[number], rows[: counts[number]].numpy())
            rows = rows[counts[number] :]
        done += batch["size"]
        if on_batch is not None:
            on_batch(done, len(mine))
    while wanted:  # shards without a picture, if any
        features.write(every[wanted.pop(0)], rows.numpy())
    for name in unreadable:
        log.warning("could not be read and has no features: %s", name)
    captions = sorted({text for picture in range(len(shard)) for text in catalogue.captions(picture)})
    _add_captions(retriever, captions, folder, 4 * batch_size, device)
    return Written(
        shards=int(np.count_nonzero(np.isin(np.arange(len(every)), shard[mine]))),
        kept=len(every) - len(np.unique(shard[mine])),
        pictures=len(mine),
        unreadable=tuple(unreadable),
        captions=len(captions),
    )


def _add_captions(
    retriever: Retriever, captions: Sequence[str], folder: Path, batch_size: int, device: str | torch.device
) -> None:
    key = retriever.tower_key("text")
    known, vectors = np.empty(0, dtype=np.int64), torch.empty(0, retriever.embed_dim)
    if (folder / CAPTIONS).exists():
        known, vectors = read_captions(folder, key)
    ids = caption_ids(captions)
    new = np.flatnonzero(~np.isin(ids, known)).tolist()
    if new:
        found = embed_texts(retriever, [captions[row] for row in new], batch_size=batch_size, device=device)
        known, vectors = np.concatenate([known, ids[new]]), torch.cat([vectors, found])
    write_captions(folder, known, vectors, key)


@dataclass
class _Pictures(IterableDataset[dict[str, Any]]):
    """Pictures in batches, in order; those that cannot be read are named and left out."""

    catalogue: Catalogue
    pictures: Ints
    image_size: tuple[int, int]
    batch_size: int

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield image uint8 [b, 3, H, W], index (their places in the batch), size of the batch, unreadable names."""
        info = get_worker_info()
        first, stride = (0, 1) if info is None else (info.id, info.num_workers)
        for begin in range(first * self.batch_size, len(self.pictures), stride * self.batch_size):
            part = self.pictures[begin : begin + self.batch_size]
            found = np.empty((len(part), *self.image_size, 3), dtype=np.uint8)
            index: list[int] = []
            unreadable: list[str] = []
            for row, place in enumerate(self.catalogue.places(part)):
                name = self.catalogue.name(int(part[row]))
                try:
                    decode_and_fit(place.read(), self.image_size, name, out=found[len(index)])
                    index.append(row)
                except SampleError as error:
                    unreadable.append(str(error))
            image = torch.from_numpy(found[: len(index)]).permute(0, 3, 1, 2)
            yield {
                "image": image,
                "index": torch.tensor(index, dtype=torch.int64),
                "size": len(part),
                "unreadable": unreadable,
            }


def _loader(
    retriever: Retriever, catalogue: Catalogue, pictures: Ints, batch_size: int, workers: int
) -> DataLoader[dict[str, Any]]:
    return DataLoader(
        _Pictures(catalogue, pictures, retriever.image_size, batch_size),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=end_with_trainer,
        multiprocessing_context=worker_context(retriever.tokenize) if workers else None,
    )
