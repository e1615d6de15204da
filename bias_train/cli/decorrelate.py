"""``bias-train synthesize decorrelated``: objects taken out of pictures and captions together, as views in shards."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_train.cli.inputs import add_retriever, device_of, positive, retriever_of
from bias_train.errors import RunError

# Everything heavy is imported where it is used: `--help` must answer at once.
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    from datamodules.decorrelation import DecorrelationJob, DecorrelationSettings, EditOutcome, Inpainter
    from datamodules.objects import Vocabulary

_OPENCV = ("telea", "ns")
_RETRIEVERS = ("run", "model", "model_config", "hf_model")
_PAIRS_SHOWN = 15


def add_decorrelated(commands: Any) -> None:
    """Add the subcommand to the parsers of ``bias-train synthesize``."""
    parser = commands.add_parser(
        "decorrelated",
        help="objects taken out of pictures and captions, and pasted in",
        description="Mine objects that come together although they are unrelated, take one of them out of picture and "
        "captions (view no-<object>), blur as much of the background for comparison (control-<object>), paste an "
        "unrelated object into another view (with-<object>), and write shards that hold the old samples with these "
        "views, a report and a sheet to look at. Work may be killed at any moment: the same command goes on.",
        epilog="Example: bias-train synthesize decorrelated shards/coco shards/coco-edited --workers 8 --model "
        "ViT-B-32 --pretrained laion2b_s34b_b79k --verify",
    )
    parser.add_argument("shards", metavar="SHARDS", help="folder or URL of shards with annotated objects")
    parser.add_argument("out", metavar="OUT", help="folder of the new shards")
    objects = parser.add_argument_group("objects")
    objects.add_argument(
        "--objects", type=Path, metavar="JSON",
        help='objects of a detector instead of those in the shards: {KEY: [{"category": ..., "box": [left, top, width, '
        "height]}, ...]} in pixels, with polygons or rle where known",
    )  # fmt: skip
    objects.add_argument("--vocabulary", metavar="CSV", help="categories and their words (default: COCO's 80)")
    objects.add_argument("--min-npmi", type=float, default=0.15, metavar="X", help="of a mined pair (default: 0.15)")
    objects.add_argument("--min-support", type=positive, default=200, metavar="N", help="pictures that show both "
                         "objects of a mined pair (default: 200)")  # fmt: skip
    objects.add_argument("--related", type=Path, metavar="CSV", help="pairs that are related and so not mined, two "
                         "categories a line")  # fmt: skip
    objects.add_argument(
        "--all-objects", action="store_true", help="take out every object that a caption mentions, mined or not"
    )
    add_retriever(parser)
    parser.add_argument_group("what the retriever does, beside telling which names are alike").add_argument(
        "--verify", action="store_true", help="drop edits in which it still finds the object; not to be the one that "
        "is trained afterwards",
    )  # fmt: skip
    pictures = parser.add_argument_group("pictures")
    pictures.add_argument(
        "--inpainter", default="telea", metavar="NAME",
        help="telea (default) or ns, by OpenCV, or a diffusers pipeline: a folder or a name on the hub",
    )  # fmt: skip
    pictures.add_argument("--inpaint-prompt", default="background", metavar="TEXT", help="of a pipeline (default: "
                          "background)")  # fmt: skip
    pictures.add_argument("--steps", type=positive, metavar="N", help="of a pipeline (default: its own)")
    pictures.add_argument("--precision", choices=("float32", "float16", "bfloat16"), help="of a pipeline (default: "
                          "float16 on a GPU, float32 on a CPU)")  # fmt: skip
    pictures.add_argument("--dilation", type=float, default=13.0, metavar="PIXELS", help="masks are widened by it, at "
                          "a longer side of 640 (default: 13)")  # fmt: skip
    pictures.add_argument("--min-area", type=float, default=0.01, metavar="SHARE", help="of an object (default: 0.01)")
    pictures.add_argument("--max-area", type=float, default=0.3, metavar="SHARE", help="of an object (default: 0.3)")
    pictures.add_argument("--no-decoys", action="store_true", help="paste nothing in")
    pictures.add_argument("--quality", type=int, default=92, metavar="Q", help="JPEG quality (default: 92)")
    work = parser.add_argument_group("work")
    work.add_argument("--seed", type=int, default=0, help="of all random choices (default: 0)")
    work.add_argument("--limit", type=positive, metavar="N", help="only the first N samples")
    work.add_argument("--workers", type=positive, default=1, metavar="N", help="processes that edit (default: 1)")
    work.add_argument(
        "--device", default="auto", help="of retriever and pipeline: cpu, cuda, cuda:1, or auto (default)"
    )
    work.add_argument("--part", metavar="I/N", help="the I-th of N parts of the shards (default: the Slurm array's "
                      "task, else 1/1)")  # fmt: skip
    work.add_argument("--finish", action="store_true", help="only write index and report, once all parts are done")
    work.add_argument("--dry-run", action="store_true", help="print pairs and edited captions, write nothing")
    parser.set_defaults(run_command=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code.

    Raises:
        DataError: for shards, tables or options that cannot be used.
        RunError: for options that contradict each other.
        ModelError: for a retriever that cannot be loaded.
    """
    from bias_train.cli.synthesize import ProgressLine
    from datamodules.decorrelation import DecorrelationJob
    from datamodules.index import ShardIndex
    from datamodules.objects import load_vocabulary
    from datamodules.objects.pairs import read_related
    from datamodules.synthesis.part import Part

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    vocabulary = load_vocabulary(options.vocabulary)
    settings = settings_of(options, vocabulary)
    names = _Names(options, vocabulary) if settings.retriever is not None else None
    line = ProgressLine()
    job = DecorrelationJob(
        ShardIndex.load(options.shards),
        options.out,
        settings,
        vocabulary,
        _inpainter(options),
        side=_side_file(options.objects) if options.objects is not None else None,
        scorer=names if settings.verify else None,
        cosine=None if names is None else names.cosine,
        related=read_related(options.related, vocabulary.categories) if options.related is not None else frozenset(),
        part=Part.parse(options.part) if options.part else Part() if options.finish else Part.of_slurm(os.environ),
        workers=options.workers,
        on_progress=line,
    )
    _print_pairs(job, settings)
    if options.dry_run:
        return _dry_run(job)
    if options.finish:
        index = job.finish()
        print(f"{index.folder}: {len(index):,} samples, {len(index.offset):,} pictures; see decorrelated.json there")
        return 0
    outcome = job.run()
    line.end(job.progress)
    _print_outcome(outcome, options)
    return 0


