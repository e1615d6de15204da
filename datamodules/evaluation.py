"""What an evaluation asks (queries) and what it searches (pictures), without a pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.catalogue import Catalogue, Ints
from datamodules.decode import Picture, decode, decode_and_fit, fit
from datamodules.errors import DataError
from datamodules.hashing import mix

Relevance = Literal["auto", "pair", "label", "group"]
Transform = Callable[[Picture], Picture]  # uint8 [H, W, 3] to the same


@dataclass(frozen=True)
class EvaluationSet:
    """Queries and pictures with their targets; a picture is relevant to the queries of its target.

    Attributes:
        keys: [M] names of the pictures.
        picture: [M] picture ids in the catalogue.
        target: [M] int64 what a picture shows.
        source: [M] int64 source code, 0 real.
        sources: source names by code.
        queries: [Q] captions or class prompts.
        query_target: [Q] int64.
        query_slot: [Q] int64, which caption of its picture a query is.
        relevance: "pair": a target is a photo with its twins; "label": a class; "group": pictures that show the same.
        target_names: class names by target for "label", else empty.
        corpus: catalogue that the picture ids belong to.
    """

    keys: tuple[str, ...]
    picture: Ints
    target: Ints
    source: Ints
    sources: tuple[str, ...]
    queries: tuple[str, ...]
    query_target: Ints
    query_slot: Ints
    relevance: str
    target_names: tuple[str, ...]
    corpus: Catalogue

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.picture)


def evaluation_set(
    catalogue: Catalogue,
    *,
    relevance: Relevance = "auto",
    prompts: Sequence[str] = ("a photo of a {label}",),
    limit: int | None = None,
    seed: int = 0,
) -> EvaluationSet:
    """Make the evaluation of a catalogue.

    A view of its anchor's own source is no second picture of the same thing but an edit of it (an object taken out, an
    edited background), of which the anchor's captions need not be true: it is left out.

    Args:
        catalogue: evaluation shards.
        relevance: "label" asks one query per class and prompt, "pair" every caption of every photo, "group" likewise
            but takes all pictures of a sample's group as relevant. "auto" is "label" where every sample has a class and
            no photo has a twin of its own, else "pair".
        prompts: templates with ``{label}`` for "label".
        limit: at most this many pictures per source; None takes all. A photo's twins go with it.
        seed: of the choice under a limit.

    Raises:
        DataError: if the shards cannot answer the kind of question.
    """
    if relevance == "auto":
        by_class = bool(np.all(catalogue.sample_label >= 0)) and not catalogue.has_views
        relevance = "label" if by_class else "pair"
    samples = np.arange(len(catalogue.anchor))
    if limit is not None:
        samples = _limited(catalogue, limit, seed)
    keep = np.zeros(len(catalogue.anchor), dtype=bool)
    keep[samples] = True
    picture = np.flatnonzero(keep[catalogue.picture_sample])
    picture = picture[~_is_edit(catalogue, picture)]
    sample = catalogue.picture_sample[picture]
    if relevance == "label":
        if np.any(catalogue.sample_label[samples] < 0):
            raise DataError("data.relevance = label needs a class label in every sample of data.val")
        for prompt in prompts:
            if "{label}" not in prompt:
                raise DataError(f"data.prompts: {prompt!r} has no place for the class; write {{label}} where it goes")
        target = catalogue.sample_label[sample]
        queries = [prompt.format(label=label) for label in catalogue.labels for prompt in prompts]
        query_target = np.repeat(np.arange(len(catalogue.labels)), len(prompts))
        slot = np.tile(np.arange(len(prompts)), len(catalogue.labels))
        names = catalogue.labels
    else:
        ids = samples if relevance == "pair" else _first_of_group(catalogue)[samples]
        target_of = np.full(len(catalogue.anchor), -1, dtype=np.int64)
        target_of[samples] = ids
        target = target_of[sample]
        asked = samples[catalogue.picture_source[catalogue.anchor[samples]] == 0]
        if len(asked) == 0:
            asked = samples
        captions = [catalogue.captions(int(picture)) for picture in catalogue.anchor[asked]]
        queries = [text for texts in captions for text in texts]
        counts = np.array([len(texts) for texts in captions])
        query_target = np.repeat(target_of[asked], counts)
        slot = np.concatenate([np.arange(n) for n in counts]) if len(counts) else np.empty(0, dtype=np.int64)
        names = ()
    if not queries:
        raise DataError("the shards of data.val hold no captions to ask with")
    return EvaluationSet(
        tuple(catalogue.name(int(p)) for p in picture),
        picture,
        target.astype(np.int64),
        catalogue.picture_source[picture].astype(np.int64),
        catalogue.sources,
        tuple(queries),
        query_target.astype(np.int64),
        slot.astype(np.int64),
        relevance,
        names,
        catalogue,
    )


def _is_edit(catalogue: Catalogue, picture: Ints) -> npt.NDArray[np.bool_]:
    """[n] bool: views of their anchors' own source."""
    anchor = catalogue.anchor[catalogue.picture_sample[picture]]
    same = catalogue.picture_source[picture] == catalogue.picture_source[anchor]
    return np.asarray(same & (picture != anchor), dtype=bool)


