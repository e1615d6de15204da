"""Any diffusers pipeline, from a folder or the hub, behind one call: requests in, pictures out."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from datamodules.errors import DataError
from datamodules.synthesis.extra import one_line, quiet_libraries, require_synthesis
from datamodules.synthesis.geometry import Size, size_at_aspect
from datamodules.synthesis.safe_weights import check_folder, folder_digest
from datamodules.synthesis.settings import GeneratorSettings

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Request:
    """One picture to draw.

    Attributes:
        prompt: what it shall show.
        seed: of its noise, and of nothing else's.
        size: (width, height) in pixels; None leaves it to the pipeline.
        photo: what is rewritten, where the generator's strength says so.
    """

    prompt: str
    seed: int
    size: Size | None = None
    photo: Image.Image | None = None


class Drawn(NamedTuple):
    """A picture, or None where the pipeline's checker or an overflow blanked it."""

    image: Image.Image | None


class Generator:
    """A loaded pipeline.

    Each picture has a random generator of its own, on the CPU, seeded by its request: neither the batch it is drawn in
    nor the device decides its noise.

    Args:
        settings: which pipeline, and how it is called.
        device: where it runs.
        cpu_offload: keep the parts that do not work at the moment in the main memory.

    Raises:
        DataError: if the extra is missing, the pipeline cannot be loaded from safetensors, or does not take an option.
    """

    def __init__(self, settings: GeneratorSettings, *, device: str = "cpu", cpu_offload: bool = False) -> None:
        require_synthesis()
        quiet_libraries()
        self.settings = settings
        self._rewrites = settings.strength is not None
        pipeline, self.revision = _load(settings, settings.model, settings.revision)
        if settings.scheduler is not None:
            pipeline.scheduler = _scheduler(settings.scheduler, pipeline)
        self._text_to_image = pipeline
        self._pipeline = _image_to_image(pipeline, settings) if self._rewrites else pipeline
        self._refiner, self.refiner_revision = None, None
        if settings.refiner is not None:
            shared = {
                name: pipeline.components[name]
                for name in ("text_encoder_2", "vae")
                if pipeline.components.get(name) is not None
            }
            self._refiner, self.refiner_revision = _load(
                settings, settings.refiner, settings.refiner_revision, shared=shared
            )
        self._accepts = _parameters(self._pipeline)
        self._check_options()
        for pipe in filter(None, (self._pipeline, self._refiner)):
            pipe.set_progress_bar_config(disable=True)
            try:
                if cpu_offload:
                    pipe.enable_model_cpu_offload(device=device)
                else:
                    pipe.to(device)
            except (RuntimeError, AssertionError) as error:
                raise DataError(
                    f"--device {device}: {settings.model} cannot be moved there ({one_line(error)})"
                ) from error

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline that draws."""
        return self._pipeline

    # What it is ------------------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """What the record of each picture says of its generator, with the values that hold where none was given."""
        settings = self.settings
        about: dict[str, Any] = {
            "model": settings.model,
            "revision": self.revision,
            "pipeline": type(self._pipeline).__name__,
            "scheduler": type(self._pipeline.scheduler).__name__ if hasattr(self._pipeline, "scheduler") else None,
            "precision": settings.precision,
            "steps": self._value("num_inference_steps", settings.steps),
            "guidance": self._value("guidance_scale", settings.guidance),
            "negative_prompt": settings.negative_prompt,
            "strength": settings.strength,
        }
        if settings.refiner is not None:
            about["refiner"] = {
                "model": settings.refiner, "revision": self.refiner_revision, "split": settings.refiner_split
            }  # fmt: skip
        return about

    def _value(self, parameter: str, given: float | None) -> float | None:
        if given is not None or parameter not in self._accepts:
            return given
        default = self._accepts[parameter].default
        return default if isinstance(default, int | float) else None

    @property
    def native_size(self) -> Size | None:
        """(width, height) that the pipeline was trained for, None where it does not say."""
        if self.settings.width is not None and self.settings.height is not None:
            return self.settings.width, self.settings.height
        pipe = self._text_to_image
        side = getattr(pipe, "default_sample_size", None)
        for name in ("unet", "transformer", "prior"):
            side = side or getattr(getattr(getattr(pipe, name, None), "config", None), "sample_size", None)
        if not side:
            return None
        height, width = (side, side) if isinstance(side, int) else tuple(side)
        return int(width) * self._scale, int(height) * self._scale

    @property
    def _scale(self) -> int:
        return int(getattr(self._text_to_image, "vae_scale_factor", 8))

    def size_for(self, photo: Size) -> Size:
        """The size to draw at for a twin of the photo's aspect.

        Raises:
            DataError: where the pipeline does not say its size.
        """
        native = self.native_size
        if native is None:
            raise DataError(
                f"--generator {self.settings.name}: its pipeline does not say what size it draws; give --width and "
                "--height, or --geometry original"
            )
        # Transformers pack latents in twos, a UNet halves them, and many a pipeline wants eights whatever it has.
        return size_at_aspect(native, photo, math.lcm(2 * self._scale, 8))

    def _check_options(self) -> None:
        given = {
            "negative_prompt": self.settings.negative_prompt,
            "guidance_scale": self.settings.guidance,
            "num_inference_steps": self.settings.steps,
            "strength": self.settings.strength,
            "denoising_end": self._refiner,
        }
        options = {"guidance_scale": "guidance", "num_inference_steps": "steps", "denoising_end": "refiner"}
        for parameter, value in given.items():
            if value is not None and parameter not in self._accepts:
                option = options.get(parameter, parameter).replace("_", "-")
                raise DataError(
                    f"--{option}: {type(self._pipeline).__name__} ({self.settings.model}) has no such option"
                )
        if self._refiner is not None and "denoising_start" not in _parameters(self._refiner):
            raise DataError(f"--refiner: {type(self._refiner).__name__} cannot take over another pipeline's denoising")

    # Drawing ---------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def draw(self, requests: Sequence[Request]) -> list[Drawn]:
        """Draw pictures in one batch.

        Args:
            requests: all of one size.

        Returns:
            A picture for each.

        Raises:
            DataError: if the device's memory is too small.
        """
        settings = self.settings
        prompts = [request.prompt for request in requests]
        noise = [torch.Generator("cpu").manual_seed(request.seed) for request in requests]
        call: dict[str, Any] = {"prompt": prompts, "generator": noise, "output_type": "pil"}
        if settings.negative_prompt is not None:
            call["negative_prompt"] = [settings.negative_prompt] * len(requests)
        if settings.guidance is not None:
            call["guidance_scale"] = settings.guidance
        if settings.steps is not None:
            call["num_inference_steps"] = settings.steps
        size = requests[0].size
        if size is not None and {"width", "height"} <= self._accepts.keys():
            call["width"], call["height"] = size
        if self._rewrites:
            call["image"] = [request.photo for request in requests]
            call["strength"] = settings.strength
        try:
            made = self._pipeline(**call) if self._refiner is None else self._refined(call)
        except torch.OutOfMemoryError as error:
            raise DataError(
                f"--generator {settings.name}: a batch of {len(requests)} does not fit into the device's memory; give "
                "a smaller --batch-size, --precision float16 or bfloat16, or --cpu-offload"
            ) from error
        flagged = getattr(made, "nsfw_content_detected", None) or [False] * len(requests)
        return [
            Drawn(None if bad or _is_blank(image) else image) for image, bad in zip(made.images, flagged, strict=True)
        ]

    def _refined(self, call: dict[str, Any]) -> Any:
        """Denoise the first part with the base, hand its latents over, and let the refiner do the rest."""
        settings = self.settings
        latents = self._pipeline(**call | {"output_type": "latent", "denoising_end": settings.refiner_split}).images
        assert self._refiner is not None
        rest = {name: call[name] for name in ("prompt", "generator", "num_inference_steps") if name in call}
        return self._refiner(**rest, image=latents, denoising_start=settings.refiner_split, output_type="pil")


def _is_blank(image: Image.Image) -> bool:
    """Whether all pixels are alike: a checker's black, or an overflow in half precision."""
    return all(low == high for low, high in image.convert("RGB").getextrema())  # type: ignore[misc]


