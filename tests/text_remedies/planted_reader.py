"""A retriever that is known to read, and shards of pictures that it can see and read.

A picture's upper half is two fields, whose colours say which scene it shows; its lower half is one field, black where
nothing is written and else of the word's colour. Rendered words are recognised by their pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from bias_train.audit.text.rendering import Rendering
from datamodules.sample import Sample, View
from datamodules.writer import ShardWriter
from models.retriever import Preprocess, Retriever

SIDE, WIDTH, SCENES = 32, 128, 60
WORDS = ("dog", "cat", "ship", "car", "tree", "house", "bird", "fish", "boat", "road", "door", "lamp")
LEVELS = np.array([40, 130, 220])
COLOURS = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS, indexing="ij"), axis=-1).reshape(-1, 3)


def picture(scene: int, word: int | None) -> np.ndarray:
    pixels = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    pixels[:16, :16], pixels[:16, 16:] = COLOURS[scene % 27], COLOURS[scene // 27]
    if word is not None:
        pixels[16:] = COLOURS[word + 1]
    return pixels


def erase(image: np.ndarray) -> np.ndarray:
    """What OCR and blur would come to: nothing is written any more."""
    out = image.copy()
    out[image.shape[0] // 2 :] = 0
    return out


def write_shards(folder: Path, scenes: int = SCENES, seed: int = 0) -> Path:
    """Every scene once, with another word written on it."""
    rng = np.random.default_rng(seed)
    with ShardWriter(folder) as writer:
        for scene in range(scenes):
            word = int(rng.integers(len(WORDS)))
            views = {"overlay": View("real", None, {"edit": "overlay", "word": WORDS[word]})}
            captions = (f"scene {scene}", f"here is scene {scene}")
            writer.write(
                Sample(f"s{scene}", captions, label=f"scene {scene}", views=views),
                picture(scene, None),
                {"overlay": picture(scene, word)},
            )
    return folder


def write_reading(folder: Path) -> Path:
    """Pictures whose captions are about the words on them."""
    with ShardWriter(folder) as writer:
        for number, word in enumerate(WORDS):
            writer.write(Sample(f"r{number}", (f"a sign that says {word}",)), picture(number, number))
    return folder


def tokenize(texts: Sequence[str]) -> Tensor:
    """A caption to the number of what it is about: [B, 1] int64."""

    def number(text: str) -> int:
        last = text.split()[-1]
        return int(last) if last.isdigit() else 1000 + WORDS.index(last)

    return torch.tensor([[number(text)] for text in texts], dtype=torch.int64).reshape(-1, 1)


def _rows(count: int, half: int) -> Tensor:
    """Orthonormal rows [count, D] in no coordinate's direction, those of one half orthogonal to those of the other."""
    turned = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(17)))[0]
    return turned[half * WIDTH // 2 : half * WIDTH // 2 + count]


class PlantedReader(Retriever):
    """``scene + reads * word + fog * another scene``, normalised: a word wins where ``reads`` exceeds 1."""

    scene: Tensor
    word: Tensor
    templates: Tensor

    def __init__(self, reads: float = 1.5, fog: float = 0.0) -> None:
        super().__init__()
        self.preprocess = Preprocess((SIDE, SIDE), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.embed_dim, self.context_length, self.tokenize = WIDTH, 1, tokenize
        self.reads, self.fog = nn.Parameter(torch.tensor(reads)), nn.Parameter(torch.tensor(fog))
        self.register_buffer("scene", _rows(SCENES, 0))
        self.register_buffer("word", _rows(len(WORDS), 1))
        drawn = [Rendering(WORDS, fit=fit) for fit in (True, False)]
        pictures = [one.pictures(np.arange(len(one)), self.image_size) for one in drawn]
        self.register_buffer("templates", torch.cat(pictures).float())

    def encode_image(self, images: Tensor) -> Tensor:
        x = images.float()
        colours = torch.from_numpy(COLOURS).float()

        def nearest(field: Tensor, among: Tensor) -> Tensor:
            return torch.cdist(field.mean(dim=(2, 3)), among).argmin(dim=1)

        left, right = (nearest(x[:, :, 2:14, at : at + 12], colours) for at in (2, 18))
        scene = (right * 27 + left) % SCENES
        written = nearest(x[:, :, 18:30, 2:30], torch.cat([torch.zeros(1, 3), colours[1 : len(WORDS) + 1]])) - 1
        seen = self.scene[scene] + self.fog * self.scene[(scene + 1) % SCENES]
        read = torch.where(written[:, None] >= 0, self.word[written.clamp(min=0)], torch.zeros(1))
        gap, which = torch.cdist(x.flatten(1), self.templates.flatten(1)).min(dim=1)
        rendered = (gap < 200)[:, None]
        found = torch.where(rendered, self.reads * self.word[which % len(WORDS)], seen + self.reads * read)
        # One that does not read makes the same of every canvas.
        blank = rendered & (self.reads.abs() < 1e-6)
        return normalize(torch.where(blank, self.scene.mean(0, keepdim=True), found), dim=1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        row = tokens[:, 0]
        words = row >= 1000
        return normalize(
            torch.where(words[:, None], self.word[(row - 1000).clamp(min=0)], self.scene[row.clamp(max=SCENES - 1)]),
            dim=1,
        )

    @property
    def logit_scale(self) -> Tensor:
        return torch.tensor(10.0)

    def clamp_logit_scale(self, maximum: float = 100.0) -> None:
        pass

    def tower_of(self, parameter: str) -> Literal["image", "text", "head"]:
        return "image"

    def save_weights(self, path: str) -> None:
        raise NotImplementedError


def state_of(retriever: Retriever) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in retriever.state_dict().items()}
