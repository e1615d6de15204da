"""``bias-train remedy text``: remedies against reading that need no training of the whole retriever."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_train.cli.inputs import add_retriever, device_of, positive, retriever_of, retriever_of_run
from bias_train.cli.rendered_words import add_rendered_words, rendering_of
from bias_train.cli.terminal import wide_console
from bias_train.errors import RunError
from bias_train.files import replacing, write_json

# Everything heavy is imported where it is used: `--help` must answer at once.
if TYPE_CHECKING:
    from bias_train.audit.text.rendering import Rendering
    from bias_train.audit.text.text_set import TextSet
    from bias_train.text_remedies.measure import Embedding
    from models.retriever import Retriever
    from models.text_remedies.paint import Chosen
    from models.text_remedies.spelling import SpellingProjection


def add_text(commands: Any) -> None:
    """Add the subcommand to the parsers of ``bias-train remedy``."""
    parser = commands.add_parser(
        "text",
        help="remedies against reading the words in a picture instead of seeing it",
        description="Remedies for a retriever that reads the words in a picture instead of seeing it. None trains the "
        "whole retriever. OCR and blur at query time is the baseline to beat, and stands in the comparison.",
    )
    methods = parser.add_subparsers(dest="method", required=True, metavar="METHOD")
    _add_compare(methods)
    _add_paint(methods)
    _add_projection(methods)
    _add_heads(methods)
    _add_prefix(methods)


def _add_compare(methods: Any) -> None:
    parser = methods.add_parser(
        "compare",
        help="what each remedy takes away, and what it costs",
        description="Fit remedies to one half of overlaid pictures and measure them on the other: how often the "
        "written word wins, the calibrated score of rendered words, R@1 of ordinary pairs, and R@1 of a set that asks "
        "for what is written, which no cure may forget. Writes comparison.json and comparison.parquet, and a table on "
        "the terminal.",
        epilog="Example: bias-train remedy text compare --run runs/a --shards shards/overlay --reading shards/signs "
        "--ocr rapidocr --finetuned runs/b --out remedies/text",
    )
    parser.set_defaults(do=_compare)
    _add_pictures(parser, reading=True)
    add_rendered_words(parser)
    remedies = parser.add_argument_group("the remedies")
    remedies.add_argument("--ocr", metavar="ENGINE", help="rapidocr or tesseract, to read and blur (default: left out)")
    remedies.add_argument("--finetuned", type=Path, metavar="RUN|FILE", help="trained against reading from the same "
                          "start, to interpolate to (default: left out)")  # fmt: skip
    remedies.add_argument("--no-heads", action="store_true", help="do not search a ViT for heads, which takes long")
    _add_projection_options(remedies)
    _add_margin(remedies)
    figures = parser.add_argument_group("figures and statistics")
    figures.add_argument("--held-out", type=float, default=0.5, metavar="SHARE", help="of the pictures, measured only "
                         "(default: 0.5)")  # fmt: skip
    figures.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="behind each interval (default: 1000)"
    )
    figures.add_argument("--tolerance", type=float, default=1.0, metavar="POINTS", help="of clean R@1 that the best "
                         "remedy may cost (default: 1)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("remedies/text"), metavar="DIR", help="default: %(default)s")


def _add_paint(methods: Any) -> None:
    parser = methods.add_parser(
        "paint",
        help="weights between a start and a finetuned checkpoint (PAINT)",
        description="Go from the retriever as far towards a finetuned one as lowers the share of captions that the "
        "written word beats most, while clean R@1 stays within a margin. Give pictures that neither was trained on. "
        "Ilharco et al. 2022, 'Patching open-vocabulary models by interpolating weights'; the rule of the choice is "
        "ours. Writes the weights, and every step of the way beside them as .json.",
        epilog="Example: bias-train remedy text paint --run runs/start --finetuned runs/tuned --shards "
        "shards/overlay-val --out patched.safetensors",
    )
    parser.set_defaults(do=_paint)
    _add_pictures(parser)
    parser.add_argument("--finetuned", type=Path, required=True, metavar="RUN|FILE", help="a run folder, or weights of "
                        "the same architecture")  # fmt: skip
    parser.add_argument("--alphas", type=float, nargs="+", metavar="A", help="the grid (default: 0 to 1 by 0.1)")
    _add_margin(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .safetensors")


def _add_projection(methods: Any) -> None:
    parser = methods.add_parser(
        "projection",
        help="a learned projection that forgets to spell (or learns to)",
        description="Train a projection of frozen embeddings by signed weights of six pairs of pictures, pictures with "
        "words, rendered words, captions and word prompts. Materzynska et al. 2022, 'Disentangling visual and written "
        "concepts in CLIP'. The file goes into `bias-train remedy apply` and `bias-train remedy fold`.",
        epilog="Example: bias-train remedy text projection --run runs/a --shards shards/overlay --out p.safetensors; "
        "bias-train remedy fold p.safetensors folded.safetensors --run runs/a",
    )
    parser.set_defaults(do=_projection)
    _add_pictures(parser)
    _add_projection_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .safetensors")


def _add_heads(methods: Any) -> None:
    parser = methods.add_parser(
        "heads",
        help="attention heads of a ViT that look at text, taken out",
        description="Score the heads of an open_clip ViT by how much its class token looks through them at a word "
        "pasted on the lowest patches, and take out those that help against written words, while clean R@1 stays "
        "within a margin (Dyslexify). Writes a list that `--ablate` takes out wherever a retriever is loaded. "
        "Convolutional towers have no such heads.",
        epilog="Example: bias-train remedy text heads --model ViT-B-32 --pretrained openai --shards shards/overlay "
        "--out heads.json; bias-train audit text --model ViT-B-32 --pretrained openai --ablate heads.json ...",
    )
    parser.set_defaults(do=_heads)
    _add_pictures(parser)
    _add_margin(parser)
    parser.add_argument("--skips", type=positive, default=10, metavar="N", help="end after N heads in a row that do "
                        "not help (default: 10)")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .json")


def _add_prefix(methods: Any) -> None:
    parser = methods.add_parser(
        "prefix",
        help="a learned token before the class names of prompts (Defense-Prefix)",
        description="Train one token embedding that stands before class names, everything else frozen, so that "
        "pictures with a wrong class name written on them keep their class. For class prompts only: captions have no "
        "place for it. Azuma and Matsui 2023, 'Defense-Prefix for preventing typographic attacks on CLIP'. Writes a "
        "file that `--class-prefix` puts where a prompt has [prefix].",
        epilog="Example: bias-train remedy text prefix --run runs/a --attack shards/attack-train --out "
        "prefix.safetensors; bias-train audit text --run runs/a --class-prefix prefix.safetensors --label-prompt "
        "'a photo of a [prefix] {label}' --attack shards/attack-val ...",
    )
    parser.set_defaults(do=_prefix)
    add_retriever(parser)
    pictures = parser.add_argument_group("the pictures")
    pictures.add_argument("--attack", nargs="+", required=True, metavar="SET", help="labelled pictures with a wrong "
                          "class name on them, and as they were before")  # fmt: skip
    pictures.add_argument("--prompt", action="append", metavar="TEXT", help="class prompt with {label}; may be "
                          "repeated (default: 'a photo of a {label}')")  # fmt: skip
    _add_work(pictures)
    parser.add_argument("--keep", type=float, default=3.0, metavar="WEIGHT", help="of what clean pictures are "
                        "recognised as (default: 3)")  # fmt: skip
    parser.add_argument("--steps", type=positive, default=2500, metavar="N", help="of training (default: 2500)")
    parser.add_argument("--rate", type=float, default=0.002, help="of SGD at first (default: 0.002)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .safetensors")


def _add_pictures(parser: argparse.ArgumentParser, reading: bool = False) -> None:
    add_retriever(parser)
    pictures = parser.add_argument_group("the pictures")
    pictures.add_argument("--shards", nargs="+", required=True, metavar="SET", help="pictures with overlay views, from "
                          "bias-train synthesize overlay")  # fmt: skip
    pictures.add_argument("--pairs", nargs="+", default=[], metavar="SET", help="ordinary pictures and captions "
                          "(default: the clean pictures of --shards)")  # fmt: skip
    if reading:
        pictures.add_argument("--reading", nargs="+", default=[], metavar="SET", help="pictures whose captions are "
                              "about the text in them")  # fmt: skip
        pictures.add_argument("--attack", nargs="+", default=[], metavar="SET", help="labelled pictures with a wrong "
                              "word on them")  # fmt: skip
    pictures.add_argument("--query", default="a photo of a {word}", metavar="TEXT", help="how a written word is asked "
                          "for (default: 'a photo of a {word}')")  # fmt: skip
    _add_work(pictures)


def _add_work(pictures: Any) -> None:
    pictures.add_argument("--limit", type=positive, metavar="N", help="at most N pictures of each, drawn at random")
    pictures.add_argument("--batch-size", type=positive, default=64, metavar="N")
    pictures.add_argument("--workers", type=int, default=0, metavar="N", help="loader processes")
    pictures.add_argument("--device", default="auto", help="cpu, cuda or auto (the default)")
    pictures.add_argument("--seed", type=int, default=0)


def _add_projection_options(parser: Any) -> None:
    parser.add_argument("--preset", choices=("forget", "learn"), default="forget", help="forget to spell (the default) "
                        "or learn to")  # fmt: skip
    parser.add_argument("--weights", nargs="+", metavar="PAIR=W", help="signed weights instead of a preset's, such as "
                        "image-caption=1 written-word=-1")  # fmt: skip
    parser.add_argument("--width", type=positive, metavar="K", help="dimensions to project to (default: half)")
    parser.add_argument("--gamma", type=float, default=1.0, help="of the orthogonality (default: 1)")
    parser.add_argument("--temperature", type=float, default=0.1, help="divides cosines; 1 is the paper's code "
                        "(default: 0.1, ours)")  # fmt: skip
    parser.add_argument("--steps", type=positive, default=2000, metavar="N", help="of training (default: 2000)")
    parser.add_argument("--form", choices=("root", "projector"), default="root", help="of the map within the "
                        "embeddings' dimensions: with the projection's own cosines (default), or W^T W")  # fmt: skip


def _add_margin(parser: Any) -> None:
    parser.add_argument("--margin", type=float, default=1.0, metavar="POINTS", help="of clean R@1 that may be lost "
                        "(default: 1)")  # fmt: skip


def _compare(options: argparse.Namespace) -> int:
    from bias_train.stats import Bootstrap
    from bias_train.text_remedies.compare import TextComparisonOptions, compare
    from bias_train.text_remedies.outcome import write_comparison
    from bias_train.text_remedies.table import terminal

    try:
        bootstrap = Bootstrap(options.resamples, seed=options.seed)
    except ValueError as error:
        raise RunError(f"{error}") from error
    chosen = TextComparisonOptions(
        held_out=options.held_out,
        projection=_training(options),
        margin=options.margin / 100,
        search_heads=not options.no_heads,
        bootstrap=bootstrap,
        embedding=_embedding(options),
        seed=options.seed,
    )
    blur = None
    if options.ocr is not None:
        from bias_train.text_remedies.blur import OcrBlur

        blur = OcrBlur.of(options.ocr)
    asked = _asked(options, rendering_of(options))
    outcome = compare(
        asked,
        retriever_of(options),
        finetuned=None if options.finetuned is None else _finetuned(options),
        blur=blur,
        options=chosen,
        inputs=_inputs(options),
        progress=lambda name: print(f"fitting {name}", file=sys.stderr),
    )
    write_comparison(outcome, options.out)
    wide_console(240).print(terminal(outcome, options.tolerance))
    print(f"wrote {options.out / 'comparison.json'} and {options.out / 'comparison.parquet'}")
    return 0


def _paint(options: argparse.Namespace) -> int:
    from bias_train.text_remedies.measure import answers_of, attack_and_clean
    from models.text_remedies.paint import ALPHAS, walk

    _check_ending(options.out, ".safetensors")
    asked, embedding = _overlaid(options), _embedding(options)
    retriever, finetuned = retriever_of(options), _finetuned(options).to(embedding.device)

    def measure(one: Retriever) -> tuple[float, float]:
        return attack_and_clean(answers_of(asked, embedding.of(one, asked)))

    chosen = walk(retriever, finetuned, measure, options.alphas or ALPHAS, options.margin / 100)
    with replacing(options.out) as partial:
        retriever.save_weights(str(partial))
    record = options.out.with_suffix(".json")
    write_json(record, _record(chosen, options))
    wide_console().print(_points(chosen))
    print(f"wrote {options.out}: weights at alpha {chosen.point.alpha:g}; and {record}")
    return 0


def _projection(options: argparse.Namespace) -> int:
    from bias_train.text_remedies.spelling_features import spelling_features
    from models.remedies import save_fitted

    _check_ending(options.out, ".safetensors")
    training = _training(options)
    asked, embedding = _overlaid(options), _embedding(options)
    retriever = retriever_of(options)
    features = spelling_features(
        retriever, asked, embedding.of(retriever, asked), batch_size=embedding.batch_size, device=embedding.device
    )
    fitted = training.fit(features)
    save_fitted(options.out, fitted)
    for name, before in fitted.metadata["matched before"].items():
        print(f"{name:<18} found among {len(features):,}: {before:.3f} before, "
              f"{fitted.metadata['matched after'][name]:.3f} after")  # fmt: skip
    print(f"wrote {options.out}: [{len(fitted.weight)}, {features.width}], fitted to {len(features)} rows")
    return 0


def _heads(options: argparse.Namespace) -> int:
    from bias_train.text_remedies.head_search import find_heads
    from models.text_remedies.heads import save_heads, vision_transformer

    _check_ending(options.out, ".json")
    retriever = retriever_of(options)
    vision_transformer(retriever)  # refuses other towers before any picture is read
    asked = _overlaid(options)
    chosen, about = find_heads(
        retriever, asked, _embedding(options), drop=options.margin / 100, skips=options.skips, seed=options.seed
    )
    save_heads(options.out, retriever, chosen.heads, about)
    before, after = ([100 * one for one in pair] for pair in (chosen.before, chosen.after))
    print(f"clean R@1 {before[0]:.1f} -> {after[0]:.1f} %")
    print(f"captions that beat the written word {before[1]:.1f} -> {after[1]:.1f} %")
    print(f"wrote {options.out}: {len(chosen.heads)} of {about['of']} heads go out, {len(chosen.tried)} were tried")
    return 0


def _prefix(options: argparse.Namespace) -> int:
    from bias_train.text_remedies.prefix_features import prefix_features
    from models.text_remedies.class_prefix import TEMPLATES, PrefixTraining, text_tower

    _check_ending(options.out, ".safetensors")
    training = PrefixTraining(keep=options.keep, rate=options.rate, last_rate=min(5e-5, options.rate),
                              steps=options.steps, seed=options.seed)  # fmt: skip
    retriever = retriever_of(options)
    text_tower(retriever)
    features = prefix_features(retriever, options.attack, _embedding(options), limit=options.limit, seed=options.seed)
    prefix = training.fit(
        retriever, features.labels, features.attacked, features.clean, features.label, options.prompt or TEMPLATES
    )
    prefix.save(options.out)
    first, last = prefix.about["loss before"], prefix.about["loss after"]
    print(f"cross-entropy of attacked pictures {first[0]:.3f} -> {last[0]:.3f}")
    print(f"divergence on clean pictures {first[1]:.3f} -> {last[1]:.3f}")
    print(f"wrote {options.out}: for prompts such as 'a photo of a [prefix] {features.labels[0]}' (--class-prefix)")
    return 0


def _asked(options: argparse.Namespace, rendering: Rendering | None = None) -> TextSet:
    from bias_train.audit.text.text_set import text_set

    return text_set(
        options.shards,
        rendering=rendering,
        pairs=options.pairs,
        reading=getattr(options, "reading", []),
        attack=getattr(options, "attack", []),
        query=options.query,
        limit=options.limit,
        seed=options.seed,
    )


def _overlaid(options: argparse.Namespace) -> TextSet:
    """The set without what only a comparison measures.

    Raises:
        RunError: where no picture is overlaid.
    """
    from bias_train.metrics.functional.text.questions import TextQuestions
    from bias_train.text_remedies.parts import with_questions

    asked = _asked(options)
    if asked.questions.overlays is None:
        raise RunError("--shards: holds no picture with a wrong word; make some with `bias-train synthesize overlay`")
    return with_questions(asked, TextQuestions(asked.questions.pairs, overlays=asked.questions.overlays))


def _embedding(options: argparse.Namespace) -> Embedding:
    from bias_train.text_remedies.measure import Embedding

    return Embedding(options.batch_size, options.workers, device_of(options))


def _training(options: argparse.Namespace) -> SpellingProjection:
    from models.text_remedies.spelling import PRESETS, SpellingProjection

    weights = dict(PRESETS[options.preset]) if not options.weights else read_weights(options.weights)
    return SpellingProjection(
        width=options.width, weights=weights, gamma=options.gamma, temperature=options.temperature,
        steps=options.steps, form=options.form, seed=options.seed,
    )  # fmt: skip


def read_weights(given: Sequence[str]) -> dict[str, float]:
    """Read ``PAIR=W`` options.

    Raises:
        RunError: naming the one that is no such thing.

    Example:
        >>> read_weights(["image-caption=1", "written-word=-0.5"])
        {'image-caption': 1.0, 'written-word': -0.5}
    """
    found = {}
    for one in given:
        name, _, number = one.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            raise RunError(f"--weights {one}: write PAIR=W, such as written-word=-1") from None
    return found


def _finetuned(options: argparse.Namespace) -> Retriever:
    """The retriever of ``--finetuned``: of a run folder, or the named architecture with other weights.

    Raises:
        RunError: where there is no such folder or file.
    """
    path: Path = options.finetuned
    if (path / "config.yaml").is_file():
        return retriever_of_run(path)
    if not path.is_file():
        raise RunError(f"--finetuned {path}: is neither a run folder nor a file of weights")
    if options.run is not None:
        # An absolute path replaces the run's folder, so that its architecture is read and its weights are not.
        return retriever_of_run(options.run, str(path.resolve()))
    if options.hf_model is not None:
        raise RunError("--finetuned: give a run folder where the start is named by --hf-model")
    plain = {"pretrained": str(path), "ablate": None, "class_prefix": None}
    return retriever_of(argparse.Namespace(**{**vars(options), **plain}))


def _check_ending(path: Path, ending: str) -> None:
    if path.suffix != ending:
        raise RunError(f"--out {path}: end the file's name in {ending}")


def _record(chosen: Chosen, options: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "method": "PAINT",
        "alpha": chosen.point.alpha,
        "margin": chosen.margin,
        "attack": "share of captions that the written word beats",
        "clean": "R@1 of ordinary pairs, mean of both directions",
        "points": [asdict(point) | {"allowed": chosen.allowed(point)} for point in chosen.points],
        "inputs": _inputs(options),
    }


def _points(chosen: Chosen) -> Any:
    from rich.table import Table

    table = Table(
        caption=f"Clean: R@1 of ordinary pairs, mean of both directions; it may lose {100 * chosen.margin:g} points. "
        "Word wins: captions that score below the query for the word that is written on the picture",
        caption_justify="left",
    )
    for heading in ("alpha", "word wins %", "clean R@1", ""):
        table.add_column(heading, justify="right")
    for point in chosen.points:
        told = "chosen" if point == chosen.point else "" if chosen.allowed(point) else "costs too much"
        table.add_row(f"{point.alpha:g}", f"{100 * point.attack:.1f}", f"{100 * point.clean:.1f}", told)
    return table


def _inputs(options: argparse.Namespace) -> dict[str, Any]:
    names = ("run", "model", "model_config", "hf_model", "pretrained", "ablate", "shards", "pairs", "reading", "attack",
             "words", "word_limit", "finetuned", "ocr", "query", "limit", "seed")  # fmt: skip
    given = {name: getattr(options, name, None) for name in names}
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items() if value}
