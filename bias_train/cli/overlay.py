"""``bias-train synthesize overlay`` and ``... words``: words written on pictures, and words alone on a canvas."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_train.cli.inputs import positive
from bias_train.errors import RunError

# Everything heavy is imported where it is used: `--help` must answer at once.
if TYPE_CHECKING:
    from datamodules.lettering.overlay import LetteringOptions
    from datamodules.overlaying import OverlayJob, OverlayOutcome, OverlaySettings

_PLACES = {
    "anywhere": ((0.0, 1.0), (0.0, 1.0)),
    "top": ((0.0, 1.0), (0.0, 0.15)),
    "middle": ((0.4, 0.6), (0.4, 0.6)),
    "bottom": ((0.0, 1.0), (0.85, 1.0)),
}
_HAND = ("caveat", "kalam", "permanent-marker", "shadows-into-light")
_SHOWN = 30


def add_overlay(commands: Any) -> None:
    """Add both subcommands to the parsers of ``bias-train synthesize``."""
    _add_overlay(commands)
    _add_words(commands)


def _add_overlay(commands: Any) -> None:
    parser = commands.add_parser(
        "overlay",
        help="words written on pictures: parroting, neutral and misleading ones, and typographic attacks",
        description="Write words on shares of the anchors and on a view of every sample, and write shards that hold "
        "the samples with what was written and where, a report and a sheet to look at. Shares are exact, and which "
        "sample gets which word is a pure function of the seed and the set. No caption says a misleading word, "
        "though it may name something that is to be seen all the same. Work may be killed at any moment: the same "
        "command goes on with the first unfinished shard.",
        epilog="Example: bias-train synthesize overlay shards/flickr8k shards/flickr8k-text --parroting 0.3 --neutral "
        "0.3 --keep-clean --look mixed --workers 8. A typographic attack: bias-train synthesize overlay shards/classes "
        "shards/attack --attack",
    )
    parser.add_argument("shards", metavar="SHARDS", help="folder or URL of the pictures' shards")
    parser.add_argument("out", metavar="OUT", help="folder of the new shards")
    words = parser.add_argument_group("words")
    for name, text in {
        "parroting": "on which a content word of one of their own captions is written",
        "neutral": "on which a listed word is written that no caption says",
        "misleading": "on which the name of something else is written",
    }.items():
        words.add_argument(f"--{name}", type=float, default=0.0, metavar="SHARE", help=f"of the anchors, {text}")
    words.add_argument(
        "--parrot-caption", metavar="TEMPLATE", help="what the captions of parroting anchors become, such as '{word}': "
        "then a listed word that no caption says is written on them, and only reading finds the picture",
    )  # fmt: skip
    words.add_argument(
        "--views", choices=("overlay", "none"), default="overlay",
        help="overlay (default): every sample gets a view with a misleading word on its picture",
    )  # fmt: skip
    words.add_argument(
        "--attack", action="store_true", help="for shards with labels: the views' words are names of other classes, "
        "those of several words on two lines (recipe of Defense-Prefix)",
    )  # fmt: skip
    words.add_argument(
        "--mislead-by", choices=("captions", "labels", "words"), help="misleading words are from captions of other "
        "samples (default), other labels (default with --attack), or the list",
    )  # fmt: skip
    words.add_argument(
        "--words", type=Path, metavar="FILE", help="list of words, one a line, or a .csv with a column `word`; or a "
        "list that comes along: en (the default, about 1,000 names of things), ar, el, he, hi, ja, ko, ru, th, zh, or "
        "things (two dozen short English ones)",
    )  # fmt: skip
    words.add_argument("--keep-clean", action="store_true", help="keep what was written on as the view clean")
    _add_looks(parser)
    pictures = parser.add_argument_group("pictures and work")
    pictures.add_argument(
        "--min-letters", type=positive, default=6, metavar="PIXELS", help="smallest em; where a word does not fit in "
        "such letters nothing is written, and that is counted (default: 6)",
    )  # fmt: skip
    pictures.add_argument("--quality", type=int, default=92, metavar="Q", help="JPEG quality (default: 92)")
    pictures.add_argument("--seed", type=int, default=0, help="of all random choices (default: 0)")
    pictures.add_argument("--limit", type=positive, metavar="N", help="only the first N samples")
    pictures.add_argument("--workers", type=positive, default=1, metavar="N", help="processes that write (default: 1)")
    pictures.add_argument("--part", metavar="I/N", help="the I-th of N parts of the shards (default: the Slurm array's "
                          "task, else 1/1)")  # fmt: skip
    pictures.add_argument("--finish", action="store_true", help="only write index and report, once all parts are done")
    pictures.add_argument("--dry-run", action="store_true", help="print what would be written, write nothing")
    parser.set_defaults(run_command=run)


def _add_looks(parser: argparse.ArgumentParser) -> None:
    looks = parser.add_argument_group("letters", "MIN MAX is a range from which values are drawn evenly.")
    looks.add_argument(
        "--look", choices=("printed", "hand", "mixed"), default="printed", help="printed (default), as if written by "
        "hand, or half of each; the options below change both",
    )  # fmt: skip
    looks.add_argument(
        "--font", action="append", metavar="NAME", help="name or .ttf file; may be repeated (`bias-train synthesize "
        "words --fonts` lists the names). Letters of other scripts need a font that has them",
    )  # fmt: skip
    looks.add_argument("--place", choices=tuple(_PLACES), default="anywhere", help="where (default: anywhere)")

    def ranged(option: str, text: str) -> None:
        looks.add_argument(option, nargs=2, type=float, metavar=("MIN", "MAX"), help=text)

    ranged("--height", "em of the letters, share of the shorter side (default: 0.089 0.179, 20 to 40 of 224 pixels; "
           "by hand 0.125 0.268)")  # fmt: skip
    ranged("--stroke", "width of the edge, share of the shorter side, 0 0 for none (default: 0.0045, a pixel of 224; "
           "by hand none)")  # fmt: skip
    ranged("--rotation", "degrees (default: 0 0; by hand -15 15)")
    ranged("--slant", "degrees (default: 0 0; by hand -8 12)")
    ranged("--wave", "how much the line rises and falls, share of the letters' height (default: 0 0; by hand 0 0.08)")
    looks.add_argument(
        "--colour", action="append", metavar="NAME", help="of letters and edges: a name or #rrggbb; may be repeated "
        "(default: eight colours; by hand four inks)",
    )  # fmt: skip
    looks.add_argument("--paper", type=float, metavar="SHARE", help="that stands on a note (default: 0; by hand 0.5)")
    looks.add_argument("--case", choices=("as-is", "lower", "upper", "title"), help="of the letters (default: as-is)")
    looks.add_argument("--two-lines", action="store_true", help="break names of several words (always with --attack)")


def _add_words(commands: Any) -> None:
    parser = commands.add_parser(
        "words",
        help="rendered-word probes: every word alone on a blank canvas, in every style",
        description="Write a set of words as pictures, as section 5.1 of the parrot-caption paper does: 224 x 224 "
        "pixels, 32 points, four styles, a sample for each word and style, whose caption and label are the word. Arial "
        "may not be shipped; the font arimo has its widths. Long words are clipped unless --fit; their share is said.",
        epilog="Example: bias-train synthesize words shards/words --list words.txt --font arimo",
    )
    parser.add_argument("out", metavar="OUT", nargs="?", help="folder of the new shards")
    parser.add_argument(
        "--list", type=Path, metavar="FILE", help="one word a line, or a .csv with a column `word`; or a list that "
        "comes along: en (the default, about 1,000 names of things), ar, el, he, hi, ja, ko, ru, th, zh, or things "
        "(two dozen short English ones)",
    )  # fmt: skip
    parser.add_argument(
        "--style", action="append", metavar="BACKGROUND/INK", help="white/black, black/white, gray/white or "
        "gray/black; may be repeated (default: all four)",
    )  # fmt: skip
    parser.add_argument(
        "--font", default="dejavu-sans", metavar="NAME", help="name or .ttf file (default: dejavu-sans)"
    )
    parser.add_argument("--size", type=positive, default=224, metavar="PIXELS", help="of the canvas (default: 224)")
    parser.add_argument("--points", type=float, metavar="N", help="em in pixels (default: 32 of 224)")
    parser.add_argument("--fit", action="store_true", help="shrink long words instead of clipping them")
    parser.add_argument(
        "--leave-out", action="store_true", help="words that the font cannot write, instead of refusing them"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the shards in OUT")
    parser.add_argument("--fonts", action="store_true", help="list the fonts that are installed, and stop")
    parser.set_defaults(run_command=run_words)


# overlay -------------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    """Run ``overlay``; returns the exit code.

    Raises:
        DataError: for shards, words, fonts or options that cannot be used.
        RunError: for options that contradict each other.
    """
    from bias_train.cli.synthesize import ProgressLine
    from datamodules.index import ShardIndex
    from datamodules.lettering.words import load_words
    from datamodules.overlaying import OverlayJob
    from datamodules.synthesis.part import Part

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    words = load_words(options.words)
    settings = settings_of(options, words)
    line = ProgressLine()
    job = OverlayJob(
        ShardIndex.load(options.shards),
        options.out,
        settings,
        words,
        part=Part.parse(options.part) if options.part else Part() if options.finish else Part.of_slurm(os.environ),
        workers=options.workers,
        on_progress=line,
    )
    if options.dry_run:
        return _dry_run(job)
    if options.finish:
        index = job.finish()
        print(f"{index.folder}: {len(index):,} samples, {len(index.offset):,} pictures; see overlay.json there")
        return 0
    outcome = job.run()
    line.end(job.progress)
    _print_outcome(outcome, options)
    return 0


def settings_of(options: argparse.Namespace, words: tuple[str, ...]) -> OverlaySettings:
    """The settings that the options name.

    Raises:
        DataError: for options that contradict each other.
        RunError: for a colour that cannot be read.
    """
    from datamodules.lettering.words import digest_of
    from datamodules.overlaying import OverlaySettings

    return OverlaySettings(
        words=digest_of(words),
        parroting=options.parroting,
        neutral=options.neutral,
        misleading=options.misleading,
        overlay=options.views == "overlay",
        attack=options.attack,
        caption=options.parrot_caption,
        keep_clean=options.keep_clean,
        mislead_by=options.mislead_by or ("labels" if options.attack else "captions"),
        looks=looks_of(options),
        min_letters=options.min_letters,
        quality=options.quality,
        seed=options.seed,
        limit=options.limit,
    )


def looks_of(options: argparse.Namespace) -> tuple[LetteringOptions, ...]:
    """What letterings are drawn from.

    Raises:
        DataError: for a font that is not installed, or a range that is none.
        RunError: for a colour that cannot be read.
    """
    from dataclasses import replace

    from datamodules.lettering.fonts import font_path
    from datamodules.lettering.overlay import LetteringOptions, hand_written

    changes: dict[str, Any] = {
        name: tuple(getattr(options, name))
        for name in ("height", "stroke", "rotation", "slant", "wave")
        if getattr(options, name) is not None
    }
    changes |= {name: getattr(options, name) for name in ("paper", "case") if getattr(options, name) is not None}
    changes |= {"x": _PLACES[options.place][0], "y": _PLACES[options.place][1], "two_lines": options.two_lines}
    if options.colour:
        changes["colours"] = tuple(_colour(name) for name in options.colour)
    if options.font:
        changes["fonts"] = tuple(dict.fromkeys(options.font))
    printed, hand = LetteringOptions(), hand_written(_HAND)
    looks = {"printed": [printed], "hand": [hand], "mixed": [printed, hand]}[options.look]
    found = tuple(replace(look, **changes) for look in looks)
    for look in found:
        for font in look.fonts:
            font_path(font)  # says what is missing
    return found


def _colour(name: str) -> tuple[int, int, int]:
    from PIL import ImageColor

    from datamodules.lettering.overlay import COLOURS

    if name in COLOURS:
        return COLOURS[name]
    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise RunError(f"--colour {name}: is none of {', '.join(COLOURS)}, nor like #ff8000") from error
    return red, green, blue


def _dry_run(job: OverlayJob) -> int:
    kinds: dict[str, int] = {}
    samples = views = 0
    for plan in job.plans():
        samples += 1
        views += plan.view is not None
        kinds[plan.kind or "untouched"] = kinds.get(plan.kind or "untouched", 0) + 1
        if samples <= _SHOWN:
            print(f"{plan.key}\t{plan.kind or '-'}\t{plan.word or '-'}\toverlay: {plan.view_word or '-'}")
    print(f"{samples:,} samples: {', '.join(f'{number:,} {kind}' for kind, number in sorted(kinds.items()))}; "
          f"{views:,} views")  # fmt: skip
    return 0


def _print_outcome(outcome: OverlayOutcome, options: argparse.Namespace) -> None:
    print(f"{outcome.counts.samples:,} samples, {outcome.counts.made:,} pictures written on")
    for why, number in sorted(outcome.counts.skipped.items()):
        print(f"not made: {number:,} ({why})")
    if outcome.index is None:
        print(f"{options.out}: {len(outcome.missing)} shards of other parts are to come; the last part makes the index")
        return
    index = outcome.index
    print(f"{index.folder}: {len(index):,} samples, {len(index.offset):,} pictures in {len(index.shards)} shards")
    print(f"look at {index.folder}/contact_sheet.jpg; overlay.json says what was written")


# words ---------------------------------------------------------------------------------------------------------------


def run_words(options: argparse.Namespace) -> int:
    """Run ``words``; returns the exit code.

    Raises:
        DataError: for words, styles or fonts that cannot be used.
        RunError: if no folder is named.
    """
    from datamodules.lettering.canvas import STYLES
    from datamodules.lettering.fonts import FONTS, font_names
    from datamodules.lettering.words import load_words
    from datamodules.overlaying.probes import write_probes

    if options.fonts:
        for name in font_names():
            print(f"{name}\t{FONTS[name].look}")
        return 0
    if options.out is None:
        raise RunError("OUT: name the folder of the new shards")
    index, report = write_probes(
        options.out,
        load_words(options.list),
        styles=tuple(options.style or STYLES),
        font=options.font,
        size=options.size,
        points=options.points,
        fit=options.fit,
        leave_out=options.leave_out,
        overwrite=options.overwrite,
    )
    if report["left_out"]["number"]:
        print(f"left out: {report['left_out']['number']:,} words that {options.font} cannot write", file=sys.stderr)
    print(
        f"{index.folder}: {report['words']['number']:,} words in {len(report['styles'])} styles, {len(index):,} samples"
    )
    print(f"{report['overflow']['share']:.1%} overflow the canvas; words.json says what was written")
    return 0