def settings_of(options: argparse.Namespace, vocabulary: Vocabulary) -> DecorrelationSettings:
    """The settings that the options name.

    Raises:
        DataError: for options that contradict each other.
        RunError: for one that cannot be read.
    """
    from datamodules.decorrelation import DecorrelationSettings

    given = [name for name in _RETRIEVERS if getattr(options, name) is not None]
    retriever = None if not given else f"{given[0].replace('_', '-')} {getattr(options, given[0])}"
    if retriever is not None and options.pretrained is not None:
        retriever += f" {options.pretrained}"
    inpainter: dict[str, Any] = {"name": options.inpainter}
    if options.inpainter not in _OPENCV:
        inpainter |= {"prompt": options.inpaint_prompt, "steps": options.steps, "precision": _precision(options)}
    return DecorrelationSettings(
        inpainter=inpainter,
        vocabulary=vocabulary.digest,
        all_objects=options.all_objects,
        min_npmi=options.min_npmi,
        min_support=options.min_support,
        related=None if options.related is None else _digest(options.related),
        objects=None if options.objects is None else _digest(options.objects),
        retriever=retriever,
        verify=options.verify,
        min_area=options.min_area,
        max_area=options.max_area,
        dilation=options.dilation,
        decoys=not options.no_decoys,
        quality=options.quality,
        seed=options.seed,
        limit=options.limit,
    )


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.expanduser().read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error


def _side_file(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"--objects {path}: cannot be read as JSON ({error})") from error
    if not isinstance(found, dict):
        raise RunError(f"--objects {path}: must be an object with the samples' keys")
    return found


def _precision(options: argparse.Namespace) -> Any:
    default = "float32" if device_of(options).startswith("cpu") else "float16"
    return options.precision or default


