"""``bias-train world``: render a stretch of the embedded world as shards."""

from __future__ import annotations

import argparse


def main(argv: list[str]) -> int:
    """Render and write; returns 0."""
    parser = argparse.ArgumentParser(
        prog="bias-train world",
        description="Render scenes of coloured objects as photos with AI-generated twins, whose bias is planted.",
    )
    parser.add_argument("out", help="folder for the shards")
    parser.add_argument("--samples", type=int, default=4000, help="scenes (default: %(default)s)")
    parser.add_argument("--offset", type=int, default=0, help="number of the first scene: splits must not overlap")
    parser.add_argument("--seed", type=int, default=0, help="of the world (default: %(default)s)")
    parser.add_argument("--size", type=int, help="side of the pictures in pixels (default: 32; with --text 64)")
    parser.add_argument(
        "--cleanliness", type=float, default=0.5, help="how clean generated pictures are, 0 to 1 (default: %(default)s)"
    )
    parser.add_argument(
        "--fingerprint", type=float, default=3.0, help="RMS of their fingerprint in grey levels (default: %(default)s)"
    )
    parser.add_argument(
        "--people",
        action="store_true",
        help="robots in two coats instead, of whom neutral words are said unevenly; OUT also gets the words with their "
        "planted strengths (words.csv) and prompts that name the groups (group_prompts.json)",
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=0.9,
        help="with --people: of the strongest association, 0 to 1; 0 plants none (default: %(default)s)",
    )
    parser.add_argument(
        "--objects",
        action="store_true",
        help="houses with balls instead, whose co-occurrence is planted, and an edit of every scene: without its ball, "
        "or with one pasted in; OUT also gets the words for the objects (vocabulary.csv)",
    )
    parser.add_argument(
        "--together",
        type=float,
        default=0.95,
        help="with --objects: share of the scenes with a house that hold a ball, and of those without one that hold "
        "none; 0.5 plants nothing (default: %(default)s)",
    )
    parser.add_argument(
        "--text",
        action="store_true",
        help="words written on everyday scenes instead, which captions parrot; OUT also gets the names of things that "
        "may be written (words.txt)",
    )
    parser.add_argument(
        "--parroting",
        type=float,
        default=0.6,
        help="with --text: share of the scenes without a sign whose captions say the word that is written, and little "
        "else; on others, up to 0.6, a word is written that captions leave out (default: %(default)s)",
    )
    parser.add_argument(
        "--signs",
        type=float,
        default=0.15,
        help="with --text: share of the scenes with a sign that captions quote, honest text (default: %(default)s)",
    )
    parser.add_argument("--clean", action="store_true", help="with --text: nothing is written on the scenes")
    parser.add_argument(
        "--overlays", action="store_true", help="with --text: a view of every scene with a misleading word (overlay)"
    )
    parser.add_argument(
        "--reading",
        action="store_true",
        help="with --text: signs only, whose words stand in captions that say nothing else; they are the labels too",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the shards that OUT holds")
    options = parser.parse_args(argv)
    if options.people + options.objects + options.text > 1:
        parser.error("give one of --people, --objects and --text: they are worlds of their own")
    if options.clean and options.reading:
        parser.error("give one of --clean and --reading: a test of reading needs signs")
    size = options.size or (64 if options.text else 32)

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from datamodules.world import (
        World,
        WorldGenerator,
        WorldObjects,
        WorldPeople,
        WorldText,
        planted_strengths,
        write_objects_world,
        write_people_world,
        write_text_world,
        write_world,
    )

    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()) as progress:
        task = progress.add_task(f"rendering {options.out}", total=options.samples)

        def advance(done: int) -> None:
            progress.update(task, completed=done)

        if options.people:
            write_people_world(
                options.out,
                samples=options.samples,
                people=WorldPeople(planted_strengths(options.strength)),
                seed=options.seed,
                size=size,
                split_offset=options.offset,
                overwrite=options.overwrite,
                on_sample=advance,
            )
        elif options.objects:
            write_objects_world(
                options.out,
                samples=options.samples,
                objects=WorldObjects(together=options.together),
                seed=options.seed,
                size=size,
                split_offset=options.offset,
                overwrite=options.overwrite,
                on_sample=advance,
            )
        elif options.text:
            if options.clean:
                text = WorldText(parroting=0.0, written=0.0, signs=0.0)
            elif options.reading:
                text = WorldText(parroting=0.0, written=0.0, signs=1.0, reading=True)
            else:
                text = WorldText(options.parroting, max(options.parroting, WorldText.written), options.signs)
            write_text_world(
                options.out,
                samples=options.samples,
                text=text,
                overlays=options.overlays,
                seed=options.seed,
                size=size,
                split_offset=options.offset,
                overwrite=options.overwrite,
                on_sample=advance,
            )
        else:
            generator = WorldGenerator("world-gen", options.fingerprint, options.cleanliness)
            write_world(
                options.out,
                samples=options.samples,
                world=World(seed=options.seed, size=size, generators=(generator,)),
                split_offset=options.offset,
                overwrite=options.overwrite,
                on_sample=advance,
            )
    return 0
