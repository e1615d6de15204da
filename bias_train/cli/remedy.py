"""``bias-train remedy``: fit remedies against social bias, compare them, apply one to an index or a checkpoint.

Those against reading stand in :mod:`bias_train.cli.remedy_text`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_train.cli.inputs import add_retriever, device_of, positive, retriever_of
from bias_train.cli.remedy_text import add_text
from bias_train.cli.terminal import wide_console
from bias_train.errors import RunError
from bias_train.files import replacing

# Everything heavy is imported where it is used: `bias-train remedy --help` must answer at once.
if TYPE_CHECKING:
    from torch import Tensor

    from bias_train.people.vectors import GroupPrompts
    from bias_train.remedies.compare import ComparisonOptions
    from bias_train.remedies.material import Material
    from datamodules.taxonomy import Taxonomy
    from models.retriever import Retriever

SHIPPED = "configs/remedies/social.yaml"


def main(argv: list[str]) -> int:
    """Run ``bias-train remedy ARGV``; returns the exit code.

    Raises:
        RunError: for options that contradict each other or name nothing, and for material that does not fit.
        DataError: for shards or words that cannot be read.
        ModelError: for a retriever that cannot be loaded, or a remedy that cannot be fitted.
    """
    options = _parser().parse_args(argv)
    return int(options.do(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bias-train remedy",
        description="Remedies for a finished retriever. Against social bias: maps of its vectors, and rankings. "
        "Against reading the words in pictures: see `bias-train remedy text --help`.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_compare(commands)
    _add_fit(commands)
    _add_apply(commands)
    _add_fold(commands)
    add_text(commands)
    return parser


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="what each remedy takes away, and what it costs",
        description="Fit remedies to one half of labelled people, words and ordinary pairs, and measure bias and side "
        "effects on the other. Writes comparison.json and comparison.parquet into a folder, and a table on the "
        "terminal.",
        epilog="Example: bias-train remedy compare --run runs/a --people shards/faces --attribute gender --pairs "
        "shards/photos --out remedies/gender",
    )
    parser.set_defaults(do=_compare)
    _add_material(parser)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="remedies of the file to compare (default: all)")
    figures = parser.add_argument_group("figures and statistics")
    figures.add_argument("--k", type=positive, nargs="+", default=[100], metavar="K", help="cut-offs; the first leads "
                         "(default: 100)")  # fmt: skip
    figures.add_argument("--held-out", type=float, default=0.5, metavar="SHARE", help="of the pictures and scenes, "
                         "measured only (default: 0.5)")  # fmt: skip
    figures.add_argument("--held-out-words", type=float, default=0.5, metavar="SHARE", help="of the words, measured "
                         "only; 0 fits to all and measures all (default: 0.5)")  # fmt: skip
    figures.add_argument("--splits", type=positive, default=1, metavar="N", help="average over N random splits; few "
                         "people need several (default: 1)")  # fmt: skip
    figures.add_argument("--resamples", type=int, default=1000, metavar="N", help="behind each interval")
    figures.add_argument("--tolerance", type=float, default=1.0, metavar="POINTS", help="of recall that the best "
                         "remedy may cost (default: 1)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("remedies"), metavar="DIR", help="default: %(default)s")


def _add_fit(commands: Any) -> None:
    parser = commands.add_parser(
        "fit",
        help="fit one remedy to everything that is given, and keep it",
        description="Fit one remedy to all people, words and pairs that are given. See `remedy compare` first for what "
        "it does to others.",
        epilog="Example: bias-train remedy fit leace --run runs/a --people shards/faces --attribute gender --out "
        "leace.safetensors",
    )
    parser.set_defaults(do=_fit)
    parser.add_argument("name", metavar="NAME", help="of the remedy in the file of remedies")
    _add_material(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .safetensors")


def _add_material(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--remedies", default=SHIPPED, metavar="YAML", help="class_path and init_args of each, by name "
                        "(default: %(default)s)")  # fmt: skip
    add_retriever(parser)
    people = parser.add_argument_group("the people")
    people.add_argument("--people", nargs="+", metavar="SET", help="shards of labelled people, for a retriever")
    people.add_argument("--vectors", type=Path, metavar="FILE", help="instead: people and words from .npz or .parquet; "
                        "name a retriever too for queries that name groups")  # fmt: skip
    people.add_argument("--attribute", required=True, metavar="NAME", help='such as gender or "race x gender"')
    people.add_argument("--minimum", type=positive, default=30, metavar="N", help="leave out groups with fewer "
                        "pictures (default: 30)")  # fmt: skip
    people.add_argument(
        "--target", default="pool", metavar="pool|uniform|JSON",
        help='wanted shares: those of all pictures (default), equal ones, or a file {"gender": {"Female": 0.5, ...}}',
    )  # fmt: skip
    people.add_argument("--limit", type=positive, metavar="N", help="at most N pictures, drawn at random")
    people.add_argument("--batch-size", type=positive, default=64, metavar="N")
    people.add_argument("--workers", type=int, default=0, metavar="N", help="loader processes")
    people.add_argument("--device", default="auto", help="cpu, cuda or auto (the default)")
    people.add_argument("--seed", type=int, default=0)
    words = parser.add_argument_group("the words and ordinary pairs")
    words.add_argument("--words", metavar="NAME|FILE", help="a list that comes along, or a CSV of words of one's own "
                       "(default: words)")  # fmt: skip
    words.add_argument("--tiers", nargs="+", metavar="TIER", help="of the words (default: core)")
    words.add_argument("--categories", nargs="+", metavar="NAME", help="of the words (default: all)")
    words.add_argument("--prompt-mode", choices=("article", "bare", "literal", "bm"), default="article")
    words.add_argument("--group-prompts", type=Path, metavar="JSON", help="queries that name groups, of one's own")
    words.add_argument("--pairs", metavar="SET", help="shards of captioned pictures, or their embeddings")


def _add_apply(commands: Any) -> None:
    parser = commands.add_parser(
        "apply",
        help="map an index of vectors",
        description="Write a copy of an index with the vectors of one side mapped, a piece at a time; no labels "
        "needed.",
        epilog="Example: bias-train remedy apply leace.safetensors index.npy mapped.npy",
    )
    parser.set_defaults(do=_apply)
    parser.add_argument("remedy", type=Path, metavar="REMEDY", help="what fit wrote")
    parser.add_argument("index", type=Path, metavar="INDEX", help=".npy, .npz or .parquet")
    parser.add_argument("result", type=Path, metavar="OUT", help="another file of the same ending")
    parser.add_argument("--side", choices=("image", "text"), default="image", help="what the vectors are of (default: "
                        "image)")  # fmt: skip
    parser.add_argument("--name", help="array or column of the vectors (default: the first usual one)")
    parser.add_argument("--chunk", type=int, default=16384, metavar="ROWS", help="at once (default: %(default)s)")


def _add_fold(commands: Any) -> None:
    parser = commands.add_parser(
        "fold",
        help="fold linear maps into a checkpoint",
        description="Write a retriever's weights with the remedy in the projections of its towers: the same "
        "architecture, which needs nothing beside it. For remedies that are linear maps of pictures, queries or both.",
        epilog="Example: bias-train remedy fold leace.safetensors folded.safetensors --run runs/a",
    )
    parser.set_defaults(do=_fold)
    parser.add_argument("remedy", type=Path, metavar="REMEDY", help="what fit wrote")
    parser.add_argument("result", type=Path, metavar="OUT", help="a .safetensors, in the form of the model's library")
    add_retriever(parser)


def _compare(options: argparse.Namespace) -> int:
    from bias_train.remedies.config import load_remedies
    from bias_train.remedies.outcome import write_comparison
    from bias_train.remedies.repeat import compare_repeatedly
    from bias_train.remedies.table import terminal

    remedies = load_remedies(options.remedies, options.only)
    chosen = _comparison_options(options)
    material, inputs = _material(options)
    outcome = compare_repeatedly(
        material,
        remedies,
        chosen,
        options.splits,
        inputs=inputs,
        progress=lambda name: print(f"fitting {name}", file=sys.stderr),
    )
    write_comparison(outcome, options.out)
    wide_console(240).print(terminal(outcome, options.tolerance))
    print(f"wrote {options.out / 'comparison.json'} and {options.out / 'comparison.parquet'}")
    return 0


def _fit(options: argparse.Namespace) -> int:
    from bias_train.audit.social.options import SocialOptions
    from bias_train.metrics.functional.social.representation import target_shares
    from bias_train.remedies.config import load_remedies
    from bias_train.remedies.material import calibration_of
    from models.remedies import save_fitted

    if options.out.suffix != ".safetensors":
        raise RunError(f"--out {options.out}: end the file's name in .safetensors")
    remedy = load_remedies(options.remedies, [options.name])[options.name]
    material, _ = _material(options)
    grouping = material.grouping
    wanted = SocialOptions(target=_target(options)).target_of(grouping.name, grouping.labels)
    target = target_shares(wanted, grouping.counts)
    save_fitted(options.out, remedy.fit(calibration_of(material, target, seed=options.seed)))
    print(f"wrote {options.out}: {options.name}, fitted to {len(material.people)} pictures by {grouping.name}")
    return 0


def _apply(options: argparse.Namespace) -> int:
    from bias_train.remedies.vector_files import apply_to_file
    from models.remedies import load_fitted

    count = apply_to_file(
        load_fitted(options.remedy),
        options.index,
        options.result,
        side=options.side,
        name=options.name,
        chunk=options.chunk,
    )
    print(f"wrote {options.result}: {count} vectors mapped")
    return 0


def _fold(options: argparse.Namespace) -> int:
    from models.erasure import fold
    from models.remedies import FittedLinear, load_fitted

    if options.result.suffix != ".safetensors":
        raise RunError(f"{options.result}: end the file's name in .safetensors")
    fitted = load_fitted(options.remedy)
    image, text = fitted.linear(), None
    if isinstance(fitted, FittedLinear):
        image, text = fitted.image_map, fitted.text_map
    if image is None and text is None:
        raise RunError(
            f"{options.remedy}: is no linear map, so that no checkpoint can hold it: apply it to vectors "
            "(`bias-train remedy apply`)"
        )
    retriever = retriever_of(options)
    places = []
    if image is not None:
        places.append(fold(retriever, image).where)
    if text is not None:
        places.append(fold(retriever, text, "text").where)
    with replacing(options.result) as partial:
        retriever.save_weights(str(partial))
    print(f"wrote {options.result}: the remedy is in {' and '.join(places)}")
    return 0


def _comparison_options(options: argparse.Namespace) -> ComparisonOptions:
    from bias_train.remedies.compare import ComparisonOptions
    from bias_train.stats import Bootstrap

    try:
        bootstrap = Bootstrap(options.resamples, seed=options.seed)
    except ValueError as error:
        raise RunError(f"{error}") from error
    return ComparisonOptions(
        ks=tuple(dict.fromkeys(options.k)),
        target=_target(options),
        held_out=options.held_out,
        held_out_words=options.held_out_words,
        bootstrap=bootstrap,
        seed=options.seed,
    )


def _target(options: argparse.Namespace) -> Any:
    from bias_train.cli.audit_social import read_target

    return options.target if options.target in ("pool", "uniform") else read_target(Path(options.target))


def _material(options: argparse.Namespace) -> tuple[Material, dict[str, Any]]:
    """Embed or read what the options name, and say for the record what it was."""
    from bias_train.cli.audit_social import about_words_of, pairs_of, taxonomy_of
    from bias_train.people.embed import embed_people, embed_words
    from bias_train.people.vectors import load_people
    from bias_train.remedies.material import Material
    from datamodules.taxonomy import word_prompts

    if options.vectors is not None and options.people:
        raise RunError("--vectors and --people exclude each other: vectors are read, or made from pictures")
    if options.vectors is None and not options.people:
        raise RunError("name the people: --people SET with a retriever (--run DIR, --model NAME), or --vectors FILE")
    named = any(getattr(options, name) for name in ("run", "model", "model_config", "hf_model"))
    retriever = retriever_of(options) if named or options.people else None
    words = None
    if options.vectors is not None:
        people, words = load_people(options.vectors)
    else:
        assert retriever is not None
        people = embed_people(
            retriever, options.people, limit=options.limit, batch_size=options.batch_size,
            workers=options.workers, device=device_of(options), seed=options.seed,
        )  # fmt: skip
    taxonomy = None
    if words is None:
        if retriever is None:
            raise RunError(f"{options.vectors}: has no words to ask with, and there is no retriever to embed some")
        taxonomy = taxonomy_of(options)
        words = embed_words(retriever, word_prompts(taxonomy.entries, options.prompt_mode), device=device_of(options))
    grouping = people.grouping(options.attribute, options.minimum)
    prompts = composed = None
    if retriever is not None:
        prompts, composed = _naming_groups(options, retriever, grouping.labels, taxonomy)
    material = Material(people, grouping, words, prompts, composed, pairs_of(options, retriever))
    names = ("run", "model", "model_config", "hf_model", "pretrained", "people", "vectors", "attribute", "minimum",
             "limit", "pairs", "remedies", "seed")  # fmt: skip
    given = {name: getattr(options, name) for name in names}
    record = {name: str(value) if isinstance(value, Path) else value for name, value in given.items() if value}
    return material, record | {"words": about_words_of(options, taxonomy) | {"mode": options.prompt_mode}}


def _naming_groups(
    options: argparse.Namespace, retriever: Retriever, labels: tuple[str, ...], taxonomy: Taxonomy | None
) -> tuple[GroupPrompts | None, Tensor | None]:
    """Queries that name each group, alone and with each word [W, G, D]; None where nobody knows how to."""
    from bias_train.people.embed import embed_group_prompts
    from datamodules.errors import DataError
    from datamodules.taxonomy import load_group_prompts

    own = None if options.group_prompts is None else load_group_prompts(options.group_prompts)
    device = device_of(options)
    prompts = composed = None
    try:
        prompts = embed_group_prompts(retriever, options.attribute, labels, own=own, device=device)
        if taxonomy is not None:
            both = embed_group_prompts(retriever, options.attribute, labels, words=taxonomy.entries, device=device)
            composed = both.text.reshape(len(taxonomy), len(labels), -1)
    except DataError as error:
        print(f"some queries that name groups are missing, and with them retention: {error}", file=sys.stderr)
    return prompts, composed
