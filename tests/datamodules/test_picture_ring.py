from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, get_worker_info

from datamodules import picture_ring
from datamodules.picture_ring import InRing, PictureRing, make_ring
from datamodules.timed_loader import TimedLoader

SIZE, PICTURES = (5, 7), 3


class Numbered(IterableDataset[dict[str, Any]]):
    """Endless batches whose pixels tell the worker and the batch; later ones hold fewer pictures."""

    def __init__(self, ring: PictureRing) -> None:
        self.ring = ring

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        assert info is not None
        number = 0
        while True:
            slot = self.ring.slot(info.id, number)
            image, sent = slot.take(2)
            twin, sent_twin = slot.take(1)
            image[:] = (100 * info.id + number) % 251
            twin[:] = 255 - image[:1]
            yield {"image": sent, "twin": sent_twin.first(number % 2), "number": number, "worker": info.id}
            number += 1


@pytest.mark.parametrize("start", ["fork", "forkserver"])
@pytest.mark.parametrize("prefetch", [1, 3])
def test_what_workers_write_is_what_the_trainer_gets_however_long_it_takes(start: str, prefetch: int) -> None:
    ring = PictureRing(2, prefetch, PICTURES, SIZE)
    loader = TimedLoader(
        Numbered(ring), batch_size=None, num_workers=2, prefetch_factor=prefetch, multiprocessing_context=start
    )
    kept = []
    for count, batch in enumerate(loader):
        kept.append(batch)
        if count == 40:
            break
    # Read at the end: a copy must not change when its slot is written anew.
    for count, batch in enumerate(kept):
        assert (batch["worker"], batch["number"]) == (count % 2, count // 2)
        assert batch["image"].shape == (2, 3, *SIZE)
        assert batch["image"].is_contiguous(memory_format=torch.channels_last)
        assert (batch["image"] == (100 * batch["worker"] + batch["number"]) % 251).all()
        assert batch["twin"].shape == (batch["number"] % 2, 3, *SIZE)
        assert (batch["twin"] == 255 - (100 * batch["worker"] + batch["number"]) % 251).all()


def test_a_slot_comes_again_only_after_all_others() -> None:
    ring = PictureRing(1, 2, PICTURES, SIZE)
    assert [ring.slot(0, number).number for number in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    slot = ring.slot(0, 0)
    first, sent = slot.take(2)
    second, _ = slot.take(1)
    first[:], second[:] = 7, 9
    assert sent == InRing(ring.key, 0, 0, 0, 2)
    np.testing.assert_array_equal(ring.read(sent).numpy(), np.full((2, *SIZE, 3), 7))


def test_too_little_shared_memory_is_said_and_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: Any) -> PictureRing:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)\nmore")

    monkeypatch.setattr(picture_ring, "PictureRing", refuse)
    with caplog.at_level(logging.WARNING):
        assert make_ring(2, 2, 64, (224, 224)) is None
    assert "no 55 MB of shared memory" in caplog.text
    assert "/dev/shm" in caplog.text
