"""``bias-train curate``: how much captions parrot the text in pictures, and which samples to train on."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_train.cli.inputs import add_retriever, device_of, positive, retriever_of, subject_of
from bias_train.errors import RunError

# Everything heavy is imported where it is used: `--help` must answer at once.
if TYPE_CHECKING:
    from datamodules.curation.choice import Choice, Chosen
    from datamodules.curation.corpus import CorpusStatistics
    from datamodules.curation.job import CurationOutcome
    from datamodules.curation.scoring import PairScorer

_RANGES = (
    ("area", "share of the picture under text"),
    ("cotr", "CoTR"),
    ("fuzzy-cotr", "fuzzy CoTR"),
    ("rsa", "RSA, score minus that without any text"),
    ("rsc", "RSC, score minus that without the captions' words"),
    ("score", "score of picture and caption"),
    ("masked-score", "score of the picture with its text masked"),
)


def main(argv: list[str]) -> int:
    """Run ``bias-train curate ARGV``.

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
        print(f"bias-train curate {options.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bias-train curate",
        description="See how much captions parrot the text in their pictures, and choose what to train on.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_text(commands)
    _add_select(commands)
    return parser


def _add_text(commands: Any) -> None:
    text = commands.add_parser(
        "text",
        help="read the text in pictures and compare it with captions and scores",
        description="For every picture and caption: the words in the picture and the area they take, CoTR and fuzzy "
        "CoTR (arXiv 2312.14232), and with a retriever the score with and without the text (RSA, RSC, net of random "
        "controls, and of the masked picture). Writes table.parquet and corpus.json into a folder. Work may be killed "
        "at any moment: the same command goes on, and what was read or scored once is kept there. Views erased, "
        "erased-caption and control-* of the shards are used; where they have none, text is erased on the fly.",
        epilog="Example: bias-train curate text shards/train --out curated --reader rapidocr --fuzzy 0.8 --workers 8 "
        "--model ViT-B-32 --pretrained openai",
    )
    text.add_argument("shards", nargs="+", metavar="SHARDS", help="folders or URLs of shards")
    text.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="to write to, and to go on in")
    words = text.add_argument_group("words")
    words.add_argument(
        "--reader", default="rapidocr", metavar="NAME",
        help="rapidocr (default), tesseract, or known: what the shards say was written",
    )  # fmt: skip
    words.add_argument("--min-confidence", type=float, metavar="X", help="of what a reader finds (default: 0.5)")
    words.add_argument(
        "--max-letter-area", type=float, metavar="SHARE", help="leave out what a reader finds whose letters each take "
        "more of the picture, where rarely any is; 1 keeps all (default: 0.2)",
    )  # fmt: skip
    words.add_argument(
        "--fuzzy", type=float, metavar="T", help="fuzzy CoTR too: words whose normalised Levenshtein similarity is at "
        "least T, in (0, 1], count as the same; the paper gives no T",
    )  # fmt: skip
    words.add_argument(
        "--as-spelt", action="store_true", help="compare words as they are spelt, as the paper shows it (default: "
        "without case and punctuation at their ends)",
    )  # fmt: skip
    add_retriever(text)
    work = text.add_argument_group("work")
    work.add_argument("--workers", type=positive, default=1, metavar="N", help="processes that read and erase")
    work.add_argument(
        "--batch-size", type=positive, default=64, metavar="N", help="pictures the retriever takes at once"
    )
    work.add_argument("--device", default="auto", help="of the retriever: cpu, cuda or auto (the default)")
    work.add_argument("--seed", type=int, default=0, help="of the controls (default: 0)")
    text.set_defaults(run_command=_text)


