"""``bias-train audit``: the bias of a finished retriever, with intervals and tests."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_train.cli.audit_captions import add_captions
from bias_train.cli.audit_groups import add_groups
from bias_train.cli.audit_object import add_object
from bias_train.cli.audit_social import add_social
from bias_train.cli.audit_text import add_text
from bias_train.cli.inputs import add_inputs, embeddings_of, for_run, subject_of
from bias_train.cli.terminal import wide_console
from bias_train.errors import RunError

if TYPE_CHECKING:
    from bias_train.audit.options import AuditOptions
    from bias_train.audit.outcome import Outcome
    from bias_train.embeddings import Embeddings


def main(argv: list[str]) -> int:
    """Run ``bias-train audit ARGV``; returns the exit code.

    Raises:
        RunError: for input that cannot be audited, naming file or option.
        DataError: for shards that cannot be read.
        ModelError: for a retriever that cannot be loaded.
    """
    options = _parser().parse_args(argv)
    return int(options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bias-train audit", description="Measure a finished retriever; nothing is trained."
    )
    commands = parser.add_subparsers(dest="axis", required=True, metavar="AXIS")
    source = commands.add_parser(
        "source",
        help="does it rank generated pictures above photos that answer as well?",
        description="Does a retriever rank generated pictures above photos that answer as well? Writes audit.json, "
        "figures.parquet and report.html into a folder, and a table on the terminal.",
        epilog="Examples: bias-train audit source --run runs/a --shards shards/val; "
        "bias-train audit source --embeddings vectors.npz --against before.npz",
    )
    add_inputs(source)
    figures = source.add_argument_group("figures")
    figures.add_argument("--k", type=int, nargs="+", default=[1, 3, 5, 10], metavar="K", help="cut-offs (default: "
                         "1 3 5 10); the least leads")  # fmt: skip
    figures.add_argument(
        "--precision-k", type=int, nargs="+", default=[10, 100], metavar="K", help="of P@k, where targets are classes"
    )
    figures.add_argument(
        "--ratios", type=float, nargs="+", default=[0.2, 0.5, 0.8], metavar="R",
        help="generated shares of the galleries (default: 0.2 0.5 0.8; 0.5 leads)",
    )  # fmt: skip
    figures.add_argument(
        "--quantiles",
        type=int,
        default=4,
        metavar="N",
        help="parts by caption length and by similarity (default: 4)",
    )
    figures.add_argument(
        "--similarity", type=Path, metavar="FILE",
        help=".csv or .parquet with columns key and similarity, of each generated picture with its photo (default: "
        "their cosine in the audited space)",
    )  # fmt: skip
    figures.add_argument("--normalise", action="store_true", help="scale vectors of --embeddings to unit length")
    tests = source.add_argument_group("statistics")
    tests.add_argument("--resamples", type=int, default=2000, metavar="N", help="bootstrap resamples (default: 2000)")
    tests.add_argument("--interval", choices=("percentile", "bca"), default="percentile")
    tests.add_argument("--level", type=float, default=0.95, help="of the intervals (default: 0.95)")
    tests.add_argument(
        "--permutations", type=int, default=9999, metavar="N", help="label swaps (default: 9999; 0: no test)"
    )
    tests.add_argument(
        "--adjust", choices=("holm", "bh", "none"), default="holm", help="p-values for several tests (default: holm)"
    )
    tests.add_argument(
        "--margin",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="of equivalence, in points of R@k (default: 0.5)",
    )
    tests.add_argument(
        "--max-width", type=float, default=20.0, metavar="POINTS", help="warn of wider intervals of Δ (default: 20)"
    )
    tests.add_argument(
        "--against", type=Path, metavar="PATH",
        help="embeddings of the same pictures, or a run folder for the same shards: give this minus that",
    )  # fmt: skip
    tests.add_argument(
        "--calibration", nargs="+", default=[], metavar="SET",
        help="embeddings or shards that something was fitted on; shared pictures or targets are refused",
    )  # fmt: skip
    output = source.add_argument_group("output")
    output.add_argument("--output", type=Path, metavar="DIR", help="default: audits/<name of what is audited>")
    output.add_argument("--json", metavar="-", choices=("-",), help="print the JSON and nothing else")
    output.add_argument("--title", help="heading of the report")
    source.set_defaults(command=_source)
    add_social(commands)
    add_object(commands)
    add_text(commands)
    add_captions(commands)
    add_groups(commands)
    return parser


def _source(options: argparse.Namespace) -> int:
    # Drawing libraries are loaded for drawing only.
    from dataclasses import replace

    from bias_train.audit.leakage import check_leakage, read_calibration
    from bias_train.audit.outcome import write_outcome
    from bias_train.audit.run import audit_source

    chosen = _audit_options(options)
    similarity = None if options.similarity is None else read_similarity(options.similarity)
    embeddings = _prepared(embeddings_of(options), options)
    leaks = [
        warning
        for location in options.calibration
        for warning in check_leakage(embeddings, read_calibration(location), from_shards=bool(options.shards))
    ]
    name = subject_of(options, options.embeddings)
    outcome = audit_source(
        embeddings,
        chosen,
        against=None if options.against is None else _prepared(_other(options), options),
        similarity=similarity,
        title=options.title or name,
        inputs=_inputs(options),
    )
    outcome = replace(outcome, warnings=(*leaks, *outcome.warnings))
    folder = options.output or Path("audits") / name
    write_outcome(outcome, folder)
    _report(outcome, folder / "report.html")
    if options.json:
        print(json.dumps(outcome.document(), indent=1, allow_nan=False))
        return 0
    _print(outcome, folder)
    return 0


def _audit_options(options: argparse.Namespace) -> AuditOptions:
    from bias_train.audit.options import AuditOptions
    from bias_train.stats import Bootstrap

    try:
        bootstrap = Bootstrap(options.resamples, options.level, options.interval, options.seed)
    except ValueError as error:
        raise RunError(f"{error}") from error
    return AuditOptions(
        ks=tuple(options.k),
        precision_ks=tuple(options.precision_k),
        ratios=tuple(options.ratios),
        quantiles=options.quantiles,
        bootstrap=bootstrap,
        permutations=options.permutations,
        adjust=options.adjust,
        margin=options.margin,
        widest=options.max_width,
        seed=options.seed,
    )


def _prepared(embeddings: Embeddings, options: argparse.Namespace) -> Embeddings:
    from bias_train.audit.run import normalised

    return normalised(embeddings) if options.normalise else embeddings


def _other(options: argparse.Namespace) -> Embeddings:
    """The other side of a comparison: a file of embeddings, or another run over the same shards."""
    from bias_train.embeddings import load_embeddings

    path: Path = options.against
    if not (path / "config.yaml").is_file():
        return load_embeddings(path)
    if not options.shards:
        raise RunError(f"--against {path}: is a run folder, which needs --shards to embed; give embeddings instead")
    return embeddings_of(for_run(options, path))


def read_similarity(path: Path) -> dict[str, float]:
    """Read recorded similarities by key of the generated picture.

    Raises:
        RunError: naming the file and what it lacks.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    readers: dict[str, Any] = {".csv": pyarrow.csv.read_csv, ".parquet": pyarrow.parquet.read_table}
    if path.suffix not in readers:
        raise RunError(f"--similarity {path}: give a .csv or .parquet file")
    try:
        table = readers[path.suffix](path)
    except FileNotFoundError as error:
        raise RunError(f"--similarity {path}: there is no such file") from error
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"--similarity {path}: cannot be read ({error})") from error
    for column in ("key", "similarity"):
        if column not in table.column_names:
            raise RunError(f"--similarity {path}: has no column {column!r}; it has {', '.join(table.column_names)}")
    try:
        values = [float(value) for value in table["similarity"].to_pylist()]
    except (TypeError, ValueError) as error:
        raise RunError(f"--similarity {path}: column 'similarity' holds what is no number ({error})") from error
    return dict(zip(map(str, table["key"].to_pylist()), values, strict=True))


def _inputs(options: argparse.Namespace) -> dict[str, Any]:
    names = ("run", "model", "model_config", "hf_model", "pretrained", "shards", "embeddings", "relevance", "limit",
             "against", "calibration", "similarity", "normalise")  # fmt: skip
    given = {name: getattr(options, name) for name in names}
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in given.items()
        if value not in (None, [])
    }


def _report(outcome: Outcome, path: Path) -> None:
    from bias_train.reports.audit import write_audit_report

    write_audit_report(outcome, path)


def _print(outcome: Outcome, folder: Path) -> None:
    from bias_train.audit.table import terminal

    console = wide_console()
    console.print(terminal(outcome))
    console.print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)
