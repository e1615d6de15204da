"""``bias-train synthesize erase``: pictures with their text taken out, as views in shards."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_train.cli.inputs import device_of, positive
from bias_train.errors import RunError

# Everything heavy is imported where it is used: `--help` must answer at once.
if TYPE_CHECKING:
    from datamodules.decorrelation import Inpainter
    from datamodules.ocr import TextReader
    from datamodules.text_removal import EraseOutcome, EraseSettings

_VIEWS = ("erased", "erased-caption", "control-erased", "control-erased-caption")
_READERS = ("rapidocr", "tesseract", "known")
_OPENCV = ("telea", "ns")
_PLAIN = ("mask", "blur")


def add_erase(commands: Any) -> None:
    """Add the subcommand to the parsers of ``bias-train synthesize``."""
    parser = commands.add_parser(
        "erase",
        help="text taken out of pictures, found by OCR",
        description="Find the text in every picture, and write shards that hold the old samples with new views: all "
        "text taken out (erased), only the words that a caption says (erased-caption), and for each as many polygons "
        "filled that other pictures of the shard have (control-...). What was found stands in the samples' meta, as "
        "'text', and what was taken out in the views' meta, as 'removed'. Work may be killed at any moment: the same "
        "command goes on.",
        epilog="Example: bias-train synthesize erase shards/photos shards/photos-erased --reader rapidocr --workers 8",
    )
    parser.add_argument("shards", metavar="SHARDS", help="folder or URL of the pictures' shards")
    parser.add_argument("out", metavar="OUT", help="folder of the new shards")
    add_reader(parser, _READERS)
    pictures = parser.add_argument_group("pictures")
    pictures.add_argument("--views", metavar="NAMES", default=",".join(_VIEWS), help="separated by commas (default: "
                          "%(default)s)")  # fmt: skip
    pictures.add_argument(
        "--fill", default="telea", metavar="NAME",
        help="what polygons are filled with: telea (default) or ns, inpainted by OpenCV; mask, the picture's mean "
        "colour; blur, by a Gaussian; or a diffusers pipeline that inpaints, a folder or a name on the hub",
    )  # fmt: skip
    pictures.add_argument("--blur-sigma", type=float, default=0.05, metavar="SHARE", help="of the Gaussian, of the "
                          "picture's shorter side (default: 0.05)")  # fmt: skip
    pictures.add_argument("--inpaint-prompt", default="background", metavar="TEXT", help="of a pipeline (default: "
                          "background)")  # fmt: skip
    pictures.add_argument("--steps", type=positive, metavar="N", help="of a pipeline (default: its own)")
    pictures.add_argument("--precision", choices=("float32", "float16", "bfloat16"), help="of a pipeline (default: "
                          "float16 on a GPU, float32 on a CPU)")  # fmt: skip
    pictures.add_argument("--dilation", type=float, default=4.0, metavar="PIXELS", help="polygons are widened by it, "
                          "at a longer side of 640 (default: 4)")  # fmt: skip
    pictures.add_argument("--quality", type=int, default=92, metavar="Q", help="JPEG quality (default: 92)")
    work = parser.add_argument_group("work")
    work.add_argument("--seed", type=int, default=0, help="of the polygons that are borrowed (default: 0)")
    work.add_argument("--limit", type=positive, metavar="N", help="only the first N samples")
    work.add_argument("--workers", type=positive, default=1, metavar="N", help="processes that read and fill "
                      "(default: 1)")  # fmt: skip
    work.add_argument("--device", default="auto", help="of a pipeline: cpu, cuda, cuda:1, or auto (default)")
    work.add_argument("--part", metavar="I/N", help="the I-th of N parts of the shards (default: the Slurm array's "
                      "task, else 1/1)")  # fmt: skip
    work.add_argument("--finish", action="store_true", help="only write index and report, once all parts are done")
    parser.set_defaults(run_command=run)


def add_reader(parser: argparse.ArgumentParser, readers: tuple[str, ...] = ("rapidocr", "tesseract")) -> None:
    """Add the options that :func:`reader_of_options` reads, and ``--text-cache``."""
    group = parser.add_argument_group("how text is found")
    group.add_argument(
        "--reader", default="rapidocr", choices=readers,
        help="OCR engine (default: rapidocr)" + ("; known: what the samples' meta has" if "known" in readers else ""),
    )  # fmt: skip
    group.add_argument("--min-confidence", type=float, default=0.5, metavar="X", help="of the engine, for a piece of "
                       "text (default: 0.5)")  # fmt: skip
    group.add_argument("--shorter-side", type=int, default=448, metavar="PIXELS", help="smaller pictures are enlarged "
                       "to it before they are read; 0 never (default: 448)")  # fmt: skip
    group.add_argument("--max-letter-area", type=float, default=0.2, metavar="SHARE", help="leave out text whose "
                       "letters each take more of the picture, where few are real; 1: all (default: 0.2)")  # fmt: skip
    group.add_argument("--text-cache", type=Path, metavar="DIR", help="keep what was read there, for other commands "
                       "and later runs")  # fmt: skip


def reader_of_options(options: argparse.Namespace) -> TextReader | None:
    """Make the reader that the options name; None for text that is known.

    Raises:
        DataError: if the engine is not installed, or an option is out of range.
    """
    if options.reader == "known":
        return None
    from datamodules.ocr import ReaderOptions, reader_of

    return reader_of(
        options.reader,
        ReaderOptions(options.min_confidence, options.shorter_side, max_letter_area=options.max_letter_area),
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code.

    Raises:
        DataError: for shards or options that cannot be used.
        RunError: for options that contradict each other.
    """
    from bias_train.cli.synthesize import ProgressLine
    from datamodules.index import ShardIndex
    from datamodules.synthesis.part import Part
    from datamodules.text_removal import EraseJob

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    reader = reader_of_options(options)
    line = ProgressLine()
    job = EraseJob(
        ShardIndex.load(options.shards),
        options.out,
        settings_of(options, reader),
        _fill(options),
        reader=reader,
        cache=options.text_cache,
        part=Part.parse(options.part) if options.part else Part() if options.finish else Part.of_slurm(os.environ),
        workers=options.workers,
        on_progress=line,
    )
    if options.finish:
        index = job.finish()
        print(f"{index.folder}: {len(index):,} samples, {len(index.offset):,} pictures; see erased.json there")
        return 0
    outcome = job.run()
    line.end(job.progress)
    _print_outcome(outcome, options)
    return 0


