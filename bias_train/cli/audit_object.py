"""``bias-train audit object``: what a retriever recalls of objects that were taken out of pictures."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_train.cli.inputs import add_retriever, device_of, for_run, positive, retriever_of, subject_of
from bias_train.cli.terminal import wide_console
from bias_train.errors import RunError

if TYPE_CHECKING:
    from bias_train.audit.object.edited_set import EditedSet
    from bias_train.audit.object.options import ObjectOptions
    from bias_train.audit.object.outcome import ObjectOutcome
    from bias_train.audit.object.run import Vectors


def add_object(commands: Any) -> None:
    """Add the subcommand to the parsers of ``bias-train audit``."""
    audit = commands.add_parser(
        "object",
        help="does it recall objects that are not in the picture?",
        description="Does a retriever still recall an object that was taken out of the picture? Asks with edited "
        "pictures and captions, beside the unedited ones and pictures with an edited background. Writes audit.json, "
        "figures.parquet and report.html into a folder, and tables on the terminal. ODmAP-style (bias-train "
        "definition): not the metric of arXiv 2304.03391, whose formula is not public.",
        epilog="Example: bias-train audit object --run runs/a --shards shards/edited --gallery shards/coco-val "
        "--pairs pairs.csv --against runs/b",
    )
    add_retriever(audit)
    pictures = audit.add_argument_group("the pictures")
    pictures.add_argument(
        "--shards", nargs="+", required=True, metavar="SET",
        help="edited pictures, from bias-train synthesize decorrelated",
    )  # fmt: skip
    pictures.add_argument(
        "--gallery", nargs="+", default=[], metavar="SET", help="further captioned pictures to search"
    )
    pictures.add_argument("--vocabulary", metavar="CSV", help="objects and their words (default: COCO's 80)")
    pictures.add_argument(
        "--pairs", type=Path, metavar="CSV",
        help="spurious pairs to look at by themselves: columns a and b, a is taken out of pictures with b",
    )  # fmt: skip
    pictures.add_argument("--limit", type=positive, metavar="N", help="at most N edited pictures, drawn at random")
    pictures.add_argument("--batch-size", type=positive, default=64, metavar="N")
    pictures.add_argument("--workers", type=int, default=0, metavar="N", help="loader processes")
    pictures.add_argument("--device", default="auto", help="cpu, cuda or auto (the default)")
    pictures.add_argument("--seed", type=int, default=0)
    figures = audit.add_argument_group("figures and statistics")
    figures.add_argument(
        "--k", type=positive, nargs="+", default=[10, 1, 5, 50], metavar="K",
        help="cut-offs; the first leads (default: 10 1 5 50)",
    )  # fmt: skip
    figures.add_argument(
        "--minimum", type=positive, default=10, metavar="N",
        help="objects with fewer queries stay out of the mean over objects (default: 10)",
    )  # fmt: skip
    figures.add_argument("--resamples", type=int, default=2000, metavar="N", help="bootstrap resamples (default: 2000)")
    figures.add_argument("--level", type=float, default=0.95, help="of the intervals (default: 0.95)")
    figures.add_argument(
        "--against", type=Path, metavar="RUN", help="the run folder of another retriever: give this minus that"
    )
    output = audit.add_argument_group("output")
    output.add_argument("--output", type=Path, metavar="DIR", help="default: audits/<name of what is audited>-object")
    output.add_argument("--json", metavar="-", choices=("-",), help="print the JSON and nothing else")
    output.add_argument("--title", help="heading of the report")
    audit.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code.

    Raises:
        RunError: for options that contradict each other or name nothing.
        DataError: for shards, pairs or a vocabulary that cannot be read.
        ModelError: for a retriever that cannot be loaded.
    """
    from bias_train.audit.object.edited_set import edited_set
    from bias_train.audit.object.outcome import write_object
    from bias_train.audit.object.run import audit_object
    from bias_train.reports.object_audit import write_object_report

    chosen = _options(options)
    if options.against is not None and not (options.against / "config.yaml").is_file():
        raise RunError(f"--against {options.against}: is no run folder, it has no config.yaml")
    pairs = [] if options.pairs is None else read_pairs(options.pairs)
    asked = edited_set(
        options.shards, options.gallery, vocabulary=options.vocabulary, pairs=pairs, limit=options.limit,
        seed=options.seed,
    )  # fmt: skip
    name = subject_of(options, None)
    outcome = audit_object(
        asked,
        _embedded(asked, options),
        chosen,
        against=_against(asked, options),
        title=options.title or name,
        inputs=_inputs(options),
    )
    folder = options.output or Path("audits") / f"{name}-object"
    write_object(outcome, folder)
    write_object_report(outcome, folder / "report.html")
    if options.json:
        print(json.dumps(outcome.document(), indent=1, allow_nan=False))
        return 0
    _print(outcome, folder)
    return 0


def _options(options: argparse.Namespace) -> ObjectOptions:
    from bias_train.audit.object.options import ObjectOptions
    from bias_train.stats import Bootstrap

    try:
        bootstrap = Bootstrap(options.resamples, options.level, "percentile", options.seed)
    except ValueError as error:
        raise RunError(f"{error}") from error
    return ObjectOptions(ks=tuple(options.k), minimum=options.minimum, bootstrap=bootstrap)


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Read spurious pairs: a CSV with columns ``a`` and ``b``; rows whose column ``why`` says why not are left out.

    Raises:
        RunError: naming the file and what it lacks.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not {"a", "b"} <= set(reader.fieldnames or ()):
                raise RunError(f"--pairs {path}: must have the columns a and b; it has {reader.fieldnames}")
            found = [(row["a"].strip(), row["b"].strip()) for row in reader if not row.get("why")]
    except (OSError, UnicodeDecodeError, csv.Error, AttributeError) as error:
        raise RunError(f"--pairs {path}: cannot be read ({error})") from error
    if not found:
        raise RunError(f"--pairs {path}: holds no pair")
    return list(dict.fromkeys(found))


def _embedded(asked: EditedSet, options: argparse.Namespace) -> Vectors:
    from bias_train.audit.object.edited_set import embed_edited

    return embed_edited(
        retriever_of(options), asked, batch_size=options.batch_size, workers=options.workers, device=device_of(options)
    )


def _against(asked: EditedSet, options: argparse.Namespace) -> Vectors | None:
    if options.against is None:
        return None
    return _embedded(asked, for_run(options, options.against))


def _inputs(options: argparse.Namespace) -> dict[str, Any]:
    names = ("run", "model", "model_config", "hf_model", "pretrained", "shards", "gallery", "vocabulary", "pairs",
             "limit", "against")  # fmt: skip
    given = {name: getattr(options, name) for name in names}
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items() if value}


def _print(outcome: ObjectOutcome, folder: Path) -> None:
    from bias_train.audit.object.table import terminal

    console = wide_console()
    console.print(terminal(outcome))
    console.print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)
