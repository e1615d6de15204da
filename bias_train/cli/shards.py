"""``bias-train shards``: import pictures into shards, index others, look at what they hold and at what a run sees."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_train.cli.shards_plan import add_plan
from bias_train.cli.terminal import wide_console
from datamodules.errors import DataError

# Everything heavy is imported where it is used: `bias-train --help` must answer at once.
if TYPE_CHECKING:
    from collections.abc import Callable

    from datamodules.importers import Collection
    from datamodules.index import ShardIndex
    from datamodules.inspect import Inspection
    from datamodules.problems import Problems
    from datamodules.reencode import ImageFormat


def main(argv: list[str]) -> int:
    """Run ``bias-train shards ARGV``.

    Returns:
        0; 1 where ``inspect --decode`` found broken pictures; 2 where the user has to mend something, after one line
        on standard error that says what.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    if rest and options.command != "plan":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.fit_options = rest
    try:
        return int(options.run(options))
    except DataError as error:
        print(f"bias-train shards {options.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bias-train shards",
        description="Shards are tar files that webdataset reads, with an index beside them that says what they hold.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_import(commands)
    _add_index(commands)
    _add_inspect(commands)
    add_plan(commands)
    return parser


# import --------------------------------------------------------------------------------------------------------------


def _add_import(commands: Any) -> None:
    importing = commands.add_parser(
        "import",
        help="turn pictures into shards",
        description="Turn a folder or tar of pictures into shards. Every picture is encoded anew in the same way, so "
        "that neither codec nor geometry tells the sources apart; --keep-original leaves the files as they are.",
    )
    layouts = importing.add_subparsers(dest="layout", required=True, metavar="LAYOUT")

    classes = _add_layout(
        layouts,
        "classes",
        _read_classes,
        "one folder per class: <class>/<file>, or <split>/<class>/<file>",
        "bias-train shards import classes cifake_ai.tar shards/ai --source sd-1.4",
    )
    _add_source(classes)
    classes.add_argument(
        "--template",
        action="append",
        metavar="TEXT",
        help="caption with {label} where the class goes; may be given several times (default: 'a photo of a {label}')",
    )

    names = _add_layout(
        layouts,
        "labelled-names",
        _read_labelled_names,
        "pictures whose file names say their class and what is written on them: label=DVD_text=ball.jpg",
        "bias-train shards import labelled-names rta100.tar shards/rta100",
    )
    _add_source(names)
    names.add_argument(
        "--pattern",
        metavar="REGEX",
        help="for a whole file name without suffix, with the groups (?P<label>...) and, for the word that is written "
        "on the picture, (?P<word>...) (default: RTA-100's names)",
    )
    names.add_argument(
        "--kind",
        default="misleading",
        choices=("misleading", "parroting", "neutral"),
        help="of the words (default: %(default)s)",
    )
    names.add_argument(
        "--template",
        action="append",
        metavar="TEXT",
        help="caption with {label} where the class goes; may be given several times (default: 'a photo of a {label}')",
    )

    captions = _add_layout(
        layouts,
        "captions",
        _read_captions,
        "pictures with a table of captions (CSV, TSV, JSON, JSON lines)",
        "bias-train shards import captions flickr8k.tar shards/flickr8k --holdout 0.2",
    )
    _add_source(captions)
    _add_captions(captions)

    coco = _add_layout(
        layouts,
        "coco",
        _read_coco,
        "COCO's annotation files, or Karpathy's dataset_*.json",
        "bias-train shards import coco train2017 shards/coco --annotations captions.json",
    )
    _add_source(coco)
    coco.add_argument("--annotations", metavar="FILE", help="captions_*.json or dataset_*.json, on disk or in INPUT")
    coco.add_argument("--instances", metavar="FILE", help="instances_*.json: objects and boxes go into the samples")
    _add_twins(coco)

    twins = _add_layout(
        layouts,
        "twins",
        _read_twins,
        "photos beside generated twins of the same names, or one folder per scene with a picture by each source",
        "bias-train shards import twins photos shards/pairs --captions captions.csv --twins sd-1.4=sd14",
    )
    _add_captions(twins)
    _add_twins(twins)
    twins.add_argument(
        "--anchor",
        metavar="SOURCE",
        help="for one folder per scene (no --twins): the source whose picture is the anchor (default: real, else the "
        "first by name)",
    )

    faces = _add_layout(
        layouts,
        "faces",
        _read_faces,
        "pictures of people with their groups: FairFace's tables, UTKFace's file names, any table of attributes",
        "bias-train shards import faces fairface/ shards/fairface --labels fairface_label_val.csv",
    )
    _add_source(faces)
    _add_groups(faces)

    pairs = _add_layout(
        layouts,
        "pairs",
        _read_pairs,
        "tables of caption, photo and a picture by each generator: Parquet shards, or what datasets saved to disk",
        "bias-train shards import pairs 'COCO_AI/data/*.parquet' shards/coco-ai --holdout 0.2",
        tables=True,
    )
    pairs.set_defaults(prepare=_fetch_pairs)
    _add_columns(pairs)


def _add_layout(
    layouts: Any, name: str, run: Callable[..., Any], text: str, example: str, *, tables: bool = False
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = layouts.add_parser(
        name, help=text, description=f"Import {text}.", epilog=f"Example: {example}"
    )
    if tables:
        parser.add_argument("input", metavar="FILES", nargs="+", help=".parquet or .arrow files, folders, or patterns")
    else:
        about = "a folder, an uncompressed .tar, or a folder of .tar files (a class, say, each)"
        parser.add_argument("input", metavar="INPUT", help=about)
    parser.add_argument("output", metavar="OUT", help="folder for the shards; splits become folders in it")
    parser.set_defaults(run=_import, read=run, prepare=None)
    parts = parser.add_argument_group("parts")
    parts.add_argument("--split", metavar="NAME", help="import this split alone, into OUT itself (default: all)")
    parts.add_argument(
        "--holdout", type=float, metavar="SHARE", help="hold this share out: OUT/train and OUT/val, chosen by name"
    )
    parts.add_argument("--limit", type=int, metavar="N", help="at most N samples of each split")
    parts.add_argument("--keep-order", action="store_true", help="do not shuffle the samples")
    encoding = parser.add_argument_group("pictures")
    encoding.add_argument("--size", type=int, metavar="PIXELS", help="make all square, resized and cut to this side")
    encoding.add_argument("--quality", type=int, default=92, metavar="Q", help="JPEG quality (default: %(default)s)")
    encoding.add_argument("--keep-original", action="store_true", help="do not encode anew")
    shards = parser.add_argument_group("shards")
    shards.add_argument(
        "--samples-per-shard", type=int, default=1000, metavar="N", help="samples in a tar (default: %(default)s)"
    )
    shards.add_argument(
        "--key-prefix",
        metavar="TEXT",
        help="put before every key (default: nothing for photos, the generator's name for generated pictures)",
    )
    shards.add_argument("--overwrite", action="store_true", help="replace the shards that OUT holds")
    shards.add_argument("--workers", type=int, metavar="N", help="threads (default: one per processor)")
    return parser


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        default="real",
        metavar="NAME",
        help="what made the pictures: real, a generator's name, or generated where nobody knows (default: %(default)s)",
    )


def _add_captions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--captions",
        metavar="FILE",
        help="table of captions, on disk or in INPUT (default: the one that INPUT holds)",
    )


