"""This project's stream, through its datamodule's own loader, as a training run takes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def batches(
    shards: Path, *, size: int, batch_size: int, workers: int, tokens: bool, seed: int
) -> Iterator[tuple[int, str]]:
    """Yield for every batch how many pictures it holds, and what it is."""
    from open_clip.tokenizer import SimpleTokenizer

    from datamodules.decode import Augmentation
    from datamodules.mixed_source import MixedSourceDataModule

    data = MixedSourceDataModule(
        train=[str(shards / "photos"), str(shards / "generated")],
        share=0.2,
        mode="unpaired",
        batch_size=batch_size,
        image_size=size,
        augment=Augmentation(scale=(0.9, 1.0)),
        num_workers=workers,
        seed=seed,
    )
    data.tokenize = SimpleTokenizer() if tokens else None
    data.setup("fit")
    for batch in data.train_dataloader():
        image = batch["image"]
        yield (
            len(image),
            f"{image.dtype} {tuple(image.shape)}" + (f", tokens {batch['tokens'].shape[1]}" if tokens else ""),
        )
