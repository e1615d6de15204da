"""``bias-train explain source``: where the sources lie apart in embedding space, and what of it moves the ranking."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bias_train.cli.inputs import WEIGHTS, add_inputs, embeddings_of
from bias_train.cli.terminal import wide_console
from bias_train.errors import RunError

if TYPE_CHECKING:
    from rich.console import Console

    from bias_train.embeddings import Embeddings
    from bias_train.explain.findings import Explanation


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        RunError: for inputs that are missing, contradict each other or do not fit.
    """
    parser = _parser()
    options = parser.parse_args(argv)

    from bias_train.explain.files import write_explanation
    from bias_train.explain.findings import Choices, explain
    from bias_train.explain.maps import check_method

    choices = Choices(
        resamples=options.resamples,
        permutations=options.permutations,
        folds=options.folds,
        map=options.map,
        pictures=options.spectrum_pictures,
        side=options.spectrum_size,
        seed=options.seed,
    )
    # What can be wrong is found out before minutes of embedding.
    check_method(choices.map)
    _check_debiased(options)
    embeddings = embeddings_of(options)
    debiased = _debiased(options)
    shards = tuple(options.pictures or options.shards or ())
    found = explain(embeddings, choices, debiased=debiased, shards=shards)
    name = _name(options)
    output = options.output or Path("explanations") / name
    page = write_explanation(output, found, embeddings, title=name)
    console = wide_console()
    _show(console, found)
    console.print(f"explanation: {page}", markup=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bias-train explain", description="Show what a bias is made of.")
    axes = parser.add_subparsers(dest="axis", required=True, metavar="AXIS")
    source = axes.add_parser(
        "source",
        help="AI-generated against real pictures",
        description="Direction, probe, decomposition and map of a source bias, as tables, pictures and one page.",
        epilog="Example: bias-train explain source --run runs/photos --shards shards/val --debiased runs/debiased",
    )
    add_inputs(source)
    more = source.add_argument_group("the explanation")
    more.add_argument(
        "--debiased",
        type=Path,
        metavar="PATH",
        help="reversal experiment: a debiased run's folder (with --shards), or its vectors of the same pictures",
    )
    more.add_argument(
        "--pictures", nargs="+", metavar="SET", help="shards whose pictures' spectra are compared (default: --shards)"
    )
    more.add_argument(
        "--map", choices=("pca", "tsne", "umap"), default="pca", help="a layout beside the principal components"
    )
    more.add_argument("--resamples", type=int, default=2000, metavar="N", help="of intervals (default: %(default)s)")
    more.add_argument("--permutations", type=int, default=1000, metavar="N", help="of tests (default: %(default)s)")
    more.add_argument("--folds", type=int, default=5, metavar="N", help="of the probe (default: %(default)s)")
    more.add_argument(
        "--spectrum-pictures", type=int, default=500, metavar="N", help="of each source (default: %(default)s)"
    )
    more.add_argument(
        "--spectrum-size", type=int, metavar="PIXELS", help="square cut from each (default: the shortest side, to 256)"
    )
    more.add_argument("--output", type=Path, metavar="DIR", help="default: explanations/NAME")
    return parser


def _check_debiased(options: argparse.Namespace) -> None:
    path: Path | None = options.debiased
    if path is None:
        return
    if not path.exists():
        raise RunError(f"--debiased {path}: there is no such run folder or file of embeddings")
    if _is_run(path):
        if not options.shards:
            raise RunError(
                f"--debiased {path}: is a run, which needs the pictures (--shards); or give its vectors' file"
            )
        if not (path / WEIGHTS).is_file():
            raise RunError(f"--debiased {path}: has no {WEIGHTS}, which a run writes when it ends")


def _debiased(options: argparse.Namespace) -> Embeddings | None:
    from bias_train.embeddings import load_embeddings

    path: Path | None = options.debiased
    if path is None or not _is_run(path):
        return None if path is None else load_embeddings(path)
    changed = vars(options) | {"run": path, "model": None, "model_config": None, "hf_model": None, "pretrained": None}
    return embeddings_of(argparse.Namespace(**changed))


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()


def _name(options: argparse.Namespace) -> str:
    if options.embeddings is not None:
        return str(options.embeddings.resolve().stem)
    if options.run is not None:
        return str(options.run.resolve().name)
    given = options.model or options.model_config or options.hf_model or "retriever"
    return re.sub(r"[^\w.-]+", "-", Path(str(given)).name).strip("-") or "retriever"


def _show(console: Console, found: Explanation) -> None:
    from rich.markup import escape
    from rich.table import Table

    from bias_train.explain.tables import summary, tables_of

    for table in tables_of(found):
        shown = Table(title=table.title, title_justify="left", box=None, pad_edge=False)
        for number, header in enumerate(table.headers):
            shown.add_column(header, justify="left" if number == 0 else "right", overflow="fold")
        for row in table.texts():
            shown.add_row(*(escape(cell) for cell in row))
        console.print(shown)
    for sentence in summary(found):
        console.print(sentence, markup=False)
    for note in found.notes:
        console.print(f"note: {note}", markup=False)