def settings_of(options: argparse.Namespace, reader: TextReader | None) -> EraseSettings:
    """The settings that the options name.

    Raises:
        DataError: for one out of range.
    """
    from datamodules.text_removal import EraseSettings

    fill: dict[str, Any] = {"name": options.fill}
    if options.fill == "blur":
        fill |= {"sigma": options.blur_sigma}
    elif options.fill not in (*_OPENCV, *_PLAIN):
        fill |= {"prompt": options.inpaint_prompt, "steps": options.steps, "precision": _precision(options)}
    return EraseSettings(
        reader={"name": "known"} if reader is None else reader.describe(),
        fill=fill,
        views=tuple(name.strip() for name in options.views.split(",") if name.strip()),
        dilation=options.dilation,
        quality=options.quality,
        seed=options.seed,
        limit=options.limit,
    )


def _precision(options: argparse.Namespace) -> Any:
    default = "float32" if device_of(options).startswith("cpu") else "float16"
    return options.precision or default


def _fill(options: argparse.Namespace) -> Callable[[], Inpainter]:
    if options.fill in _OPENCV:
        from datamodules.decorrelation import OpenCvInpainter

        return partial(OpenCvInpainter, options.fill)
    if options.fill in _PLAIN:
        from datamodules.ocr.fill import BlurFill, MeanFill

        return MeanFill if options.fill == "mask" else partial(BlurFill, options.blur_sigma)
    if options.workers > 1:
        raise RunError("--workers: a pipeline works in one process; give --workers 1, and --part for several machines")
    from datamodules.decorrelation.diffusion import DiffusionInpainter
    from datamodules.synthesis import GeneratorSettings

    settings = GeneratorSettings(
        name="inpainter", model=options.fill, steps=options.steps, precision=_precision(options)
    )
    return partial(DiffusionInpainter, settings, options.inpaint_prompt, device_of(options))


def _print_outcome(outcome: EraseOutcome, options: argparse.Namespace) -> None:
    print(f"{outcome.counts.samples:,} samples, {outcome.counts.made:,} views made")
    for why, number in sorted(outcome.counts.skipped.items()):
        print(f"not made, or left out: {number:,} ({why})")
    if outcome.index is None:
        print(f"{options.out}: {len(outcome.missing)} shards of other parts are to come; the last part makes the index")
        return
    index = outcome.index
    print(f"{index.folder}: {len(index):,} samples, {len(index.offset):,} pictures in {len(index.shards)} shards")
    print(f"look at {index.folder}/contact_sheet.jpg; erased.json says what was found")
