"""``bias-train audit text``: whether a retriever reads the words in a picture instead of seeing it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_train.cli.inputs import add_retriever, device_of, for_run, positive, retriever_of, subject_of
from bias_train.cli.rendered_words import add_rendered_words, rendering_of
from bias_train.cli.terminal import wide_console
from bias_train.errors import RunError

if TYPE_CHECKING:
    from bias_train.audit.text.options import TextOptions
    from bias_train.audit.text.outcome import TextOutcome
    from bias_train.audit.text.run import Vectors
    from bias_train.audit.text.text_set import TextSet
    from bias_train.text_remedies.blur import OcrBlur


def add_text(commands: Any) -> None:
    """Add the subcommand to the parsers of ``bias-train audit``."""
    audit = commands.add_parser(
        "text",
        help="does it read the words in a picture instead of seeing it?",
        description="Does a retriever read the words in a picture instead of seeing it? Asks with rendered words, with "
        "wrong words on pictures, with labelled typographic attacks and with pictures whose text was removed; beside "
        "them stands whether it can still read where that is asked for. Writes audit.json, figures.parquet and "
        "report.html into a folder, and tables on the terminal.",
        epilog="Example: bias-train audit text --run runs/a --shards shards/overlay --reading shards/signs "
        "--attack shards/rta100 --against runs/b",
    )
    add_retriever(audit)
    pictures = audit.add_argument_group("the pictures")
    pictures.add_argument(
        "--shards", nargs="+", default=[], metavar="SET",
        help="pictures with overlay or erased views, from bias-train synthesize overlay and erase",
    )  # fmt: skip
    pictures.add_argument(
        "--pairs", nargs="+", default=[], metavar="SET",
        help="ordinary pictures and captions (default: the clean pictures of --shards)",
    )  # fmt: skip
    pictures.add_argument(
        "--reading", nargs="+", default=[], metavar="SET", help="pictures whose captions are about the text in them"
    )
    pictures.add_argument(
        "--attack",
        nargs="+",
        default=[],
        metavar="SET",
        help="labelled pictures with a wrong word on them; "
        "beside them the same without it, the views clean, or else erased",
    )
    pictures.add_argument(
        "--query", default="a photo of a {word}", metavar="TEXT",
        help="how a written word is asked for (default: 'a photo of a {word}'; '{word}' asks for the bare word)",
    )  # fmt: skip
    pictures.add_argument(
        "--label-prompt", default="a photo of a {label}", metavar="TEXT", help="how a class of --attack is asked for"
    )
    pictures.add_argument(
        "--ocr", choices=("rapidocr", "tesseract"), help="read every picture, rendered words too, by this engine and "
        "blur what it finds before the retriever sees it (not for --against): the remedy at query time; takes long",
    )  # fmt: skip
    pictures.add_argument("--limit", type=positive, metavar="N", help="at most N pictures of each, drawn at random")
    pictures.add_argument("--batch-size", type=positive, default=64, metavar="N")
    pictures.add_argument("--workers", type=int, default=0, metavar="N", help="loader processes")
    pictures.add_argument("--device", default="auto", help="cpu, cuda or auto (the default)")
    pictures.add_argument("--seed", type=int, default=0)
    add_rendered_words(audit)
    figures = audit.add_argument_group("figures and statistics")
    figures.add_argument(
        "--k", type=positive, nargs="+", default=[1, 5, 10], metavar="K",
        help="cut-offs of retrieval; the first leads (default: 1 5 10)",
    )  # fmt: skip
    figures.add_argument("--resamples", type=int, default=2000, metavar="N", help="bootstrap resamples (default: 2000)")
    figures.add_argument("--level", type=float, default=0.95, help="of the intervals (default: 0.95)")
    figures.add_argument(
        "--against", type=Path, metavar="RUN", help="the run folder of another retriever: give this minus that"
    )
    output = audit.add_argument_group("output")
    output.add_argument("--output", type=Path, metavar="DIR", help="default: audits/<name of what is audited>-text")
    output.add_argument("--json", metavar="-", choices=("-",), help="print the JSON and nothing else")
    output.add_argument("--title", help="heading of the report")
    audit.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code.

    Raises:
        RunError: for options that contradict each other or name nothing.
        DataError: for shards or words that cannot be read.
        ModelError: for a retriever that cannot be loaded.
    """
    from bias_train.audit.text.outcome import write_text_audit
    from bias_train.audit.text.run import audit_text
    from bias_train.audit.text.text_set import text_set
    from bias_train.reports.text_audit import write_text_report

    chosen = _options(options)
    if options.against is not None and not (options.against / "config.yaml").is_file():
        raise RunError(f"--against {options.against}: is no run folder, it has no config.yaml")
    if not options.shards and not options.pairs:
        raise RunError("name pictures with captions: --shards SET with overlay or erased views, or --pairs SET")
    blur = _blur(options)
    asked = text_set(
        options.shards,
        rendering=rendering_of(options),
        pairs=options.pairs,
        reading=options.reading,
        attack=options.attack,
        query=options.query,
        label_prompt=options.label_prompt,
        limit=options.limit,
        seed=options.seed,
    )
    name = subject_of(options, None) + ("" if blur is None else f"-{options.ocr}")
    outcome = audit_text(
        asked,
        _embedded(asked, options, blur),
        chosen,
        against=_against(asked, options),
        title=options.title or name,
        inputs=_inputs(options) | ({} if blur is None else {"ocr": blur.describe()}),
    )
    folder = options.output or Path("audits") / f"{name}-text"
    write_text_audit(outcome, folder)
    write_text_report(outcome, folder / "report.html")
    if options.json:
        print(json.dumps(outcome.document(), indent=1, allow_nan=False))
        return 0
    _print(outcome, folder)
    return 0


