"""``bias-train erase``: take the preference for a source out of finished embeddings, an index or a checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_train.cli.inputs import add_inputs, add_retriever, embeddings_of, retriever_of
from bias_train.errors import RunError
from bias_train.files import json_value, replacing

# Everything heavy is imported where it is used: `bias-train erase --help` must answer at once.
if TYPE_CHECKING:
    from bias_train.embeddings import Embeddings
    from bias_train.erasure.evaluation import Picture
    from bias_train.metrics.figure import Figure

ERASER, REPORT = "eraser.safetensors", "erasure.json"


def main(argv: list[str]) -> int:
    """Run ``bias-train erase ARGV``; returns the exit code."""
    options = _parser().parse_args(argv)
    return int(options.do(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bias-train erase",
        description="Training-free removal of source bias: one linear map on every picture's embedding, fitted once, "
        "which needs no source labels afterwards.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_fit(commands)
    _add_apply(commands)
    _add_fold(commands)
    return parser


def _add_fit(commands: Any) -> None:
    parser = commands.add_parser(
        "fit",
        help="fit an eraser and show what it does to pictures that it was not fitted on",
        description="Fit an eraser on a calibration split, and show bias, retrieval, a linear probe and neighbourhoods "
        f"before and after, there and on a test split that shares no target with it. Writes {ERASER} and {REPORT}.",
        epilog="Example: bias-train erase fit --run runs/a --shards shards/val --method leace --out erasure/a",
    )
    parser.set_defaults(do=_fit)
    method = parser.add_argument_group("the eraser")
    method.add_argument("--method", choices=("leace", "projection", "correction"), default="leace")
    method.add_argument("--rank", type=int, default=1, help="directions that the projection removes (default: 1)")
    method.add_argument("--affine", action="store_true", help="LEACE that keeps the mean; it cannot be folded")
    method.add_argument("--per-generator", action="store_true", help="LEACE with a label for each generator")
    method.add_argument("--rounds", type=int, default=1, help="LEACE anew after renormalising (default: 1)")
    method.add_argument(
        "--no-shrinkage", action="store_true", help="LEACE with the plain covariance, for many more vectors than width"
    )
    method.add_argument(
        "--strength", type=_strength, default=1.0, metavar="S", help="1 erases (default); or: tuned, on calibration"
    )
    method.add_argument(
        "--target-delta", type=float, default=0.0, metavar="PERCENT", help="what a tuned strength aims for (default: 0)"
    )
    method.add_argument("--figure", metavar="M@K", help="of Relative Delta: R@k, NDCG@k, P@k (default: R@1 or P@100)")
    split = parser.add_argument_group("the test")
    split.add_argument(
        "--holdout", type=float, default=0.5, metavar="SHARE", help="of the targets, held out (default: %(default)s)"
    )
    split.add_argument("--test", type=Path, metavar="FILE", help="instead: other embeddings; calibrate on all given")
    split.add_argument("--resamples", type=int, default=1000, metavar="N", help="behind each interval; 0 for none")
    parser.add_argument("--out", type=Path, default=Path("erasure"), metavar="DIR", help="default: %(default)s")
    add_inputs(parser)


def _add_apply(commands: Any) -> None:
    parser = commands.add_parser(
        "apply",
        help="erase an index of vectors",
        description="Write a copy of an index with its picture vectors erased, a piece at a time; no labels needed.",
        epilog="Example: bias-train erase apply erasure/eraser.safetensors index.npy erased.npy",
    )
    parser.set_defaults(do=_apply)
    parser.add_argument("eraser", type=Path, metavar="ERASER", help="what fit wrote")
    parser.add_argument("index", type=Path, metavar="INDEX", help=".npy, .npz or .parquet")
    parser.add_argument("result", type=Path, metavar="OUT", help="another file of the same ending")
    parser.add_argument("--name", help="array or column of the vectors (default: image, vectors or embedding)")
    parser.add_argument("--strength", type=float, metavar="S", help="instead of the one that was fitted")
    parser.add_argument("--no-renormalise", action="store_true", help="leave the shortened vectors as they are")
    parser.add_argument("--chunk", type=int, default=16384, metavar="ROWS", help="at once (default: %(default)s)")


def _add_fold(commands: Any) -> None:
    parser = commands.add_parser(
        "fold",
        help="fold an eraser into a checkpoint",
        description="Write a retriever's weights with the eraser in the image projection: the same architecture, which "
        "needs nothing beside it. Exact for linear erasers, since retrieval normalises afterwards.",
        epilog="Example: bias-train erase fold erasure/eraser.safetensors folded.safetensors --run runs/a",
    )
    parser.set_defaults(do=_fold)
    parser.add_argument("eraser", type=Path, metavar="ERASER", help="what fit wrote")
    parser.add_argument("result", type=Path, metavar="OUT", help="a .safetensors, in the form of the model's library")
    parser.add_argument("--strength", type=float, metavar="S", help="instead of the one that was fitted")
    add_retriever(parser)


def _fit(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from bias_train.embeddings import load_embeddings
    from bias_train.erasure.calibration import check_disjoint, split_by_target, unit, without_copies
    from bias_train.erasure.evaluation import before_and_after, bias_change
    from bias_train.erasure.fitting import ErasureSpec, fit_eraser
    from bias_train.erasure.probe import transferred
    from bias_train.erasure.strength import FigureChoice, tune
    from bias_train.files import write_json
    from bias_train.stats import Bootstrap

    spec = ErasureSpec(
        options.method,
        options.rank,
        affine=options.affine,
        per_generator=options.per_generator,
        shrinkage=not options.no_shrinkage,
        rounds=options.rounds,
        seed=options.seed,
    )
    given = unit(embeddings_of(options))
    if options.test is not None:
        calibration, test = given, unit(load_embeddings(options.test))
        if test.image.shape[1] != given.image.shape[1]:
            raise RunError(f"{options.test}: is {test.image.shape[1]} wide, the calibration {given.image.shape[1]}")
        check_disjoint(calibration, test, same_targets=False)
    else:
        calibration, test = split_by_target(given, options.holdout, options.seed)
        check_disjoint(calibration, test, same_targets=True)
    whole, test = len(test), without_copies(test, calibration)
    if len(test) < whole:
        print(f"{whole - len(test)} test pictures are left out: the calibration holds the same vectors")
    figure = FigureChoice.parse(options.figure) if options.figure else FigureChoice.usual(given.relevance)
    # Class prompts are known before any picture of a class is; other people's captions are not.
    eraser = fit_eraser(calibration, spec, given.text if given.relevance == "label" else None)
    if options.strength == "tuned":
        # The top of a smaller gallery lies deeper in it, where the preference is weaker.
        depth = figure.scaled(len(calibration) / len(test))
        eraser, found = tune(eraser, calibration, depth, options.target_delta, options.seed)
        told = "reaches" if found.reached else "cannot reach"
        print(
            f"tuned: strength {found.strength:.3f} {told} Delta {found.figure} = {found.wanted:g} % on the calibration "
            f"split ({found.delta:.1f} %)"
        )
    else:
        eraser = eraser.at(options.strength)
    bootstrap = Bootstrap(resamples=options.resamples, seed=options.seed) if options.resamples else None
    document: dict[str, Any] = {"spec": asdict(spec), "strength": eraser.strength, "fitted": eraser.metadata}
    for name, part in (("calibration", calibration), ("test", test)):
        before, after = before_and_after(part, eraser, (figure,), bootstrap, options.seed)
        changes = bias_change(part, eraser, (figure,), bootstrap, options.seed)
        _show(name, part, before, after, changes)
        document[name] = {
            "pictures": len(part),
            **{when: state.record(probe=name == "test") for when, state in (("before", before), ("after", after))},
            "change": [json_value(change) for change in changes],
        }
    erased = [replace(part, image=eraser.apply(part.image)) for part in (calibration, test)]
    carried = {
        name: transferred((train.image, train.generated), (other.image, other.generated))
        for name, (train, other) in (("before", (calibration, test)), ("after", (erased[0], erased[1])))
    }
    print("a probe trained on the calibration split, on the test split")
    _line("AUC", *(_span(probe.auc, probe.low, probe.high) for probe in carried.values()))
    document["transferred_probe"] = {name: json_value(probe) for name, probe in carried.items()}
    eraser.save(options.out / ERASER)
    write_json(options.out / REPORT, document)
    print(f"wrote {options.out / ERASER} and {options.out / REPORT}")
    return 0


def _apply(options: argparse.Namespace) -> int:
    from bias_train.erasure.vector_files import erase_file

    count = erase_file(
        _eraser(options),
        options.index,
        options.result,
        name=options.name,
        renormalise=not options.no_renormalise,
        chunk=options.chunk,
    )
    print(f"wrote {options.result}: {count} vectors erased")
    return 0


def _fold(options: argparse.Namespace) -> int:
    from models.erasure import fold

    if options.result.suffix != ".safetensors":
        raise RunError(f"{options.result}: end the file's name in .safetensors")
    retriever = retriever_of(options)
    layer = fold(retriever, _eraser(options))
    with replacing(options.result) as partial:
        retriever.save_weights(str(partial))
    print(f"wrote {options.result}: the eraser is in {layer.where}")
    return 0


def _eraser(options: argparse.Namespace) -> Any:
    from models.erasure import LinearEraser

    eraser = LinearEraser.load(options.eraser)
    return eraser if options.strength is None else eraser.at(options.strength)


def _strength(text: str) -> float | str:
    if text == "tuned":
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: give a share from 0 up, or tuned")
    return value


def _show(name: str, part: Embeddings, before: Picture, after: Picture, changes: Sequence[Figure]) -> None:
    real = int((~part.generated).sum())
    print(f"{name}: {real} real and {len(part) - real} generated pictures")
    for old, new in zip((*before.bias, *before.quality), (*after.bias, *after.quality), strict=True):
        _line(old.key, *(_span(figure.value, figure.low, figure.high) for figure in (old, new)))
    for change in changes:
        _line(change.key, "", _span(change.value, change.low, change.high))
    if name == "test":
        _line("linear-probe AUC", *(_span(p.probe.auc, p.probe.low, p.probe.high) for p in (before, after)))
    if before.neighbours is not None and after.neighbours is not None:
        _line("same-target cosine gap", *(f"{p.neighbours.gap:.4f}" for p in (before, after) if p.neighbours))
        _line("nearest shares target", *(f"{p.neighbours.nearest:.4f}" for p in (before, after) if p.neighbours))


def _line(name: str, before: str, after: str) -> None:
    print(f"  {name:<36} {before:>28} -> {after:>28}" if before else f"  {name:<36} {after:>60}")


def _span(value: float, low: float, high: float) -> str:
    digits = 1 if abs(value) >= 10 else 3
    span = f" [{low:.{digits}f}, {high:.{digits}f}]" if low == low else ""
    return f"{value:.{digits}f}{span}"