def _limited(catalogue: Catalogue, limit: int, seed: int) -> Ints:
    """Take the first samples per anchor source, spread over classes, in hashed order."""
    chosen = []
    source = catalogue.picture_source[catalogue.anchor]
    for code in np.unique(source):
        rows = np.flatnonzero(source == code)
        rows = rows[np.argsort(mix(seed, 9, rows), kind="stable")]
        rows = rows[np.argsort(catalogue.sample_label[rows], kind="stable")]
        labels, first = np.unique(catalogue.sample_label[rows], return_index=True)
        turn = np.arange(len(rows)) - first[np.searchsorted(labels, catalogue.sample_label[rows])]
        chosen.append(rows[np.argsort(turn, kind="stable")][:limit])
    return np.sort(np.concatenate(chosen))


def _first_of_group(catalogue: Catalogue) -> Ints:
    _, first, inverse = np.unique(catalogue.group, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], dtype=np.int64)


@dataclass
class EvaluationStream(IterableDataset[dict[str, Any]]):
    """One rank's part of an evaluation's pictures, in batches.

    Attributes:
        evaluation: what to stream.
        image_size: height and width.
        batch_size: pictures a batch on this rank.
        rank: of this process; it takes every ``world_size``-th batch.
        world_size: processes.
        transform: changes every picture as it was stored, before it is resized; picklable where loaders have workers.
    """

    evaluation: EvaluationSet
    image_size: tuple[int, int]
    batch_size: int
    rank: int = 0
    world_size: int = 1
    transform: Transform | None = None

    def __len__(self) -> int:
        """Return the batches of this rank; equal on all, since Lightning's hooks are collective."""
        total = -(-len(self.evaluation) // self.batch_size)
        return -(-total // self.world_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield ``{"image": uint8 [b, 3, H, W], "index": int64 [b]}``; a picture that cannot be read is an error.

        Where the last round has too few batches for all ranks, the surplus ranks repeat an early one: readers keep one
        row per index.
        """
        info = get_worker_info()
        first, stride = (0, 1) if info is None else (info.id, info.num_workers)
        total = -(-len(self.evaluation) // self.batch_size)
        for number in range(first, len(self), stride):
            begin = (number * self.world_size + self.rank) % total * self.batch_size
            rows = np.arange(begin, min(begin + self.batch_size, len(self.evaluation)))
            yield {"image": self._pictures(rows), "index": torch.from_numpy(rows)}

    def _pictures(self, rows: Ints) -> torch.Tensor:
        corpus, keys = self.evaluation.corpus, self.evaluation.keys
        pictures = np.empty((len(rows), *self.image_size, 3), dtype=np.uint8)
        try:
            for out, place, row in zip(pictures, corpus.places(self.evaluation.picture[rows]), rows, strict=True):
                data = place.read()
                if self.transform is not None:
                    stored = decode(data, keys[row])
                    changed = self.transform(stored)
                    # One that stays as it is goes the way of all others, which need not decode it in full.
                    if not np.array_equal(changed, stored):
                        fit(changed, self.image_size, out=out)
                        continue
                decode_and_fit(data, self.image_size, keys[row], out=out)
        except DataError as error:
            raise DataError(
                f"evaluation: {error}; a figure without it would be about another gallery, so mend or leave out the "
                "sample (`bias-train shards inspect --decode` finds all that are broken)"
            ) from error
        return torch.from_numpy(pictures).permute(0, 3, 1, 2)
