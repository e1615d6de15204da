"""A plain folder of picture files: torchvision's loader and transforms, a map-style dataset, shuffled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, RandomSampler


class PictureFolder(Dataset[tuple[Any, Any]]):
    """Files and captions, as the two columns of ``captions.tsv`` list them."""

    def __init__(self, folder: Path, transform: Any, tokenize: Any) -> None:
        lines = (folder / "captions.tsv").read_text().splitlines()
        self.items = [(str(folder / name), caption) for name, caption in (line.split("\t") for line in lines)]
        self.transform, self.tokenize = transform, tokenize

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, at: int) -> tuple[Any, Any]:
        from torchvision.datasets.folder import pil_loader

        path, caption = self.items[at]
        return self.transform(pil_loader(path)), self.tokenize(caption)[0] if self.tokenize else caption


def batches(
    shards: Path, *, size: int, batch_size: int, workers: int, tokens: bool, seed: int
) -> Iterator[tuple[int, str]]:
    """Yield for every batch how many pictures it holds, and what it is."""
    import torch
    from open_clip.tokenizer import SimpleTokenizer
    from torchvision.transforms import InterpolationMode, v2

    torch.manual_seed(seed)
    fit = v2.Compose(
        [v2.RandomResizedCrop(size, scale=(0.9, 1.0), interpolation=InterpolationMode.BICUBIC), v2.PILToTensor()]
    )
    pictures = PictureFolder(shards / "files", fit, SimpleTokenizer() if tokens else None)
    # One shuffle after another, as shuffle=True gives, but without the pause between epochs: these few files would
    # make it weigh more than it does in a real folder.
    sampler = RandomSampler(pictures, num_samples=10_000_000)
    for image, text in DataLoader(pictures, batch_size=batch_size, sampler=sampler, num_workers=workers):
        yield len(image), f"{image.dtype} {tuple(image.shape)}" + (f", tokens {text.shape[1]}" if tokens else "")