def _add_twins(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--twins",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a generator and its folder or tar of twins, called like the photos; may be given several times",
    )


def _add_groups(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels",
        action="append",
        default=[],
        metavar="FILE",
        help="table of files and groups, on disk or in INPUT; may be given several times (default: those that INPUT "
        "holds, else the file names, else the tables called *label*.csv beside it)",
    )
    parser.add_argument(
        "--attributes", nargs="+", metavar="COLUMN", help="columns that say groups (default: race, gender and age)"
    )
    parser.add_argument(
        "--template",
        action="append",
        default=[],
        metavar="TEXT",
        help="caption of every picture, such as 'a photo of a person'; may be given several times (default: none)",
    )


def _add_columns(parser: argparse.ArgumentParser) -> None:
    columns = parser.add_argument_group(
        "columns", "Found by their usual names and types where they are not named; an error lists those that there are."
    )
    columns.add_argument(
        "--caption", action="append", default=[], metavar="COLUMN", help="captions; may be given several times"
    )
    columns.add_argument("--real", metavar="COLUMN", help="the photos (with --source-column: all pictures)")
    columns.add_argument(
        "--twins",
        action="append",
        default=[],
        metavar="NAME=COLUMN",
        help="a generator and the column of its pictures; may be given several times (default: every other column of "
        "pictures, by its own name)",
    )
    columns.add_argument("--source-column", metavar="COLUMN", help="for one row per picture: what made it")
    columns.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="VALUE=NAME",
        help="what a value of --source-column means, such as 0=real; may be given several times",
    )
    columns.add_argument(
        "--id",
        metavar="COLUMN",
        help="what names a scene (without one, rows count for themselves, and rows per picture are joined by caption)",
    )


