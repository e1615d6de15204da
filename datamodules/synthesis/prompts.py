"""From a photo's captions to prompts: which captions may be used, and who words the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from datamodules.errors import DataError
from datamodules.hashing import mix, string_id
from datamodules.sample import Sample
from datamodules.synthesis.merge_rules import merge_captions
from datamodules.synthesis.settings import PromptSettings

HELD_OUT = "held_out"
"""Field of a sample's ``meta`` that says which caption no prompt was made of."""

INSTRUCTION = (
    "The numbered sentences below describe the same photo. Write one prompt for a text-to-image model that shows that "
    "scene: name every object, person, place, colour and action once, add nothing that is not said, and use at most "
    "60 words. Answer with the prompt alone."
)


@dataclass(frozen=True)
class CaptionSplit:
    """The captions that prompts are made of, and the one that is held out.

    Attributes:
        used: what prompts may be made of.
        slot: number of the held-out caption among all of them, None where none is held out.
        held_out: that caption.
    """

    used: tuple[str, ...]
    slot: int | None = None
    held_out: str | None = None


def split_captions(sample: Sample, settings: PromptSettings, seed: int) -> CaptionSplit | None:
    """Take out the held-out caption.

    A sample whose caption was held out already, for another generator's twins, keeps it held out: otherwise its prompt
    would be made of the very query.

    Args:
        sample: the photo's sample.
        settings: say which caption to hold out.
        seed: for the random choice.

    Returns:
        None where there are too few captions.
    """
    before = sample.meta.get(HELD_OUT)
    if isinstance(before, dict):
        try:
            return CaptionSplit(tuple(before["prompt_captions"]), int(before["slot"]), str(before["caption"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"sample {sample.key!r}, field 'meta.{HELD_OUT}': is none of ours ({error!r})") from error
    captions, hold_out = sample.captions, settings.hold_out
    if hold_out is None:
        return CaptionSplit(captions) if captions else None
    if len(captions) < 2:
        return None
    slot = (
        int(mix(seed, string_id(sample.key), string_id(HELD_OUT)) % len(captions)) if hold_out == "random" else hold_out
    )
    if not -len(captions) <= slot < len(captions):
        return None
    slot %= len(captions)
    return CaptionSplit(captions[:slot] + captions[slot + 1 :], slot, captions[slot])


class PromptWriter(Protocol):
    """Words prompts. Called with the captions of several samples; returns one or more prompts for each."""

    def __call__(self, captions: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
        """Word one or more prompts for each sample's captions."""

    def close(self) -> None:
        """Give back memory."""


class SimpleWriter:
    """A writer made of a function of one photo's captions."""

    def __init__(self, write: Callable[[Sequence[str]], tuple[str, ...]]) -> None:
        self._write = write

    def __call__(self, captions: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
        """See :class:`PromptWriter`."""
        return [self._write(its) for its in captions]

    def close(self) -> None:
        """Nothing to give back."""


def make_writer(
    settings: PromptSettings, *, key_env: str = "OPENAI_API_KEY", device: str = "cpu", trust_remote_code: bool = False
) -> PromptWriter:
    """Make the writer that the settings name.

    Args:
        settings: which one.
        key_env: environment variable that holds the endpoint's key.
        device: of a language model that runs here.
        trust_remote_code: let the language model's repository run its own code.

    Raises:
        DataError: if it cannot be had.
    """
    if settings.kind == "first":
        return SimpleWriter(lambda captions: (captions[0],))
    if settings.kind == "each":
        return SimpleWriter(tuple)
    if settings.kind == "rules":
        return SimpleWriter(lambda captions: (merge_captions(captions, settings.max_words),))
    assert settings.model is not None
    instruction = settings.instruction or INSTRUCTION
    if settings.kind == "hf":
        from datamodules.synthesis.prompt_model import ModelWriter

        return ModelWriter(settings.model, instruction, device=device, trust_remote_code=trust_remote_code)
    from datamodules.synthesis.prompt_endpoint import EndpointWriter

    return EndpointWriter(settings.url, settings.model, instruction, key_env=key_env)


def numbered(captions: Sequence[str]) -> str:
    """List captions as a language model is shown them.

    >>> print(numbered(["A cat.", "A pet on a mat."]))
    1. A cat.
    2. A pet on a mat.
    """
    return "\n".join(f"{number}. {' '.join(caption.split())}" for number, caption in enumerate(captions, 1))


def clean_answer(text: str) -> str:
    """Make one line of a language model's answer: its first paragraph, without quotes and labels.

    >>> clean_answer('Prompt: "a cat on a mat"')
    'a cat on a mat'
    """
    paragraphs = [part.strip() for part in text.strip().split("\n\n") if part.strip()]
    line = " ".join(paragraphs[0].split()) if paragraphs else ""
    if line[:7].lower() == "prompt:":
        line = line[7:].strip()
    return line.strip("\"'“”` ").strip()