def _parameters(pipeline: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(type(pipeline).__call__).parameters)


def _load(
    settings: GeneratorSettings, model: str, revision: str | None, shared: dict[str, Any] | None = None
) -> tuple[Any, str]:
    """Load a pipeline; returns it with the hub's commit, or the digest of a local folder."""
    from diffusers import DiffusionPipeline

    remote = {"trust_remote_code": settings.trust_remote_code}
    local = Path(model).expanduser()
    if local.is_dir():
        if revision is not None:
            raise DataError(f"--revision {revision}: {model} is a folder, which has none; leave it out")
        folder = local
    else:
        if not _HUB_NAME.fullmatch(model):
            raise DataError(
                f"--generator {settings.name}={model}: there is no such folder, and no such name on the hub"
            )
        try:
            folder = Path(
                DiffusionPipeline.download(
                    model, revision=revision, variant=settings.variant, use_safetensors=True, **remote
                )
            )
        except Exception as error:  # the hub's client has errors of its own, which differ between its versions
            raise DataError(
                f"--generator {settings.name}={model}: there is no such folder, and it cannot be had from the hub with "
                f"safetensors ({one_line(error)})"
            ) from error
    check_folder(folder, model)
    options: dict[str, Any] = dict(shared or {})
    if not settings.safety_checker:
        options |= {"safety_checker": None, "requires_safety_checker": False}
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            str(folder),
            dtype=getattr(torch, settings.precision),
            variant=settings.variant,
            use_safetensors=True,
            **remote,
            **options,
        )
    except Exception as error:  # whatever a damaged or foreign folder makes of dozens of classes
        raise DataError(f"--generator {settings.name}={model}: cannot be loaded ({one_line(error)})") from error
    if not callable(pipeline):
        raise DataError(f"--generator {settings.name}={model}: {type(pipeline).__name__} draws nothing")
    return pipeline, folder.name if folder.parent.name == "snapshots" else folder_digest(folder)


