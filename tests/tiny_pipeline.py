"""A diffusers pipeline with random weights, a thousandth of a real one's size and with all of its parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WORDS = ["a", "the", "dog", "cat", "red", "on", "grass", "ball", "photo", "of", "runs", ",", "and", "with"]


def tiny_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer over a few words and all single letters."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merge = (parts[0], parts[1])
            if merge not in merges:
                merges.append(merge)
            parts[:2] = ["".join(merge)]
            if parts[0] not in pieces:
                pieces.append(parts[0])
    vocabulary = {piece: number for number, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def save_tiny_pipeline(folder: Path, seed: int = 0, side: int = 32) -> Path:
    """Write a text-to-image pipeline of Stable Diffusion's kind that draws ``side`` pixels."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = tiny_tokenizer(folder / "words")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=side // 2, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16, norm_num_groups=4, attention_head_dim=8,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=[8, 8], in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=4,
            down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, sample_size=side,
        )  # fmt: skip
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=16, intermediate_size=24, num_attention_heads=2, num_hidden_layers=2,
                vocab_size=len(tokenizer), max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            )
        )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        unet=unet, vae=vae, text_encoder=text, tokenizer=tokenizer, feature_extractor=None, safety_checker=None,
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_schedule="scaled_linear"),
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_tiny_sdxl(folder: Path, side: int = 32) -> tuple[Path, Path]:
    """Write a base and a refiner of SDXL's kind; the refiner shares the second text encoder and the VAE."""
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLImg2ImgPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = tiny_tokenizer(folder / "words")
    config = CLIPTextConfig(
        hidden_size=16, intermediate_size=24, num_attention_heads=2, num_hidden_layers=3, projection_dim=16,
        vocab_size=len(tokenizer), max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip

    def unet(context: int, times: int) -> Any:
        return UNet2DConditionModel(
            sample_size=side // 2, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=context, norm_num_groups=4, attention_head_dim=(2, 4), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=8, transformer_layers_per_block=(1, 1),
            projection_class_embeddings_input_dim=times * 8 + 16,
        )  # fmt: skip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        vae = AutoencoderKL(
            block_out_channels=[8, 8], in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=4,
            down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, sample_size=side,
        )  # fmt: skip
        one, two = CLIPTextModel(config), CLIPTextModelWithProjection(config)
        base_unet, refiner_unet = unet(32, 6), unet(16, 5)
    shared: dict[str, Any] = {
        "vae": vae, "text_encoder_2": two, "tokenizer_2": tokenizer, "add_watermarker": False,
        "scheduler": EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading"),
    }  # fmt: skip
    base = StableDiffusionXLPipeline(text_encoder=one, tokenizer=tokenizer, unet=base_unet, **shared)
    refiner = StableDiffusionXLImg2ImgPipeline(
        text_encoder=None, tokenizer=None, unet=refiner_unet, requires_aesthetics_score=True, **shared
    )
    base.save_pretrained(folder / "base", safe_serialization=True)
    refiner.save_pretrained(folder / "refiner", safe_serialization=True)
    return folder / "base", folder / "refiner"
