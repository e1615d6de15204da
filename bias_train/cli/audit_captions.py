"""``bias-train audit captions``: are true captions told from altered ones, as OHD-Caps and RoCOCO ask."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_train.cli.inputs import add_retriever, device_of, positive, retriever_of
from bias_train.cli.terminal import wide_console
from bias_train.errors import RunError

if TYPE_CHECKING:
    from rich.table import Table

    from bias_train.audit.object.caption_audit import CaptionOutcome


def add_captions(commands: Any) -> None:
    """Add the subcommand to the parsers of ``bias-train audit``."""
    audit = commands.add_parser(
        "captions",
        help="does it tell true captions from altered ones?",
        description="Does a retriever put the true caption above altered ones (as OHD-Caps asks), and does an altered "
        "one come first when all are searched (as RoCOCO asks)? With captions as they are and normalised, and beside a "
        "choice that never sees the picture. Writes audit.json and figures.parquet, and a table on the terminal.",
        epilog="Example: bias-train audit captions coco_annotations.json --images val2014 --run runs/a",
    )
    audit.add_argument(
        "file", type=Path, metavar="FILE",
        help='JSON list or lines of {"image", "captions", "negatives"}, or a file of OHD-Caps or RoCOCO',
    )  # fmt: skip
    audit.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the pictures")
    audit.add_argument(
        "--true-captions", type=positive, default=5, metavar="N",
        help="of a RoCOCO entry, how many come first and are true (default: 5)",
    )  # fmt: skip
    add_retriever(audit)
    audit.add_argument("--batch-size", type=positive, default=64, metavar="N")
    audit.add_argument("--device", default="auto", help="cpu, cuda or auto (the default)")
    audit.add_argument("--seed", type=int, default=0)
    audit.add_argument("--resamples", type=int, default=2000, metavar="N", help="bootstrap resamples (default: 2000)")
    audit.add_argument("--level", type=float, default=0.95, help="of the intervals (default: 0.95)")
    audit.add_argument("--output", type=Path, metavar="DIR", help="default: audits/<name of FILE>-captions")
    audit.add_argument("--json", metavar="-", choices=("-",), help="print the JSON and nothing else")
    audit.add_argument("--title", help="heading of the outputs")
    audit.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code.

    Raises:
        RunError: for a file or pictures that cannot be read, or options that contradict each other.
        ModelError: for a retriever that cannot be loaded.
    """
    from bias_train.audit.object.caption_audit import audit_captions, embed_files, write_captions
    from bias_train.audit.object.caption_sets import read_caption_sets
    from bias_train.embed import embed_texts
    from bias_train.stats import Bootstrap

    try:
        bootstrap = Bootstrap(options.resamples, options.level, "percentile", options.seed)
    except ValueError as error:
        raise RunError(f"{error}") from error
    sets = read_caption_sets(options.file, options.true_captions)
    retriever, device = retriever_of(options), device_of(options)
    names = [own.image for own in sets]
    outcome = audit_captions(
        sets,
        embed_files(retriever, options.images, names, batch_size=options.batch_size, device=device),
        lambda texts: embed_texts(retriever, texts, device=device),
        bootstrap,
        title=options.title or options.file.stem,
        inputs=_inputs(options),
    )
    folder = options.output or Path("audits") / f"{options.file.stem}-captions"
    write_captions(outcome, folder)
    if options.json:
        print(json.dumps(outcome.document(), indent=1, allow_nan=False))
        return 0
    console = wide_console()
    console.print(outcome.title, style="bold", markup=False)
    console.print(_table(outcome))
    for warning in outcome.warnings:
        console.print(f"warning: {warning.text}", style="yellow", markup=False)
    console.print(f"figures: {folder / 'audit.json'}", markup=False, soft_wrap=True)
    return 0


def _inputs(options: argparse.Namespace) -> dict[str, Any]:
    names = ("file", "images", "true_captions", "run", "model", "model_config", "hf_model", "pretrained")
    given = {name: getattr(options, name) for name in names}
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items() if value}


_SPELT = {
    "first": "true caption first among its candidates", "first_chance": "chance", "first_blind": "without the picture",
    "clean_R": "picture finds a true caption, among true ones", "mixed_R": "the same among altered ones, too",
    "false_rate": "an altered caption comes first", "false_chance": "chance",
}  # fmt: skip


def _table(outcome: CaptionOutcome) -> Table:
    from rich.table import Table

    table = Table(caption="intervals over pictures", caption_justify="left")
    labels = list(dict.fromkeys(str(figure.label) for figure in outcome.figures))
    table.add_column("in percent", overflow="fold")
    for label in labels:
        table.add_column(label, justify="right")
    for name, k in dict.fromkeys((figure.name, figure.k) for figure in outcome.figures):
        cells = []
        for label in labels:
            figure = outcome.find(name, k, label)
            if figure is None:
                cells.append("")
                continue
            ends = f"\n[{100 * figure.low:.1f}, {100 * figure.high:.1f}]" if figure.low == figure.low else ""
            cells.append(f"{100 * figure.value:.1f}{ends.replace('[', chr(92) + '[')}")
        table.add_row(_SPELT[name] + ("" if k is None else f", R@{k}"), *cells)
    return table
