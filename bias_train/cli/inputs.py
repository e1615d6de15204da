"""What the commands on finished retrievers share: which retriever, which pictures, or which file of vectors."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bias_train.errors import RunError
from bias_train.paths import find_config

if TYPE_CHECKING:
    from bias_train.embeddings import Embeddings
    from models.retriever import Retriever

WEIGHTS = "retriever.safetensors"


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`embeddings_of` reads."""
    add_retriever(parser)
    add_pictures(parser)


def add_retriever(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`retriever_of` reads."""
    retriever = parser.add_argument_group("the retriever (one of)")
    retriever.add_argument("--run", type=Path, metavar="DIR", help="a run folder: the retriever that it trained")
    retriever.add_argument("--model", metavar="NAME", help="an open_clip architecture, with --pretrained")
    retriever.add_argument("--model-config", metavar="JSON", help="an architecture of one's own, with --pretrained")
    retriever.add_argument("--hf-model", metavar="NAME", help="a Hugging Face dual encoder: a name or a folder")
    retriever.add_argument("--pretrained", metavar="TAG", help="open_clip's tag, or the file of a checkpoint")
    retriever.add_argument(
        "--ablate", type=Path, metavar="JSON", help="take these attention heads out, from bias-train remedy text heads"
    )
    retriever.add_argument(
        "--class-prefix", type=Path, metavar="FILE",
        help="a learned token, from bias-train remedy text prefix; it stands where a prompt has [prefix]",
    )  # fmt: skip


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """Add the options that tell which pictures are embedded, and how."""
    pictures = parser.add_argument_group("the pictures")
    pictures.add_argument("--shards", nargs="+", metavar="SET", help="folders or URLs of shards, for a retriever")
    pictures.add_argument(
        "--embeddings", type=Path, metavar="FILE", help="instead: vectors from .npz, .parquet or .npy"
    )
    pictures.add_argument("--relevance", choices=("auto", "pair", "label", "group"), default="auto")
    pictures.add_argument(
        "--prompt", action="append", metavar="TEXT", help="class prompt with {label}; may be repeated"
    )
    pictures.add_argument("--limit", type=positive, metavar="N", help="at most N samples of each source")
    pictures.add_argument("--batch-size", type=positive, default=64, metavar="N")
    pictures.add_argument("--workers", type=int, default=0, metavar="N", help="loader processes")
    pictures.add_argument("--device", default="auto", help="cpu, cuda or auto (the default)")
    pictures.add_argument("--seed", type=int, default=0)


def embeddings_of(options: argparse.Namespace) -> Embeddings:
    """Read or make the vectors that the options name.

    Raises:
        RunError: for options that contradict each other or name nothing, and for files that cannot be read.
    """
    from bias_train.embeddings import load_embeddings

    if options.embeddings is not None:
        if options.shards:
            raise RunError("--embeddings and --shards exclude each other: vectors are read, or made from pictures")
        return load_embeddings(options.embeddings)
    if not options.shards:
        raise RunError("name what to measure: --shards SET with a retriever (--run DIR, --model NAME), or --embeddings")
    from bias_train.embed import embed_shards

    return embed_shards(
        retriever_of(options),
        options.shards,
        relevance=options.relevance,
        prompts=tuple(options.prompt or ("a photo of a {label}",)),
        limit=options.limit,
        batch_size=options.batch_size,
        workers=options.workers,
        device=device_of(options),
        seed=options.seed,
    )


def retriever_of(options: argparse.Namespace) -> Retriever:
    """Load the retriever that the options name, with the remedies that they name for it.

    Raises:
        RunError: unless exactly one is named.
        ModelError: where it cannot be loaded, or a remedy is not for it.
    """
    retriever = _named_retriever(options)
    heads, prefix = getattr(options, "ablate", None), getattr(options, "class_prefix", None)
    if heads is not None:
        from models.text_remedies.heads import ablate, load_heads

        ablate(retriever, load_heads(heads, retriever))
    if prefix is not None:
        from models.text_remedies.class_prefix import PrefixRetriever

        retriever = PrefixRetriever(retriever, str(prefix))
    return retriever


def for_run(options: argparse.Namespace, run: Path) -> argparse.Namespace:
    """The same options for the retriever of another run as it was trained, to compare with."""
    others = ("model", "model_config", "hf_model", "pretrained", "ablate", "class_prefix")
    return argparse.Namespace(**{**vars(options), **dict.fromkeys(others), "run": run})


def _named_retriever(options: argparse.Namespace) -> Retriever:
    from models import HuggingFaceRetriever, OpenClipRetriever

    given = [name for name in ("run", "model", "model_config", "hf_model") if getattr(options, name) is not None]
    if len(given) != 1:
        raise RunError("name one retriever: --run DIR, --model NAME, --model-config JSON or --hf-model NAME")
    if options.run is not None:
        if options.pretrained is not None:
            raise RunError("--run has weights of its own: leave out --pretrained, or give --model instead")
        return retriever_of_run(options.run)
    if options.hf_model is not None:
        return HuggingFaceRetriever(options.hf_model)
    if options.pretrained is None:
        raise RunError("give --pretrained TAG or FILE too: an untrained retriever would be measured without it")
    config = None if options.model_config is None else str(find_config(options.model_config))
    return OpenClipRetriever(name=options.model, config=config, pretrained=options.pretrained)


def retriever_of_run(run: Path, weights: str = WEIGHTS) -> Retriever:
    """Load the retriever that a run has trained.

    Args:
        run: the run folder.
        weights: file of the folder that holds them.

    Raises:
        RunError: if the folder is no run's, or its training has not ended.
    """
    config, file = run / "config.yaml", run / weights
    if not config.is_file():
        raise RunError(f"{run}: is no run folder, it has no config.yaml")
    if not file.is_file():
        raise RunError(
            f"{run}: has no {weights}, which a run writes when it ends; `bias-train fit --resume auto` ends it"
        )
    try:
        spec = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["retriever"]
        # A run of heads has written them folded into the weights of the retriever that they are for.
        spec = (spec.get("init_args") or {}).get("base") or spec
        module, _, name = spec["class_path"].rpartition(".")
        kind = getattr(import_module(module), name)
    except (KeyError, TypeError, AttributeError, ImportError, yaml.YAMLError) as error:
        raise RunError(f"{config}: names no retriever that can be loaded ({error})") from error
    arguments: Mapping[str, Any] = spec.get("init_args") or {}
    if name == "OpenClipRetriever":
        own = dict(arguments) | {"pretrained": str(file), "compile": False, "grad_checkpointing": False}
        if own.get("config"):
            own["config"] = str(find_config(own["config"]))
        retriever: Retriever = kind(**own)
        return retriever
    from safetensors.torch import load_file

    other: Retriever = kind(**arguments)
    # `Retriever.save_weights` writes under the names of the model's own library.
    target: Any = getattr(other, "model", other)
    try:
        target.load_state_dict(load_file(str(file)))
    except RuntimeError as error:
        raise RunError(f"{file}: does not fit {name} ({' '.join(str(error).split())[:200]})") from error
    return other


def subject_of(options: argparse.Namespace, vectors: Path | None) -> str:
    """Name what a command measures: the run, the file of vectors, or the model.

    Args:
        options: with those of :func:`add_retriever`.
        vectors: the file, where vectors are read.
    """
    for value in (options.run, vectors):
        if value is not None:
            return Path(value).resolve().stem
    given = options.model or options.hf_model or options.model_config
    return Path(given).stem if given else "audit"


def device_of(options: argparse.Namespace) -> str:
    """Return the device that ``--device`` names; "auto" takes a GPU where there is one."""
    import torch

    device: str = options.device
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def positive(text: str) -> int:
    """Read a whole number of 1 or more; for ``type`` of an option."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: give 1 or more")
    return value