def _inpainter(options: argparse.Namespace) -> Callable[[], Inpainter]:
    if options.inpainter in _OPENCV:
        from datamodules.decorrelation import OpenCvInpainter

        return partial(OpenCvInpainter, options.inpainter)
    if options.workers > 1:
        raise RunError("--workers: a pipeline works in one process; give --workers 1, and --part for several machines")
    from datamodules.decorrelation.diffusion import DiffusionInpainter
    from datamodules.synthesis import GeneratorSettings

    settings = GeneratorSettings(
        name="inpainter", model=options.inpainter, steps=options.steps, precision=_precision(options)
    )
    return partial(DiffusionInpainter, settings, options.inpaint_prompt, device_of(options))


class _Names:
    """A retriever that knows the categories' names: how alike they are, and whether pictures show them.

    Args:
        options: name the retriever.
        vocabulary: the categories.
    """

    def __init__(self, options: argparse.Namespace, vocabulary: Vocabulary) -> None:
        import torch

        from bias_train.cli.synthesize import RetrieverEncoder
        from datamodules.taxonomy import with_article

        device = device_of(options)
        retriever = retriever_of(options)
        self._images = RetrieverEncoder(retriever, device)
        self.name = str(settings_of(options, vocabulary).retriever)
        prompts = [f"a photo of {with_article(category)}" for category in vocabulary.categories]
        with torch.inference_mode():
            text = retriever.encode_text(retriever.tokenize(prompts).to(device))
        self._text: npt.NDArray[np.floating] = text.cpu().numpy()
        self.cosine: npt.NDArray[np.floating] = self._text @ self._text.T

    def __call__(self, pictures: Sequence[Image.Image]) -> npt.NDArray[np.floating]:
        """Score pictures: [n, C] cosines with "a photo of a <category>"."""
        scores: npt.NDArray[np.floating] = self._images(pictures).cpu().numpy() @ self._text.T
        return scores


# What is printed -----------------------------------------------------------------------------------------------------


def _print_pairs(job: DecorrelationJob, settings: DecorrelationSettings) -> None:
    mined = job.planner.mined
    print(f"{len(mined):,} ordered pairs of objects mined (NPMI >= {settings.min_npmi:g}, both in >= "
          f"{settings.min_support:,} pictures)")  # fmt: skip
    if settings.retriever is None and settings.related is None:
        print("whether their names are alike was not looked at: give a retriever, or --related")
    for pair in mined[:_PAIRS_SHOWN]:
        near = "" if pair.cosine is None else f", cosine {pair.cosine:.2f}"
        print(f"  {pair.a} | {pair.b}: NPMI {pair.npmi:.2f}, given {pair.given:.2f}, {pair.support:,} pictures{near}")
    if len(mined) > _PAIRS_SHOWN:
        print(f"  ... and {len(mined) - _PAIRS_SHOWN:,} more, in pairs.csv")
    if job.planner.unknown:
        print(f"not in the vocabulary, and left alone: {', '.join(sorted(job.planner.unknown))}")


def _dry_run(job: DecorrelationJob) -> int:
    removals = samples = decoys = 0
    why: dict[str, int] = {}
    for plan in job.plans():
        samples += 1
        removals += len(plan.removals)
        decoys += bool(plan.decoys)
        for _, reason in plan.dropped:
            why[reason] = why.get(reason, 0) + 1
        for removal in plan.removals:
            for caption, how in zip(removal.captions, removal.how, strict=True):
                print(f"{plan.key}\tno {removal.category}\t{how}\t{caption}")
    print(f"{samples:,} samples, {removals:,} objects to take out, {decoys:,} samples to paste one into")
    for reason, number in sorted(why.items()):
        print(f"not possible: {number:,} ({reason})")
    return 0


def _print_outcome(outcome: EditOutcome, options: argparse.Namespace) -> None:
    print(f"{outcome.counts.samples:,} samples, {outcome.counts.made:,} views made")
    for why, number in sorted(outcome.counts.skipped.items()):
        print(f"not made, or dropped: {number:,} ({why})")
    if outcome.index is None:
        print(f"{options.out}: {len(outcome.missing)} shards of other parts are to come; the last part makes the index")
        return
    index = outcome.index
    print(f"{index.folder}: {len(index):,} samples, {len(index.offset):,} pictures in {len(index.shards)} shards")
    print(f"look at {index.folder}/contact_sheet.jpg; decorrelated.json and pairs.csv say what was done")
