"""open_clip's training pipeline as its ``--train-data A::B --dataset-resampled`` makes it; in its own environment."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path


def batches(
    shards: Path, *, size: int, batch_size: int, workers: int, tokens: bool, seed: int
) -> Iterator[tuple[int, str]]:
    """Yield for every batch how many pictures it holds, and what it is."""
    import open_clip
    from open_clip_train.data import get_data

    if not tokens:
        raise SystemExit("open_clip's pipeline always makes tokens")
    # Its loader's workers seed themselves from torch's generator.
    import torch

    torch.manual_seed(seed)
    sources = [sorted((shards / name).glob("*.tar")) for name in ("photos", "generated")]
    arguments = Namespace(
        train_data="::".join(f"{tars[0].parent}/{{{','.join(tar.name for tar in tars)}}}" for tars in sources),
        # The weight of one shard of each source; all shards are of one length and four in five hold photos.
        train_data_upsampling_factors="1::1",
        dataset_type="webdataset",
        dataset_resampled=True,
        train_num_samples=10_000_000,
        val_data=None,
        imagenet_val=None,
        imagenet_v2=None,
        batch_size=batch_size,
        workers=workers,
        world_size=1,
        distributed=False,
        seed=seed,
    )
    # Its default training transform: a crop of 90 to 100 % of the area, bicubic, then float and normalised.
    transform = open_clip.image_transform(size, is_train=True)
    loader = get_data(arguments, (transform, transform), tokenizer=open_clip.SimpleTokenizer())["train"].dataloader
    for image, text in loader:
        yield len(image), f"{image.dtype} {tuple(image.shape)}, tokens {text.shape[1]}"
