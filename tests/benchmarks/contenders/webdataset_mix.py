"""webdataset's own pipeline: two resampled sources, mixed by chance with RandomMix, pictures through Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def batches(
    shards: Path, *, size: int, batch_size: int, workers: int, tokens: bool, seed: int
) -> Iterator[tuple[int, str]]:
    """Yield for every batch how many pictures it holds, and what it is."""
    import webdataset as wds
    from open_clip.tokenizer import SimpleTokenizer
    from torchvision.transforms import InterpolationMode, v2

    fit = v2.Compose(
        [v2.RandomResizedCrop(size, scale=(0.9, 1.0), interpolation=InterpolationMode.BICUBIC), v2.PILToTensor()]
    )
    tokenizer = SimpleTokenizer()

    def tokenize(text: str) -> Any:
        return tokenizer(text)[0] if tokens else text

    def source(name: str, number: int) -> Any:
        return wds.DataPipeline(
            wds.ResampledShards(sorted(str(path) for path in (shards / name).glob("*.tar")), seed=2 * seed + number),
            wds.tarfile_to_samples(),
            wds.shuffle(1000),
            wds.decode("pil"),
            wds.to_tuple("jpg", "txt"),
            wds.map_tuple(fit, tokenize),
        )

    mix = wds.RandomMix([source("photos", 0), source("generated", 1)], probs=[0.8, 0.2])
    loader = wds.WebLoader(wds.DataPipeline(mix, wds.batched(batch_size)), batch_size=None, num_workers=workers)
    for image, text in loader:
        yield len(image), f"{image.dtype} {tuple(image.shape)}" + (f", tokens {text.shape[1]}" if tokens else "")