def _read_classes(options: argparse.Namespace, image_format: ImageFormat) -> Collection:
    from datamodules.importers import open_tree, read_classes
    from datamodules.importers.classes import TEMPLATES

    return read_classes(
        open_tree(options.input),
        source=options.source,
        templates=options.template or TEMPLATES,
        key_prefix=options.key_prefix,
    )


def _read_labelled_names(options: argparse.Namespace, image_format: ImageFormat) -> Collection:
    from datamodules.importers import open_tree, read_labelled_names
    from datamodules.importers.classes import TEMPLATES
    from datamodules.importers.labelled_names import PATTERN

    return read_labelled_names(
        open_tree(options.input),
        options.pattern or PATTERN,
        kind=options.kind,
        source=options.source,
        templates=options.template or TEMPLATES,
        key_prefix=options.key_prefix,
    )


def _read_captions(options: argparse.Namespace, image_format: ImageFormat) -> Collection:
    from datamodules.importers import open_tree, read_captions

    return read_captions(
        open_tree(options.input), options.captions, source=options.source, key_prefix=options.key_prefix
    )


def _read_coco(options: argparse.Namespace, image_format: ImageFormat) -> Collection:
    from datamodules.importers import attach_twins, open_tree, read_coco

    found = read_coco(
        open_tree(options.input),
        options.annotations,
        options.instances,
        source=options.source,
        key_prefix=options.key_prefix,
        image_format=image_format,
    )
    return attach_twins(found, _twin_trees(options))


def _read_twins(options: argparse.Namespace, image_format: ImageFormat) -> Collection:
    from datamodules.importers import open_tree, read_scenes, read_twins

    trees = _twin_trees(options)
    if not trees:
        return read_scenes(open_tree(options.input), anchor=options.anchor, key_prefix=options.key_prefix)
    if options.anchor is not None:
        raise DataError("--anchor is for one folder per scene; with --twins the photos are the anchors")
    return read_twins(open_tree(options.input), trees, options.captions, key_prefix=options.key_prefix)


def _read_faces(options: argparse.Namespace, image_format: ImageFormat) -> Collection:
    from datamodules.importers import open_tree, read_faces

    found = read_faces(
        open_tree(options.input),
        options.labels,
        attributes=options.attributes,
        templates=options.template,
        source=options.source,
        key_prefix=options.key_prefix,
    )
    return _free_to_split(found, options)


def _read_pairs(options: argparse.Namespace, image_format: ImageFormat) -> Collection:
    from datamodules.importers import read_pairs

    found = read_pairs(
        options.input,
        captions=options.caption,
        real=options.real,
        twins=_assignments("--twins", options.twins, "NAME=COLUMN, the generator's name and its column"),
        source=options.source_column,
        names=_assignments("--name", options.name, "VALUE=NAME, a value of the source column and what it means"),
        identity=options.id,
        key_prefix=options.key_prefix,
    )
    return _free_to_split(found, options)


def _free_to_split(found: Collection, options: argparse.Namespace) -> Collection:
    if options.split is None and len(found.splits) == 1:
        # Public sets often call all that there is "train"; it is then free to be split.
        found.records[:] = [replace(record, split="") for record in found.records]
    return found