def _add_select(commands: Any) -> None:
    select = commands.add_parser(
        "select",
        help="choose samples, weights and captions to train with, by a table",
        description="Make a selection of a table that `bias-train curate text` wrote: a weight in [0, 1] for every "
        "sample, and captions without the words that are written in the picture. Shards stay as they are: train with "
        "--data.selection=FILE. A sample stays where all filters let it. Ranges are LOW:HIGH, either may be left out.",
        epilog="Example: bias-train curate select curated --rsc :0.1 --edit-captions --out selection.parquet",
    )
    select.add_argument("table", type=Path, metavar="TABLE", help="table.parquet, or the folder that holds it")
    select.add_argument("--out", type=Path, required=True, metavar="FILE", help="the selection, a .parquet file")
    filters = select.add_argument_group("filters")
    filters.add_argument("--no-text", action="store_true", help="only pictures in which nothing is written")
    filters.add_argument("--only-text", action="store_true", help="only pictures in which something is written")
    for name, what in _RANGES:
        filters.add_argument(f"--{name}", metavar="RANGE", help=what)
    filters.add_argument(
        "--masked-score-top", type=float, metavar="SHARE", help="only this share of all samples, those with the "
        "highest masked scores, as T-MARS does",
    )  # fmt: skip
    filters.add_argument("--net", action="store_true", help="take RSA and RSC net of their random controls")
    filters.add_argument(
        "--over", choices=("mean", "max", "min"), default="mean", help="how a sample's figure is made of its "
        "captions' (default: mean)",
    )  # fmt: skip
    filters.add_argument("--keep-unreadable", action="store_true", help="keep pictures that could not be read")
    weights = select.add_argument_group("weights and captions")
    weights.add_argument(
        "--weight", choices=("masked",), help="weight samples by sigmoid((masked score - centre) / temperature)"
    )
    weights.add_argument("--centre", type=float, metavar="C", help="score of weight one half (default: the median)")
    weights.add_argument("--temperature", type=float, default=0.02, metavar="T", help="(default: 0.02)")
    weights.add_argument(
        "--edit-captions", action="store_true", help="drop from captions the words that are written in the picture"
    )
    select.set_defaults(run_command=_select)


def _text(options: argparse.Namespace) -> int:
    from functools import partial

    from datamodules.curation.job import KNOWN, CurationJob, CurationSettings
    from datamodules.index import ShardIndex

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    make_reader, about = None, {"name": KNOWN}
    names = ("min_confidence", "max_letter_area")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.reader != KNOWN:
        from datamodules.ocr.engine import ReaderOptions, reader_of

        chosen = ReaderOptions(**given)
        make_reader = partial(reader_of, options.reader, chosen)
        about = make_reader().describe()  # says at once what is not installed
    elif given:
        raise RunError(f"--{next(iter(given)).replace('_', '-')}: is of an engine that reads; --reader known has none")
    scorer = _scorer(options)
    settings = CurationSettings(
        about,
        scorer=None if scorer is None else scorer.key,
        retriever=None if scorer is None else subject_of(options, None),
        fuzzy=options.fuzzy,
        normalise=not options.as_spelt,
        seed=options.seed,
    )
    indexes = [ShardIndex.load(location) for location in options.shards]
    outcome = CurationJob(
        indexes, options.out, settings, make_reader, scorer=scorer, workers=options.workers, on_progress=_progress
    ).run()
    _print_outcome(outcome, settings.fuzzy)
    return 0


def _scorer(options: argparse.Namespace) -> PairScorer | None:
    names = ("run", "model", "model_config", "hf_model")
    if all(getattr(options, name) is None for name in names):
        if options.pretrained is not None:
            raise RunError("--pretrained: is of a retriever; name its architecture with --model too")
        return None
    from bias_train.curation import RetrieverScorer

    return RetrieverScorer(retriever_of(options), options.batch_size, device_of(options))


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\rsamples {done:,}/{total:,}", end="" if done < total else "\n", file=sys.stderr, flush=True)
    elif done == total:
        print(f"samples {done:,}/{total:,}", file=sys.stderr, flush=True)


