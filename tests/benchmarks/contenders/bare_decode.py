"""The floor: nothing but decode, crop and resize of bytes in memory, in as many processes as there are workers.

Written against the decoder and OpenCV alone, so that whatever the stream's own decode function costs counts as cost.
"""

from __future__ import annotations

import multiprocessing
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg


def decode_and_resize(data: bytes, size: int, side: float, top: float, left: float) -> Any:
    """Decode at the smallest DCT scale that suffices, cut a square out of a square picture, resize."""
    least = int(np.ceil(size / side))
    # The accurate transforms, as the stream's: the fast ones are another picture.
    picture = simplejpeg.decode_jpeg(
        data, "RGB", fastdct=False, fastupsample=False, min_height=least, min_width=least, min_factor=1
    )
    length = len(picture)
    y, x, edge = round(top * length), round(left * length), round(side * length)
    part = picture[y : y + edge, x : x + edge]
    # The stream's own choice of filters: a slower one here would make its share look better than it is.
    mild = cv2.INTER_LINEAR if edge < 1.3 * size else cv2.INTER_AREA
    return cv2.resize(part, (size, size), interpolation=mild if edge >= size else cv2.INTER_CUBIC)


def loop(shards: Path, size: int, batch_size: int, seed: int) -> Iterator[int]:
    """Decode picture after picture; yield after as many as make a batch."""
    cv2.setNumThreads(0)
    pictures = []
    for path in sorted(shards.glob("*/*.tar")):
        with tarfile.open(path) as tar:
            pictures += [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]  # type: ignore[union-attr]
    rng = np.random.default_rng(seed)
    while True:
        for rows in rng.permutation(len(pictures))[: len(pictures) // batch_size * batch_size].reshape(-1, batch_size):
            sides = np.sqrt(rng.uniform(0.9, 1.0, batch_size))
            places = rng.random((2, batch_size)) * (1 - sides)
            for row, side, top, left in zip(rows.tolist(), sides.tolist(), *places.tolist(), strict=True):
                assert decode_and_resize(pictures[row], size, side, top, left).shape == (size, size, 3)
            yield batch_size


def _work(queue: Any, *arguments: Any) -> None:
    for count in loop(*arguments):
        queue.put(count)


def batches(
    shards: Path, *, size: int, batch_size: int, workers: int, tokens: bool, seed: int
) -> Iterator[tuple[int, str]]:
    """Yield how many pictures were decoded since the last time."""
    delivers = f"uint8, {batch_size} times {(size, size, 3)}"
    if workers == 0:
        for count in loop(shards, size, batch_size, seed):
            yield count, delivers
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [
        context.Process(target=_work, args=(queue, shards, size, batch_size, seed + n), daemon=True)
        for n in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        while True:
            yield queue.get(), delivers
    finally:
        for process in processes:
            process.terminate()
