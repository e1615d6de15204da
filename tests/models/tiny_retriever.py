"""Dual encoders small enough to train in a test, and batches for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from models import OpenClipRetriever, RetrieverModule

TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VISION: dict[str, dict[str, Any]] = {
    "vit": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16},
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 32},
    "timm": {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32},
}
CAPTIONS = ["a red cube", "two green spheres", "a dog", "a cat on a mat", "a truck", "the sea", "a bird", "a ship"]


def write_config(folder: Path, kind: str = "vit", **top: Any) -> str:
    path = folder / f"{kind}.json"
    path.write_text(json.dumps({"embed_dim": 12, "vision_cfg": VISION[kind], "text_cfg": TEXT, **top}))
    return str(path)


def tiny(folder: Path, kind: str = "vit", seed: int = 0, **options: Any) -> OpenClipRetriever:
    torch.manual_seed(seed)
    return OpenClipRetriever(config=write_config(folder, kind), **options)


def random_images(count: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def make_batch(
    retriever: OpenClipRetriever,
    size: int = 8,
    twins: tuple[int, ...] = (),
    seed: int = 0,
    people: tuple[int, ...] | None = None,
    edits: tuple[int, ...] | None = None,
    words: int = 0,
) -> dict[str, Any]:
    """A training batch; row i has the i-th caption, and the rows in ``twins`` have a generated twin.

    Beside them stand people of these groups, where any are given; their second attribute is whether a group is 0. The
    rows in ``edits`` carry an edit, pasted in where the row is odd, whose caption is that of the next row. The first
    ``words`` captions' last words go along as rendered ones.
    """
    side = retriever.image_size[0]
    captions = [CAPTIONS[i % len(CAPTIONS)] for i in range(size)]
    beside = {}
    if people is not None:
        group = torch.tensor(people, dtype=torch.int64)
        attributes = torch.stack([group, (group > 0).long()], dim=1)
        images = random_images(len(people), side, seed + 2)
        beside = {"person": images, "person_group": group, "person_attributes": attributes}
    if edits is not None:
        row = torch.tensor(edits, dtype=torch.int64)
        after = retriever.tokenize([CAPTIONS[(i + 1) % len(CAPTIONS)] for i in range(size)])
        beside |= {
            "edit": random_images(len(edits), side, seed + 3),
            "edit_index": row,
            "edit_tokens": after[row],
            "edit_prompt_tokens": after[(row + 3) % size],
            "edit_added": row % 2 == 1,
            "edit_caption_id": (row + 1) % len(CAPTIONS),
        }
    if words:
        spelt = [caption.split()[-1] for caption in CAPTIONS[:words]]
        pictures = random_images(words, side, seed + 4)
        beside |= {"word": pictures, "word_tokens": retriever.tokenize(spelt), "word_text": spelt}
    return beside | {
        "image": random_images(size, side, seed),
        "tokens": retriever.tokenize(captions),
        "caption": captions,
        "source": torch.arange(size) % 2,
        "group": torch.arange(size),
        "caption_id": torch.arange(size) % len(CAPTIONS),
        "key": [str(i) for i in range(size)],
        "twin": random_images(len(twins), side, seed + 1),
        "twin_index": torch.tensor(twins, dtype=torch.int64),
        "twin_source": torch.tensor([1 - i % 2 for i in twins], dtype=torch.int64),
    }


def rows_of(batch: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """The part of a batch that one rank gets."""
    part = {k: v[start:stop] for k, v in batch.items() if not k.startswith(("twin", "person", "edit", "word"))}
    part |= {k: v for k, v in batch.items() if k.startswith("word")}  # the same on all ranks
    each = (stop - start) * len(batch.get("person", ())) // len(batch["image"])
    first = start // (stop - start) * each
    part |= {k: v[first : first + each] for k, v in batch.items() if k.startswith("person")}
    if "edit" in batch:
        own = (batch["edit_index"] >= start) & (batch["edit_index"] < stop)
        part |= {k: v[own] for k, v in batch.items() if k.startswith("edit")}
        part["edit_index"] = part["edit_index"] - start
    mine = (batch["twin_index"] >= start) & (batch["twin_index"] < stop)
    return part | {
        "twin": batch["twin"][mine],
        "twin_index": batch["twin_index"][mine] - start,
        "twin_source": batch["twin_source"][mine],
    }


@dataclass(frozen=True)
class TinyEvaluation:
    keys: tuple[str, ...]
    queries: tuple[str, ...]


class TinyData(L.LightningDataModule):
    """Fixed global batches, cut by rank; a gallery whose rows the ranks share unevenly and partly twice."""

    def __init__(
        self,
        batches: list[dict[str, Any]],
        gallery: Tensor | None = None,
        queries: tuple[str, ...] = (),
        twin_share: float | None = None,
    ) -> None:
        super().__init__()
        self.batches = batches
        self.gallery = gallery
        self.evaluation: TinyEvaluation | None = None
        if gallery is not None:
            self.evaluation = TinyEvaluation(tuple(str(i) for i in range(len(gallery))), queries)
        if twin_share is not None:
            self.twin_share = twin_share

    def train_dataloader(self) -> Any:
        rank, world = self._place()
        size = len(self.batches[0]["image"]) // world
        return _loader([rows_of(batch, rank * size, (rank + 1) * size) for batch in self.batches])

    def val_dataloader(self) -> Any:
        if self.gallery is None:
            return []
        rank, world = self._place()
        count = len(self.gallery)
        # Rank 0 has about two thirds; all other ranks have the rest, one of rank 0's rows too, and each other's.
        cut = count if world == 1 else 2 * count // 3
        rows = torch.arange(cut) if rank == 0 else torch.arange(cut - 1, count)
        batches = [{"image": self.gallery[index], "index": index} for index in rows.split(3)]
        most = -(-cut // 3)
        return _loader(batches + [batches[-1]] * (most - len(batches)))  # Lightning wants as many batches on each rank

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


class SharesKept(RetrieverModule):
    """Keeps the gradient shares that it measures, by step."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.shares: dict[int, dict[str, float]] = {}

    def gradient_shares(self, features: Any, weighted: dict[str, Tensor]) -> dict[str, float]:
        self.shares[features.step] = super().gradient_shares(features, weighted)
        return self.shares[features.step]


def _loader(batches: list[dict[str, Any]]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def trainer(folder: Path, **options: Any) -> L.Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 0,
        "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder,
        "use_distributed_sampler": False, "log_every_n_steps": 1,
    }  # fmt: skip
    return L.Trainer(**(quiet | options))
