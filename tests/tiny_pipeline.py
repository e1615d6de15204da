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


def _clip(tokenizer: Any, width: int, layers: int) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        hidden_size=width, intermediate_size=24, num_attention_heads=2, num_hidden_layers=layers, projection_dim=width,
        vocab_size=len(tokenizer), max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def save_tiny_pipeline(folder: Path, seed: int = 0, side: int = 32) -> Path:
    """Write a text-to-image pipeline of Stable Diffusion's kind that draws ``side`` pixels."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

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
        text = CLIPTextModel(_clip(tokenizer, 16, layers=2))
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
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = tiny_tokenizer(folder / "words")
    config = _clip(tokenizer, 16, layers=3)

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


def save_tiny_transformers(folder: Path) -> dict[str, Path]:
    """Write pipelines of FLUX's, Stable Diffusion 3's and PixArt's kinds."""
    import diffusers
    from transformers import (
        CLIPTextModel,
        CLIPTextModelWithProjection,
        T5Config,
        T5EncoderModel,
    )

    tokenizer = tiny_tokenizer(folder / "words")
    config = _clip(tokenizer, 32, layers=3)

    def vae(channels: int, levels: int = 1) -> Any:
        return diffusers.AutoencoderKL(
            sample_size=32, in_channels=3, out_channels=3, block_out_channels=(4,) * levels, layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
            latent_channels=channels, norm_num_groups=1, use_quant_conv=False, use_post_quant_conv=False,
            shift_factor=0.06, scaling_factor=1.5,
        )  # fmt: skip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        t5 = T5EncoderModel(T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=4))
        pipelines: dict[str, Any] = {
            "flux": diffusers.FluxPipeline(
                scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=vae(1), tokenizer=tokenizer,
                tokenizer_2=tokenizer, text_encoder=CLIPTextModel(config), text_encoder_2=t5,
                transformer=diffusers.FluxTransformer2DModel(
                    patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
                    num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
                ),
            ),
            "sd3": diffusers.StableDiffusion3Pipeline(
                scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=vae(4), tokenizer=tokenizer,
                tokenizer_2=tokenizer, tokenizer_3=tokenizer, text_encoder=CLIPTextModelWithProjection(config),
                text_encoder_2=CLIPTextModelWithProjection(config), text_encoder_3=t5,
                transformer=diffusers.SD3Transformer2DModel(
                    sample_size=32, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8,
                    num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32, pooled_projection_dim=64,
                    out_channels=4,
                ),
            ),
            "pixart": diffusers.PixArtAlphaPipeline(
                # It draws 256 pixels at least, which only a real VAE's latents keep small.
                scheduler=diffusers.DDIMScheduler(), vae=vae(4, levels=4), tokenizer=tokenizer, text_encoder=t5,
                transformer=diffusers.PixArtTransformer2DModel(
                    sample_size=32, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=3,
                    caption_channels=32, in_channels=4, cross_attention_dim=24, out_channels=8, attention_bias=True,
                    activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
                    norm_elementwise_affine=False, norm_eps=1e-6, use_additional_conditions=False,
                ),
            ),
        }  # fmt: skip
    for name, pipeline in pipelines.items():
        pipeline.save_pretrained(folder / name, safe_serialization=True)
    return {name: folder / name for name in pipelines}
