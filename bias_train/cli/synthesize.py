"""``bias-train synthesize``: counterfactual views in shards; here generated twins of photos."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bias_train.cli.decorrelate import add_decorrelated
from bias_train.cli.erase_text import add_erase
from bias_train.cli.overlay import add_overlay
from bias_train.errors import RunError

# Everything heavy is imported where it is used: `--help` must answer at once.
if TYPE_CHECKING:
    from datamodules.synthesis import GeneratorSettings, Outcome, Progress, TwinSettings
    from datamodules.synthesis.selection import Encoder

T = TypeVar("T")
_LOG_EVERY_S = 30.0  # where nobody sees a line being written over

_DESCRIPTION = (
    "Draw a generated twin of every photo, from its captions or from the photo itself, and write shards that hold the "
    "old samples with the twins as views. Work is split by shard and may be killed at any moment: the same command "
    "goes on. Options marked * may be repeated as NAME=VALUE, for one generator."
)
_EPILOG = (
    "Example: bias-train synthesize twins shards/photos shards/twins "
    "--generator sd-1.5=stable-diffusion-v1-5/stable-diffusion-v1-5 --candidates 4 "
    "--select-model ViT-H-14 --select-pretrained laion2b_s32b_b79k"
)


def main(argv: list[str]) -> int:
    """Run ``bias-train synthesize ARGV``.

    Returns:
        0; 2 where the user has to mend something, after one line on standard error that says what.
    """
    from datamodules.errors import DataError
    from models.errors import ModelError

    options = _parser().parse_args(argv)
    try:
        return int(options.run_command(options))
    except (DataError, ModelError, RunError) as error:
        if os.environ.get("BIAS_TRAIN_TRACEBACK"):
            raise
        print(f"bias-train synthesize {options.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bias-train synthesize", description="Make counterfactual views of pictures.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    twins = commands.add_parser(
        "twins", help="generated twins of photos, by diffusion", description=_DESCRIPTION, epilog=_EPILOG
    )
    twins.add_argument("shards", metavar="SHARDS", help="folder or URL of the photos' shards")
    twins.add_argument("out", metavar="OUT", help="folder of the new shards")
    _add_generators(twins)
    _add_prompts(twins)
    _add_candidates(twins)
    _add_pictures(twins)
    _add_work(twins)
    twins.set_defaults(run_command=_twins)
    add_decorrelated(commands)
    add_overlay(commands)
    add_erase(commands)
    return parser


def _add_generators(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("generators")
    group.add_argument(
        "--generator",
        action="append",
        required=True,
        metavar="NAME=PIPELINE",
        help="name of source and view, and a diffusers pipeline: a folder or a name on the hub; may be repeated",
    )

    def each(option: str, metavar: str, text: str) -> None:
        group.add_argument(option, action="append", metavar=metavar, help=f"* {text}")

    each("--revision", "REV", "branch, tag or commit on the hub")
    each("--variant", "NAME", "of the weight files, fp16 say")
    each("--steps", "N", "denoising steps (default: the pipeline's)")
    each("--guidance", "SCALE", "guidance scale (default: the pipeline's)")
    each("--negative-prompt", "TEXT", "what shall not be seen")
    each("--scheduler", "CLASS", "a scheduler of diffusers, DPMSolverMultistepScheduler say (default: the pipeline's)")
    each("--strength", "S", "rewrite the photo itself from this noise level in (0, 1] on, instead of drawing anew")
    each("--precision", "TYPE", "float32, float16 or bfloat16 (default: float16 on a GPU, float32 on a CPU)")
    each("--width", "PIXELS", "with --height: what is drawn (default: the pipeline's size)")
    each("--height", "PIXELS", "see --width")
    each("--refiner", "PIPELINE", "takes over the end of the denoising, as SDXL's refiner does")
    each("--refiner-revision", "REV", "of the refiner on the hub")
    each("--refiner-split", "SHARE", "share of the denoising before the refiner (default: 0.8)")
    group.add_argument("--no-safety-checker", action="store_true", help="leave out the pipelines' checkers")
    group.add_argument(
        "--trust-remote-code", action="store_true", help="let repositories run their own code (default: never)"
    )


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("prompts")
    group.add_argument(
        "--prompts",
        default="rules",
        choices=("rules", "first", "each", "hf", "openai"),
        help="captions merged by rules (default), the first one, twins for each, or merged by a language model: hf "
        "through transformers, openai through an OpenAI-compatible endpoint",
    )
    group.add_argument("--prompt-model", metavar="NAME", help="of hf: a folder or hub name; of openai: the model")
    group.add_argument("--prompt-url", metavar="URL", help="of openai: the endpoint's base (default: OpenAI's own)")
    group.add_argument(
        "--prompt-key-env",
        default="OPENAI_API_KEY",
        metavar="VARIABLE",
        help="of openai: environment variable of the key (default: %(default)s)",
    )
    group.add_argument("--instruction", metavar="TEXT", help="what the language model is told")
    group.add_argument(
        "--max-words", type=int, default=50, metavar="N", help="of a prompt by rules (default: %(default)s)"
    )
    group.add_argument(
        "--hold-out",
        metavar="CAPTION",
        help="make no prompt of this caption: a number from 0, -1 for the last, or random; recorded in the sample",
    )
    group.add_argument(
        "--queries",
        default="all",
        choices=("all", "held-out"),
        help="captions that the new samples have, and are queried with (default: %(default)s)",
    )


def _add_candidates(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("candidates")
    group.add_argument(
        "--candidates", type=int, default=1, metavar="N", help="pictures drawn for a prompt (default: %(default)s)"
    )
    group.add_argument(
        "--select",
        default="best",
        choices=("best", "first", "random", "all"),
        help="keep the one most like its photo (default), the first, a random one, or all as views NAME-0, NAME-1 ...",
    )
    group.add_argument("--select-model", metavar="NAME", help="likeness by an open_clip architecture")
    group.add_argument("--select-pretrained", metavar="TAG", help="its tag, or the file of a checkpoint")
    group.add_argument("--select-model-config", metavar="JSON", help="likeness by an architecture of one's own")
    group.add_argument("--select-hf-model", metavar="NAME", help="likeness by a Hugging Face dual encoder")
    group.add_argument("--select-run", type=Path, metavar="DIR", help="likeness by the retriever of a run folder")
    group.add_argument("--select-vision", metavar="NAME", help="likeness by a Hugging Face vision model, DINOv2 say")


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--geometry",
        default="matched",
        choices=("matched", "original"),
        help="matched (default): draw at the photo's aspect and cut both to one size; original: leave both",
    )
    group.add_argument(
        "--codec",
        default="matched",
        choices=("matched", "original"),
        help="matched (default): all JPEG of one quality; original: the photo's own bytes, the twin as PNG",
    )
    group.add_argument("--size", type=int, metavar="PIXELS", help="make all square, resized and cut to this side")
    group.add_argument("--quality", type=int, default=92, metavar="Q", help="JPEG quality (default: %(default)s)")


def _add_work(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("work")
    group.add_argument("--seed", type=int, default=0, help="of all noise and choices (default: %(default)s)")
    group.add_argument("--limit", type=int, metavar="N", help="only the first N samples")
    group.add_argument("--batch-size", type=int, default=1, metavar="N", help="pictures drawn at once (default: 1)")
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, or auto (default)")
    group.add_argument("--cpu-offload", action="store_true", help="keep idle parts of a pipeline in the main memory")
    group.add_argument(
        "--part", metavar="I/N", help="the I-th of N parts of the shards (default: the Slurm array's task, else 1/1)"
    )
    group.add_argument("--finish", action="store_true", help="only write the index, once all parts are done")
    group.add_argument(
        "--dry-run", action="store_true", help="print the prompts and how many pictures there would be, write nothing"
    )


# The command ---------------------------------------------------------------------------------------------------------


def _twins(options: argparse.Namespace) -> int:
    from bias_train.cli.inputs import device_of
    from datamodules.index import ShardIndex
    from datamodules.synthesis import Part, TwinJob, make_writer
    from datamodules.synthesis.extra import require_synthesis
    from datamodules.synthesis.pipelines import Generator

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    device = device_of(options)
    settings = settings_of(options, device)
    part = Part.parse(options.part) if options.part else Part() if options.finish else Part.of_slurm(os.environ)
    index = ShardIndex.load(options.shards)
    drawing = not (options.dry_run or options.finish)
    if drawing:
        require_synthesis()
    line = ProgressLine()
    job = TwinJob(
        index,
        options.out,
        settings,
        make_writer=lambda: make_writer(
            settings.prompts,
            key_env=options.prompt_key_env,
            device=device,
            trust_remote_code=options.trust_remote_code,
        ),
        make_generator=lambda its: Generator(its, device=device, cpu_offload=options.cpu_offload),
        encoder=_encoder(options, device) if drawing else None,
        part=part,
        batch_size=options.batch_size,
        on_progress=line,
    )
    if options.dry_run:
        return _dry_run(job, settings)
    if options.finish:
        _print_set(job.finish())
        return 0
    outcome = job.run()
    line.end(job.progress)
    _print_outcome(outcome, options)
    return 0


def _dry_run(job: Any, settings: TwinSettings) -> int:
    prompts = samples = 0
    skipped: dict[str, int] = {}
    for plan in job.prompts():
        if plan.skip:
            skipped[plan.skip] = skipped.get(plan.skip, 0) + 1
            continue
        samples += 1
        prompts += len(plan.prompts)
        for prompt in plan.prompts:
            print(f"{plan.key}\t{prompt}")
    generators = len(settings.generators)
    print(
        f"{samples:,} photos, {prompts:,} prompts, {generators} generators, {settings.candidates} candidates: "
        f"{prompts * generators * settings.candidates:,} pictures"
    )
    for why, number in sorted(skipped.items()):
        print(f"no twin: {number:,} samples ({why})")
    return 0


def _print_outcome(outcome: Outcome, options: argparse.Namespace) -> None:
    counts = outcome.counts
    print(f"{counts.samples:,} samples, {counts.made:,} pictures drawn")
    if counts.failed:
        print(f"failed: {counts.failed:,} pictures (see the log above)")
    if counts.blanked:
        print(
            f"blanked: {counts.blanked:,} pictures, by a safety checker (--no-safety-checker) or an overflow "
            "(--precision bfloat16 or float32)"
        )
    for why, number in sorted(counts.skipped.items()):
        print(f"left out: {number:,} ({why})")
    if outcome.index is None:
        print(f"{options.out}: {len(outcome.missing)} shards of other parts are to come; the last part makes the index")
    else:
        _print_set(outcome.index)


def _print_set(index: Any) -> None:
    sources = ", ".join(index.sources[code] for code in sorted(set(index.view_source.tolist())))
    held = f"{len(index):,} samples, {len(index.offset):,} pictures"
    print(f"{index.folder}: {held} in {len(index.shards)} shards ({sources})")


class ProgressLine:
    """Says how far the work is: on a terminal in one line that is written over, in a log now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._said = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Say it, if it is time."""
        now = time.monotonic()
        if now - self._said < (0.2 if self._terminal else _LOG_EVERY_S):
            return
        self._said = now
        text = describe_progress(progress)
        print(
            f"\r{text:<79}" if self._terminal else text, end="" if self._terminal else "\n", file=sys.stderr, flush=True
        )

    def end(self, progress: Progress) -> None:
        """Say it a last time."""
        text = describe_progress(progress)
        print(f"\r{text:<79}" if self._terminal else text, file=sys.stderr, flush=True)


def describe_progress(progress: Progress) -> str:
    """One line: pictures done, rate, time left, what went wrong.

    >>> from datamodules.synthesis import Progress
    >>> describe_progress(Progress(total=20, done=5))
    'pictures 5/20'
    """
    text = f"pictures {progress.done:,}/{progress.total:,}"
    if progress.made and progress.seconds > 0:
        rate = progress.made / progress.seconds
        left = (progress.total - progress.done) / rate
        text += f", {rate:.2f}/s"
        if left > 0:
            text += f", {left / 3600:.1f} h left" if left > 7200 else f", {left / 60:.0f} min left"
    if progress.failed:
        text += f", {progress.failed:,} failed"
    if progress.blanked:
        text += f", {progress.blanked:,} blanked"
    return text


# Options -------------------------------------------------------------------------------------------------------------


def settings_of(options: argparse.Namespace, device: str) -> TwinSettings:
    """The settings that the options name.

    Raises:
        DataError: for options that contradict each other.
        RunError: for one that cannot be read.
    """
    from datamodules.synthesis import PromptSettings, TwinSettings

    return TwinSettings(
        generators=_generators(options, device),
        prompts=PromptSettings(
            kind=options.prompts,
            model=options.prompt_model,
            url=options.prompt_url,
            instruction=options.instruction,
            max_words=options.max_words,
            hold_out=_hold_out(options.hold_out),
            queries=options.queries,
        ),
        candidates=options.candidates,
        selection=options.select,
        encoder=_encoder_name(options),
        geometry=options.geometry,
        codec=options.codec,
        size=options.size,
        quality=options.quality,
        seed=options.seed,
        limit=options.limit,
    )


def _generators(options: argparse.Namespace, device: str) -> tuple[GeneratorSettings, ...]:
    from datamodules.synthesis import GeneratorSettings

    models: list[tuple[str, str]] = []
    for text in options.generator:
        name, equals, model = text.partition("=")
        if not (name and equals and model):
            raise RunError(f"--generator {text}: write NAME=PIPELINE, the generator's name and its folder or hub name")
        models.append((name, model))
    names = [name for name, _ in models]

    def each(option: str, convert: Callable[[str], T]) -> dict[str, T]:
        return _per_generator(getattr(options, option.replace("-", "_")) or [], names, f"--{option}", convert)

    found: dict[str, dict[str, Any]] = {
        "revision": each("revision", str),
        "variant": each("variant", str),
        "refiner": each("refiner", str),
        "refiner_revision": each("refiner-revision", str),
        "refiner_split": each("refiner-split", float),
        "scheduler": each("scheduler", str),
        "precision": each("precision", _precision),
        "steps": each("steps", int),
        "guidance": each("guidance", float),
        "negative_prompt": each("negative-prompt", str),
        "strength": each("strength", float),
        "width": each("width", int),
        "height": each("height", int),
    }
    default = "float32" if device.startswith("cpu") else "float16"
    generators = []
    for name, model in models:
        own: dict[str, Any] = {key: values[name] for key, values in found.items() if name in values}
        own.setdefault("precision", default)
        generators.append(
            GeneratorSettings(
                name=name,
                model=model,
                safety_checker=not options.no_safety_checker,
                trust_remote_code=options.trust_remote_code,
                **own,
            )
        )
    return tuple(generators)


def _per_generator(
    given: Sequence[str], names: Sequence[str], option: str, convert: Callable[[str], T]
) -> dict[str, T]:
    """Read values for all generators (``30``) and for one (``flux=4``), which wins."""
    found: dict[str, T] = {}
    for own in (False, True):
        for text in given:
            name, equals, value = text.partition("=")
            if (bool(equals) and name in names) != own:
                continue
            try:
                read = convert(value if own else text)
            except ValueError as error:
                raise RunError(f"{option} {text}: cannot be read ({error}); generators: {', '.join(names)}") from error
            found.update({name: read} if own else dict.fromkeys(names, read))
    return found


def _precision(text: str) -> str:
    if text not in ("float32", "float16", "bfloat16"):
        raise ValueError("give float32, float16 or bfloat16")
    return text


def _hold_out(text: str | None) -> Any:
    if text is None or text == "random":
        return text
    try:
        return int(text)
    except ValueError:
        raise RunError(f"--hold-out {text}: give a caption's number, from 0, or random") from None


_RETRIEVERS = ("run", "model", "model_config", "hf_model")


def _encoder_name(options: argparse.Namespace) -> str | None:
    """What measures likeness, for the record."""
    given = [name for name in (*_RETRIEVERS, "vision") if getattr(options, f"select_{name}") is not None]
    if len(given) > 1:
        raise RunError(f"--select-{given[1].replace('_', '-')}: one encoder is enough; leave out all but one")
    if not given:
        if options.select_pretrained is not None:
            raise RunError("--select-pretrained: say of what, with --select-model or --select-model-config")
        return None
    name = f"{given[0].replace('_', '-')} {getattr(options, f'select_{given[0]}')}"
    return f"{name} {options.select_pretrained}" if options.select_pretrained is not None else name


def _encoder(options: argparse.Namespace, device: str) -> Encoder | None:
    if options.select_vision is not None:
        from datamodules.synthesis.vision import VisionTower

        return VisionTower(options.select_vision, device)
    if _encoder_name(options) is None:
        return None
    from bias_train.cli.inputs import retriever_of

    names = {name: getattr(options, f"select_{name}") for name in (*_RETRIEVERS, "pretrained")}
    return RetrieverEncoder(retriever_of(argparse.Namespace(**names)), device)


class RetrieverEncoder:
    """A retriever's image tower as a measure of likeness.

    Args:
        retriever: any.
        device: where it runs.
    """

    def __init__(self, retriever: Any, device: str) -> None:
        self.retriever, self.device = retriever.to(device).eval(), device

    def __call__(self, images: Sequence[Any]) -> Any:
        """Embed Pillow images: [n, D] float32, normalised."""
        import numpy as np
        import torch

        from datamodules.decode import fit

        size = self.retriever.image_size
        pictures = np.stack([fit(np.asarray(image.convert("RGB")), size) for image in images])
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(self.device)
        with torch.inference_mode():
            return self.retriever.encode_image(pixels)