def _scheduler(name: str, pipeline: Any) -> Any:
    import diffusers

    kind = getattr(diffusers, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, diffusers.SchedulerMixin)):
        raise DataError(f"--scheduler {name}: diffusers has no such scheduler{_others(pipeline)}")
    known = {other.__name__ for other in getattr(pipeline.scheduler, "compatibles", [])}
    if known and name not in known and name != type(pipeline.scheduler).__name__:
        raise DataError(f"--scheduler {name}: does not go with {type(pipeline).__name__}{_others(pipeline)}")
    return kind.from_config(pipeline.scheduler.config)


def _others(pipeline: Any) -> str:
    names = sorted(other.__name__ for other in getattr(pipeline.scheduler, "compatibles", []))
    return f"; this pipeline goes with {', '.join(names)}" if names else ""


def _image_to_image(pipeline: Any, settings: GeneratorSettings) -> Any:
    if {"image", "strength"} <= _parameters(pipeline).keys():
        return pipeline
    from diffusers import AutoPipelineForImage2Image

    try:
        return AutoPipelineForImage2Image.from_pipe(pipeline)
    except ValueError as error:
        raise DataError(
            f"--strength: {type(pipeline).__name__} ({settings.model}) has no image-to-image form in diffusers"
        ) from error


def inpainting(generator: Generator) -> Any:
    """The inpainting form of a generator's pipeline, with the same weights.

    Raises:
        DataError: if it has none.
    """
    from diffusers import AutoPipelineForInpainting

    pipeline, model = generator.pipeline, generator.settings.model
    if "mask_image" in _parameters(pipeline):
        return pipeline
    try:
        made = AutoPipelineForInpainting.from_pipe(pipeline)
    except ValueError as error:
        raise DataError(
            f"--inpainter {model}: {type(pipeline).__name__} has no inpainting form in diffusers"
        ) from error
    made.set_progress_bar_config(disable=True)
    return made