def _print_outcome(outcome: CurationOutcome, fuzzy: float | None) -> None:
    counts = outcome.counts
    print(f"{counts['samples']:,} samples: {counts['read']:,} pictures read and {counts['scored']:,} scored now, "
          f"{counts['kept']:,} taken over whole")  # fmt: skip
    if counts["unreadable"]:
        print(f"{counts['unreadable']:,} pictures could not be read; column `problem` says why")
    if counts["not annotated"]:
        print(f"{counts['not annotated']:,} samples say nothing of text, and are taken for pictures without any")
    for line in describe_statistics(outcome.statistics, fuzzy):
        print(line)
    print(f"{outcome.table}: a row for each caption; corpus.json beside it has the figures")


def describe_statistics(found: CorpusStatistics, fuzzy: float | None) -> list[str]:
    """Lines for people, in the manner of the paper's table 2.

    Args:
        found: of the corpus.
        fuzzy: threshold of fuzzy CoTR.
    """
    lines = [
        f"pictures {found.pictures:,}, text known of {found.pictures - found.unknown:,}",
        f"with text {found.with_text:,} ({_percent(found.share_with_text)}), which takes "
        f"{_percent(found.area_with_text)} of them on the mean",
        f"CoTR {_percent(found.cotr)} of all, {_percent(found.cotr_with_text)} of pictures with text",
    ]
    if found.fuzzy_cotr is not None and found.fuzzy_cotr_with_text is not None:
        lines.append(f"fuzzy CoTR (similarity >= {fuzzy:g}) {_percent(found.fuzzy_cotr)} of all, "
                     f"{_percent(found.fuzzy_cotr_with_text)} of pictures with text")  # fmt: skip
    lines.append(
        f"captions that say a word of their picture: {found.parroted:,} pictures ({_percent(found.share_parroted)}), "
        f"{_percent(found.share_parroted_with_text)} of those with text"
    )
    if found.empty_captions or found.uncaptioned:
        lines.append(
            f"without a CoTR: {found.empty_captions:,} captions without a word, {found.uncaptioned:,} pictures without "
            "any caption"
        )
    if found.unspaced_captions:
        lines.append(f"{found.unspaced_captions:,} captions in scripts without spaces, where words are phrases; CoTR "
                     f"without their pictures {_percent(found.cotr_spaced)}")  # fmt: skip
    if found.scores:
        named = ", ".join(f"{name} {value:.4f}" for name, value in found.scores.items())
        lines.append(f"mean over captions of pictures with text: {named}")
    return lines


def _percent(share: float) -> str:
    return "nothing" if share != share else f"{share:.2%}"


def _select(options: argparse.Namespace) -> int:
    from datamodules.curation.choice import choose
    from datamodules.curation.table import CurationTable

    if options.out.suffix != ".parquet":
        raise RunError(f"--out {options.out}: end the file's name in .parquet")
    choice = _choice(options)
    chosen = choose(CurationTable.load(options.table), choice)
    chosen.selection.save(options.out)
    _print_chosen(chosen, options)
    return 0


def _choice(options: argparse.Namespace) -> Choice:
    from datamodules.curation.choice import Choice, Range

    given = {name.replace("-", "_"): getattr(options, name.replace("-", "_")) for name, _ in _RANGES}
    return Choice(
        no_text=options.no_text,
        only_text=options.only_text,
        **{name: None if text is None else Range.parse(text) for name, text in given.items()},
        masked_score_top=options.masked_score_top,
        net_of_control=options.net,
        weight=options.weight,
        centre=options.centre,
        temperature=options.temperature,
        edit_captions=options.edit_captions,
        over=options.over,
        unreadable="keep" if options.keep_unreadable else "drop",
    )


def _print_chosen(chosen: Chosen, options: argparse.Namespace) -> None:
    for name, count in chosen.dropped.items():
        print(f"{name} drops {count:,} samples")
    print(f"{chosen.kept:,} of {chosen.samples:,} samples stay")
    if options.weight is not None:
        print(f"weights as even as {chosen.effective:,.0f} equal ones")
    if options.edit_captions:
        print(
            f"{chosen.edited:,} captions edited; {chosen.would_be_empty:,} left as they are, since nothing would stay"
        )
    print(f"{options.out}: selection {chosen.selection.digest}; train with --data.selection={options.out}")
