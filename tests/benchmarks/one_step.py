"""One way of taking training steps, in a process of its own; run by step.py.

    python tests/benchmarks/one_step.py '{"way": "ours", "model": "ViT-S-32", "batch": 32, ...}'

Prints one line of JSON: seconds a step, and the most bytes that the steps added to the process (on a device: that its
allocator held).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import open_clip
import psutil
import torch
from torch import Tensor

MEAN_WORDS, LEAST, MOST = 10.0, 4, 30  # of a caption; COCO's have 10.5 on average


def captions(count: int) -> list[str]:
    """Made-up captions, of COCO's lengths about."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.poisson(torch.full((count,), MEAN_WORDS), generator=generator).clamp(LEAST, MOST).int().tolist()
    return [" ".join(["a", "dog", "runs", "by", "the", "sea"][i % 6] for i in range(words)) for words in drawn]


def ours(turn: dict[str, Any], images: Tensor, texts: list[str]) -> Callable[[], None]:
    """A step as `models.module` takes it, but for what the trainer adds."""
    from losses import InfoNCE, RankHinge
    from models import LossTerm, OpenClipRetriever, OptimizerConfig, RetrieverModule
    from models.optim import build_optimizer, parameter_groups

    retriever = OpenClipRetriever(name=turn["model"], compile=turn["compile"])
    losses = {"contrastive": LossTerm(InfoNCE())}
    if turn["p"] is not None:
        losses["debias"] = LossTerm(RankHinge(two_sided=True, p=turn["p"]))
    module = RetrieverModule(retriever, losses, encode_batch_size=turn["part"]).to(images.device).train()
    config = OptimizerConfig()
    optimizer = build_optimizer(parameter_groups(module, config, module._tower_of), config, fused=True)
    size, device = len(images), images.device
    batch = {
        "image": images,
        "tokens": retriever.tokenize(texts).to(device),
        "source": torch.zeros(size, dtype=torch.int64, device=device),
        "group": torch.arange(size, device=device),
        "caption_id": torch.arange(size, device=device),
        "twin": images.flip(0),
        "twin_index": torch.arange(size, device=device),
        "twin_rows": list(range(size)),
        "twin_source": torch.ones(size, dtype=torch.int64, device=device),
    }
    module._twin_share = lambda: 1.0  # type: ignore[method-assign]

    def step() -> None:
        optimizer.zero_grad()
        with autocast(turn):
            features = module.features(batch)
            loss = torch.stack([t for term in losses.values() for t in term.loss(features).values()]).sum()
        loss.backward()
        optimizer.step()
        retriever.clamp_logit_scale()

    return step


def theirs(turn: dict[str, Any], images: Tensor, texts: list[str]) -> Callable[[], None]:
    """A step as open_clip_train takes it: pictures come as normalised numbers, captions in the full context."""
    model = open_clip.create_model(turn["model"]).to(images.device).train()
    loss_of = open_clip.ClipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-6)
    tokens = open_clip.get_tokenizer(turn["model"])(texts).to(images.device)
    pixels = (images.float() / 255 - 0.5) / 0.25

    def step() -> None:
        optimizer.zero_grad()
        with autocast(turn):
            image, text, scale = model(pixels, tokens)[:3]
            loss = loss_of(image, text, scale)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)

    return step


def autocast(turn: dict[str, Any]) -> Any:
    """bfloat16 where it was asked for."""
    return torch.autocast(turn["device"], torch.bfloat16) if turn["precision"] == "bf16" else nullcontext()


def main() -> None:
    turn: dict[str, Any] = json.loads(sys.argv[1])
    device = torch.device(turn["device"])
    torch.manual_seed(0)
    size = open_clip.get_model_config(turn["model"])["vision_cfg"]["image_size"]
    images = torch.randint(0, 256, (turn["batch"], size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2).to(device)
    step = (ours if turn["way"] == "ours" else theirs)(turn, images, captions(turn["batch"]))

    def done() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    before = psutil.Process().memory_info().rss
    for _ in range(turn["warm_up"]):
        step()
    done()
    start = time.perf_counter()
    for _ in range(turn["steps"]):
        step()
    done()
    seconds = (time.perf_counter() - start) / turn["steps"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    print(json.dumps({"seconds": seconds, "bytes": peak}))


if __name__ == "__main__":
    main()
