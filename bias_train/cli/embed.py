"""``bias-train embed``: keep what frozen towers make of shards, to train heads from."""

from __future__ import annotations

import argparse
from pathlib import Path

from bias_train.cli.inputs import add_retriever, device_of, positive, retriever_of, subject_of


def main(argv: list[str]) -> int:
    """Run ``bias-train embed ARGV``; returns the exit code."""
    options = _parser().parse_args(argv)
    from rich.console import Console
    from rich.progress import Progress

    from bias_train.features import write_features

    console = Console(stderr=True)
    retriever = retriever_of(options)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("pictures")
        written = write_features(
            retriever,
            options.shards,
            options.folder,
            model=subject_of(options, None),
            batch_size=options.batch_size,
            workers=options.workers,
            device=device_of(options),
            on_batch=lambda done, of: progress.update(bar, completed=done, total=of),
        )
    print(
        f"{options.folder}: {written.pictures} pictures of {written.shards} shards embedded, {written.kept} shards "
        f"were there before; {written.captions} captions"
    )
    if written.unreadable:
        print(f"{len(written.unreadable)} pictures could not be read, the first: {written.unreadable[0]}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bias-train embed",
        description="Embed every picture and caption of shards once. Heads are trained from the result in seconds "
        "(models.HeadRetriever with datamodules.FeatureSourceDataModule), and so is a text tower beside a frozen image "
        "tower. A pass that was ended goes on where it stood; shards that are there already are kept.",
        epilog="Example: bias-train embed features/b32 --shards shards/train shards/val --model ViT-B-32 "
        "--pretrained laion2b_s34b_b79k",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="to write to, or to add to")
    parser.add_argument(
        "--shards",
        nargs="+",
        required=True,
        metavar="SET",
        help="folders or URLs: all that training and evaluation read",
    )
    add_retriever(parser)
    parser.add_argument("--batch-size", type=positive, default=64, metavar="N", help="pictures at once (default: 64)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="loader processes")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (the default)")
    return parser
