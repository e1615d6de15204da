"""What decides a twin: everything that two runs must share for their pictures to be the same."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from datamodules.errors import DataError
from datamodules.reencode import ImageFormat
from datamodules.sample import REAL, check_name

Precision = Literal["float32", "float16", "bfloat16"]
PromptKind = Literal["rules", "first", "each", "hf", "openai"]
Selection = Literal["best", "first", "random", "all"]
Arm = Literal["matched", "original"]


@dataclass(frozen=True)
class GeneratorSettings:
    """One generator: a diffusers pipeline and how it is called. None leaves what the pipeline itself does.

    Attributes:
        name: the generator's name: source and view of its twins.
        model: a folder that ``save_pretrained`` wrote, or a name on the Hugging Face hub.
        revision: branch, tag or commit on the hub.
        variant: of the weight files, ``fp16`` say.
        refiner: folder or name of the pipeline that takes over for the last part of the denoising (SDXL's refiner).
        refiner_revision: of the refiner on the hub.
        refiner_split: share of the denoising after which the refiner takes over, in (0, 1).
        scheduler: a scheduler class of diffusers, by name.
        precision: of weights and activations.
        steps: denoising steps.
        guidance: scale of classifier-free (or, for distilled models, embedded) guidance.
        negative_prompt: what shall not be seen. The refiner is not told.
        strength: in (0, 1]: rewrite the photo itself from this noise level on; None draws from the prompt alone.
        width: in pixels.
        height: in pixels.
        safety_checker: False leaves out the pipeline's checker, which blanks what it takes for unsafe.
        trust_remote_code: let the pipeline's repository run its own code.
    """

    name: str
    model: str
    revision: str | None = None
    variant: str | None = None
    refiner: str | None = None
    refiner_revision: str | None = None
    refiner_split: float = 0.8
    scheduler: str | None = None
    precision: Precision = "float32"
    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    strength: float | None = None
    width: int | None = None
    height: int | None = None
    safety_checker: bool = True
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        check_name(self.name, "--generator")
        if self.name == REAL:
            raise DataError("--generator real=...: 'real' is the photos' source; choose another name")
        for option, value in (("steps", self.steps), ("width", self.width), ("height", self.height)):
            if value is not None and value < 1:
                raise DataError(f"--{option} {value}: must be 1 or more")
        if (self.width is None) != (self.height is None):
            raise DataError("--width and --height: give both or neither")
        if self.strength is not None and not 0.0 < self.strength <= 1.0:
            raise DataError(f"--strength {self.strength:g}: must lie in (0, 1]")
        if not 0.0 < self.refiner_split < 1.0:
            raise DataError(f"--refiner-split {self.refiner_split:g}: must lie between 0 and 1")
        if self.guidance is not None and not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise DataError(f"--guidance {self.guidance:g}: must be 0 or more")


@dataclass(frozen=True)
class PromptSettings:
    """How a photo's captions become prompts.

    Attributes:
        kind: ``rules`` merges the captions by rules; ``first`` takes the first; ``each`` makes twins for every caption;
            ``hf`` and ``openai`` have a language model merge them.
        model: the language model's folder or name.
        url: base of an OpenAI-compatible endpoint, up to and with its ``/v1``.
        instruction: what the language model is told; None is ours.
        max_words: upper bound of a merged prompt by rules. CLIP's text towers read 77 tokens.
        hold_out: None, or the caption that no prompt is made of: a number counted from 0 (or, negative, from the
            end), or ``random``, which depends on key and seed alone.
        queries: ``held-out`` leaves the held-out caption as the sample's only one, so that it alone is queried with.
    """

    kind: PromptKind = "rules"
    model: str | None = None
    url: str | None = None
    instruction: str | None = None
    max_words: int = 50
    hold_out: int | Literal["random"] | None = None
    queries: Literal["all", "held-out"] = "all"

    def __post_init__(self) -> None:
        if (self.kind in ("hf", "openai")) != (self.model is not None):
            raise DataError("--prompt-model goes with --prompts hf or openai, which need it")
        if self.url is not None and self.kind != "openai":
            raise DataError("--prompt-url goes with --prompts openai")
        if self.max_words < 1:
            raise DataError(f"--max-words {self.max_words}: must be 1 or more")
        if self.queries == "held-out" and self.hold_out is None:
            raise DataError("--queries held-out: there is none without --hold-out")


@dataclass(frozen=True)
class TwinSettings:
    """Everything that decides the data. What is not in here (device, batch size, parts) must not.

    Attributes:
        generators: at least one, of different names.
        prompts: how captions become prompts.
        candidates: pictures drawn for each prompt.
        selection: which of them are kept: the one most like the photo, the first, a random one, or all.
        encoder: what measures the likeness, for the record; None where nothing does.
        geometry: ``matched`` draws at the photo's aspect and cuts photo and twin to the same size; ``original`` leaves
            both as they are.
        codec: ``matched`` writes all pictures as JPEG of one quality; ``original`` keeps the photo's bytes and the
            twin without loss (PNG).
        size: side of the square that all pictures become; None leaves their geometry to ``geometry``.
        quality: of the JPEG.
        seed: of all noise and of every random choice.
        limit: make a set of the first so many samples only.
    """

    generators: tuple[GeneratorSettings, ...]
    prompts: PromptSettings = PromptSettings()
    candidates: int = 1
    selection: Selection = "best"
    encoder: str | None = None
    geometry: Arm = "matched"
    codec: Arm = "matched"
    size: int | None = None
    quality: int = 92
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        names = [generator.name for generator in self.generators]
        if not names:
            raise DataError("--generator: name one at least, as in --generator sd-1.5=FOLDER")
        if len(set(names)) < len(names):
            raise DataError(f"--generator: the names must differ, got {', '.join(names)}")
        if self.candidates < 1:
            raise DataError(f"--candidates {self.candidates}: must be 1 or more")
        if self.selection == "best" and self.candidates > 1 and self.encoder is None:
            raise DataError(
                "--candidates: choosing the best needs an encoder of pictures: give --select-model, --select-hf-model, "
                "--select-vision or --select-run; or --select first, random or all"
            )
        if self.limit is not None and self.limit < 1:
            raise DataError(f"--limit {self.limit}: must be 1 or more")
        if self.codec == "original" and self.size is not None:
            raise DataError("--codec original keeps the photos' bytes, so --size cannot change them; leave out one")
        self.image_format  # noqa: B018 - checks size and quality

    @property
    def image_format(self) -> ImageFormat:
        """How all pictures of the set are written."""
        if self.codec == "original":
            return ImageFormat(keep_original=True)
        return ImageFormat(size=self.size, quality=self.quality)

    def to_json(self) -> dict[str, Any]:
        """All of it, for the record and for comparing two runs."""
        return asdict(self)


def first_difference(old: Any, new: Any, where: str = "") -> str | None:
    """Name the first setting in which two records differ.

    >>> first_difference({"generators": [{"steps": 20}]}, {"generators": [{"steps": 30}]})
    'generators.0.steps: 20, now 30'
    """
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(str(key), old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys())]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(n), one, two) for n, (one, two) in enumerate(zip(old, new, strict=True))]
    else:
        return None if old == new else f"{where}: {old!r}, now {new!r}"
    found = (first_difference(one, two, f"{where}.{key}" if where else key) for key, one, two in pairs)
    return next((text for text in found if text is not None), None)