def _fetch_pairs(found: Collection, options: argparse.Namespace) -> Collection:
    from datamodules.importers import fetch_pictures

    output = Path(options.output).expanduser()
    if options.split is not None:
        found.records[:] = [record for record in found.records if record.split == options.split] or found.records
    targets = [output / name for name in found.splits] if options.split is None else [output]
    if not options.overwrite and any(any(target.glob("*.tar")) for target in targets):
        # The writer would say so too, but only after gigabytes were copied.
        raise DataError(f"{output}: holds shards already; choose another folder, or replace them (--overwrite)")
    with _progress("fetching") as advance:
        return fetch_pictures(found, output, limit=options.limit, keep_order=options.keep_order, on_picture=advance)


def _twin_trees(options: argparse.Namespace) -> dict[str, Any]:
    from datamodules.importers import open_tree

    places = _assignments("--twins", options.twins, "NAME=PATH, the generator's name and its folder or tar")
    return {name: open_tree(path) for name, path in places.items()}


def _assignments(option: str, texts: list[str], form: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise DataError(f"{option} {text}: write {form}")
        if name in found:
            raise DataError(f"{option} {name}: is given twice")
        found[name] = value
    return found


def _import(options: argparse.Namespace) -> int:
    from datamodules.importers import hold_out, write_collection
    from datamodules.reencode import ImageFormat

    image_format = ImageFormat(size=options.size, quality=options.quality, keep_original=options.keep_original)
    found: Collection = options.read(options, image_format)
    if options.holdout is not None:
        found = hold_out(found, options.holdout)
    if options.prepare is not None:
        found = options.prepare(found, options)
    with _progress("importing") as advance:
        indexes = write_collection(
            found,
            options.output,
            split=options.split,
            image_format=image_format,
            samples_per_shard=options.samples_per_shard,
            keep_order=options.keep_order,
            limit=options.limit,
            workers=options.workers,
            overwrite=options.overwrite,
            on_sample=advance,
        )
    for index in indexes.values():
        _print_made(index)
    _print_problems("left out", found.problems)
    return 0


# index ---------------------------------------------------------------------------------------------------------------


def _add_index(commands: Any) -> None:
    parser = commands.add_parser(
        "index",
        help="index shards made elsewhere, img2dataset's for one",
        description="Read the headers of a folder's tars and write index.arrow beside them.",
        epilog="Example: bias-train shards index laion --source real",
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder of .tar files")
    parser.add_argument(
        "--source", metavar="NAME", help="real, or the generator, of samples that do not say it themselves"
    )
    parser.add_argument(
        "--key-prefix", default="", metavar="TEXT", help="put before every key, to mix sets whose keys are equal"
    )
    parser.set_defaults(run=_index)


def _index(options: argparse.Namespace) -> int:
    from datamodules.index import build_index, find_tars

    if not Path(options.folder).expanduser().is_dir():
        raise DataError(f"{options.folder}: there is no such folder; give the one that holds the .tar files")
    total = len(find_tars(options.folder)[1])
    done = 0
    with _progress("indexing") as advance:

        def on_shard(path: Path) -> None:
            nonlocal done
            done += 1
            advance(done, total)

        index = build_index(options.folder, source=options.source, key_prefix=options.key_prefix, on_shard=on_shard)
    index.save()
    _print_made(index)
    _print_problems("left out", index.problems)
    return 0


# inspect -------------------------------------------------------------------------------------------------------------


def _add_inspect(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect",
        help="say what a shard set holds, which mixes it allows and what is broken",
        description="Say what a shard set holds, which shares of generated pictures it allows and what is broken. "
        "Exits with 1 if --decode finds broken pictures.",
        epilog="Example: bias-train shards inspect shards/real/train shards/ai/train --contact-sheet sheet.png",
    )
    parser.add_argument("folder", nargs="+", metavar="FOLDER", help="folder of shards; several are seen as one set")
    parser.add_argument("--decode", action="store_true", help="decode every picture and count the broken ones")
    parser.add_argument("--verify", action="store_true", help="compare the shards' checksums with the index")
    parser.add_argument("--contact-sheet", metavar="FILE", help="write a .png or .jpg of pictures, labelled by source")
    parser.add_argument("--columns", type=int, default=10, metavar="N", help="of the sheet (default: %(default)s)")
    parser.add_argument(
        "--rows", type=int, default=2, metavar="N", help="of the sheet, for each source (default: %(default)s)"
    )
    parser.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    from datamodules.index import ShardIndex
    from datamodules.inspect import BROKEN, inspect_shards

    index = ShardIndex.load(options.folder, verify=options.verify)
    if options.decode:
        with _progress("decoding") as advance:
            found = inspect_shards(index, decode_all=True, on_picture=advance)
    else:
        found = inspect_shards(index)
    _print_inspection(", ".join(options.folder), found)
    if options.contact_sheet:
        from datamodules.contact_sheet import contact_sheet

        path = contact_sheet(index, options.contact_sheet, columns=options.columns, rows=options.rows)
        print(f"contact sheet: {path}")
    return 1 if found.broken is not None and found.broken.counts[BROKEN] else 0


# output --------------------------------------------------------------------------------------------------------------


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error; yields what is called with the count done and the total."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)


def _print_made(index: ShardIndex) -> None:
    print(
        f"{index.folder}: {len(index):,} samples, {len(index.offset):,} pictures in {len(index.shards)} shards "
        f"({', '.join(index.sources[code] for code in sorted(set(index.view_source.tolist())))})"
    )


def _print_problems(title: str, problems: Problems) -> None:
    for line in problems.lines():
        print(f"{title}: {line}")


def _print_inspection(name: str, found: Inspection) -> None:
    from rich.markup import escape
    from rich.table import Table

    console = wide_console()
    console.print(escape(name), style="bold")
    fewest, most = found.captions_per_sample
    for line in (
        f"{found.samples:,} samples, {found.pictures:,} pictures in {found.shards} shards, {found.bytes / 1e6:,.1f} MB",
        f"{found.captions:,} captions, {fewest} to {most} a sample, {found.without_caption:,} samples without",
        f"{found.groups:,} groups, {len(found.labels)} classes, {found.unlabelled:,} samples without a class",
    ):
        console.print(line)
    table = Table("source", box=None, pad_edge=False)
    for heading in ("anchors", "views", "replace up to"):
        table.add_column(heading, justify="right")
    for source in dict.fromkeys([*found.anchors, *found.views]):
        share = found.ratios.replace_by.get(source)
        table.add_row(
            escape(source),
            f"{found.anchors.get(source, 0):,}",
            f"{found.views.get(source, 0):,}",
            "" if share is None else f"{share:.1%}",
        )
    console.print(table)
    if found.view_names:
        console.print("views: " + ", ".join(f"{escape(view)} {count:,}" for view, count in found.view_names.items()))
    if found.labels:
        sources = list(dict.fromkeys([*found.anchors, *found.views]))
        table = Table("class", box=None, pad_edge=False)
        for source in sources:
            table.add_column(escape(source), justify="right")
        for label, counts in sorted(found.labels.items(), key=lambda item: -sum(item[1].values()))[:_MOST_CLASSES]:
            table.add_row(escape(label), *(f"{counts.get(source, 0):,}" for source in sources))
        console.print(table)
        if len(found.labels) > _MOST_CLASSES:
            console.print(f"and {len(found.labels) - _MOST_CLASSES:,} smaller classes")
    ratios = found.ratios
    how = {
        "twin": "photos that have a twin",
        "class": "photos whose class has generated pictures",
        "none": "no photo has a twin or generated pictures of its class",
    }[ratios.pairing]
    if not found.anchors.get("real"):
        how = "there are no photos as anchors"
    elif len(found.ratios.replace_by) == 0:
        how = "there are no generated pictures"
    console.print(
        f"attainable share of generated pictures: replace {ratios.replace:.1%} ({how}), "
        f"add {ratios.add:.0%}, unpaired {ratios.unpaired:.0%}"
    )
    for line in found.problems.lines():
        console.print(f"left out of the index: {escape(line)}")
    if found.broken is not None:
        console.print(f"decoded {found.pictures:,} pictures, {found.broken.counts.total():,} of them broken or blank")
        for line in found.broken.lines():
            console.print(escape(line))


_MOST_CLASSES = 30
