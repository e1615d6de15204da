"""Merges captions with a language model that runs here, through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from datamodules.errors import DataError
from datamodules.synthesis.extra import one_line, require_synthesis
from datamodules.synthesis.merge_rules import merge_captions
from datamodules.synthesis.prompts import clean_answer, numbered

_MOST_TOKENS = 96
_BATCH = 8


class ModelWriter:
    """Any Hugging Face text model: one that chats, one that continues text, or an encoder-decoder.

    Decoding is greedy, so the prompts depend on the model alone. An empty answer falls back to the merger by rules.

    Args:
        model: a folder that ``save_pretrained`` wrote, or a name on the hub; safetensors only.
        instruction: what the model is told before the captions.
        device: where it runs.
        trust_remote_code: let the model's repository run its own code.

    Raises:
        DataError: if transformers is missing or the model cannot be loaded.
    """

    def __init__(self, model: str, instruction: str, *, device: str = "cpu", trust_remote_code: bool = False) -> None:
        require_synthesis()
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        self.instruction, self.device = instruction, torch.device(device)
        remote = {"trust_remote_code": trust_remote_code}
        try:
            config = AutoConfig.from_pretrained(model, **remote)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model, padding_side="left", **remote)
            self.is_seq2seq = bool(config.is_encoder_decoder)
            kind: Any = AutoModelForSeq2SeqLM if self.is_seq2seq else AutoModelForCausalLM
            self.model: Any = kind.from_pretrained(model, use_safetensors=True, dtype="auto", **remote)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"--prompt-model {model}: cannot be loaded, from safetensors, as a text model ({one_line(error)})"
            ) from error
        if self.is_seq2seq:
            self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = self.model.to(self.device).eval()

    @torch.inference_mode()
    def __call__(self, captions: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
        """See :class:`datamodules.synthesis.prompts.PromptWriter`."""
        prompts: list[tuple[str, ...]] = []
        for start in range(0, len(captions), _BATCH):
            part = captions[start : start + _BATCH]
            # A chat template writes its own beginning of the text.
            encoded = self.tokenizer(
                [self._text(its) for its in part],
                padding=True,
                return_tensors="pt",
                add_special_tokens=not self._chats,
            )
            inputs = {name: encoded[name].to(self.device) for name in ("input_ids", "attention_mask")}
            made = self.model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                max_new_tokens=_MOST_TOKENS,
                pad_token_id=self.tokenizer.pad_token_id,
            )
            new = made if self.is_seq2seq else made[:, inputs["input_ids"].shape[1] :]
            answers = self.tokenizer.batch_decode(new, skip_special_tokens=True)
            prompts += [(clean_answer(text) or merge_captions(its),) for text, its in zip(answers, part, strict=True)]
        return prompts

    @property
    def _chats(self) -> bool:
        return not self.is_seq2seq and self.tokenizer.chat_template is not None

    def _text(self, captions: Sequence[str]) -> str:
        asked = f"{self.instruction}\n\n{numbered(captions)}"
        if self._chats:
            message = [{"role": "user", "content": asked}]
            return str(self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
        return asked if self.is_seq2seq else f"{asked}\n\nPrompt:"

    def close(self) -> None:
        """Give back the model's memory, which the generator needs."""
        del self.model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