def _options(options: argparse.Namespace) -> TextOptions:
    from bias_train.audit.text.options import TextOptions
    from bias_train.stats import Bootstrap

    try:
        bootstrap = Bootstrap(options.resamples, options.level, "percentile", options.seed)
    except ValueError as error:
        raise RunError(f"{error}") from error
    return TextOptions(ks=tuple(options.k), bootstrap=bootstrap)


def _blur(options: argparse.Namespace) -> OcrBlur | None:
    """What reads and blurs; says at once what is not installed."""
    if options.ocr is None:
        return None
    from bias_train.text_remedies.blur import OcrBlur

    return OcrBlur.of(options.ocr)


def _embedded(asked: TextSet, options: argparse.Namespace, blur: OcrBlur | None = None) -> Vectors:
    from bias_train.audit.text.text_set import embed_text_set
    from bias_train.embed import embed_texts
    from bias_train.text_remedies.changed import embed_changed

    retriever, device = retriever_of(options), device_of(options)
    if blur is None:
        return embed_text_set(retriever, asked, batch_size=options.batch_size, workers=options.workers, device=device)
    image = embed_changed(retriever, asked, blur, batch_size=options.batch_size, workers=options.workers, device=device)
    return image, embed_texts(retriever, asked.texts, device=device)


def _against(asked: TextSet, options: argparse.Namespace) -> Vectors | None:
    if options.against is None:
        return None
    return _embedded(asked, for_run(options, options.against))


def _inputs(options: argparse.Namespace) -> dict[str, Any]:
    names = ("run", "model", "model_config", "hf_model", "pretrained", "ablate", "class_prefix", "shards", "pairs",
             "reading", "attack", "words", "word_limit", "limit", "seed", "against")  # fmt: skip
    given = {name: getattr(options, name) for name in names}
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items() if value}


def _print(outcome: TextOutcome, folder: Path) -> None:
    from bias_train.audit.text.table import terminal

    console = wide_console()
    console.print(terminal(outcome))
    console.print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)
